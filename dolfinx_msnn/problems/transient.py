# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Linear time-dependent problems, of one field or several, stepped in their coarse spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx.mesh import EntityMap
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.checks import require
from dolfinx_msnn._utils.forms import identify
from dolfinx_msnn._utils.functions import dirichlet_lift
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import Owner, check_petsc_arguments
from dolfinx_msnn._utils.typing import CompilerOptions, DirichletBC, FloatArray, Form, Function
from dolfinx_msnn.algebra.product import CoarseOperator
from dolfinx_msnn.problems.bdf import Steps, checked_step
from dolfinx_msnn.problems.blocks import (
    FineBlocks,
    assemble_loads,
    bcs_of_fields,
    bilinear_blocks,
    is_list,
    linear_blocks,
)
from dolfinx_msnn.problems.coarse_system import CoarseSystem
from dolfinx_msnn.problems.linear import check_conditions
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: When a space has been updated in place.
LOST = (
    "The space of this problem has been updated, and the solution in the former one had not been "
    "prolonged; expected a call of prolong() before."
)


@dataclass
class _Level:
    """What is remembered of the solution u = P c + g at one time.

    Attributes:
        fine: Local values of u for each field, with ghosts; ``None`` until they are asked for.
        momentum: R M u, the coarse vector that the time derivative needs. It is the system's, as
            ``c`` is; ``None`` before there is one.
        c: Coarse coefficients; meaningless if ``fine`` is older than the system.
        lift: g, local values for each field.
    """

    fine: list[FloatArray] | None
    momentum: PETSc.Vec = None
    c: PETSc.Vec = None
    lift: list[FloatArray] = field(default_factory=list)


class TransientProblem(Owner):
    """Solve m(u', v) + a(u, v) = L(v) in a multiscale space by BDF1 or BDF2.

    With M_0 = PᵀMP, A_0 = PᵀAP, u = P c + g and g the Dirichlet lift, a step is one coarse solve:
    (c_0/dt M_0 + A_0) c = R (L − A g − c_0/dt M g) − Σ_k c_k/dt R M u_{n-k}. The matrix is factored
    once for each step size; nothing of the size of the fine problem is touched, but for P c where
    the solution is asked for. Before each step the values of the coefficients and constants of the
    forms, and the Dirichlet values, are compared with the last ones, and what depends on changed
    ones is assembled anew; so time-dependent data are given by changing them before :meth:`step`::

        for _ in range(100):
            f.value = load(problem.time + problem.dt)
            problem.step(prolong=False)
        u = problem.prolong()

    The initial values are those found in ``u``. Only R M u of them matters: a space that does not
    hold them starts from their projection in the inner product of m.

    Fields: ``W``, ``u``, ``L`` may be sequences with one entry for each field, ``m`` and ``a``
    nested sequences, as DOLFINx takes them (rows: test functions). ``None`` is a zero block. A
    field without time derivative in its row is quasi-static. As in poroelasticity (Biot 1941), with
    displacement u and pressure p::

        m = [[None, None], [alpha * div(u) * q * dx, storage * p * q * dx]]
        a = [[inner(sigma(u), eps(v)) * dx, -alpha * p * div(v) * dx], [None, kappa * ... * dx]]

    Args:
        m: Bilinear form of the time derivative; need not be coercive. ``None`` for zero.
        a: Bilinear form; need not be symmetric.
        L: Linear form; ``None`` for zero.
        u: The solution, with the initial values; one function in ``W.V`` for each field.
        W: Multiscale space of each field, all of different fine spaces on one mesh.
        dt: Size of the first step, in the user's unit of time.
        order: 1 (implicit Euler), or 2 (BDF2; the first step by implicit Euler).
        time: Time at the start.
        bcs: Dirichlet conditions of all fields, on the dofs the spaces were built for; any values.
        petsc_options_prefix: Prefix of the coarse solver's options. Mandatory.
        petsc_options: Options of the coarse KSP. Default: a direct solve, LU unless the matrix is
            found symmetric.
        mat_type: PETSc type of the fine matrices. Default: that of ``W.P``.
        watch: Whether :meth:`step` compares the values in the forms with the last ones. Without,
            :meth:`assemble` has to be called when they have changed.
        form_compiler_options: Passed to DOLFINx.
        jit_options: Passed to DOLFINx.
        entity_maps: From ``create_submesh``, where coefficients are on submeshes.

    Raises:
        ValueError: If an argument does not fit the spaces; the same on every rank.

    Note:
        Creation is collective.
    """

    _title: ClassVar[str] = "transient problem"

    def __init__(
        self,
        m: Any,
        a: Any,
        L: Any,
        u: Function | Sequence[Function],
        W: MultiscaleFunctionSpace | Sequence[MultiscaleFunctionSpace],
        *,
        dt: float,
        petsc_options_prefix: str,
        order: int = 1,
        time: float = 0.0,
        bcs: Sequence[DirichletBC] = (),
        petsc_options: Mapping[str, object] | None = None,
        mat_type: str | None = None,
        watch: bool = True,
        form_compiler_options: CompilerOptions | None = None,
        jit_options: CompilerOptions | None = None,
        entity_maps: Sequence[EntityMap] = (),
    ) -> None:
        spaces: list[MultiscaleFunctionSpace] = list(W) if isinstance(W, Sequence) else [W]
        functions: list[Function] = list(u) if isinstance(u, Sequence) else [u]
        if not spaces or not all(isinstance(w, MultiscaleFunctionSpace) for w in spaces):
            given = [type(w).__name__ for w in spaces]
            require(False, "W", given, "a MultiscaleFunctionSpace or a sequence of them")
        comm = spaces[0].comm
        super().__init__(comm)
        with collective_errors(comm) as checks:
            options = check_petsc_arguments(checks, petsc_options_prefix, petsc_options, mat_type)
            compile_form = forms.compiler(form_compiler_options, jit_options, entity_maps)
            self._steps = Steps(checks, dt, order, time)
            if any(w.V.mesh._cpp_object is not spaces[0].V.mesh._cpp_object for w in spaces):
                raise ValueError("The spaces are on different meshes; expected one mesh.")
            if len(functions) != len(spaces):
                raise ValueError(f"Got {len(functions)} functions u for {len(spaces)} spaces W.")
            for w, function in zip(spaces, functions, strict=True):
                w.check_member(function)
            V = [w.V for w in spaces]
            M, A = bilinear_blocks(m, V, "m"), bilinear_blocks(a, V, "a")
            loads = linear_blocks(L, V, "L")
            by_field = bcs_of_fields(bcs, V)
            checks.agree(
                m=[[identify(f) for f in row] for row in M],
                a=[[identify(f) for f in row] for row in A],
                L=[identify(f) for f in loads],
            )
        for w, conditions in zip(spaces, by_field, strict=True):
            check_conditions(conditions, w)
        self.spaces = spaces
        self._single = not is_list(W)
        self._functions, self._bcs = functions, by_field
        self._prefix, self._options = petsc_options_prefix, options
        self._order = order
        self._L: list[Form | None] = [None if f is None else compile_form(f) for f in loads]
        self._watch_loads = forms.Watch(loads if watch else [])
        bilinear = [f for rows in (*M, *A) for f in rows]
        self._watch_operators = forms.Watch(bilinear if watch else [])
        operators = [self._own(CoarseOperator(w)) for w in spaces]
        self._M, self._A = (
            self._own(
                FineBlocks(
                    blocks, operators, mat_type, f"{petsc_options_prefix}{name}_", compile_form
                )
            )
            for blocks, name in ((M, "M"), (A, "A"))
        )
        self._system: CoarseSystem | None = None
        # The newest first.
        self._levels = [_Level([function.x.array.copy() for function in functions])]
        self._lift: list[FloatArray] = []

    # ---- what can be asked ----

    @property
    def u(self) -> Any:
        """The solution, one function for each field. As it was last prolonged."""
        return self._functions[0] if self._single else tuple(self._functions)

    @property
    def time(self) -> float:
        """Time at the end of the steps done; the next one ends at ``time + dt``."""
        return self._steps.time

    @property
    def dt(self) -> float:
        """Size of the next step, unless it is given another."""
        return self._steps.dt

    @property
    def num_dofs(self) -> int:
        """Coarse dofs of all fields."""
        return sum(w.num_dofs for w in self.spaces)

    @property
    def M0(self) -> PETSc.Mat:
        """The coarse (block) matrix of ``m``; assembled if it is not yet (collective then)."""
        return self._ready().M0

    @property
    def A0(self) -> PETSc.Mat:
        """The coarse (block) matrix of ``a``; assembled if it is not yet (collective then)."""
        return self._ready().A0

    # ---- what can be done ----

    def assemble(self) -> None:
        """Assemble everything anew.

        :meth:`step` does this by itself when values of coefficients or constants of ``a`` or ``m``
        have changed, or a space has been updated; only a mesh that moves it does not see. The
        solution so far is carried over: the next step continues from it, projected onto the changed
        space in the inner product of m.

        Raises:
            RuntimeError: If a space has been updated in place, and the solution had not been
                prolonged before. If only older ones had not, the next step is of order 1.

        Note:
            Collective.
        """
        self._assemble()

    def step(self, dt: float | None = None, *, prolong: bool = True) -> Any:
        """Do one step.

        Args:
            dt: Size of this step and those after it; default that of the last one. A size not
                used lately costs one factorisation.
            prolong: Whether ``u`` is to be computed. Without, a step costs nothing on the fine
                mesh; :meth:`prolong` does it later.

        Returns:
            The solution (always the same functions, ``u``).

        Raises:
            RuntimeError: If the coarse solver did not converge; the problem is left as it was.

        Note:
            Collective.
        """
        self._check_alive()
        before = self._steps.dt
        dt = before if dt is None else checked_step(self.spaces[0].comm, dt)
        system = self._refreshed()
        self._steps.dt = dt
        try:
            self._advance(system, self._steps.coefficients)
        except BaseException:
            self._steps.dt = before
            raise
        self._steps.advance()
        return self.prolong() if prolong else self.u

    def solve_steady(self, *, prolong: bool = True) -> Any:
        """Solve a(u, v) = L(v) with the present data, and take the solution as initial values.

        The time stays; the next step is of order 1.

        Args:
            prolong: As for :meth:`step`.

        Returns:
            The solution, ``u``.

        Raises:
            RuntimeError: If the coarse matrix of ``a`` is singular.

        Note:
            Collective.
        """
        self._advance(self._refreshed(), np.zeros(1))
        self._steps.restart()
        return self.prolong() if prolong else self.u

    def prolong(self) -> Any:
        """Compute ``u`` = P c + g after the last step. Collective."""
        self._check_alive()
        fine = self._fine(self._levels[0])
        if fine is None:
            raise RuntimeError(LOST)
        for function, values in zip(self._functions, fine, strict=True):
            function.x.array[:] = values
        return self.u

    # ---- how ----

    def _ready(self) -> CoarseSystem:
        """The coarse system; assembled if it is not yet (collective then)."""
        self._check_alive()
        return self._assemble() if self._system is None else self._system

    def _refreshed(self) -> CoarseSystem:
        """The coarse system, what has changed since the last step assembled anew. Collective."""
        system = self._ready()
        lift = self._lifts()
        new = np.array(
            [
                not system.is_current() or self._watch_operators.changed(),
                self._watch_loads.changed(),
                not all(map(np.array_equal, lift, self._lift)),
            ],
            dtype=np.int32,
        )
        self.spaces[0].comm.Allreduce(MPI.IN_PLACE, new, op=MPI.MAX)
        if new[0]:
            return self._assemble()
        if new[1]:
            system.restrict(assemble_loads(self._L), system.load)
            self._watch_loads.remember()
        if new[2]:
            self._take_lift(system, lift)
        return system

    def _assemble(self) -> CoarseSystem:
        """Everything anew, but for the symbolic products where P is the same. Collective."""
        self._check_alive()
        known = self._past()
        self._free(self._system)
        self._system = None
        system = CoarseSystem(self.spaces, self._M, self._A, known, self._prefix, self._options)
        self._own(system)
        self._levels = [
            _Level(fine, momentum, system.vector())
            for fine, momentum in zip(known, system.momenta, strict=True)
        ]
        system.restrict(assemble_loads(self._L), system.load)
        self._take_lift(system, self._lifts())
        self._watch_loads.remember()
        self._watch_operators.remember()
        self._system = system
        return system

    def _past(self) -> list[list[FloatArray]]:
        """The fine values of the levels, newest first, as far as they are known. Collective."""
        known: list[list[FloatArray]] = []
        for level in self._levels:
            fine = self._fine(level)
            if fine is None:
                if not known:
                    raise RuntimeError(LOST)
                self._steps.restart()
                break
            known.append(fine)
        return known

    def _fine(self, level: _Level) -> list[FloatArray] | None:
        """Local values of the solution at one time; ``None`` if they are lost. Collective."""
        if level.fine is None and self._system is not None and self._system.is_intact():
            inside = self._system.prolong(level.c)
            level.fine = [values + g for values, g in zip(inside, level.lift, strict=True)]
        return level.fine

    def _lifts(self) -> list[FloatArray]:
        """Local values of the present Dirichlet lift of each field. Collective."""
        pairs = zip(self.spaces, self._bcs, strict=True)
        return [dirichlet_lift(w.V, bcs).x.array.copy() for w, bcs in pairs]

    def _take_lift(self, system: CoarseSystem, lift: list[FloatArray]) -> None:
        """R A g and R M g. Collective."""
        self._lift = lift
        system.restrict(self._A.lift(self._bcs), system.stiff_lift)
        system.restrict(self._M.lift(self._bcs), system.mass_lift)

    def _advance(self, system: CoarseSystem, coefficients: FloatArray) -> None:
        """One step with the given coefficients c/dt, of the present and the past levels."""
        shift = float(coefficients[0])
        b, x = system.load.copy(), system.load.duplicate()
        try:
            b.axpy(-1.0, system.stiff_lift)
            b.axpy(-shift, system.mass_lift)
            for c, level in zip(coefficients[1:], self._levels, strict=False):
                if c:
                    b.axpy(-float(c), level.momentum)
            system.solve(shift, b, x)
            # The oldest level makes room for the new one.
            full = len(self._levels) == self._order
            new = self._levels.pop() if full else _Level(None, system.vector(), system.vector())
            x.copy(new.c)
        finally:
            b.destroy()
            x.destroy()
        system.M0.multAdd(new.c, system.mass_lift, new.momentum)
        new.lift, new.fine = self._lift, None
        self._levels.insert(0, new)
