# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Nonlinear problems in a multiscale space: R F(P c + g) = 0, by PETSc SNES."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import ClassVar

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx.fem.petsc import assemble_matrix, create_matrix
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.functions import dirichlet_lift, set_function
from dolfinx_msnn._utils.mpi import check_same, collective_errors
from dolfinx_msnn._utils.petsc import (
    Owner,
    check_mat_type,
    check_options,
    check_prefix,
    readable_errors,
    temporary_options,
)
from dolfinx_msnn._utils.solvers import (
    NULL_PIVOTS,
    choose_direct,
    create_coarse_solver,
    solve_coarse,
)
from dolfinx_msnn._utils.typing import CompilerOptions, DirichletBC, Form, Function
from dolfinx_msnn.algebra.operators import assemble_coarse_vector
from dolfinx_msnn.algebra.product import GalerkinProduct
from dolfinx_msnn.problems.linear import (
    check_conditions,
    check_linear_form,
    check_multiscale_space,
)
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


class NonlinearProblem(Owner):
    """Solve F(u; v) = 0 in a multiscale space: R F(P c + g) = 0, u = P c + g.

    Mirrors :class:`dolfinx.fem.petsc.NonlinearProblem`. Newton's method of PETSc SNES in the N_c
    coefficients c, with g the Dirichlet values and the Jacobian A_0 = PᵀJP; the symbolic product is
    formed once.

    Args:
        F: Residual, a form linear in its test function on ``V``, with ``u`` as a coefficient.
        u: The unknown, a function in ``V``; the start of the first solve, and the solution.
        W: Multiscale space, built from a linear form with the same rough coefficients.
        petsc_options_prefix: Prefix of the options of the SNES and of its coarse KSP. Mandatory,
            the same on all ranks.
        bcs: Dirichlet conditions, on the dofs that ``W`` was built for; any values, and they may
            change between solves.
        J: Jacobian, a bilinear form by cell and exterior-facet integrals. Default: the derivative
            of F. Anything near it gives a quasi-Newton method for the same solution.
        petsc_options: Options of the SNES and of its KSP. Default: ``newtonls`` and a direct coarse
            solve.
        mat_type: PETSc type of the fine matrix, and so of all else. Default: that of ``W.P``.
        form_compiler_options: Passed to DOLFINx.
        jit_options: Passed to DOLFINx.

    Raises:
        ValueError: If an argument does not fit ``W``.

    Note:
        Creation is collective. Should ``W`` get another P, the next solve sees it.
    """

    _title: ClassVar[str] = "nonlinear problem"

    #: Options that those of the user win over.
    _defaults: ClassVar[dict[str, object]] = {}

    def __init__(
        self,
        F: ufl.Form,
        u: Function,
        W: MultiscaleFunctionSpace,
        *,
        petsc_options_prefix: str,
        bcs: Sequence[DirichletBC] = (),
        J: ufl.Form | None = None,
        petsc_options: Mapping[str, object] | None = None,
        mat_type: str | None = None,
        form_compiler_options: CompilerOptions | None = None,
        jit_options: CompilerOptions | None = None,
    ) -> None:
        check_multiscale_space(W)
        super().__init__(W.comm)
        self._coarse: list[PETSc.Object] = []
        with collective_errors(W.comm):
            check_prefix(petsc_options_prefix)
            check_options(petsc_options)
            check_mat_type(mat_type)
            W.check_member(u)
            check_linear_form(F, W, "F")
            if u not in F.coefficients():
                raise ValueError("F does not depend on u; expected a residual with u in it.")
            if J is None:
                J = ufl.derivative(F, u, ufl.TrialFunction(W.V))
            forms.check_form(J, W.V, "J")
            forms.check_bcs(bcs, W.V)
        check_same(
            W.comm,
            F=forms.identify(F),
            J=forms.identify(J),
            petsc_options_prefix=petsc_options_prefix,
            petsc_options=dict(petsc_options or {}),
            mat_type=mat_type,
        )
        check_conditions(bcs, W)
        self.W, self.u, self.bcs = W, u, list(bcs)
        self._prefix, self._options = petsc_options_prefix, dict(petsc_options or {})
        compile_form = partial(
            fem.form, form_compiler_options=form_compiler_options, jit_options=jit_options
        )
        self._F: Form = compile_form(F)
        self._J: Form = compile_form(J)
        kind = W.P.getType() if mat_type is None else mat_type
        self._A = self._own(create_matrix(self._J, kind=kind))
        self._A.setOptionsPrefix(f"{petsc_options_prefix}A_")
        self._b = self._own(self._A.createVecLeft())
        self._fine = self._own(self._A.createVecRight())
        self._load = la.vector(W.V.dofmap.index_map, W.V.dofmap.index_map_bs)
        self._lift = np.zeros_like(u.x.array)
        self._layout = self._revision = -1
        self._A0: PETSc.Mat = None
        self._product: GalerkinProduct | None = None
        self._gram: PETSc.Mat = None
        self._gram_solver: PETSc.KSP = None
        self._assembled_at: PETSc.Vec = None
        self._error: Exception | None = None
        self._solver = self._own(self._create_solver())

    @property
    def F(self) -> Form:
        """The compiled residual."""
        return self._F

    @property
    def J(self) -> Form:
        """The compiled Jacobian."""
        return self._J

    @property
    def A(self) -> PETSc.Mat:
        """The fine Jacobian of the last step, Dirichlet rows and columns zeroed. Owned here."""
        self._check_alive()
        return self._A

    @property
    def A0(self) -> PETSc.Mat:
        """The coarse Jacobian PᵀJP of the last step; ``None`` before the first solve."""
        self._check_alive()
        return self._A0

    @property
    def solver(self) -> PETSc.SNES:
        """The SNES. Owned by the problem."""
        self._check_alive()
        return self._solver

    def _options_set(self) -> AbstractContextManager[PETSc.Options]:
        return temporary_options(self._prefix, self._options, NULL_PIVOTS | self._defaults)

    def _create_solver(self) -> PETSc.SNES:
        solver = PETSc.SNES().create(self._A.comm)
        solver.setOptionsPrefix(self._prefix)
        ksp = solver.getKSP()
        ksp.setType(PETSc.KSP.Type.PREONLY)
        # Not Cholesky, which create_coarse_solver takes: J need not be symmetric.
        choose_direct(ksp.getPC(), symmetric=False)
        try:
            what = f"The coarse nonlinear solver ({self._prefix}) could not be set up"
            with readable_errors(what), self._options_set():
                solver.setFromOptions()
        except BaseException:
            solver.destroy()
            raise
        return solver

    def solve(self) -> Function:
        """Solve, from the function that ``u`` is now.

        The start is the member of P c + g that is closest to ``u`` at the free nodes (least
        squares); if nobody changed ``u`` there since the last solve, its coefficients.

        Returns:
            The solution in the fine space (always the same function, ``u``).

        Raises:
            RuntimeError: If SNES did not converge; ``u`` is then its last iterate.

        Note:
            Collective.
        """
        self._check_alive()
        self._lift[:] = dirichlet_lift(self.W.V, self.bcs).x.array
        if self._layout != self.W.layout:
            self._create_coarse()
        else:
            if self._revision != self.W.revision or not self._unchanged():
                self._project()
            self._assign(self._x)
        self._error = None
        what = f"The coarse nonlinear solver ({self._prefix}) failed"
        try:
            with readable_errors(what), self._options_set():
                self._solver.solve(None, self._x)
        except BaseException:
            # PETSc left in the middle keeps locks on vectors: make all anew.
            self._destroy_coarse()
            raise
        self._assembled_at = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._assign(self._x)
        self._check_converged()
        return self.u

    def _create_coarse(self) -> None:
        """All that depends on P, the start of SNES among it. Collective."""
        self._destroy_coarse()
        P = self.W.P
        self._coarse = [P.createVecRight(), P.createVecRight(), P.createVecRight()]
        self._x, f, self._right = self._coarse
        self._project()
        self._assign(self._x)
        self._assemble_jacobian()
        self._product = GalerkinProduct(self._A, self.W)
        self._A0 = self._product.A0
        self._A0.setOptionsPrefix(f"{self._prefix}A0_")
        self._coarse.append(self._A0)
        # The product was formed with the values at the start: SNES need not do it again.
        self._assembled_at = self._x.copy()
        self._coarse.append(self._assembled_at)
        # PETSc keeps what it is given where Python's collector does not look.
        me = weakref.ref(self)
        self._solver.setFunction(_compute_residual, f, args=(me,))
        self._solver.setJacobian(_compute_jacobian, self._A0, args=(me,))
        self._layout = self.W.layout

    def _destroy_coarse(self) -> None:
        if self._coarse:
            self._solver.reset()
        for item in reversed(self._coarse):
            item.destroy()
        self._coarse.clear()
        self._A0 = self._product = None
        self._free_gram()
        self._layout = -1

    def _free_gram(self) -> None:
        for item in (self._gram_solver, self._gram):
            if item is not None:
                item.destroy()
        self._gram = self._gram_solver = None

    def _unchanged(self) -> bool:
        """Whether ``u`` at the free dofs is what the last solve left there. Collective."""
        free = ~self.W.dirichlet
        mine = np.array_equal(self.u.x.array[: free.size][free], self._fine.array_r[free])
        return bool(self.W.comm.allreduce(mine, op=MPI.LAND))

    def _project(self) -> None:
        """Set x to the coefficients of ``u`` at the free dofs. Collective."""
        if self._revision != self.W.revision:
            self._free_gram()
            self._revision = self.W.revision
        self._fine.array_w[:] = self.u.x.array[: self._fine.getLocalSize()]
        assemble_coarse_vector(self._fine, self.W, self._right)
        size = self._right.norm()
        if not np.isfinite(size):
            raise RuntimeError(
                "The start of the nonlinear solver, u, has NaN or infinite entries; expected "
                "finite ones."
            )
        if size == 0.0:
            self._x.set(0.0)
            return
        if self._gram_solver is None:
            self._gram = self.W.P.transposeMatMult(self.W.P)
            self._gram_solver = create_coarse_solver(self._gram, "msnn_projection_")
        solve_coarse(self._gram_solver, self._right, self._x)

    def _assign(self, x: PETSc.Vec) -> None:
        """Set ``u`` to P x + g. Collective."""
        self.W.P.mult(x, self._fine)
        set_function(self.u, self._fine)
        self.u.x.array[:] += self._lift

    def _assemble_jacobian(self) -> None:
        A = self._A
        A.zeroEntries()
        # What assemble_matrix does after it has values for the coefficients is collective.
        with collective_errors(self.W.comm):
            constants = fem.pack_constants(self._J)
            coeffs = fem.pack_coefficients(self._J)
        # Overloads that are registered are not in the annotations, here and below.
        assemble_matrix(A, self._J, bcs=self.bcs, constants=constants, coeffs=coeffs)  # type: ignore[misc, arg-type]
        A.assemble()

    def _residual(self, x: PETSc.Vec, f: PETSc.Vec) -> None:
        # No lifting: rows of P at Dirichlet dofs are zero, and so is their part of the residual.
        self._assign(x)
        self._load.array[:] = 0.0
        with collective_errors(self.W.comm):
            fem.assemble_vector(self._load.array, self._F)  # type: ignore[arg-type]
        self._load.scatter_reverse(la.InsertMode.add)
        self._b.array_w[:] = self._load.array[: self._b.getLocalSize()]
        assemble_coarse_vector(self._b, self.W, f)

    def _jacobian(self, x: PETSc.Vec) -> None:
        if self._assembled_at is not None and self._assembled_at.equal(x):
            return
        self._assembled_at = None
        self._assign(x)
        self._assemble_jacobian()
        assert self._product is not None
        self._product.assemble(self._A)

    def _check_converged(self) -> None:
        reason, count = self._solver.getConvergedReason(), self._solver.getIterationNumber()
        if reason > 0:
            return
        start = f"The coarse nonlinear solver ({self._prefix}) did not converge: "
        reasons = PETSc.SNES.ConvergedReason
        tail = f"{_name(reasons, reason)} after {count} iterations."
        if reason in (reasons.DIVERGED_FUNCTION_NANORINF, reasons.DIVERGED_FUNCTION_DOMAIN):
            tail = f"F has NaN or infinite entries, {tail}"
        elif reason == reasons.DIVERGED_LINEAR_SOLVE:
            inner = _name(PETSc.KSP.ConvergedReason, self._solver.getKSP().getConvergedReason())
            tail = f"the coarse linear solver stopped with {inner}, {tail}"
        raise RuntimeError(start + tail)

    def destroy(self) -> None:
        """Free the PETSc objects of this problem (not those of ``W``). Collective."""
        self._destroy_coarse()
        super().destroy()


def _compute_residual(
    snes: PETSc.SNES, x: PETSc.Vec, f: PETSc.Vec, ref: weakref.ref[NonlinearProblem]
) -> None:
    problem = ref()
    if problem is None:
        return
    # Errors are put off until SNES has returned: it must not be left in the middle of things. They
    # are the same on all ranks. NaN makes it stop.
    try:
        if problem._error is None:
            problem._residual(x, f)
            return
    except Exception as error:
        problem._error = error
    f.set(np.nan)


def _compute_jacobian(
    snes: PETSc.SNES,
    x: PETSc.Vec,
    A0: PETSc.Mat,
    preconditioner: PETSc.Mat,
    ref: weakref.ref[NonlinearProblem],
) -> None:
    problem = ref()
    if problem is None or problem._error is not None:
        return
    try:
        problem._jacobian(x)
    except Exception as error:
        problem._error = error


def _name(kind: type, value: int) -> str:
    """PETSc's name of a reason."""
    return next((name for name, number in vars(kind).items() if number == value), str(value))
