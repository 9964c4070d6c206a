# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""All local problems of a rank, assembled from the matrices of cell groups."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import combinations_with_replacement, pairwise
from math import comb

import numpy as np
import scipy.sparse as sp

import ufl
from dolfinx import fem
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.functions import dirichlet_lift
from dolfinx_msnn._utils.mesh import bounding_box, dirichlet_mask, sum_over_ranks
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.timings import Timings
from dolfinx_msnn._utils.typing import (
    DirichletBC,
    FloatArray,
    Form,
    FunctionSpace,
    IntArray,
    LongArray,
)
from dolfinx_msnn.local.coefficient import cell_values
from dolfinx_msnn.local.element_matrices import ElementMatrices, Findings, Values
from dolfinx_msnn.local.ghosts import GhostGroups, ranges
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.groups import sum_over_groups
from dolfinx_msnn.local.growth import growth
from dolfinx_msnn.local.hats import Hats
from dolfinx_msnn.local.neighbourhoods import find_neighbourhoods
from dolfinx_msnn.local.pattern import Pattern
from dolfinx_msnn.local.problem import CellSample, LocalProblem

#: Patterns of neighbourhoods that are kept for others of the same shape.
MOST_PATTERNS = 32

#: Neighbourhoods made at a time, by the dofs of their groups.
STACK_DOFS = 2**14


class LocalProblems:
    """All local problems of this rank, built one by one as they are asked for.

    Args:
        V: Fine space.
        coarse: Coarse grid on the mesh of ``V``.
        a: Bilinear form of the problem.
        s: Bilinear form of the right-hand matrix, or ``None``.
        bcs: Dirichlet conditions.
        timings: Seconds of the stages are added here.
        sources: Linear forms whose vectors a basis wants to see, or how many functions it makes,
            which decides about polynomial ones, see :func:`_polynomials`.
        oversampling: Width of the ring of cells around neighbourhoods in coarse cells, if the
            coarse grid does not tell how many layers.
        coefficient: A positive scalar coefficient whose cell values a basis wants to see.
        matrices: Assemble the matrices of neighbourhoods.
        keep: Keep what :meth:`assemble` needs to be called again.
        compile_form: Turns UFL forms into DOLFINx forms; default that of
            :func:`dolfinx_msnn._utils.forms.compiler`.

    Note:
        Creation is collective; iterating is not.
    """

    def __init__(
        self,
        V: FunctionSpace,
        coarse: CoarseGrid,
        a: ufl.Form,
        s: ufl.Form | None,
        bcs: Sequence[DirichletBC],
        *,
        timings: Timings | None = None,
        coefficient: object = None,
        sources: Sequence[ufl.Form] | int = (),
        oversampling: float = 0.0,
        matrices: bool = True,
        keep: bool = False,
        compile_form: Callable[[ufl.Form], Form] | None = None,
    ) -> None:
        self.timings = Timings("Local problems") if timings is None else timings
        self._V, self._mesh, self._bs = V, V.mesh, V.dofmap.index_map_bs
        compile_form = compile_form or forms.compiler()
        self._keep, self._coefficient, self._bcs = keep, coefficient, bcs
        with self.timings.stage("neighbourhoods"):
            x = V.tabulate_dof_coordinates()
            hats = coarse.hats(x)
            self._neighbourhoods = find_neighbourhoods(V, coarse, hats, coarse.layers(oversampling))
        with self.timings.stage("exchange"):
            self._ghosts = ghosts = GhostGroups(V, x, self._neighbourhoods)
            self._hats = Hats(*(ghosts.extend_dofs(part) for part in hats))
            self._dirichlet = ghosts.extend_dofs(dirichlet_mask(V, bcs))
            counts = np.bincount(
                V.dofmap.list[: len(self._neighbourhoods.group_of)].reshape(-1),
                minlength=len(x),
            )
            total = sum_over_ranks(V.dofmap.index_map, counts[:, None])
            self._num_cells = ghosts.extend_dofs(total[:, 0])
            if isinstance(sources, int):
                sources = _polynomials(V, sources)
            self._sources: list[Form] = [compile_form(form) for form in sources]

        with self.timings.stage("element matrices"):
            self._names = ["a"] if s is None else ["a", "s"]
            given = [a] if s is None else [a, s]
            self._forms = [ElementMatrices(compile_form(form), V) for form in given if matrices]
        with collective_errors(V.mesh.comm):
            # Large neighbourhoods first: equal shapes follow each other, caches of patterns hit.
            groups, offsets = ghosts.groups, self._neighbourhoods.offsets
            first, num = ghosts.dof_start[groups], np.diff(ghosts.dof_start)[groups]
            sizes = np.add.reduceat(np.append(num, 0), offsets[:-1])[: len(offsets) - 1]
            self._order, self._sizes = np.argsort(-sizes, kind="stable"), sizes
            # Groups by their place, so that neighbourhoods of one shape have them in one order.
            neighbourhood = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            last = ghosts.group_dofs[first + num - 1]
            self._groups = groups[np.lexsort((num, last, ghosts.group_dofs[first], neighbourhood))]
            self._lookup = np.empty(len(ghosts.dofs), dtype=np.int32)
        self._patterns: dict[bytes, Pattern] = {}
        self._places = coarse.vertex_coordinates(self._neighbourhoods.vertices)
        self._values: list[Values] = []
        self.assemble()

    def assemble(self) -> None:
        """Compute the matrices of groups, for the first time or after a coefficient has changed.

        Raises:
            ValueError: If they cannot come from a coercive symmetric form; the same on every rank.

        Note:
            Collective.
        """
        self._assemble(None)

    def _assemble(self, old: list[Values] | None) -> FloatArray:
        """See :meth:`assemble`; with ``old`` values of coefficients, the growth of energies since.

        Returns:
            Shape ``(num_forms, 2, num_cells)``, in the order of the groups' cells.
        """
        ghosts, comm = self._ghosts, self._mesh.comm
        own, bs = ghosts.own, self._bs
        bounds = np.empty((len(self._forms), 2, len(own.cells)))
        with self.timings.stage("element matrices"):
            now = [form.values() for form in self._forms]
            with collective_errors(comm):
                matrices = np.empty((len(self._forms), ghosts.num_blocks * bs * bs))
                found = [Findings(self._mesh, n, strict=n == "a") for n in self._names]

                def look(first: int, last: int, elements: Sequence[FloatArray]) -> None:
                    cells = own.cells[first:last]
                    for k, part in enumerate(elements):
                        found[k].look(cells, part)
                        if old is not None:
                            before = self._forms[k].tabulate(old[k], cells)
                            bounds[k, :, first:last] = growth(part, before)

                if self._forms:
                    sum_over_groups(own, self._forms, now, look, matrices)
                for finding in found:
                    finding.tell()
        with self.timings.stage("exchange"):
            for row in matrices:
                ghosts.extend_blocks(row.reshape(-1, bs * bs))
            loads = ghosts.extend_dofs(_load_vectors(self._V, self._sources))
            lift = dirichlet_lift(self._V, self._bcs).x.array.reshape(-1, bs)
            lift = ghosts.extend_dofs(lift)
            if self._coefficient is not None:
                sample = cell_values(self._coefficient, self._mesh)
                self._samples = ghosts.extend_cells(sample[own.cells])
                self._cell_order = np.argsort(ghosts.by_position(self._samples[:, 1:]))
        self._matrices, self._loads, self._lift = matrices, loads, lift
        if self._keep:
            self._values = now
        return bounds

    @property
    def loads(self) -> FloatArray:
        """Vectors of the sources, and last the Dirichlet values, at the dof blocks.

        Shape ``(num_dofs, block_size, num_loads + 1)``.
        """
        return np.concatenate([self._loads, self._lift[:, :, None]], axis=2)

    def reassemble(self) -> dict[int, FloatArray]:
        """Compute the element matrices anew, and how much energies have grown since the last time.

        Returns:
            By coarse vertex, the bounds of :func:`~dolfinx_msnn.local.growth.growth` on the cells
            of the neighbourhood, shape ``(num_forms, 2, num_cells_i)``.

        Note:
            Collective.
        """
        bounds = self._assemble(self._values).transpose(2, 0, 1)
        bounds = self._ghosts.extend_cells(np.ascontiguousarray(bounds)).transpose(1, 2, 0)
        return {
            int(vertex): bounds[:, :, self._cells_of(k)]
            for k, vertex in enumerate(self._neighbourhoods.vertices)
        }

    def _groups_of(self, k: int) -> LongArray:
        """Groups of a neighbourhood."""
        offsets = self._neighbourhoods.offsets
        return self._groups[offsets[k] : offsets[k + 1]]

    def _cells_of(self, k: int) -> LongArray:
        """Cells of a neighbourhood, as rows of data extended by ``GhostGroups.extend_cells``."""
        start, groups = self._ghosts.cell_start, self._groups_of(k)
        return np.concatenate([np.arange(start[g], start[g + 1]) for g in groups])

    def __len__(self) -> int:
        return len(self._neighbourhoods.vertices)

    def __iter__(self) -> Iterator[LocalProblem]:
        return self.problems()

    def problems(self, only: Collection[int] | None = None) -> Iterator[LocalProblem]:
        """Local problems, large ones first; those of some coarse vertices if given."""
        order = self._order
        if only is not None:
            order = order[np.isin(self._neighbourhoods.vertices[order], list(only))]
        # Large ones alone, many small ones together.
        part = np.cumsum(self._sizes[order]) // STACK_DOFS
        for chosen in np.split(order, np.flatnonzero(np.diff(part)) + 1):
            with self.timings.stage("local matrices"):
                problems = self._create(chosen)
            yield from problems

    def batches(
        self, nbytes: int, only: Collection[int] | None = None
    ) -> Iterator[list[LocalProblem]]:
        """Local problems in lists of about ``nbytes`` bytes each; some if ``only`` is given."""
        batch: list[LocalProblem] = []
        used = 0
        for problem in self.problems(only):
            batch.append(problem)
            used += problem.nbytes
            if used >= nbytes:
                yield batch
                batch, used = [], 0
        if batch:
            yield batch

    def _create(self, chosen: LongArray) -> list[LocalProblem]:
        """Some local problems; those of one shape as one stack."""
        ghosts, offsets = self._ghosts, self._neighbourhoods.offsets
        groups = self._groups[ranges(offsets[chosen], offsets[chosen + 1] - offsets[chosen])]
        first = ghosts.dof_start[groups]
        rows = ranges(first, ghosts.dof_start[groups + 1] - first)
        flat, ends = ghosts.group_dofs[rows], np.cumsum(self._sizes[chosen]).tolist()
        count = np.arange(max(self._sizes[chosen], default=0), dtype=np.int32)
        found: list[tuple[LongArray, IntArray]] = []
        shapes: dict[bytes, list[int]] = {}
        for place, (start, end) in enumerate(pairwise([0, *ends])):
            mine, number = flat[start:end], count[: end - start]
            # Distinct dofs: the last entry to write its position keeps the dof.
            self._lookup[mine] = number
            dofs = np.sort(mine[self._lookup[mine] == number])
            self._lookup[dofs] = count[: len(dofs)]
            local = self._lookup[mine]
            shape = hashlib.blake2b(local, digest_size=16)
            shape.update(ghosts.shapes[self._groups_of(chosen[place])])
            shapes.setdefault(shape.digest(), []).append(place)
            found.append((dofs, local))
        problems: dict[int, LocalProblem] = {}
        for key, places in shapes.items():
            one = places[0]
            local = found[one][1]
            counts = ghosts.counts[rows[ends[one] - len(local) : ends[one]]]
            dofs = np.stack([found[place][0] for place in places])
            stack = self._stack(key, chosen[places], dofs, local, counts)
            problems.update(zip(places, stack, strict=True))
        return [problems[place] for place in range(len(chosen))]

    def _stack(
        self, key: bytes, chosen: LongArray, dofs: LongArray, local: IntArray, counts: IntArray
    ) -> list[LocalProblem]:
        """Local problems of one shape.

        Args:
            key: Of the shape.
            chosen: Numbers of the neighbourhoods.
            dofs: Their dofs, ascending, shape ``(num, num_dofs)``.
            local: Number of each dof of each group, one group after the other.
            counts: Cells of its group that it belongs to.
        """
        ghosts, bs = self._ghosts, self._bs
        groups = np.stack([self._groups_of(k) for k in chosen.tolist()])
        num, n = len(chosen), bs * dofs.shape[1]
        matrices: list[Sequence[sp.csr_matrix | None]] = []
        if self._forms:
            pattern = self._patterns.get(key)
            if pattern is None:
                pattern = Pattern.create(ghosts, groups[0], local, dofs.shape[1], bs)
                if len(self._patterns) >= MOST_PATTERNS:
                    self._patterns.pop(next(iter(self._patterns)))
                self._patterns[key] = pattern
            starts, sizes = ghosts.block_ranges(groups)
            matrices += [pattern.sum(starts, sizes[0].copy(), part) for part in self._matrices]
            key = pattern.key
        matrices += (2 - len(matrices)) * [[None] * num]
        vertices = self._neighbourhoods.vertices[chosen]
        mine = self._hats.vertices[dofs] == vertices[:, None, None]
        chi = np.einsum("kij,kij->ki", mine, self._hats.values[dofs])
        interface = np.bincount(local, weights=counts) < self._num_cells[dofs]
        loads = self._loads[dofs].reshape(num, n, -1).transpose(0, 2, 1)
        parts = {
            "A": matrices[0],
            "s": matrices[1],
            "chi": np.repeat(chi, bs, axis=1),
            "x": np.repeat(ghosts.x[dofs], bs, axis=1),
            "dofs": (bs * ghosts.dofs[dofs][:, :, None] + np.arange(bs)).reshape(num, n),
            "dirichlet": self._dirichlet[dofs].reshape(num, n),
            "lift": self._lift[dofs].reshape(num, n),
            "interface": np.repeat(interface, bs, axis=1),
            "loads": np.ascontiguousarray(loads),
            "vertex": vertices.tolist(),
            "place": self._places[chosen],
            "sample": [self._sample(k) for k in chosen.tolist()],
        }
        return [
            LocalProblem(block_size=bs, pattern=key, **dict(zip(parts, each, strict=True)))
            for each in zip(*parts.values(), strict=True)
        ]

    def _sample(self, k: int) -> CellSample | None:
        """The coefficient at the cells of a neighbourhood, if the basis asked for it."""
        if self._coefficient is None:
            return None
        cells = self._cells_of(k)
        seen = self._samples[cells[np.argsort(self._cell_order[cells])]]
        return CellSample(seen[:, 0], seen[:, 1:])


def _polynomials(V: FunctionSpace, num: int) -> list[ufl.Form]:
    """Loads by polynomials in each component, of a degree that suits ``num`` functions.

    It is the highest one up to two at which others have a place beside them and the rigid motions:
    2^d functions for each component, for degree two twice as many, as channels need them.
    """
    msh, bs = V.mesh, V.dofmap.index_map_bs
    low, high = bounding_box(msh)
    d = len(low)
    motions = bs + (d * (d - 1) // 2 if bs == d else 0)

    def needed(k: int) -> int:
        return int(motions + bs * (comb(d + k, k) + 2 ** (d + k - 1)))

    degree = max(k for k in range(3) if k == 0 or needed(k) <= num)
    # Products of two of 1, x, y, ... between -1/2 and 1/2. Constants, lest forms are compiled anew
    # for each of them and each mesh.
    slopes = np.vstack([np.zeros(d), np.diag(1 / (high - low))])
    offsets = np.append(1.0, -0.5 * (high + low) / (high - low))
    pairs = [(0, 0), *((0, k) for k in range(1, d + 1))]
    pairs += combinations_with_replacement(range(1, d + 1), 2)
    x, v = ufl.SpatialCoordinate(msh), ufl.TestFunction(V)
    loads = []
    for pair in pairs[: comb(d + degree, degree)]:
        f = 1.0
        for k in pair:
            f *= fem.Constant(msh, offsets[k]) + ufl.dot(fem.Constant(msh, slopes[k]), x)
        for row in np.eye(bs):
            unit = fem.Constant(msh, row if v.ufl_shape else 1.0)
            loads.append(f * ufl.inner(unit, v) * ufl.dx)
    return loads


def _load_vectors(V: FunctionSpace, loads: Sequence[Form]) -> FloatArray:
    """Vectors of linear forms, shape ``(num_dof_blocks, block_size, num_loads)``. Collective."""
    bs = V.dofmap.index_map_bs
    num = V.dofmap.index_map.size_local + V.dofmap.index_map.num_ghosts
    vectors = np.zeros((num, bs, len(loads)))
    for k, form in enumerate(loads):
        vectors[:, :, k] = fem.assemble_vector(form).array.reshape(num, bs)
    if not loads:
        return vectors
    return sum_over_ranks(V.dofmap.index_map, vectors.reshape(num, -1)).reshape(vectors.shape)
