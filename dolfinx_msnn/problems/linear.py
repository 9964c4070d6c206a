# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Linear problems in a multiscale space: A_0 u_0 = R(b − A g), u = P u_0 + g."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx.mesh import EntityMap
from dolfinx_msnn._utils import forms, solvers
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.functions import dirichlet_lift
from dolfinx_msnn._utils.mesh import dirichlet_mask
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import Owner, check_petsc_arguments
from dolfinx_msnn._utils.solvers import create_coarse_solver, solve_coarse
from dolfinx_msnn._utils.typing import CompilerOptions, DirichletBC, Form, Function
from dolfinx_msnn.algebra.fine import FineOperator
from dolfinx_msnn.algebra.nullspace import NullSpace, attach_near_null_space, candidates
from dolfinx_msnn.algebra.product import CoarseOperator, assemble_coarse_vector
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.problems.local_solutions import LocalSolutions
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


class LinearProblem(Owner):
    """Solve a(u, v) = L(v) in a multiscale space: A_0 u_0 = R(b − A g), u = P u_0 + g.

    Mirrors :class:`dolfinx.fem.petsc.LinearProblem`. The operator is assembled and factored when it
    is first needed, and again when a coefficient or constant of ``a``, or the space, has changed
    since; further right-hand sides cost one restriction, one coarse solve and one prolongation.

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
        watch: Whether :meth:`solve` compares the values in ``a`` with those that were assembled
            last. Without, :meth:`assemble` has to be called when they have changed. A mesh that
            moves is not noticed.
        local_solutions: Add to each solution the solutions of A u_i = L on the oversampled
            neighbourhoods, weighted by the partition of unity, so that any load will do, however
            rough. Made for :class:`HarmonicBasis`: what is left is A-harmonic. One factor a
            neighbourhood is kept. Give the coarse grid if ``W`` comes from a file.
        form_compiler_options: Passed to DOLFINx.
        jit_options: Passed to DOLFINx.
        entity_maps: From ``create_submesh``, where coefficients are on submeshes.

    Example:
        >>> with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="coarse_") as problem:
        ...     uh = problem.solve()
        >>> uh.name, uh.function_space == V
        ('u', True)

    Raises:
        ValueError: If an argument does not fit ``W``.

    Note:
        Two-level CG (:class:`~dolfinx_msnn.TwoLevelPreconditioner`) that starts from the solution
        without local solutions has their error after one to three iterations, which are cheaper;
        use them where CG converges slowly, as with long channels of high contrast, or where u has
        to be a linear function of the load.

        Creation is collective. Rigid motions (constants; for as many components as dimensions,
        rotations too) that neither the form nor the conditions resist are found, as in a pure
        Neumann problem: the right-hand side is then made compatible, and the solution, but for its
        boundary values, is L2-orthogonal to them (mean zero).
    """

    _title: ClassVar[str] = "linear problem"

    @checked
    def __init__(
        self,
        a: ufl.Form,
        L: ufl.Form,
        W: MultiscaleFunctionSpace,
        *,
        petsc_options_prefix: str,
        bcs: Sequence[DirichletBC] = (),
        u: Function | None = None,
        petsc_options: Mapping[str, object] | None = None,
        mat_type: str | None = None,
        watch: bool = True,
        local_solutions: bool | CoarseGrid = False,
        form_compiler_options: CompilerOptions | None = None,
        jit_options: CompilerOptions | None = None,
        entity_maps: Sequence[EntityMap] = (),
    ) -> None:
        super().__init__(W.comm)
        with collective_errors(W.comm) as checks:
            options = check_petsc_arguments(checks, petsc_options_prefix, petsc_options, mat_type)
            self._compile = forms.compiler(form_compiler_options, jit_options, entity_maps)
            forms.check_form(a, W.V, "a", entity_maps)
            forms.check_arguments(L, [W.V], "L")
            forms.check_bcs(bcs, W.V)
            if u is not None:
                W.check_member(u)
            coarse = _coarse_grid(local_solutions, W)
            checks.agree(
                a=forms.identify(a),
                L=forms.identify(L),
                watch=bool(watch),
                local_solutions=coarse is not None,
            )
        _ = W.P
        check_conditions(bcs, W)
        self.W, self.bcs = W, list(bcs)
        self.u: Function = fem.Function(W.V, name="u") if u is None else u
        self._a: Form = self._compile(a)
        self._watch = forms.Watch([a] if watch else [])
        self._L: Form = self._compile(L)
        self._prefix, self._options = petsc_options_prefix, options
        self._A = self._own(
            FineOperator(self._a, W, self.bcs, mat_type, f"{petsc_options_prefix}A_")
        )
        self._motions = candidates(W.V)
        self._coarse = self._own(CoarseOperator(W, f"{petsc_options_prefix}A0_"))
        self._local: LocalSolutions | None = None
        if coarse is not None:
            self._local = self._own(LocalSolutions(a, W, coarse, bcs, compile_form=self._compile))
        self._solver: PETSc.KSP = None
        self._b: PETSc.Vec = None
        self._b0: PETSc.Vec = None
        self._x0: PETSc.Vec = None

    @property
    def a(self) -> Form:
        """The compiled bilinear form."""
        return self._a

    @property
    def L(self) -> Form:
        """The compiled linear form that was solved for last."""
        return self._L

    @property
    def A(self) -> PETSc.Mat:
        """The fine matrix, Dirichlet rows and columns zeroed. Owned by the problem.

        A solution does not need it: it is made when it is first asked for (collective then), and
        follows :meth:`assemble` from then on.
        """
        self._check_alive()
        return self._A.matrix

    @property
    def A0(self) -> PETSc.Mat:
        """The coarse matrix PᵀAP; assembled if it is not yet (collective then)."""
        if self._solver is None:
            self.assemble()
        return self._coarse.A0

    @property
    def b(self) -> PETSc.Vec:
        """The fine right-hand side b − A g of the last solve. Owned by the problem."""
        if self._b is None:
            self.assemble()
        self._check_alive()
        return self._b

    @property
    def solver(self) -> PETSc.KSP:
        """The coarse solver; set up if it is not yet (collective then)."""
        if self._solver is None:
            self.assemble()
        return self._solver

    def assemble(self) -> None:
        """Assemble A_0 anew; :meth:`solve` does by itself what is needed.

        Collective. Keeps the basis (:meth:`MultiscaleFunctionSpace.update` renews it) and the
        symbolic product.
        """
        self._check_alive()
        self._A.assemble()
        if self._local is not None:
            self._local.refresh()
        renewed, action = self._coarse.assemble(self._A, self._motions)
        A0 = self._coarse.A0
        self._nullspace = NullSpace(self.W, self._motions, action, self._compile)
        self._nullspace.attach(A0)
        if renewed or self._solver is None:
            self._free(self._solver, self._x0, self._b0, self._b)
            self._b = self._own(self.W.P.createVecLeft())
            self._b0, self._x0 = self._own(A0.createVecLeft()), self._own(A0.createVecRight())
            self._solver = None
            if A0.getSize()[0] > solvers.DIRECT_UP_TO:
                attach_near_null_space(A0, self.W, self._motions)
            self._solver = self._own(create_coarse_solver(A0, self._prefix, self._options))
        self._watch.remember()

    def solve(self, L: ufl.Form | Form | None = None) -> Function:
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
        self._check_alive()
        W = self.W
        _ = W.P
        with collective_errors(W.comm) as checks:
            if isinstance(L, fem.Form):
                _check_compiled_form(L, W)
                checks.agree(L="a compiled form")
            else:
                if L is not None:
                    forms.check_arguments(L, [W.V], "L")
                checks.agree(L=forms.identify(L))
        if isinstance(L, fem.Form):
            self._L = L
        elif L is not None:
            self._L = self._compile(L)
        stale = self._watch.changed() or self._solver is None or not self._coarse.is_current
        if W.comm.allreduce(stale, op=MPI.LOR):
            self.assemble()
        load = fem.assemble_vector(self._L)
        fem.apply_lifting(load.array, [self._a], bcs=[self.bcs])
        load.scatter_reverse(la.InsertMode.add)
        with self._b as array:
            array[:] = load.array[: len(array)]
            array[W.dirichlet] = 0.0
        self._nullspace.make_compatible(self._b)
        lift = dirichlet_lift(W.V, self.bcs).x.array
        local = None
        if self._local is None:
            assemble_coarse_vector(self._b, W, self._b0)
        else:
            local = self._local.solve(self._b, lift[: self._b.getLocalSize()])
            residual = self._b - self._A.matrix * local
            assemble_coarse_vector(residual, W, self._b0)
            residual.destroy()
        nullspace = self.A0.getNullSpace()
        if nullspace:
            nullspace.remove(self._b0)
        solve_coarse(self._solver, self._b0, self._x0)
        W.prolong(self._x0, self.u)
        if local is not None:
            self.u.x.array[: local.getLocalSize()] += local.array_r
            self.u.x.scatter_forward()
        self._nullspace.remove(self.u)
        self.u.x.array[:] += lift
        return self.u

    def destroy(self) -> None:
        """Free the PETSc objects of this problem (not those of ``W``). Collective."""
        super().destroy()
        self._solver = self._local = None


def _coarse_grid(given: object, W: MultiscaleFunctionSpace) -> CoarseGrid | None:
    """The coarse grid of local solutions, if they are asked for. Not collective."""
    if isinstance(given, bool):
        if given and W.coarse is None:
            raise ValueError(
                "local_solutions=True needs the coarse grid, which a space read from a file does "
                "not know; expected local_solutions=coarse."
            )
        return W.coarse if given else None
    if not isinstance(given, CoarseGrid) or given.fine._cpp_object is not W.V.mesh._cpp_object:
        raise ValueError(
            f"local_solutions must be True, False or a CoarseGrid on the mesh of W, got {given!r}."
        )
    return given


def check_conditions(bcs: Sequence[DirichletBC], W: MultiscaleFunctionSpace) -> None:
    """Refuse Dirichlet conditions on other dofs than those ``W`` was built for. Collective."""
    mask = dirichlet_mask(W.V, bcs)[: W.V.dofmap.index_map.size_local].reshape(-1)
    with collective_errors(W.comm):
        if not np.array_equal(mask, W.dirichlet):
            raise ValueError(
                f"bcs constrain {int(mask.sum())} dofs of this rank, the multiscale space was "
                f"built for {int(W.dirichlet.sum())}, and they are not the same ones; expected "
                "conditions on the dofs given to multiscale_functionspace."
            )


def _check_compiled_form(L: Form, W: MultiscaleFunctionSpace) -> None:
    if L.rank != 1:
        raise ValueError(f"L must be a linear form, got a compiled form of rank {L.rank}.")
    if L.function_spaces[0] != W.V._cpp_object:
        raise ValueError(
            "The arguments of L are on another function space; expected TestFunction(V)."
        )
