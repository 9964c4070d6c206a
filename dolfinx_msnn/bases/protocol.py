# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What a local basis is: local problems in, modes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

import ufl
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

    A method ``modes`` is enough. What else a basis may declare, by attributes of these names, is
    listed in :class:`~dolfinx_msnn.bases.BasisNeeds`.
    """

    def modes(self, problems: Sequence[LocalProblem]) -> list[LocalModes]:
        """The modes of each problem, in the order given."""
        ...


class BasisNeeds(NamedTuple):
    """What a basis declares about itself, by optional attributes of these names.

    A basis that hands its problems on to others lists them in an attribute ``wrapped``; what it
    does not declare itself is then taken from the first of them that does; that it does without
    matrices only from all of them.

    Attributes:
        coefficient: The coefficient κ that it looks at (a ``Function``, ``Constant``, UFL
            expression or number): local problems then carry its values at the cells, see
            :class:`~dolfinx_msnn.local.problem.CellSample`. Default: none, it looks at the local
            matrices only.
        sources: Linear forms (UFL) whose vectors it wants to see in ``LocalProblem.loads``; or a
            number of functions in a neighbourhood: polynomial loads in each component, of degree
            zero, or one or two if enough other functions have a place beside their responses.
            Default: it wants to see none.
        oversampling: How far it wants local problems to reach beyond neighbourhoods, in coarse
            cells, where the coarse grid leaves it open. Default: not at all.
        num_modes: How many modes it gives in each neighbourhood. Default: not known.
        threshold: It keeps all modes with λ below this, instead of a fixed number. Default: none.
        matrices: Whether it looks at the local matrices. If not, they are not assembled, and
            ``LocalProblem.A`` is ``None``, unless the space is updatable. Default: it does.
    """

    coefficient: object = None
    sources: Sequence[ufl.Form] | int | None = None
    oversampling: float | None = None
    num_modes: int | None = None
    threshold: float | None = None
    matrices: bool = True

    @classmethod
    def of(cls, basis: LocalBasis) -> Self:
        """What ``basis`` declares."""
        own = {name: getattr(basis, name, None) for name in cls._fields}
        inner = [cls.of(part)._asdict() for part in getattr(basis, "wrapped", ())]
        known: dict[str, Any] = {
            name: next((s[name] for s in (own, *inner) if s[name] is not None), None)
            for name in cls._fields
        }
        if own["matrices"] is None:
            known["matrices"] = not inner or any(s["matrices"] for s in inner)
        return cls(**known)


#: Modes to begin with where a threshold chooses the number.
FIRST_MODES = 8


def modes_below(threshold: float, most: int, solve: Callable[[int], LocalModes]) -> LocalModes:
    """All modes with λ below a threshold, at least one.

    Args:
        threshold: The first mode left out is not below it, unless ``most`` are.
        most: At most so many.
        solve: Gives as many of the lowest modes as it is asked for.
    """
    num = min(FIRST_MODES, most)
    while True:
        modes = solve(num)
        if modes.values[-1] >= threshold or num == most:
            keep = max(1, int(np.count_nonzero(modes.values < threshold)))
            return LocalModes(modes.values[:keep], modes.vectors[:keep])
        num = min(2 * num, most)


#: Reports that a basis keeps; the oldest ones go.
MOST_REPORTS = 100_000


def remember[T](reports: list[T], new: Iterable[T]) -> None:
    """Add to the reports of a basis, which may see many updates of many spaces."""
    reports += new
    del reports[:-MOST_REPORTS]
