# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What a network sees of a neighbourhood, and how its answer gets back to the fine dofs.

The bounding box of a neighbourhood is mapped onto the unit box, which carries a lattice of ``p``
nodes in each direction, corners included. Neighbourhoods of vertices on the boundary of the domain
lie on one side of their vertex; permuting the axes (one-sided ones first) and reflecting them
(vertex at zero) brings all of a class into one pose. Lattice arrays are in the pose, first axis
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.spatial import cKDTree

from dolfinx_msnn.nn.card import CONVENTIONS, LOG_SCALE

if TYPE_CHECKING:
    from dolfinx_msnn._utils.typing import FloatArray, LongArray
    from dolfinx_msnn.local.problem import LocalProblem

#: Names of the classes by the number of one-sided axes.
CLASSES: dict[int, tuple[str, ...]] = {
    2: ("full", "half", "corner"),
    3: ("full", "half", "quarter", "corner"),
}


class Pose(NamedTuple):
    """How a neighbourhood is turned into the pose of its class.

    Attributes:
        axes: Pose axis k is axis ``axes[k]`` of space.
        reflected: Whether pose axis k runs backwards.
        one_sided: On how many axes the neighbourhood lies on one side of its vertex.
        sides: Lengths of the bounding box along the pose axes.
    """

    axes: tuple[int, ...]
    reflected: tuple[bool, ...]
    one_sided: int
    sides: tuple[float, ...]

    @classmethod
    def of(cls, problem: LocalProblem) -> Self:
        """The pose of a neighbourhood, from its box and its vertex."""
        side = problem.geometry.length
        at = (problem.place - problem.x[0] - problem.geometry.lower) / side
        end = np.minimum(at, 1 - at) < 0.25
        # Rounded, so that equal sides are equal.
        relative = np.round(side / side.max(), 9).tolist()
        order = sorted(range(len(at)), key=lambda k: (not end[k], relative[k], k))
        return cls(
            tuple(order),
            tuple(bool(end[k] and at[k] > 0.5) for k in order),
            int(end.sum()),
            tuple(float(side[k]) for k in order),
        )

    @property
    def name(self) -> str:
        """Class of the neighbourhood, one of :data:`CLASSES`."""
        return CLASSES[len(self.axes)][self.one_sided]

    def positions(self, problem: LocalProblem, x: FloatArray) -> FloatArray:
        """Points in the posed unit box, shape ``(num_points, d)``."""
        geometry = problem.geometry
        t = ((x - problem.x[0] - geometry.lower) / geometry.length)[:, self.axes]
        return np.asarray(np.where(self.reflected, 1 - t, t))


def num_channels(dim: int, q: int, convention: str = CONVENTIONS[0]) -> int:
    """Channels of :func:`network_input`."""
    return int(q**dim + 2 * dim + 2 * (convention != CONVENTIONS[0]))


def fine_nodes(p: int, q: int) -> int:
    """Nodes in each direction of the lattice whose boxes are the sub-boxes of another."""
    return q * (p - 1) + 1


def _averages(t: FloatArray, p: int, q: int) -> sp.csr_matrix:
    """Average cell values to the sub-boxes of a lattice, or take the nearest cell's.

    Args:
        t: Midpoints of the cells in the posed unit box, shape ``(num_cells, d)``.
        p: Lattice nodes in each direction.
        q: Sub-boxes in each direction of the box around a node.

    Returns:
        Shape ``((q (p - 1))**d, num_cells)``.
    """
    dim, num = t.shape[1], q * (p - 1)
    index = np.clip(np.floor(t * num + 1e-9).astype(np.int64), 0, num - 1)
    box = np.ravel_multi_index(tuple(index.T), (num,) * dim)
    count = np.bincount(box, minlength=num**dim)
    empty = np.flatnonzero(count == 0)
    centres = (np.stack(np.unravel_index(empty, (num,) * dim), axis=1) + 0.5) / num
    # A little aside, so that rounding errors do not decide between cells equally near.
    centres += 1e-7 * np.array([1.0, 0.7, 0.4])[:dim]
    nearest = cKDTree(t).query(centres)[1] if len(empty) else np.zeros(0, dtype=np.int64)
    rows = np.concatenate([box, empty])
    cols = np.concatenate([np.arange(len(t)), nearest])
    weights = np.concatenate([1.0 / count[box], np.ones(len(empty))])
    return sp.csr_matrix((weights, (rows, cols)), shape=(num**dim, len(t)))


def _log_samples(problem: LocalProblem, pose: Pose, p: int, q: int) -> FloatArray:
    """Log κ in the sub-boxes, shape ``(q (p - 1), ..., q (p - 1))``."""
    sample = problem.sample
    if sample is None:
        raise ValueError(
            f"{problem.name} has no values of kappa; expected a basis with a coefficient."
        )
    # Equal patterns with dofs at equal places have their cells at equal places.
    averages = problem.geometry.once(
        ("averages", pose.axes, pose.reflected, p, q),
        lambda: _averages(pose.positions(problem, sample.midpoints), p, q),
    )
    return np.asarray(averages @ np.log(sample.values)).reshape((q * (p - 1),) * problem.gdim)


def largest_jump(problem: LocalProblem, pose: Pose, p: int, q: int) -> float:
    """Largest ratio of κ in two neighbouring sub-boxes of :func:`network_input`."""
    boxes = _log_samples(problem, pose, p, q)
    return float(np.exp(max(np.abs(np.diff(boxes, axis=k)).max() for k in range(boxes.ndim))))


def network_input(
    problem: LocalProblem, pose: Pose, p: int, q: int, convention: str = CONVENTIONS[0]
) -> npt.NDArray[np.float32]:
    """Log κ around each lattice node, coordinates and proportions of the box.

    Args:
        problem: Local problem with the coefficient's cell values.
        pose: Its pose.
        p: Lattice nodes in each direction.
        q: Sub-boxes in each direction of the box of size 1/(p-1) around a node; even.
        convention: One of :data:`~dolfinx_msnn.nn.card.CONVENTIONS`.

    Returns:
        Shape ``(q**d + 2 d, p, ..., p)``, float32: ``(log κ - mean) / 4`` in each sub-box, then
        coordinates in [0, 1], then log2 of the sides relative to the longest. With the second
        convention two more channels before the coordinates: χ, and 1 where there is a Dirichlet
        condition, both of the nearest dof.

    Raises:
        ValueError: If the problem has no coefficient values.
    """
    dim = problem.gdim
    boxes = _log_samples(problem, pose, p, q)
    boxes = LOG_SCALE * (boxes - boxes.mean())
    # Sub-boxes outside repeat the outermost ones.
    boxes = np.pad(boxes, q // 2, mode="edge")
    parts = boxes.reshape((p, q) * dim).transpose(*range(1, 2 * dim, 2), *range(0, 2 * dim, 2))
    out = np.empty((num_channels(dim, q, convention), *(p,) * dim), dtype=np.float32)
    out[: q**dim] = parts.reshape(q**dim, *(p,) * dim)
    if convention != CONVENTIONS[0]:
        nearest = problem.geometry.once(
            ("nearest", pose.axes, pose.reflected, p),
            lambda: _nearest_dofs(pose.positions(problem, problem.x), p),
        )
        for k, values in enumerate((problem.chi, problem.dirichlet)):
            out[q**dim + k] = values[nearest].reshape((p,) * dim)
    line = np.linspace(0.0, 1.0, p)
    longest = max(pose.sides)
    for k in range(dim):
        shape = [1] * dim
        shape[k] = p
        out[k - 2 * dim] = line.reshape(shape)
        out[k - dim] = np.log2(pose.sides[k] / longest)
    return out


def _nearest_dofs(t: FloatArray, p: int) -> LongArray:
    """The dof nearest to each node, that nearer to the vertex of two, shape ``(p**d,)``."""
    dim = t.shape[1]
    nodes = np.stack(np.unravel_index(np.arange(p**dim), (p,) * dim), axis=1) / (p - 1)
    return np.asarray(cKDTree(t).query(nodes + 1e-7 * np.array([1.0, 0.7, 0.4])[:dim])[1])


def interpolation(problem: LocalProblem, pose: Pose, p: int) -> sp.csr_matrix:
    """Multilinear interpolation from a posed lattice to the dofs of a scalar problem.

    Returns:
        Shape ``(n_i, p**d)``, for lattice functions flattened in C order.
    """
    return problem.geometry.once(
        ("interpolation", pose.axes, pose.reflected, p),
        lambda: interpolation_to(pose.positions(problem, problem.x), p),
    )


def interpolation_to(t: FloatArray, p: int) -> sp.csr_matrix:
    """Multilinear interpolation from a lattice to points of the unit box, shape ``(n, d)``."""
    n, dim = t.shape
    cell = np.clip(np.floor(t * (p - 1)).astype(np.int64), 0, p - 2)
    s = np.clip(t * (p - 1) - cell, 0.0, 1.0)
    cols = np.zeros((n, 1), dtype=np.int64)
    weights = np.ones((n, 1))
    for k in range(dim):
        cols = (cols[:, :, None] * p + cell[:, k, None, None] + np.arange(2)).reshape(n, -1)
        pair = np.stack([1 - s[:, k], s[:, k]], axis=1)
        weights = (weights[:, :, None] * pair[:, None, :]).reshape(n, -1)
    indptr = np.arange(0, cols.size + 1, cols.shape[1])
    matrix = sp.csr_matrix((weights.reshape(-1), cols.reshape(-1), indptr), shape=(n, p**dim))
    matrix.eliminate_zeros()
    return matrix


class Symmetries(NamedTuple):
    """Reflections and permutations of the axes that keep a pose, as index tables.

    Attributes:
        channels: Input channel that each channel is taken from, shape ``(num, C)``.
        nodes: Lattice node that each node of the input is taken from, shape ``(num, p**d)``.
        inverse: The same for the way back, for the output.
    """

    channels: LongArray
    nodes: LongArray
    inverse: LongArray


def symmetries(
    class_name: str, sides: Sequence[float], p: int, q: int, convention: str = CONVENTIONS[0]
) -> Symmetries:
    """All symmetries of a class: two-sided axes may be reflected, alike axes permuted.

    The network's input of the mirrored problem is the input with its nodes and sub-boxes moved;
    its coordinates and proportions stay, since only axes of equal length are permuted.

    Args:
        class_name: Class of the neighbourhood.
        sides: Lengths of the box along the pose axes.
        p: Lattice nodes in each direction.
        q: Sub-boxes of a node in each direction.
        convention: Of the channels.
    """
    dim, count = len(sides), num_channels(len(sides), q, convention)
    one_sided = CLASSES[dim].index(class_name)
    kind = [(k < one_sided, round(side / max(sides), 6)) for k, side in enumerate(sides)]
    nodes = np.arange(p**dim).reshape((p,) * dim)
    boxes = np.arange(q**dim).reshape((q,) * dim)
    channels, moved, inverse = [], [], []
    for axes in permutations(range(dim)):
        if any(kind[a] != kind[k] for k, a in enumerate(axes)):
            continue
        for flips in product(*[(False,) if k < one_sided else (False, True) for k in range(dim)]):
            flipped = tuple(k for k in range(dim) if flips[k])
            move = np.flip(nodes.transpose(axes), flipped).reshape(-1)
            box = np.flip(boxes.transpose(axes), flipped).reshape(-1)
            moved.append(move)
            inverse.append(np.argsort(move))
            channels.append(np.concatenate([box, np.arange(q**dim, count)]))
    return Symmetries(*(np.array(t, dtype=np.int64) for t in (channels, moved, inverse)))
