# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""All local problems of a rank, assembled from element matrices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb
from typing import Any

import numpy as np
import scipy.sparse as sp

import ufl
from dolfinx import fem
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
from dolfinx_msnn.local.element_matrices import (
    ElementMatrices,
    broken_space,
    check_element_matrices,
)
from dolfinx_msnn.local.ghosts import GhostCells
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.growth import growth
from dolfinx_msnn.local.hats import Hats
from dolfinx_msnn.local.neighbourhoods import find_neighbourhoods
from dolfinx_msnn.local.problem import CellSample, LocalProblem


@dataclass(frozen=True)
class _Pattern:
    """Where the entries of a neighbourhood's element matrices go in its CSR matrix.

    Attributes:
        indptr: Of the CSR matrix, shape ``(n_i + 1,)``.
        indices: Of the CSR matrix, shape ``(num_entries,)``.
        slot: Position in ``indices`` of each entry of the element matrices, one after the other.
    """

    indptr: IntArray
    indices: IntArray
    slot: LongArray

    @classmethod
    def create(cls, cell_dofs: IntArray, n: int) -> _Pattern:
        """The pattern of cells with these dofs, shape ``(num_cells, n_e)``, among ``n``."""
        pairs = n * cell_dofs.astype(np.int64)[:, :, None] + cell_dofs[:, None, :]
        entries, slot = np.unique(pairs.reshape(-1), return_inverse=True)
        rows, cols = np.divmod(entries, n)
        indptr = np.searchsorted(rows, np.arange(n + 1))
        return cls(indptr.astype(np.int32), cols.astype(np.int32), slot)

    def sum(self, blocks: FloatArray) -> sp.csr_matrix:
        """Sum element matrices, shape ``(num_cells, n_e, n_e)``, to a neighbourhood's matrix."""
        data = np.bincount(self.slot, weights=blocks.reshape(-1), minlength=len(self.indices))
        n = len(self.indptr) - 1
        return sp.csr_matrix((data, self.indices, self.indptr), shape=(n, n))


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
        keep: Keep what :meth:`assemble` needs to be called again.
        compile_form: Turns UFL forms into DOLFINx forms.

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
        keep: bool = False,
        compile_form: Callable[[Any], Form] = fem.form,
    ) -> None:
        self.timings = Timings("Local problems") if timings is None else timings
        self._V, self._mesh, self._bs = V, V.mesh, V.dofmap.index_map_bs
        self._keep, self._coefficient, self._bcs = keep, coefficient, bcs
        with self.timings.stage("neighbourhoods"):
            x = V.tabulate_dof_coordinates()
            hats = coarse.hats(x)
            self._neighbourhoods = find_neighbourhoods(V, coarse, hats, coarse.layers(oversampling))
        with self.timings.stage("exchange"):
            self._ghosts = ghosts = GhostCells(V, self._neighbourhoods)
            self._x = ghosts.extend_dofs(np.ascontiguousarray(x[:, : V.mesh.geometry.dim]))
            self._hats = Hats(*(ghosts.extend_dofs(part) for part in hats))
            self._dirichlet = ghosts.extend_dofs(dirichlet_mask(V, bcs))
            self._dofs, self._cell_dofs = ghosts.dofs, ghosts.cell_dofs
            counts = np.bincount(
                V.dofmap.list[: ghosts.num_own_cells].reshape(-1),
                minlength=V.dofmap.index_map.size_local + V.dofmap.index_map.num_ghosts,
            )
            self._num_cells = ghosts.extend_dofs(
                sum_over_ranks(V.dofmap.index_map, counts[:, None])[:, 0]
            )
            if isinstance(sources, int):
                sources = _polynomials(V, sources)
            self._sources: list[Form] = [compile_form(form) for form in sources]
            self._sort(V, ghosts.cells)

        with self.timings.stage("element matrices"):
            broken = broken_space(V)
            self._forms = [
                ElementMatrices(form, broken, compile_form)
                for form in ([a] if s is None else [a, s])
            ]
        with collective_errors(V.mesh.comm):
            num_cells, width = ghosts.num_cells, self._cell_dofs.shape[1] * self._bs
            self._blocks = [np.empty((num_cells, width, width)) for _ in self._forms]
            self._samples = np.empty((num_cells, 1 + self._x.shape[1]))
            # Large neighbourhoods first: equal shapes follow each other, caches of patterns hit.
            self._order = np.argsort(-np.diff(self._neighbourhoods.offsets), kind="stable")
            self._lookup = np.empty(len(self._dofs), dtype=np.int32)
        self._patterns: dict[bytes, _Pattern] = {}
        self._places = coarse.vertex_coordinates(self._neighbourhoods.vertices)
        self.assemble()

    def assemble(self) -> None:
        """Compute the element matrices, for the first time or after a coefficient has changed.

        Raises:
            ValueError: If they cannot come from a coercive symmetric form; the same on every rank.

        Note:
            Collective.
        """
        num = self._ghosts.num_own_cells
        with self.timings.stage("element matrices"):
            own = [blocks[:num] for blocks in self._blocks]
            for form, blocks in zip(self._forms, own, strict=True):
                form.assemble(blocks, keep=self._keep)
            check_element_matrices(self._mesh, *own)
        with self.timings.stage("exchange"):
            for blocks in self._blocks:
                self._ghosts.extend_cells(blocks)
            self._loads = self._ghosts.extend_dofs(_load_vectors(self._V, self._sources))
            self._loads = self._loads[self._by_position]
            lift = dirichlet_lift(self._V, self._bcs).x.array.reshape(-1, self._bs)
            self._lift = self._ghosts.extend_dofs(lift)[self._by_position]
            if self._coefficient is not None:
                cell_values(self._coefficient, self._mesh, self._samples[:num])
                self._ghosts.extend_cells(self._samples)

    @property
    def loads(self) -> FloatArray:
        """Vectors of the sources at the dof blocks, shape ``(num_dofs, block_size, num_loads)``."""
        return self._loads

    def reassemble(self) -> dict[int, FloatArray]:
        """Compute the element matrices anew, and how much energies have grown since the last time.

        Returns:
            By coarse vertex, the bounds of :func:`~dolfinx_msnn.local.growth.growth` on the cells
            of the neighbourhood, shape ``(num_forms, 2, num_cells_i)``.

        Note:
            Collective.
        """
        old, self._blocks = self._blocks, [np.empty_like(blocks) for blocks in self._blocks]
        try:
            self.assemble()
        except BaseException:
            self._blocks = old
            raise
        bounds = np.array([growth(*pair) for pair in zip(self._blocks, old, strict=True)])
        offsets = self._neighbourhoods.offsets
        return {
            int(vertex): bounds[:, :, self._cells[offsets[k] : offsets[k + 1]]]
            for k, vertex in enumerate(self._neighbourhoods.vertices)
        }

    def __len__(self) -> int:
        return len(self._neighbourhoods.vertices)

    def __iter__(self) -> Iterator[LocalProblem]:
        return self.problems()

    def problems(self, only: Collection[int] | None = None) -> Iterator[LocalProblem]:
        """Local problems, large ones first; those of some coarse vertices if given."""
        for k in self._order:
            if only is None or int(self._neighbourhoods.vertices[k]) in only:
                with self.timings.stage("local matrices"):
                    problem = self._create(int(k))
                yield problem

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

    def _create(self, k: int) -> LocalProblem:
        vertex = int(self._neighbourhoods.vertices[k])
        cells = self._cells[self._neighbourhoods.offsets[k] : self._neighbourhoods.offsets[k + 1]]
        flat = self._cell_dofs.take(cells, axis=0).reshape(-1)
        # Distinct dofs: the last cell to write its position keeps the dof.
        count = np.arange(len(flat), dtype=np.int32)
        self._lookup[flat] = count
        dofs = np.sort(flat[self._lookup[flat] == count])
        self._lookup[dofs] = np.arange(len(dofs), dtype=np.int32)
        local = self._lookup[flat].reshape(len(cells), -1)

        bs = self._bs
        n = bs * len(dofs)
        key = hashlib.blake2b(local.tobytes(), digest_size=16).digest() + bytes([bs])
        pattern = self._patterns.get(key)
        if pattern is None:
            unrolled = (bs * local[:, :, None] + np.arange(bs, dtype=np.int32)).reshape(
                len(cells), -1
            )
            pattern = _Pattern.create(unrolled, n)
            if len(self._patterns) >= 16:
                self._patterns.pop(next(iter(self._patterns)))
            self._patterns[key] = pattern
        matrices = [pattern.sum(blocks.take(cells, axis=0)) for blocks in self._blocks]
        mine = self._hats.vertices.take(dofs, axis=0) == vertex
        chi = np.einsum("ij,ij->i", mine, self._hats.values.take(dofs, axis=0))
        interface = np.bincount(local.reshape(-1)) < self._num_cells[dofs]
        sample = None
        if self._coefficient is not None:
            rows = self._samples.take(cells, axis=0)
            sample = CellSample(rows[:, 0], rows[:, 1:])
        return LocalProblem(
            vertex=vertex,
            A=matrices[0],
            s=matrices[1] if len(matrices) > 1 else None,
            chi=np.repeat(chi, bs),
            x=np.repeat(self._x[dofs], bs, axis=0),
            dofs=(bs * self._dofs[dofs][:, None] + np.arange(bs)).reshape(-1),
            dirichlet=self._dirichlet[dofs].reshape(-1),
            block_size=bs,
            pattern=key,
            place=self._places[k],
            lift=self._lift[dofs].reshape(-1),
            interface=np.repeat(interface, bs),
            loads=np.ascontiguousarray(self._loads[dofs].reshape(n, -1).T),
            sample=sample,
        )

    def _sort(self, V: FunctionSpace, cells: IntArray) -> None:
        """Number dofs by position (x fastest), order each neighbourhood's cells by their dofs.

        Sorting all dofs and cells once leaves nothing to sort in any neighbourhood. Collective.
        """
        low, high = bounding_box(V.mesh)
        with collective_errors(V.mesh.comm):
            # Integer coordinates, blind to rounding errors: times a power of two, no fraction of
            # the box such as 1/2 or 1/3 lies halfway between two integers.
            bits = 63 // len(low)
            grid = np.rint((self._x - low) / (high - low) * 2 ** (bits - 1)).astype(np.int64)
            order = np.argsort((grid << (bits * np.arange(len(low)))).sum(axis=1), kind="stable")
            self._x, self._dofs = self._x[order], self._dofs[order]
            self._hats = Hats(self._hats.vertices[order], self._hats.values[order])
            self._dirichlet = self._dirichlet[order]
            self._num_cells, self._by_position = self._num_cells[order], order
            number = np.empty(len(order), dtype=np.int32)
            number[order] = np.arange(len(order), dtype=np.int32)
            self._cell_dofs = number[self._cell_dofs]

            first = np.lexsort(self._cell_dofs[:, 2::-1].T)
            position = np.empty(len(first), dtype=np.int32)
            position[first] = np.arange(len(first), dtype=np.int32)
            offsets = self._neighbourhoods.offsets
            neighbourhood = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            self._cells = cells[np.lexsort((position[cells], neighbourhood))]


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
