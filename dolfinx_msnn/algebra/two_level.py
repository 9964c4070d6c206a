# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What PETSc calls as a two-level preconditioner: PETSc's own PCs, put together and kept up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._utils.petsc import Owner, readable_errors, temporary_options, unused, warn_unused
from dolfinx_msnn._utils.solvers import NULL_PIVOTS, choose_direct
from dolfinx_msnn._utils.typing import LongArray
from dolfinx_msnn.algebra.product import CoarseOperator
from dolfinx_msnn.algebra.subdomains import multiplicity, parts, subdomains, uncovered_dofs
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Krylov methods that need a symmetric preconditioner, and those that let it change.
SYMMETRIC = ("cg", "pipecg", "pipecgrr", "groppcg", "cgne", "cr", "pipecr", "minres", "symmlq")
FLEXIBLE = ("fgmres", "fcg", "gcr", "pipefcg", "pipefgmres", "pipegcr")

#: Relative size of what counts as no symmetry. Local factors and the coarse one round differently.
ASYMMETRY = 1e-6

_COARSE: dict[str, object] = {f"coarse_{name}": value for name, value in NULL_PIVOTS.items()}
_LOCAL: dict[str, object] = {
    "fine_sub_pc_type": "cholesky",
    "fine_sub_pc_factor_mat_ordering_type": "nd",
    # PETSc compares pivots with an absolute number, and coefficients may be 1e-15 in SI units; with
    # a shift it compares them with their rows, and helps where a subdomain is the whole of a body
    # that nothing holds.
    "fine_sub_pc_factor_shift_type": "positive_definite",
}
_CHEBYSHEV: dict[str, object] = {
    "fine_ksp_type": "chebyshev",
    "fine_ksp_chebyshev_kind": "opt_fourth",
}
# With row sums of absolute values as diagonal no eigenvalue is above one (Gershgorin), so the
# V-cycle is positive definite at any contrast; an estimate by a few Krylov steps may be too low.
_BOUNDED: dict[str, object] = {
    "fine_pc_jacobi_type": "rowl1",
    "fine_ksp_chebyshev_eigenvalues": "0.05,1",
}


@dataclass(frozen=True)
class Settings:
    """What the user asked for; see :class:`TwoLevelPreconditioner`."""

    prefix: str
    kind: str
    subdomains: str
    max_dofs: int
    overlap: int
    options: dict[str, object]


class TwoLevelPC(Owner):
    """What PETSc calls: builds the inner preconditioner when there is a matrix, and applies it.

    Not the user's object, which may go while his KSP still holds this.

    Args:
        W: Multiscale space.
        settings: What the user asked for.
        ksp_type: PETSc type of the KSP that this is attached to.

    Note:
        Creation is collective.
    """

    def __init__(self, W: MultiscaleFunctionSpace, settings: Settings, ksp_type: str) -> None:
        super().__init__(W.comm)
        self.W, self.settings, self.ksp_type = W, settings, ksp_type
        self.name = f"The two-level preconditioner ({settings.prefix})"
        self.pc: PETSc.PC = None
        self._coarse = self._own(CoarseOperator(W, f"{settings.prefix}A0_"))

    # ---- PETSc's side ----

    def setUp(self, pc: PETSc.PC) -> None:
        """Build, or refill what depends on the values of the matrix. Collective."""
        self._check_alive()
        A, B = pc.getOperators()
        with readable_errors(f"{self.name} could not be set up"):
            renewed = self._coarse.refresh(B)
            # The inner PCs hold the matrix that they were made for.
            if renewed or self.pc is None or self.pc.getOperators()[1] != B:
                self._free_pc()
                try:
                    self._build(A, B)
                except BaseException:
                    self._free_pc()
                    raise
            else:
                self.pc.setOperators(A, B)
                self.pc.setUp()
        pc.setFailedReason(self.pc.getFailedReason())

    def apply(self, pc: PETSc.PC, x: PETSc.Vec, y: PETSc.Vec) -> None:
        """Y = M⁻¹ x. Collective."""
        self._check_alive()
        self.pc.apply(x, y)

    def view(self, pc: PETSc.PC, viewer: PETSc.Viewer) -> None:
        """What -ksp_view prints. Collective."""
        if self.pc is not None:
            self.pc.view(viewer)

    def destroy(self, pc: PETSc.PC | None = None) -> None:
        """Free what was built: the user's KSP goes, or his preconditioner. Collective."""
        super().destroy()
        self.pc = None

    # ---- our side ----

    def _check_alive(self) -> None:
        if self._destroyed:
            raise RuntimeError(f"{self.name} has been destroyed, but a KSP still uses it.")

    def _free_pc(self) -> None:
        self._free(self.pc)
        self.pc = None

    def _build(self, A: PETSc.Mat, B: PETSc.Mat) -> None:
        prefix, options = self.settings.prefix, self.settings.options
        self._coarse.A0.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        self.pc = self._own(PETSc.PC().create(B.comm))
        self.pc.setOptionsPrefix(prefix)
        self.pc.setOperators(A, B)
        given = PETSc.Options(prefix).getAll() | options
        with temporary_options(prefix, options, self._defaults(given)):
            hybrid = self.settings.kind == "hybrid"
            fine = self._hybrid(A, B) if hybrid else self._multigrid(self.pc)
            bound: dict[str, object] = {}
            if self._fine_type(given) == "asm":
                if given.get("fine_pc_asm_type", "basic") != "basic":
                    # PETSc (3.25) goes wrong, silently, where the restricted part has dofs of
                    # other ranks.
                    raise ValueError(
                        f"{self.name} was given fine_pc_asm_type={given['fine_pc_asm_type']}; "
                        "expected basic, as subdomains cross ranks."
                    )
                local = fine.getPC() if isinstance(fine, PETSc.KSP) else fine
                local.setOperators(A, B)
                largest = self._decompose(local)
                bound["fine_ksp_chebyshev_eigenvalues"] = f"{0.05 * largest},{largest}"
            with temporary_options(prefix, {}, bound):
                fine.setFromOptions()
                self.pc.setUp()
            self.pc.setUpOnBlocks()
            warn_unused(self.W.comm, prefix, unused(prefix, options))
        if given:
            self._check_symmetry(B)

    def _fine_type(self, given: Mapping[str, object]) -> str:
        default = "jacobi" if self.settings.kind == "multiplicative" else "asm"
        return str(given.get("fine_pc_type", default))

    def _defaults(self, given: Mapping[str, object]) -> dict[str, object]:
        fine = self._fine_type(given)
        defaults = _COARSE | _LOCAL | {"fine_pc_type": fine}
        if self.settings.kind == "multiplicative":
            defaults |= _CHEBYSHEV
            defaults["fine_ksp_max_it"] = 6 if fine == "jacobi" else 2
            if fine == "jacobi" and "fine_pc_jacobi_type" not in given:
                defaults |= _BOUNDED
        return defaults

    def _hybrid(self, A: PETSc.Mat, B: PETSc.Mat) -> PETSc.PC:
        pc = self.pc
        pc.setType(PETSc.PC.Type.COMPOSITE)
        pc.setCompositeType(PETSc.PC.CompositeType.SYMMETRIC_MULTIPLICATIVE)
        pc.addCompositePCType(PETSc.PC.Type.MG)
        pc.addCompositePCType(PETSc.PC.Type.ASM)
        coarse, fine = pc.getCompositePC(0), pc.getCompositePC(1)
        coarse.setOperators(A, B)
        none = self._multigrid(coarse)
        none.setType(PETSc.KSP.Type.RICHARDSON)
        none.setTolerances(max_it=0)
        none.getPC().setType(PETSc.PC.Type.NONE)
        fine.setOptionsPrefix(f"{self.settings.prefix}fine_")
        return fine

    def _multigrid(self, pc: PETSc.PC) -> PETSc.KSP:
        """Make a PC a two-level cycle with our P and A_0; returns its smoother."""
        pc.setType(PETSc.PC.Type.MG)
        pc.setMGLevels(2)
        pc.setMGInterpolation(1, self.W.P)
        smoother = pc.getMGSmoother(1)
        if self.settings.kind == "additive":
            pc.setMGType(PETSc.PC.MGType.ADDITIVE)
            smoother.setType(PETSc.KSP.Type.PREONLY)
        if self.settings.kind != "hybrid":
            smoother.setOptionsPrefix(f"{self.settings.prefix}fine_")
        coarse = pc.getMGCoarseSolve()
        coarse.setOptionsPrefix(f"{self.settings.prefix}coarse_")
        coarse.setOperators(self._coarse.A0)
        coarse.setType(PETSc.KSP.Type.PREONLY)
        choose_direct(coarse.getPC())
        coarse.setFromOptions()
        return smoother

    def _decompose(self, pc: PETSc.PC) -> int:
        """Make a PC symmetric ASM on our subdomains; returns a bound of λmax(M⁻¹A)."""
        pc.setType(PETSc.PC.Type.ASM)
        pc.setASMType(PETSc.PC.ASMType.BASIC)
        sets: list[LongArray]
        if self.settings.subdomains == "neighbourhoods":
            layers, sets = 0, [dofs for _, dofs in subdomains(self.W)]
        else:
            layers, sets = self.settings.overlap, parts(self.W, self.settings.max_dofs)
        # ASM needs every dof, also those with Dirichlet conditions, and a set on every rank.
        rest = uncovered_dofs(self.W)
        if len(rest) or not sets:
            sets = [*sets, rest]
        indices = [
            PETSc.IS().createGeneral(dofs.astype(PETSc.IntType), comm=MPI.COMM_SELF)
            for dofs in sets
        ]
        pc.setASMLocalSubdomains(len(indices), indices)
        pc.setASMOverlap(layers)
        for item in indices:
            item.destroy()
        return multiplicity(self.W, pc.getOperators()[1], sets, layers + 1)

    def _check_symmetry(self, B: PETSc.Mat) -> None:
        """Try on two vectors what options have made of the preconditioner. Collective."""
        if self.ksp_type in FLEXIBLE:
            return
        x, y = B.createVecs()
        z, mx, my, mz = (x.duplicate() for _ in range(4))
        try:
            first, last = x.getOwnershipRange()
            index = np.arange(first, last, dtype=np.float64)
            x.array_w[:], y.array_w[:] = np.sin(1.7 * index), np.cos(2.3 * index * index)
            x.copy(z)
            z.axpy(1.0, y)
            for vector, image in ((x, mx), (y, my), (z, mz)):
                self.pc.apply(vector, image)
            size = np.sqrt(abs(x.dot(mx) * y.dot(my)))
            asymmetry = abs(x.dot(my) - y.dot(mx)) / size
            mz.axpy(-1.0, mx)
            mz.axpy(-1.0, my)
            nonlinearity = mz.norm() / (mx.norm() + my.norm())
        finally:
            for item in (x, y, z, mx, my, mz):
                item.destroy()
        if nonlinearity > ASYMMETRY:
            raise RuntimeError(
                f"{self.name} is not linear with these options (relative deviation "
                f"{nonlinearity:.2g}), but the KSP is {self.ksp_type}; expected a flexible one "
                "such as fgmres or fcg."
            )
        if self.ksp_type in SYMMETRIC and asymmetry > ASYMMETRY:
            raise RuntimeError(
                f"{self.name} is not symmetric with these options (relative deviation "
                f"{asymmetry:.2g}), but the KSP is {self.ksp_type}; expected a method for "
                "nonsymmetric problems such as gmres."
            )
