# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Backward differentiation formulas of order 1 and 2 with variable steps, for any UFL form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpi4py import MPI

import numpy as np

from dolfinx import fem
from dolfinx_msnn._utils.checks import is_finite, is_integer, require
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray, Function


def bdf_coefficients(order: int, ratio: float = 1.0) -> tuple[float, float, float]:
    """Coefficients c of u' ≈ (c_0 u_n + c_1 u_{n-1} + c_2 u_{n-2}) / dt_n.

    Args:
        order: 1 (implicit Euler) or 2.
        ratio: dt_n / dt_{n-1}. The formula of order 2 is stable for ratios below 1 + √2 (Grigorieff
            1983), a single larger one aside.

    Returns:
        ``(c_0, c_1, c_2)``; for order 1 the last is zero.
    """
    if order == 1:
        return 1.0, -1.0, 0.0
    w = ratio
    return (1 + 2 * w) / (1 + w), -(1 + w), w * w / (1 + w)


def checked_step(comm: MPI.Intracomm, dt: float) -> float:
    """A step size, positive and the same on all ranks. Collective."""
    with collective_errors(comm) as checks:
        _check_step(dt)
        checks.agree(dt=float(dt))
    return float(dt)


def _check_step(dt: object) -> None:
    require(is_finite(dt) and dt > 0, "dt", dt, "a positive finite number")  # type: ignore[operator]  # it is a number


class Steps:
    """Sizes of the steps done and of the one to do, and what follows from them.

    Args:
        checks: The block around it.
        dt: Size of the first step.
        order: 1 or 2. The first step is always of order 1.
        time: Time at the start.

    Raises:
        ValueError: If an argument is not what it should be, or not the same on all ranks.

    Attributes:
        time: Time at the end of the steps done.
        dt: Size of the step to do.
        done: Steps done since the start.
    """

    def __init__(self, checks: collective_errors, dt: float, order: int, time: float) -> None:
        _check_step(dt)
        require(
            is_integer(order, 1) and order <= 2, "order", order, "1 (implicit Euler) or 2 (BDF2)"
        )
        require(is_finite(time), "time", time, "a finite number")
        checks.agree(dt=float(dt), order=order, time=float(time))
        self.dt, self.time, self.done = float(dt), float(time), 0
        self._order, self._before = order, np.nan

    @property
    def order(self) -> int:
        """Order of the step to do."""
        return min(self._order, self.done + 1)

    @property
    def coefficients(self) -> FloatArray:
        """Of the step to do, c / dt, shape ``(3,)``."""
        return np.array(bdf_coefficients(self.order, self.dt / self._before)) / self.dt

    def advance(self) -> None:
        """The step is done."""
        self.time, self._before, self.done = self.time + self.dt, self.dt, self.done + 1

    def restart(self) -> None:
        """Forget the steps done: the next one is of order 1."""
        self.done = 0


class BDF:
    """Discrete time derivatives of a function and of expressions in it.

    The history and the coefficients of the formula are functions and constants of the forms made
    with it, so that nothing is compiled again in a time loop::

        time = BDF(u, dt, order=2)
        F = time.derivative() * v * dx + kappa * inner(grad(u), grad(v)) * dx - f * v * dx
        problem = NonlinearProblem(F, u, ...)
        for _ in range(100):
            f.value = load(time.time + time.dt)
            problem.solve()
            time.advance()

    Args:
        u: The unknown. Its values on creation are the initial values.
        dt: Size of the first step, in the user's unit of time.
        order: 1: implicit Euler. 2: BDF2, its first step by implicit Euler.
        time: Time at the start.

    Raises:
        ValueError: If an argument is not what it should be, or not the same on all ranks.

    Note:
        Creation is collective. BDF2 with steps that grow for long by more than 1 + √2 is unstable.
    """

    @checked
    def __init__(self, u: Function, dt: float, order: int = 1, *, time: float = 0.0) -> None:
        self._mesh = u.function_space.mesh
        with collective_errors(self._mesh.comm) as checks:
            self._steps = Steps(checks, dt, order, time)
        self.u = u
        self._history: list[Function] = [u.copy() for _ in range(order)]
        # Three, whatever the order: the forms of a first step are those of all.
        self._constants = [fem.Constant(self._mesh, 0.0) for _ in range(order + 1)]
        self._refresh()

    def _refresh(self) -> None:
        for constant, value in zip(self._constants, self._steps.coefficients, strict=False):
            constant.value = value

    @property
    def time(self) -> float:
        """Time at the end of the steps done; the step to do ends at ``time + dt``."""
        return self._steps.time

    @property
    def dt(self) -> float:
        """Size of the step to do. Setting it is collective."""
        return self._steps.dt

    @dt.setter
    def dt(self, value: float) -> None:
        self._steps.dt = checked_step(self._mesh.comm, value)
        self._refresh()

    @property
    def order(self) -> int:
        """Order of the formula of the step to do."""
        return self._steps.order

    @property
    def history(self) -> tuple[Function, ...]:
        """The last values u_n, and for order 2 u_{n-1}."""
        return tuple(self._history)

    def derivative(self, q: Callable[[Function], Any] | None = None) -> Any:
        """The discrete derivative of q(u) at the end of the step to do.

        (c_0 q(u) + c_1 q(u_n) + c_2 q(u_{n-1})) / dt. With q the water content this is the mixed
        form of Richards' equation, which conserves mass whatever the nonlinear solver's tolerance
        in pressure (Celia, Bouloutas, Zarba 1990).

        Args:
            q: Makes a UFL expression of a function; default is the function itself.

        Returns:
            A UFL expression.
        """
        functions = [self.u, *self._history]
        terms = [
            c * (f if q is None else q(f)) for c, f in zip(self._constants, functions, strict=True)
        ]
        return sum(terms[1:], start=terms[0])

    def advance(self, dt: float | None = None) -> None:
        """Take the present values of ``u`` for those at the end of the step.

        Args:
            dt: Size of the next step; default that of this one.

        Note:
            Collective if ``dt`` is given.
        """
        dt = self.dt if dt is None else checked_step(self._mesh.comm, dt)
        for older, newer in zip(self._history[:0:-1], self._history[-2::-1], strict=True):
            older.x.array[:] = newer.x.array
        self._history[0].x.array[:] = self.u.x.array
        self._steps.advance()
        self._steps.dt = dt
        self._refresh()

    def restore(self) -> None:
        """Give ``u`` the values at the start of the step, to try again with a smaller one."""
        self.u.x.array[:] = self._history[0].x.array
