# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Picard's iteration in a multiscale space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import ufl
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import CompilerOptions, DirichletBC, Function
from dolfinx_msnn.problems.linear import check_linear_form, check_multiscale_space
from dolfinx_msnn.problems.nonlinear import NonlinearProblem
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


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
        petsc_options_prefix: As in :class:`NonlinearProblem`.
        bcs: As in :class:`NonlinearProblem`.
        petsc_options: As in :class:`NonlinearProblem`. Defaults here: ``snes_linesearch_type``
            ``basic`` and ``snes_max_it`` 200.
        mat_type: As in :class:`NonlinearProblem`.
        form_compiler_options: Passed to DOLFINx.
        jit_options: Passed to DOLFINx.

    Raises:
        ValueError: If an argument does not fit ``W``.

    Note:
        Creation is collective.
    """

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
    ) -> None:
        check_multiscale_space(W)
        with collective_errors(W.comm):
            W.check_member(u)
            forms.check_form(a, W.V, "a")
            check_linear_form(L, W)
            F = ufl.action(a, u) - L
        super().__init__(
            F,
            u,
            W,
            petsc_options_prefix=petsc_options_prefix,
            bcs=bcs,
            J=a,
            petsc_options=petsc_options,
            mat_type=mat_type,
            form_compiler_options=form_compiler_options,
            jit_options=jit_options,
        )
