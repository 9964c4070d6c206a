# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Coarse operators and solvers: A_0 = PᵀAP, b_0 = Pᵀ(b − A g), u = P u_0 + g."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx.fem.petsc import assemble_matrix, create_matrix
from dolfinx_msnn import elements
from dolfinx_msnn._mpi import collective_errors
from dolfinx_msnn.functionspace import MultiscaleFunctionSpace, set_function
from dolfinx_msnn.local import dirichlet_mask

#: Relative size below which A z counts as zero when looking for the kernel of A.
KERNEL_TOLERANCE = 1e-10


def create_coarse_matrix(A: PETSc.Mat, W: MultiscaleFunctionSpace) -> PETSc.Mat:
    """Allocate and fill A_0 = PᵀAP (symbolic and numeric product).

    Args:
        A: Fine matrix, assembled, with Dirichlet rows and columns zeroed or not (the basis
            functions vanish there).
        W: Multiscale space. If its P is of a host type and A is not, P moves to A's type.

    Returns:
        N_c × N_c matrix of the type of A. The caller destroys it.

    Note:
        Collective.
    """
    W.match_type(A)
    options = PETSc.Options()
    # Measured: on one rank R (A P) with an explicit R is faster than PETSc's default, once and
    # again with new values. A user's choice wins.
    tune = A.getType() == "seqaij" and not options.hasName("mat_product_algorithm")
    if tune:
        options["mat_product_algorithm"] = "rap"
    try:
        return A.ptap(W.P)
    finally:
        if tune:
            del options["mat_product_algorithm"]


def assemble_coarse_matrix(A0: PETSc.Mat, A: PETSc.Mat, W: MultiscaleFunctionSpace) -> PETSc.Mat:
    """Refill A_0 = PᵀAP from :func:`create_coarse_matrix` for new values of A (numeric only).

    Note:
        Collective. Returns ``A0``.
    """
    return A.ptap(W.P, result=A0)


def assemble_coarse_vector(
    b: PETSc.Vec, W: MultiscaleFunctionSpace, b0: PETSc.Vec | None = None
) -> PETSc.Vec:
    """Restrict a fine vector: b_0 = R b = Pᵀ b.

    Args:
        b: Fine vector, finalised (ghost contributions accumulated).
        W: Multiscale space.
        b0: Filled (not added to); created from P if not given.

    Returns:
        Coarse vector. The caller destroys it if it was created.

    Note:
        Collective.
    """
    b0 = W.P.createVecRight() if b0 is None else b0
    W.P.multTranspose(b, b0)
    return b0


def create_coarse_solver(
    A0: PETSc.Mat,
    petsc_options_prefix: str,
    petsc_options: Mapping[str, object] | None = None,
) -> PETSc.KSP:
    """A solver for coarse systems that survives dependent basis functions.

    By default a direct solve, by MUMPS with null-pivot detection where PETSc has it. Any option
    under the prefix overrides this.

    Args:
        A0: Coarse matrix.
        petsc_options_prefix: Prefix of the options.
        petsc_options: Options under that prefix; they are removed from the global database again.

    Note:
        Collective. The caller destroys the solver.
    """
    solver = PETSc.KSP().create(A0.comm)
    solver.setOptionsPrefix(petsc_options_prefix)
    solver.setOperators(A0)
    solver.setType(PETSc.KSP.Type.PREONLY)
    pc = solver.getPC()
    defaults: dict[str, object] = {}
    if PETSc.Sys.hasExternalPackage("mumps"):
        A0.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        pc.setType(PETSc.PC.Type.CHOLESKY)
        pc.setFactorSolverType("mumps")
        # Null-pivot detection: distinct neighbourhoods may hold dependent functions.
        defaults["mat_mumps_icntl_24"] = 1
    else:
        pc.setType(PETSc.PC.Type.REDUNDANT)
    options = PETSc.Options()
    options.prefixPush(petsc_options_prefix)
    # What the user put under the prefix, in the database or here, wins over our defaults.
    chosen = {k: v for k, v in defaults.items() if not options.hasName(k)} | dict(
        petsc_options or {}
    )
    try:
        for name, value in chosen.items():
            options[name] = value
        solver.setFromOptions()
        # Factor options are read when the factor is made.
        solver.setUp()
    finally:
        for name in chosen:
            del options[name]
        options.prefixPop()
    return solver


class LinearProblem:
    """Solve a(u, v) = L(v) in a multiscale space: A_0 u_0 = R(b − A g), u = P u_0 + g.

    Mirrors :class:`dolfinx.fem.petsc.LinearProblem`. The operator is assembled and factored once,
    when it is first needed; further right-hand sides cost one restriction, one coarse solve and
    one prolongation.

    Args:
        a: Bilinear form.
        L: Linear form. More can be given to :meth:`solve`.
        W: Multiscale space.
        petsc_options_prefix: Prefix of the coarse solver's options. Mandatory, the same on all
            ranks.
        bcs: Dirichlet conditions, on the dofs that ``W`` was built for; any values.
        u: Solution; created if not given.
        petsc_options: Options of the coarse KSP. Default: a direct solve.
        mat_type: PETSc type of the fine matrix, and so of all else. Default: that of ``W.P``.
        form_compiler_options: Passed to DOLFINx.
        jit_options: Passed to DOLFINx.

    Raises:
        ValueError: If an argument does not fit ``W``.

    Note:
        Creation is collective. If there are no Dirichlet conditions and the constants are in the
        kernel of A (pure Neumann), the right-hand side is made compatible and the solution has
        mean zero.
    """

    def __init__(
        self,
        a: ufl.Form,
        L: ufl.Form,
        W: MultiscaleFunctionSpace,
        *,
        petsc_options_prefix: str,
        bcs: Sequence[fem.DirichletBC] = (),
        u: fem.Function | None = None,
        petsc_options: Mapping[str, object] | None = None,
        mat_type: str | None = None,
        form_compiler_options: dict[str, object] | None = None,
        jit_options: dict[str, object] | None = None,
    ) -> None:
        self._solver: PETSc.KSP | None = None
        self._owned: list[PETSc.Object] = []
        if not isinstance(W, MultiscaleFunctionSpace):
            raise ValueError(f"Expected a MultiscaleFunctionSpace, got {type(W).__name__}.")
        self._compile = {
            "form_compiler_options": form_compiler_options,
            "jit_options": jit_options,
        }
        with collective_errors(W.comm):
            if not isinstance(petsc_options_prefix, str) or petsc_options_prefix == "":
                raise ValueError(
                    "petsc_options_prefix must be a non-empty string, got "
                    f"{petsc_options_prefix!r}."
                )
            elements.check_form(a, W.V, "a")
            _check_linear_form(L, W)
            elements.check_bcs(bcs, W.V)
            if u is not None:
                W.check_member(u)
        mask = dirichlet_mask(W.V, bcs)[: W.V.dofmap.index_map.size_local].reshape(-1)
        with collective_errors(W.comm):
            if not np.array_equal(mask, W.dirichlet):
                raise ValueError(
                    f"bcs constrain {int(mask.sum())} dofs of this rank, the multiscale space was "
                    f"built for {int(W.dirichlet.sum())}, and they are not the same ones; expected "
                    "conditions on the dofs given to multiscale_functionspace."
                )
        self.W, self.bcs = W, list(bcs)
        self.u = fem.Function(W.V) if u is None else u
        self._a = fem.form(a, **self._compile)
        self._L = fem.form(L, **self._compile)
        self._prefix, self._options = petsc_options_prefix, dict(petsc_options or {})
        kind = W.P.getType() if mat_type is None else mat_type
        self._A = self._own(create_matrix(self._a, kind=kind))
        self._A.setOptionsPrefix(f"{petsc_options_prefix}A_")
        self._A0: PETSc.Mat | None = None
        self._mean: _Mean | None = None
        self._b = self._own(self._A.createVecLeft())
        self._fine = self._own(self._A.createVecRight())
        self._b0 = self._x0 = None

    def _own(self, item: PETSc.Object) -> PETSc.Object:
        self._owned.append(item)
        return item

    @property
    def a(self) -> fem.Form:
        """The compiled bilinear form."""
        return self._a

    @property
    def L(self) -> fem.Form:
        """The compiled linear form that was solved for last."""
        return self._L

    @property
    def A(self) -> PETSc.Mat:
        """The fine matrix, Dirichlet rows and columns zeroed. Owned by the problem."""
        return self._A

    @property
    def A0(self) -> PETSc.Mat:
        """The coarse matrix PᵀAP; assembled if it is not yet (collective then)."""
        if self._A0 is None:
            self.assemble()
        return self._A0

    @property
    def b(self) -> PETSc.Vec:
        """The fine right-hand side b − A g of the last solve. Owned by the problem."""
        return self._b

    @property
    def solver(self) -> PETSc.KSP:
        """The coarse solver; set up if it is not yet (collective then)."""
        if self._solver is None:
            self.assemble()
        return self._solver

    def assemble(self) -> None:
        """Assemble A and A_0, for the first time or after a coefficient of ``a`` has changed.

        Collective. Keeps the symbolic product and the basis.
        """
        A = self._A
        A.zeroEntries()
        assemble_matrix(A, self._a, bcs=self.bcs)
        A.assemble()
        if self._A0 is None:
            self._A0 = self._own(create_coarse_matrix(A, self.W))
            self._A0.setOptionsPrefix(f"{self._prefix}A0_")
            self._b0 = self._own(self._A0.createVecLeft())
            self._x0 = self._own(self._A0.createVecRight())
        else:
            assemble_coarse_matrix(self._A0, A, self.W)
        if self._solver is not None:
            self._solver.setOperators(self._A0)
            return
        if not self.bcs and _kills_constants(A, self.W.V):
            self._mean = _Mean(self.W.V, self._compile)
            self._attach_kernel()
        self._solver = self._own(create_coarse_solver(self._A0, self._prefix, self._options))

    def _attach_kernel(self) -> None:
        """Tell PETSc the kernel of A_0: the coefficients of the constants."""
        vectors = []
        for z in _constants(self.W.V):
            c = self.W.coefficients(z)
            vectors.append(c)
        orthonormal = []
        for c in vectors:
            for q in orthonormal:
                c.axpy(-c.dot(q), q)
            c.normalize()
            orthonormal.append(c)
        kernel = PETSc.NullSpace().create(vectors=orthonormal, comm=self.W.comm)
        self._A0.setNullSpace(kernel)
        self._kernel = self._own(kernel)
        for c in vectors:
            self._own(c)

    def solve(self, L: ufl.Form | fem.Form | None = None) -> fem.Function:
        """Solve, for the right-hand side ``L`` if given, else for the last one.

        Args:
            L: Linear form, UFL or compiled.

        Returns:
            The solution in the fine space (always the same function, ``u``).

        Raises:
            RuntimeError: If the coarse solver did not converge; ``u`` is left as it was.

        Note:
            Collective.
        """
        if L is not None and not isinstance(L, fem.Form):
            with collective_errors(self.W.comm):
                _check_linear_form(L, self.W)
            L = fem.form(L, **self._compile)
        if L is not None:
            self._L = L
        if self._solver is None:
            self.assemble()
        load = fem.assemble_vector(self._L)
        fem.apply_lifting(load.array, [self._a], bcs=[self.bcs])
        load.scatter_reverse(la.InsertMode.add)
        size = self._b.getLocalSize()
        with self._b as array:
            array[:] = load.array[:size]
            array[self.W.dirichlet] = 0.0
        assemble_coarse_vector(self._b, self.W, self._b0)
        if self._mean is not None:
            self._kernel.remove(self._b0)
        self._solver.solve(self._b0, self._x0)
        reason = self._solver.getConvergedReason()
        if reason < 0 or not np.isfinite(self._x0.norm()):
            raise RuntimeError(
                f"The coarse solver ({self._prefix}) did not converge: PETSc reason {reason} after "
                f"{self._solver.getIterationNumber()} iterations."
            )
        self.W.P.mult(self._x0, self._fine)
        set_function(self.u, self._fine)
        if self._mean is not None:
            self._mean.remove(self.u)
        lift = fem.Function(self.W.V)
        for bc in self.bcs:
            bc.set(lift.x.array)
        lift.x.scatter_forward()
        self.u.x.array[:] += lift.x.array
        return self.u

    def destroy(self) -> None:
        """Free the PETSc objects of this problem (not those of ``W``). Collective."""
        for item in reversed(self._owned):
            item.destroy()
        self._owned.clear()
        self._solver = self._A0 = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()


def _check_linear_form(L: ufl.Form, W: MultiscaleFunctionSpace) -> None:
    if isinstance(L, ufl.Form) and len(L.arguments()) == 1:
        if L.arguments()[0].ufl_function_space() == W.V:
            return
        raise ValueError("L has its test function on another space than V; expected V.")
    given = f"{len(L.arguments())} arguments" if isinstance(L, ufl.Form) else type(L).__name__
    raise ValueError(f"L must be a UFL linear form with one test function on V, got {given}.")


def _constants(V: fem.FunctionSpace) -> list[fem.Function]:
    """The constant functions of each component of ``V``."""
    bs = V.dofmap.index_map_bs
    functions = []
    for k in range(bs):
        z = fem.Function(V)
        z.x.array[k::bs] = 1.0
        functions.append(z)
    return functions


def _kills_constants(A: PETSc.Mat, V: fem.FunctionSpace) -> bool:
    """Whether A z = 0 (to rounding) for the constants z. Collective."""
    z, image = A.createVecRight(), A.createVecLeft()
    diagonal = A.getDiagonal()
    try:
        for constant in _constants(V):
            z.array_w[:] = constant.x.array[: z.getLocalSize()]
            A.mult(z, image)
            image.pointwiseDivide(image, diagonal)
            if image.norm(PETSc.NormType.NORM_INFINITY) > KERNEL_TOLERANCE:
                return False
        return True
    finally:
        for item in (z, image, diagonal):
            item.destroy()


class _Mean:
    """Removes the mean over the domain from each component of a function."""

    def __init__(self, V: fem.FunctionSpace, options: dict[str, object]) -> None:
        v = ufl.TestFunction(V)
        one = v if V.dofmap.index_map_bs == 1 else sum(v[k] for k in range(V.value_size))
        weights = fem.assemble_vector(fem.form(one * ufl.dx(V.mesh), **options))
        weights.scatter_reverse(la.InsertMode.add)
        self._bs, size = V.dofmap.index_map_bs, V.dofmap.index_map.size_local
        self._weights = weights.array[: self._bs * size].reshape(-1, self._bs).copy()
        self._comm = V.mesh.comm

    def remove(self, u: fem.Function) -> None:
        values = u.x.array.reshape(-1, self._bs)
        owned = values[: len(self._weights)]
        local = np.stack([(self._weights * owned).sum(axis=0), self._weights.sum(axis=0)])
        self._comm.Allreduce(MPI.IN_PLACE, local, op=MPI.SUM)
        values -= local[0] / local[1]
