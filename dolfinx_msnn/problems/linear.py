# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Linear problems in a multiscale space: A_0 u_0 = R(b − A g), u = P u_0 + g."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem, la
from dolfinx.fem.petsc import assemble_matrix, create_matrix
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.functions import dirichlet_lift, set_function
from dolfinx_msnn._utils.mesh import dirichlet_mask
from dolfinx_msnn._utils.mpi import check_same, collective_errors
from dolfinx_msnn._utils.petsc import Owner, check_mat_type, check_options, check_prefix
from dolfinx_msnn._utils.solvers import create_coarse_solver, solve_coarse
from dolfinx_msnn._utils.typing import CompilerOptions, DirichletBC, Form, Function
from dolfinx_msnn.algebra.nullspace import Kernel
from dolfinx_msnn.algebra.operators import assemble_coarse_vector
from dolfinx_msnn.algebra.product import GalerkinProduct
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


class LinearProblem(Owner):
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
        Creation is collective. Rigid motions (constants; for as many components as dimensions,
        rotations too) that neither the form nor the conditions resist are found, as in a pure
        Neumann problem: the right-hand side is then made compatible, and the solution, but for its
        boundary values, is L2-orthogonal to them (mean zero).
    """

    _title: ClassVar[str] = "linear problem"

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
        form_compiler_options: CompilerOptions | None = None,
        jit_options: CompilerOptions | None = None,
    ) -> None:
        self._solver: PETSc.KSP = None
        check_multiscale_space(W)
        super().__init__(W.comm)
        self._compile = partial(
            fem.form, form_compiler_options=form_compiler_options, jit_options=jit_options
        )
        kind = W.P.getType() if mat_type is None else mat_type
        with collective_errors(W.comm):
            check_prefix(petsc_options_prefix)
            check_options(petsc_options)
            check_mat_type(mat_type)
            forms.check_form(a, W.V, "a")
            check_linear_form(L, W)
            forms.check_bcs(bcs, W.V)
            if u is not None:
                W.check_member(u)
        check_same(
            W.comm,
            a=forms.identify(a),
            L=forms.identify(L),
            petsc_options_prefix=petsc_options_prefix,
            petsc_options=dict(petsc_options or {}),
            mat_type=mat_type,
        )
        check_conditions(bcs, W)
        self.W, self.bcs = W, list(bcs)
        self.u: Function = fem.Function(W.V) if u is None else u
        self._a: Form = self._compile(a)
        self._L: Form = self._compile(L)
        self._prefix, self._options = petsc_options_prefix, dict(petsc_options or {})
        self._A = self._own(create_matrix(self._a, kind=kind))
        self._A.setOptionsPrefix(f"{petsc_options_prefix}A_")
        self._A0: PETSc.Mat = None
        self._product: GalerkinProduct | None = None
        self._kernel: Kernel | None = None
        self._nullspace: PETSc.NullSpace = None
        self._b = self._own(self._A.createVecLeft())
        self._fine = self._own(self._A.createVecRight())
        self._b0: PETSc.Vec = None
        self._x0: PETSc.Vec = None
        self._layout, self._revision = W.layout, W.revision

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
        """The fine matrix, Dirichlet rows and columns zeroed. Owned by the problem."""
        self._check_alive()
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
        self._check_alive()
        return self._b

    @property
    def solver(self) -> PETSc.KSP:
        """The coarse solver; set up if it is not yet (collective then)."""
        if self._solver is None:
            self.assemble()
        return self._solver

    def assemble(self) -> None:
        """Assemble A and A_0, for the first time or after a coefficient of ``a`` has changed.

        Collective. Keeps the basis (:meth:`MultiscaleFunctionSpace.update` renews it) and the
        symbolic product.
        """
        self._check_alive()
        A = self._A
        A.zeroEntries()
        # The registered overload for a given matrix is not in its annotations.
        assemble_matrix(A, self._a, bcs=self.bcs)  # type: ignore[misc, arg-type]
        A.assemble()
        if self._layout != self.W.layout:
            self._free_coarse()
        self._layout, self._revision = self.W.layout, self.W.revision
        if self._product is None:
            self._product = GalerkinProduct(A, self.W)
            self._A0 = self._own(self._product.A0)
            self._A0.setOptionsPrefix(f"{self._prefix}A0_")
            self._b0 = self._own(self._A0.createVecLeft())
            self._x0 = self._own(self._A0.createVecRight())
        else:
            self._product.assemble(A)
        if self._solver is not None:
            self._solver.setOperators(self._A0)
            return
        self._kernel = Kernel.find(A, self.W.V, self._compile)
        if self._kernel is not None:
            self._nullspace = self._own(self._kernel.coarse_nullspace(self.W))
            self._A0.setNullSpace(self._nullspace)
        self._solver = self._own(create_coarse_solver(self._A0, self._prefix, self._options))

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
        P = self.W.P
        if isinstance(L, fem.Form):
            with collective_errors(self.W.comm):
                _check_compiled_form(L, self.W)
            self._L = L
        elif L is not None:
            with collective_errors(self.W.comm):
                check_linear_form(L, self.W)
            check_same(self.W.comm, L=forms.identify(L))
            self._L = self._compile(L)
        if self._solver is None or self._revision != self.W.revision:
            self.assemble()
        load = fem.assemble_vector(self._L)
        fem.apply_lifting(load.array, [self._a], bcs=[self.bcs])
        load.scatter_reverse(la.InsertMode.add)
        size = self._b.getLocalSize()
        with self._b as array:
            array[:] = load.array[:size]
            array[self.W.dirichlet] = 0.0
        if self._kernel is not None:
            self._kernel.make_compatible(self._b)
        assemble_coarse_vector(self._b, self.W, self._b0)
        if self._kernel is not None:
            self._nullspace.remove(self._b0)
        solve_coarse(self._solver, self._b0, self._x0)
        P.mult(self._x0, self._fine)
        set_function(self.u, self._fine)
        if self._kernel is not None:
            self._kernel.remove(self.u)
        self.u.x.array[:] += dirichlet_lift(self.W.V, self.bcs).x.array
        return self.u

    def _free_coarse(self) -> None:
        """Free what has the size of a P that is gone. Collective."""
        for item in (self._solver, self._nullspace, self._x0, self._b0, self._A0):
            if item is not None:
                self._owned.remove(item)
                item.destroy()
        self._solver = self._nullspace = self._x0 = self._b0 = self._A0 = self._product = None

    def destroy(self) -> None:
        """Free the PETSc objects of this problem (not those of ``W``). Collective."""
        super().destroy()
        self._solver = self._A0 = self._product = None


def check_multiscale_space(W: object) -> None:
    """Refuse what is not a multiscale space. Not collective."""
    if not isinstance(W, MultiscaleFunctionSpace):
        raise ValueError(f"Expected a MultiscaleFunctionSpace, got {type(W).__name__}.")


def check_linear_form(L: ufl.Form, W: MultiscaleFunctionSpace, name: str = "L") -> None:
    """Refuse what is not a form with one argument, a test function on V. Not collective.

    Args:
        L: UFL form.
        W: Multiscale space.
        name: What the user calls the form, for the message.
    """
    if isinstance(L, ufl.Form) and len(L.arguments()) == 1:
        if L.arguments()[0].ufl_function_space() == W.V:
            forms.check_arity(L, name)
            return
        raise ValueError(f"{name} has its test function on another space than V; expected V.")
    given = f"{len(L.arguments())} arguments" if isinstance(L, ufl.Form) else type(L).__name__
    raise ValueError(f"{name} must be a UFL linear form with one test function on V, got {given}.")


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
        raise ValueError("L has its test function on another space than V; expected V.")
