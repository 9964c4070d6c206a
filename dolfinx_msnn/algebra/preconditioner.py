# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Two-level preconditioners of fine problems, with a multiscale space as coarse level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

from mpi4py import MPI
from petsc4py import PETSc

from dolfinx_msnn._utils.checks import is_integer, positive_integer, require
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import Owner, check_petsc_arguments, sweep
from dolfinx_msnn.algebra.two_level import Settings, TwoLevelPC
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

type Kind = Literal["additive", "hybrid", "multiplicative"]
type Cover = Literal["parts", "neighbourhoods"]


class TwoLevelPreconditioner(Owner):
    """Preconditioner of a fine problem: a coarse correction P A_0⁻¹ Pᵀ and a fine level M⁻¹.

    With Q = P A_0⁻¹ Pᵀ and the errors' propagators E_Q = I − Q A, E_M = I − M⁻¹ A:

    - ``"additive"``: M⁻¹ + Q;
    - ``"hybrid"``: coarse, fine, coarse, so E_Q E_M E_Q (PETSc's composite preconditioner);
    - ``"multiplicative"``: a V-cycle with k smoothing steps before and after, so p(M⁻¹A) E_Q
      p(M⁻¹A) with a polynomial p (PETSc's multigrid); mostly the fastest.

    In the V-cycle M is by default the diagonal of the row sums of absolute values of A (Baker et
    al., SIAM J. Sci. Comput. 33, 2011) and p the optimal polynomial of degree 6 (Lottes, Numer.
    Linear Algebra Appl. 30, 2023). Otherwise M⁻¹ = Σ_k R_kᵀ A_k⁻¹ R_k with overlapping
    subdomains (PETSc's ASM, Cholesky factors). All are symmetric. The condition number is bounded
    by a constant times 1 + 1/λ_{m+1}, with λ_{m+1} the smallest eigenvalue, in units of the
    subdomains' overlap, whose mode is not in the space (Galvis, Efendiev, Multiscale Model. Simul.
    8, 2010; without a form ``s`` Spillane et al., Numer. Math. 126, 2014, where the subdomains are
    the neighbourhoods).

    Attach it to any KSP that solves with a matrix on the fine space::

        with TwoLevelPreconditioner(W, petsc_options_prefix="two_level_") as M:
            M.attach(ksp)
            ksp.solve(b, x)

    It is set up when the KSP is, and again when the matrix changes; the patterns of A_0, of the
    local matrices and of their factors are kept then.

    Args:
        W: Multiscale space.
        petsc_options_prefix: Prefix of the options of all that is inside. Mandatory, the same on
            all ranks.
        kind: How the levels are combined.
        subdomains: Where the fine level is ASM: ``"parts"``, disjoint pieces of neighbourhoods with
            ``overlap`` layers around them, or ``"neighbourhoods"``, those themselves (expensive in
            3D).
        max_dofs: Largest number of dofs of a part, without overlap.
        overlap: Layers of overlap (by the graph of A) of parts.
        petsc_options: Options under the prefix; they win over the command line's. ``coarse_*`` goes
            to the coarse KSP (and its PC, factor, ...), ``fine_*`` to the smoother's KSP and PC, in
            additive and hybrid variants to the PC only, and ``fine_sub_*`` to the local solvers.
            ``fine_pc_type`` replaces the fine level by any PC.

    Raises:
        ValueError: If an argument is not as described.

    Note:
        Creation is collective. The set-up happens inside the KSP's.
    """

    _title: ClassVar[str] = "two-level preconditioner"

    @checked
    def __init__(
        self,
        W: MultiscaleFunctionSpace,
        *,
        petsc_options_prefix: str,
        kind: Kind = "multiplicative",
        subdomains: Cover = "parts",
        max_dofs: int = 500,
        overlap: int = 1,
        petsc_options: Mapping[str, object] | None = None,
    ) -> None:
        _ = W.P
        super().__init__(W.comm)
        self._attached: list[TwoLevelPC] = []
        with collective_errors(W.comm) as checks:
            options = check_petsc_arguments(checks, petsc_options_prefix, petsc_options)
            for name, given, known in (("kind", kind, Kind), ("subdomains", subdomains, Cover)):
                names = get_args(known.__value__)
                require(given in names, name, given, f"one of {', '.join(names)}")
            positive_integer("max_dofs", max_dofs)
            require(is_integer(overlap), "overlap", overlap, "an integer not below 0")
            checks.agree(kind=kind, subdomains=subdomains, max_dofs=max_dofs, overlap=overlap)
        self.W = W
        self._settings = Settings(
            petsc_options_prefix, kind, subdomains, max_dofs, overlap, options
        )

    def attach(self, ksp: PETSc.KSP) -> None:
        """Make this the preconditioner of a KSP.

        Args:
            ksp: Krylov solver on the communicator of the fine mesh, its type already chosen. Its
                matrix may be set or filled later.

        Raises:
            ValueError: If ``ksp`` is not such a solver.
            RuntimeError: If this preconditioner has been destroyed.

        Note:
            Collective. If the KSP has its matrix, it is set up at once. That raises a
            ``RuntimeError`` if the KSP's type needs a symmetric preconditioner (CG), or one that is
            the same in each iteration, and options under the prefix have made this one something
            else. Where the set-up comes later, PETSc's error has that error as its cause.
        """
        self._check_alive()
        with collective_errors(self.W.comm):
            if not isinstance(ksp, PETSc.KSP) or not ksp:
                raise ValueError(f"Expected a PETSc KSP, got {type(ksp).__name__}.")
            same = (MPI.IDENT, MPI.CONGRUENT)
            if MPI.Comm.Compare(ksp.comm.tompi4py(), self.W.comm) not in same:
                raise ValueError(
                    f"The KSP lives on {ksp.comm.size} ranks, the multiscale space on "
                    f"{self.W.comm.size}; expected the same ranks."
                )
        # The KSP may live on another communicator than the space, and be dropped there.
        owners = sweep(ksp.comm.tompi4py())
        inner = self._own(TwoLevelPC(self.W, self._settings, str(ksp.getType())))
        owners.add(inner)
        self._attached.append(inner)
        pc = ksp.getPC()
        pc.setType(PETSc.PC.Type.PYTHON)
        pc.setPythonContext(inner)
        _, B = pc.getOperators()
        if not B or not B.isAssembled():
            return
        try:
            ksp.setUp()
        except PETSc.Error as exc:
            # PETSc hides errors of a Python preconditioner behind one of its own.
            if isinstance(exc.__cause__, ValueError | RuntimeError):
                raise exc.__cause__ from None
            raise

    @property
    def pcs(self) -> list[PETSc.PC]:
        """The inner PETSc preconditioners, one for each KSP that has been set up."""
        return [inner.pc for inner in self._attached if inner.pc is not None]

    def destroy(self) -> None:
        """Free the inner PETSc objects (not ``W``). Collective; again does nothing.

        A KSP that still has this preconditioner raises a ``RuntimeError`` when it needs it.
        """
        super().destroy()
        self._attached.clear()
