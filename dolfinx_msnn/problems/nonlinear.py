# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Nonlinear problems in a multiscale space: R F(P c + g) = 0, by PETSc SNES."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx.mesh import EntityMap
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.functions import dirichlet_lift
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import (
    Owner,
    check_petsc_arguments,
    readable_errors,
    temporary_options,
    unused,
    warn_unused,
)
from dolfinx_msnn._utils.solvers import NULL_PIVOTS, choose_direct
from dolfinx_msnn._utils.typing import CompilerOptions, DirichletBC, FloatArray, Form, Function
from dolfinx_msnn.algebra.fine import FineOperator
from dolfinx_msnn.algebra.product import CoarseOperator, assemble_coarse_vector
from dolfinx_msnn.problems.linear import check_conditions
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
        entity_maps: From ``create_submesh``, where coefficients are on submeshes.

    Raises:
        ValueError: If an argument does not fit ``W``.

    Note:
        Creation is collective. Should ``W`` get another P, the next solve sees it.
    """

    _title: ClassVar[str] = "nonlinear problem"

    #: Options that those of the user win over.
    _defaults: ClassVar[dict[str, object]] = {}
    _bilinear: ClassVar[str] = "J"

    @checked
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
        entity_maps: Sequence[EntityMap] = (),
    ) -> None:
        super().__init__(W.comm)
        with collective_errors(W.comm) as checks:
            options = check_petsc_arguments(checks, petsc_options_prefix, petsc_options, mat_type)
            W.check_member(u)
            compile_form = forms.compiler(form_compiler_options, jit_options, entity_maps)
            F, J = self._check_forms(F, J, u, W)
            forms.check_form(J, W.V, self._bilinear, entity_maps)
            forms.check_bcs(bcs, W.V)
            checks.agree(F=forms.identify(F), J=forms.identify(J))
        check_conditions(bcs, W)
        self.W, self.u, self.bcs = W, u, list(bcs)
        self._prefix, self._options, self._unseen = petsc_options_prefix, options, list(options)
        self._F: Form = compile_form(F)
        self._J: Form = compile_form(J)
        prefix = f"{petsc_options_prefix}A_"
        self._A = self._own(FineOperator(self._J, W, self.bcs, mat_type, prefix))
        self._b = self._own(W.P.createVecLeft())
        self._load = la.vector(W.V.dofmap.index_map, W.V.dofmap.index_map_bs)
        self._lift: Function = dirichlet_lift(W.V, bcs)
        self._coarse = self._own(CoarseOperator(W, f"{petsc_options_prefix}A0_"))
        self._x = self._f = None
        # State of x for which A_0 has been filled already, and what the last solve left in u.
        self._filled_at, self._left = -1, np.zeros(0)
        self._error: Exception | None = None
        self._solver = self._own(PETSc.SNES().create(W.comm))
        self._solver.setOptionsPrefix(petsc_options_prefix)
        ksp = self._solver.getKSP()
        ksp.setType(PETSc.KSP.Type.PREONLY)
        # LU, as J need not be symmetric.
        choose_direct(ksp.getPC(), symmetric=False)
        with self._calling("could not be set up"):
            self._solver.setFromOptions()

    @staticmethod
    def _check_forms(
        F: ufl.Form, J: ufl.Form | None, u: Function, W: MultiscaleFunctionSpace
    ) -> tuple[ufl.Form, ufl.Form]:
        """Residual, checked, and Jacobian. Not collective."""
        forms.check_arguments(F, [W.V], "F")
        if u not in F.coefficients():
            raise ValueError("F does not depend on u; expected a residual with u in it.")
        if J is None:
            J = ufl.derivative(F, u, ufl.TrialFunction(W.V))
        return F, J

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
        return self._A.matrix

    @property
    def A0(self) -> PETSc.Mat:
        """The coarse Jacobian PᵀJP of the last step; ``None`` before the first solve."""
        self._check_alive()
        return self._coarse.A0

    @property
    def solver(self) -> PETSc.SNES:
        """The SNES. Owned by the problem."""
        self._check_alive()
        return self._solver

    @contextmanager
    def _calling(self, failure: str) -> Iterator[None]:
        """With the options in PETSc's database, and its errors in one sentence."""
        defaults = NULL_PIVOTS | self._defaults
        with (
            readable_errors(f"The coarse nonlinear solver ({self._prefix}) {failure}"),
            temporary_options(self._prefix, self._options, defaults),
        ):
            yield
            self._unseen = unused(self._prefix, self._unseen)

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
        self._lift = dirichlet_lift(self.W.V, self.bcs)
        if self._x is None or not self._coarse.is_current:
            self._begin()
        elif not self.W.comm.allreduce(np.array_equal(self._left, self._free_values()), MPI.LAND):
            c = self._coefficients()
            c.copy(self._x)
            c.destroy()
        self._assign(self._x)
        self._error = None
        try:
            with self._calling("failed"):
                self._solver.solve(None, self._x)
        except BaseException:
            # PETSc left in the middle keeps locks on vectors: make them anew.
            self._free_vectors()
            raise
        finally:
            self._filled_at = -1
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._assign(self._x)
        self._left = self._free_values()
        self._check_converged()
        warn_unused(self.W.comm, self._prefix, self._unseen)
        self._unseen = []
        return self.u

    def _begin(self) -> None:
        """For the first solve, or after P has changed: start, A_0 there, and SNES. Collective."""
        x = self._own(self._coefficients())
        self._assign(x)
        self._A.assemble()
        renewed, _ = self._coarse.assemble(self._A)
        if renewed or self._x is None:
            self._free_vectors()
            self._f = self._own(x.duplicate())
            # PETSc keeps what it is given where Python's collector does not look.
            me = weakref.ref(self)

            def residual(snes: PETSc.SNES, x: PETSc.Vec, f: PETSc.Vec) -> None:
                # NaN makes SNES stop.
                if not _call(me, NonlinearProblem._residual, x, f):
                    f.set(np.nan)

            def jacobian(snes: PETSc.SNES, x: PETSc.Vec, A0: PETSc.Mat, B: PETSc.Mat) -> None:
                _call(me, NonlinearProblem._jacobian, x)

            self._solver.setFunction(residual, self._f)
            self._solver.setJacobian(jacobian, self._coarse.A0)
        self._free(self._x)
        self._x, self._filled_at = x, x.stateGet()

    def _free_vectors(self) -> None:
        """Also those that SNES holds. Collective."""
        if self._x is not None:
            self._solver.reset()
        self._free(self._x, self._f)
        self._x = self._f = None

    def _free_values(self) -> FloatArray:
        """Values of ``u`` at the owned dofs without Dirichlet condition, shape ``(n,)``."""
        free = ~self.W.dirichlet
        return self.u.x.array[: free.size][free]

    def _coefficients(self) -> PETSc.Vec:
        """Coefficients of ``u`` at the free dofs. Collective; the caller destroys them."""
        values = self._free_values()
        found = np.array([not np.isfinite(values).all(), values.any()], dtype=np.int32)
        self.W.comm.Allreduce(MPI.IN_PLACE, found, op=MPI.MAX)
        if found[0]:
            raise RuntimeError(
                "The start of the nonlinear solver, u, has NaN or infinite entries; expected "
                "finite ones."
            )
        # Zero is a usual start, and needs no projection.
        return self.W.coefficients(self.u) if found[1] else self.W.P.createVecRight()

    def _assign(self, x: PETSc.Vec) -> None:
        """Set ``u`` to P x + g. Collective."""
        self.W.prolong(x, self.u)
        self.u.x.array[:] += self._lift.x.array

    def _residual(self, x: PETSc.Vec, f: PETSc.Vec) -> None:
        # No lifting: rows of P at Dirichlet dofs are zero, and so is their part of the residual.
        self._assign(x)
        self._load.array[:] = 0.0
        with collective_errors(self.W.comm):
            # The overload for a given array is not in the annotations.
            fem.assemble_vector(self._load.array, self._F)  # type: ignore[arg-type]
        self._load.scatter_reverse(la.InsertMode.add)
        self._b.array_w[:] = self._load.array[: self._b.getLocalSize()]
        assemble_coarse_vector(self._b, self.W, f)

    def _jacobian(self, x: PETSc.Vec) -> None:
        # At the start it may have been filled already: SNES is given this very vector.
        if x == self._x and x.stateGet() == self._filled_at:
            return
        self._assign(x)
        self._A.assemble()
        self._coarse.assemble(self._A)

    def _check_converged(self) -> None:
        reason, reasons = self._solver.getConvergedReason(), PETSc.SNES.ConvergedReason
        if reason > 0:
            return
        cause = ""
        if reason in (reasons.DIVERGED_FUNCTION_NANORINF, reasons.DIVERGED_FUNCTION_DOMAIN):
            cause = "F has NaN or infinite entries, "
        elif reason == reasons.DIVERGED_LINEAR_SOLVE:
            inner = _name(PETSc.KSP.ConvergedReason, self._solver.getKSP().getConvergedReason())
            cause = f"the coarse linear solver stopped with {inner}, "
        raise RuntimeError(
            f"The coarse nonlinear solver ({self._prefix}) did not converge: {cause}"
            f"{_name(reasons, reason)} after {self._solver.getIterationNumber()} iterations."
        )

    def destroy(self) -> None:
        """Free the PETSc objects of this problem (not those of ``W``). Collective."""
        if not self._destroyed:
            self._free_vectors()
        super().destroy()


class PicardProblem(NonlinearProblem):
    """Solve a(u; u, v) = L(v) in a multiscale space by Picard's fixed-point iteration.

    The matrix of each step is that of a(u_k; ·, ·): in SNES a Newton method with that for Jacobian
    (defect correction). Convergence is linear at best, and where the coefficient is steep the steps
    may swing to and fro: ``snes_linesearch_damping`` shortens them.

    Args:
        a: Bilinear form, with ``u`` among its coefficients.
        L: Linear form.
        u: The unknown, a function in ``V``; the start of the first solve, and the solution.
        W: Multiscale space.

    All other arguments, and what is raised, are those of :class:`NonlinearProblem`. Defaults among
    the options are here ``snes_linesearch_type`` ``basic`` and ``snes_max_it`` 200.

    Note:
        Creation is collective.
    """

    _bilinear = "a"
    _defaults: ClassVar[dict[str, object]] = {"snes_linesearch_type": "basic", "snes_max_it": 200}

    def __init__(
        self,
        a: ufl.Form,
        L: ufl.Form,
        u: Function,
        W: MultiscaleFunctionSpace,
        *,
        petsc_options_prefix: str,
        bcs: Sequence[DirichletBC] = (),
        petsc_options: Mapping[str, object] | None = None,
        mat_type: str | None = None,
        form_compiler_options: CompilerOptions | None = None,
        jit_options: CompilerOptions | None = None,
        entity_maps: Sequence[EntityMap] = (),
    ) -> None:
        super().__init__(
            L,
            u,
            W,
            petsc_options_prefix=petsc_options_prefix,
            bcs=bcs,
            J=a,
            petsc_options=petsc_options,
            mat_type=mat_type,
            form_compiler_options=form_compiler_options,
            jit_options=jit_options,
            entity_maps=entity_maps,
        )

    @staticmethod
    def _check_forms(
        L: ufl.Form, a: ufl.Form | None, u: Function, W: MultiscaleFunctionSpace
    ) -> tuple[ufl.Form, ufl.Form]:
        forms.check_arguments(a, (W.V, W.V), "a")  # type: ignore[arg-type]  # refuses None
        forms.check_arguments(L, [W.V], "L")
        return ufl.action(a, u) - L, a  # type: ignore[return-value]  # it is none


def _call(
    ref: weakref.ref[NonlinearProblem], method: Callable[..., None], *vectors: PETSc.Vec
) -> bool:
    """Call a method of a problem from SNES; returns whether it went well. Collective.

    Errors, the same on all ranks, are put off until SNES has returned: it must not be left in the
    middle of things.
    """
    problem = ref()
    if problem is None or problem._error is not None:
        return False
    try:
        method(problem, *vectors)
    except Exception as error:
        problem._error = error
        return False
    return True


def _name(reasons: type, value: int) -> str:
    """PETSc's name of a reason."""
    return next((name for name, number in vars(reasons).items() if number == value), str(value))
