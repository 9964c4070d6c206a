# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What a local basis is: local problems in, modes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.local.problem import LocalProblem


def is_local_basis(value: object) -> bool:
    """Whether something is a :class:`LocalBasis`, and not merely the class of one."""
    return isinstance(value, LocalBasis) and not isinstance(value, type)


class LocalModes(NamedTuple):
    """The modes of one neighbourhood.

    Attributes:
        values: Eigenvalues or Ritz values λ, ascending, shape ``(num_modes,)``.
        vectors: Modes φ_j at the dofs of the neighbourhood, shape ``(num_modes, n_i)``.
    """

    values: FloatArray
    vectors: FloatArray


@runtime_checkable
class LocalBasis(Protocol):
    """Anything that turns local problems into modes.

    A basis knows nothing of meshes or MPI. It is called with a few problems at a time, on each
    rank separately, a different number of times on different ranks: it must not communicate.

    A basis that looks at a coefficient κ, and not only at the local matrices, has it in an
    attribute ``coefficient`` (a ``Function``, ``Constant``, UFL expression or number); the local
    problems then carry its values at the cells.
    """

    def modes(self, problems: Sequence[LocalProblem]) -> list[LocalModes]:
        """The modes of each problem, in the order given."""
        ...
