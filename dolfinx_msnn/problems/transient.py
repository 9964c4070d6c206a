# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Linear time-dependent problems, of one field or several, stepped in their coarse spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx import fem
from dolfinx_msnn._utils.mpi import check_same, collective_errors
from dolfinx_msnn._utils.petsc import Owner, check_mat_type, check_options, check_prefix
from dolfinx_msnn._utils.solvers import solve_coarse
from dolfinx_msnn._utils.typing import CompilerOptions, DirichletBC, FloatArray, Form, Function
from dolfinx_msnn.problems.bdf import Steps, check_order, check_step
from dolfinx_msnn.problems.block_forms import (
    Watch,
    as_bilinear_blocks,
    as_linear_blocks,
    bcs_of_fields,
    check_blocks,
    check_settings,
    is_list,
)
from dolfinx_msnn.problems.blocks import (
    CoarseBlocks,
    FineBlocks,
    assemble_loads,
    create_block_solver,
)
from dolfinx_msnn.problems.linear import check_conditions
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace

#: Factors kept for different step sizes.
MAX_FACTORS = 3

#: When a space has been updated in place.
LOST = (
    "The space of this problem has been updated, and the solution in the former one had not been "
    "prolonged; expected a call of prolong() before."
)


@dataclass
class _Level:
    """What is remembered of the solution u = P c + g at one time.

    Attributes:
        c: Coarse coefficients; ``None`` if the solution is not in the present space.
        momentum: R M u, the coarse vector that the time derivative needs.
        lift: g, owned values for each field.
        fine: Owned values of u for each field, if they have been computed.
    """

    c: PETSc.Vec | None
    momentum: PETSc.Vec
    lift: list[FloatArray]
    fine: list[FloatArray] | None = None

    def destroy(self) -> None:
        self.momentum.destroy()
        if self.c is not None:
            self.c.destroy()


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
        form_compiler_options: Passed to DOLFINx.
        jit_options: Passed to DOLFINx.

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
        form_compiler_options: CompilerOptions | None = None,
        jit_options: CompilerOptions | None = None,
    ) -> None:
        self._solvers: dict[float, PETSc.KSP] = {}
        self._levels: list[_Level] = []
        spaces: list[MultiscaleFunctionSpace] = list(W) if isinstance(W, Sequence) else [W]
        functions: list[Function] = list(u) if isinstance(u, Sequence) else [u]
        if not spaces or not all(isinstance(w, MultiscaleFunctionSpace) for w in spaces):
            raise ValueError(
                "W must be a MultiscaleFunctionSpace or a sequence of them, got "
                f"{[type(w).__name__ for w in spaces]}."
            )
        comm, num = spaces[0].comm, len(spaces)
        super().__init__(comm)
        with collective_errors(comm):
            check_prefix(petsc_options_prefix)
            check_options(petsc_options)
            check_mat_type(mat_type)
            check_order(order)
            check_step(dt)
            time = float(time)
            if any(w.V.mesh._cpp_object is not spaces[0].V.mesh._cpp_object for w in spaces):
                raise ValueError("The spaces are on different meshes; expected one mesh.")
            if len(functions) != num:
                raise ValueError(f"Got {len(functions)} functions u for {num} spaces W.")
            for w, function in zip(spaces, functions, strict=True):
                w.check_member(function)
            M, A = (as_bilinear_blocks(f, num, name) for f, name in ((m, "m"), (a, "a")))
            loads = as_linear_blocks(L, num, "L")
            V = [w.V for w in spaces]
            for i in range(num):
                for rows, name in ((M, "m"), (A, "a")):
                    place = name if num == 1 else f"{name}[{i}][{{}}]"
                    check_blocks(rows[i], [(V[i], other) for other in V], place)
            check_blocks(loads, [(v,) for v in V], "L" if num == 1 else "L[{}]")
            by_field = bcs_of_fields(bcs, V)
        check_settings(
            spaces,
            m=M,
            a=A,
            L=loads,
            dt=float(dt),
            order=order,
            time=time,
            petsc_options_prefix=petsc_options_prefix,
            petsc_options=dict(petsc_options or {}),
            mat_type=mat_type,
        )
        for w, conditions in zip(spaces, by_field, strict=True):
            check_conditions(conditions, w)
        compile_form = partial(
            fem.form, form_compiler_options=form_compiler_options, jit_options=jit_options
        )
        kind = spaces[0].P.getType() if mat_type is None else mat_type
        self.spaces = spaces
        self._single = not is_list(W)
        self._functions: list[Function] = functions
        self._bcs = by_field
        self._prefix, self._options = petsc_options_prefix, dict(petsc_options or {})
        self._steps = Steps(dt, order, time)
        self._order = order
        self._L: list[Form | None] = [None if f is None else compile_form(f) for f in loads]
        self._watch = Watch(loads)
        self._watch_operators = Watch([f for rows in (*M, *A) for f in rows])
        self._M = self._own(FineBlocks(M, kind, compile_form))
        self._A = self._own(FineBlocks(A, kind, compile_form))
        self._coarse: CoarseBlocks | None = None
        self._load: list[PETSc.Vec] = []
        self._lift: list[FloatArray] = []
        self._initial = [self._owned_values(k) for k in range(num)]

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
        self._ready()
        return self._M0

    @property
    def A0(self) -> PETSc.Mat:
        """The coarse (block) matrix of ``a``; assembled if it is not yet (collective then)."""
        self._ready()
        return self._A0

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
        self._check_alive()
        past = self._past()
        # Products are kept while P is the same.
        keep = self._coarse if self._coarse is not None and self._is_current() else None
        self._release(keep)
        self._M.assemble()
        self._A.assemble()
        for w, row in zip(self.spaces, zip(*self._A.matrices, strict=True), strict=True):
            given = next((A for A in row if A is not None), None)
            if given is not None:
                w.match_type(given)
        self._coarse = self._own(CoarseBlocks(self.spaces) if keep is None else keep)
        self._M0 = self._own(self._coarse.matrix(self._M))
        self._A0 = self._own(self._coarse.matrix(self._A))
        self._load = [self._own(self._A0.createVecLeft()) for _ in range(3)]
        self._x, self._b = self._own(self._A0.createVecRight()), self._own(self._A0.createVecLeft())
        if not past:
            past = [(self._initial, self._lifts())]
            self._initial = []
        for fine, lift in past:
            momentum = self._A0.createVecLeft()
            self._coarse.restrict(self._M.apply(fine), momentum)
            self._levels.append(_Level(None, momentum, lift, fine))
        self._assemble_load()
        self._lift = self._lifts()
        self._assemble_lift()
        self._watch.changed()
        self._watch_operators.changed()

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
        if dt is not None:
            with collective_errors(self.spaces[0].comm):
                check_step(dt)
            check_same(self.spaces[0].comm, dt=float(dt))
        self._ready()
        self._refresh()
        before, self._steps.dt = self._steps.dt, self._steps.dt if dt is None else float(dt)
        try:
            self._advance(self._steps.coefficients)
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
        self._check_alive()
        self._ready()
        self._refresh()
        self._advance(np.zeros(1))
        self._steps.restart()
        return self.prolong() if prolong else self.u

    def prolong(self) -> Any:
        """Compute ``u`` = P c + g after the last step. Collective."""
        self._check_alive()
        self._ready()
        level = self._levels[0]
        level.fine = self._fine(level)
        if level.fine is None:
            raise RuntimeError(LOST)
        for function, values in zip(self._functions, level.fine, strict=True):
            function.x.array[: len(values)] = values
            function.x.scatter_forward()
        return self.u

    def destroy(self) -> None:
        """Free the PETSc objects of this problem (not those of the spaces). Collective."""
        self._release()
        super().destroy()

    # ---- how ----

    def _ready(self) -> None:
        self._check_alive()
        if self._coarse is None:
            self.assemble()

    def _is_current(self) -> bool:
        """Whether all ranks have the prolongations they had. Collective."""
        assert self._coarse is not None
        return bool(self.spaces[0].comm.allreduce(self._coarse.is_current(), op=MPI.LAND))

    def _release(self, keep: CoarseBlocks | None = None) -> None:
        """Free all that depends on P or on coefficients, but for ``keep``. Collective."""
        for solver in self._solvers.values():
            solver.destroy()
        self._solvers.clear()
        for level in self._levels:
            level.destroy()
        self._levels.clear()
        # All but the fine matrices.
        while len(self._owned) > 2:
            item = self._owned.pop()
            if item is not keep:
                item.destroy()
        self._coarse = None

    def _owned_values(self, k: int) -> FloatArray:
        V = self.spaces[k].V
        size = V.dofmap.index_map.size_local * V.dofmap.index_map_bs
        return self._functions[k].x.array[:size].copy()

    def _fine(self, level: _Level) -> list[FloatArray] | None:
        """Owned values of the solution at one time; ``None`` if they are lost. Collective."""
        if level.fine is not None:
            return level.fine
        assert self._coarse is not None
        if not self._coarse.is_intact():
            return None
        inside = self._coarse.prolong(level.c)
        return [values + g for values, g in zip(inside, level.lift, strict=True)]

    def _past(self) -> list[tuple[list[FloatArray], list[FloatArray]]]:
        """The solution and its lift at the last times, newest first. Collective."""
        past: list[tuple[list[FloatArray], list[FloatArray]]] = []
        for level in self._levels:
            fine = self._fine(level)
            if fine is None:
                if not past:
                    raise RuntimeError(LOST)
                self._steps.restart()
                break
            past.append((fine, level.lift))
        return past

    def _lifts(self) -> list[FloatArray]:
        """Present Dirichlet values, zero elsewhere; owned values for each field."""
        lifts = []
        for w, bcs in zip(self.spaces, self._bcs, strict=True):
            V = w.V
            bs, index_map = V.dofmap.index_map_bs, V.dofmap.index_map
            values = np.zeros(bs * (index_map.size_local + index_map.num_ghosts))
            for bc in bcs:
                bc.set(values)
            lifts.append(values[: bs * index_map.size_local])
        return lifts

    def _assemble_load(self) -> None:
        assert self._coarse is not None
        self._coarse.restrict(assemble_loads(self._L), self._load[0])

    def _assemble_lift(self) -> None:
        """R A g and R M g. Collective."""
        assert self._coarse is not None
        for target, operator in zip(self._load[1:], (self._A, self._M), strict=True):
            self._coarse.restrict(operator.apply(self._lift), target)

    def _refresh(self) -> None:
        """Assemble what has changed since the last step. Collective."""
        assert self._coarse is not None
        lifts = self._lifts()
        new = np.array(
            [
                self._watch.changed(),
                not all(map(np.array_equal, lifts, self._lift)),
                not self._coarse.is_current() or self._watch_operators.changed(),
            ],
            dtype=np.int32,
        )
        self.spaces[0].comm.Allreduce(MPI.IN_PLACE, new, op=MPI.MAX)
        if new[2]:
            self.assemble()
            return
        if new[0]:
            self._assemble_load()
        if new[1]:
            self._lift = lifts
            self._assemble_lift()

    def _solver(self, shift: float) -> PETSc.KSP:
        """The factors of shift M_0 + A_0. Collective."""
        if shift in self._solvers:
            # The last one used is the last to go.
            self._solvers[shift] = self._solvers.pop(shift)
            return self._solvers[shift]
        while len(self._solvers) >= MAX_FACTORS:
            self._solvers.pop(next(iter(self._solvers))).destroy()
        K = self._A0.copy()
        try:
            if shift:
                K.axpy(shift, self._M0, structure=PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)
            solver = create_block_solver(K, self._prefix, self._options)
        finally:
            # The solver keeps it.
            K.destroy()
        self._solvers[shift] = solver
        return solver

    def _advance(self, coefficients: FloatArray) -> None:
        """One step with the given coefficients c/dt, of the present and the past levels."""
        shift = float(coefficients[0])
        load, stiff, momentum = self._load
        b = self._b
        load.copy(b)
        b.axpy(-1.0, stiff)
        b.axpy(-shift, momentum)
        for c, level in zip(coefficients[1:], self._levels, strict=False):
            if c:
                b.axpy(-float(c), level.momentum)
        solve_coarse(self._solver(shift), b, self._x)
        # The oldest level makes room for the new one.
        oldest = self._levels.pop() if len(self._levels) == self._order else None
        new = oldest if oldest is not None and oldest.c is not None else None
        if new is None:
            if oldest is not None:
                oldest.destroy()
            new = _Level(self._x.duplicate(), self._x.duplicate(), [])
        self._x.copy(new.c)
        self._M0.multAdd(self._x, momentum, new.momentum)
        new.lift, new.fine = self._lift, None
        self._levels.insert(0, new)
