# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Direct solves on the inside of neighbourhoods; those of one pattern share the analysis."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from dolfinx_msnn._utils.solvers import DefiniteSolver
from dolfinx_msnn._utils.typing import BoolArray, FloatArray, LongArray
from dolfinx_msnn.local.problem import LocalProblem

#: Factors kept. Neighbourhoods come by size, so that few shapes alternate.
KEPT = 4

#: MUMPS' orderings, by dimension: approximate minimum degree, and METIS, which takes longer and
#: leaves less to the factorisations.
ORDERINGS = {2: 0, 3: 5}


class _Kept(NamedTuple):
    """A factor, and the rows of the entries of matrices of its pattern."""

    solver: DefiniteSolver
    rows: LongArray


class DirectSolvers:
    """Cholesky factors of A_i on some dofs; a context manager.

    The other dofs stay in the matrix, coupled to nothing: whichever they are, the pattern, and so
    the order of elimination, is that of all neighbourhoods of the shape.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept] = {}

    def solve(self, problem: LocalProblem, inside: BoolArray, rhs: FloatArray) -> FloatArray:
        """Solve A_i x = b for the entries inside, others zero.

        Args:
            problem: The local problem.
            inside: At which dofs, shape ``(n_i,)``.
            rhs: One b a row, shape ``(num, n_i)``; entries elsewhere do not count.

        Returns:
            Shape ``(num, n_i)``.

        Raises:
            RuntimeError: If the matrix cannot be factored.
        """
        A, kept = problem.A, self._kept.pop(problem.pattern, None)
        if kept is None:
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept))).solver.destroy()
            rows = np.repeat(np.arange(problem.num_dofs), np.diff(A.indptr))
            kept = _Kept(DefiniteSolver(A, ORDERINGS[problem.gdim]), rows)
        self._kept[problem.pattern] = kept
        coupled = (inside[kept.rows] & inside[A.indices]) | (kept.rows == A.indices)
        name = f"The matrix of {problem.name}"
        return kept.solver.solve(A.data * coupled, rhs * inside, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for kept in self._kept.values():
            kept.solver.destroy()
