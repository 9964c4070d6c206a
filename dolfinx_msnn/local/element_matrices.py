# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Element matrices of any bilinear form, and the checks that a form must pass first.

They come from the kernels that FFCx has compiled for the form, called cell by cell as DOLFINx's own
assembly does, with exterior-facet terms included. Any neighbourhood's matrix is a sum of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dolfinx import fem
from dolfinx.fem import IntegralType
from dolfinx_msnn._utils.checks import point
from dolfinx_msnn._utils.compiled import Library
from dolfinx_msnn._utils.typing import (
    BoolArray,
    FloatArray,
    Form,
    FunctionSpace,
    IntArray,
    LongArray,
    Mesh,
)

_CELLS = """int64_t num_groups, int64_t width, const int64_t *cell_start, const int32_t *cells,
            const int32_t *cell_dofs"""

#: The kernels of ``groups.c``.
GROUPS = Library(
    Path(__file__).with_name("groups.c"),
    f"""
void tabulate(int64_t num, const int32_t *cells, int64_t size, int64_t num_nodes,
              const int32_t *nodes, const double *x, int64_t num_integrals, const int64_t *kernels,
              const int64_t *starts, const int64_t *facets, const int64_t *coefficients,
              const int64_t *widths, const double *constants, const uint8_t *permutations,
              int64_t num_facets, double *coordinates, double *out);
void measure_elements(int64_t num, int64_t n, const double *elements, double *size,
                      double *asymmetry, double *least);
int64_t group_dofs({_CELLS}, int32_t *lookup, int64_t *dof_start, int32_t *dofs, int32_t *counts);
void group_rows({_CELLS}, const int64_t *dof_start, const int32_t *dofs, const int32_t *counts,
                int32_t *lookup, int32_t *incident, int32_t *mark, int64_t *row_start,
                int32_t *cols);
void add_elements(int64_t first, int64_t last, int64_t group, int64_t width, int64_t bs,
                  const int64_t *cell_start, const int32_t *cells, const int32_t *cell_dofs,
                  const int64_t *dof_start, const int32_t *dofs, int32_t *lookup,
                  int32_t *work, const int64_t *row_start, const int32_t *cols, int64_t base,
                  const double *elements, double *values);
int64_t join(int64_t num_groups, int64_t n, const int64_t *dof_start, const int64_t *dof_at,
             const int64_t *entry_at, const int32_t *map, const int64_t *row_start,
             const int32_t *cols_of, int64_t *work, int32_t *indptr, int32_t *cols,
             int32_t *table);
void gather(int64_t stack, int64_t num, const int64_t *starts, const int64_t *counts,
            const int32_t *table, int64_t size, const double *values, int64_t entries, double *out);
void unblock(int64_t stack, int64_t n, int64_t bs, const int32_t *indptr, const double *blocks,
             double *data);
""",
)


class _Integral(NamedTuple):
    """Where an integral of a form is taken.

    Attributes:
        key: Its type and number, as in packed coefficients.
        kernel: Address of the compiled kernel.
        order: Its entities that belong to owned cells, sorted by cell.
        starts: Which of them belong to each owned cell, shape ``(num_cells + 1,)``; ``None`` if
            they are the cells.
        facets: Local number of each facet; ``None`` for integrals over cells.
    """

    key: tuple[IntegralType, int]
    kernel: int
    order: LongArray
    starts: LongArray | None
    facets: IntArray | None


class Values(NamedTuple):
    """Values of the coefficients of a form, and where the mesh is.

    Attributes:
        coefficients: Packed, of each integral.
        constants: Packed.
        x: Coordinates of the mesh.
    """

    coefficients: list[FloatArray]
    constants: FloatArray
    x: FloatArray


class ElementMatrices:
    """The element matrices of a form, for the values that its coefficients have at a time.

    Args:
        form: Compiled bilinear form on ``V``, by cell and exterior-facet integrals.
        V: Fine space.

    Attributes:
        width: n_e, the unrolled dofs of a cell.
    """

    def __init__(self, form: Form, V: FunctionSpace) -> None:
        self._form: Any = form
        self._mesh = V.mesh
        topology = self._mesh.topology
        self._num_cells = topology.index_map(topology.dim).size_local
        self.width = int(V.dofmap.index_map_bs * V.dofmap.list.shape[1])
        # Asked for again, DOLFINx makes a copy.
        self._nodes: IntArray = self._mesh.geometry.dofmaps[0]
        self._permutations = None
        if form._cpp_object.needs_facet_permutations:
            topology.create_entity_permutations()
            self._permutations = np.ascontiguousarray(topology.get_facet_permutations())
        self._integrals = [self._integral(*key) for key in fem.pack_coefficients(form)]
        # Kernels and where each integral is taken, for the compiled loop.
        self._places = (
            np.array([part.kernel for part in self._integrals], dtype=np.int64),
            _addresses([part.starts for part in self._integrals]),
            _addresses([part.facets for part in self._integrals]),
        )

    def _integral(self, kind: IntegralType, number: int) -> _Integral:
        ufcx, ffi = self._form.ufcx_form, self._form.module.ffi
        # UFCx lists integrals over cells first, then those over exterior facets.
        place = ufcx.form_integral_offsets[int(kind != IntegralType.cell)] + number
        kernel = ufcx.form_integrals[place].tabulate_tensor_float64
        entities = np.asarray(self._form._cpp_object.domains(kind, number))
        entities = entities.reshape(len(entities), max(1, entities.ndim))
        order = np.argsort(entities[:, 0], kind="stable")
        order = order[entities[order, 0] < self._num_cells]
        cell = entities[order, 0]
        starts = None
        if kind != IntegralType.cell or not np.array_equal(cell, np.arange(self._num_cells)):
            starts = np.searchsorted(cell, np.arange(self._num_cells + 1)).astype(np.int64)
        facets = None if kind == IntegralType.cell else entities[order, 1].astype(np.int32)
        return _Integral((kind, number), int(ffi.cast("intptr_t", kernel)), order, starts, facets)

    def values(self) -> Values:
        """The values that coefficients, constants and the mesh have now, copied. Not collective."""
        packed: Any = fem.pack_coefficients(self._form)
        coefficients = [
            # Without coefficients DOLFINx packs no rows.
            np.ascontiguousarray(rows[part.order]) if rows.size else np.zeros((len(part.order), 0))
            for part, rows in ((part, packed[part.key]) for part in self._integrals)
        ]
        return Values(
            coefficients, np.asarray(fem.pack_constants(self._form)), self._mesh.geometry.x.copy()
        )

    def tabulate(self, values: Values, cells: IntArray) -> FloatArray:
        """The element matrices of some owned cells.

        Args:
            values: From :meth:`values`.
            cells: Local numbers, shape ``(num,)``.

        Returns:
            Shape ``(num, n_e, n_e)``, in the order of the dof map (component fastest). Not
            collective.
        """
        out = np.empty((len(cells), self.width, self.width))
        if GROUPS.module is None:
            return self._tabulate_slowly(values, cells, out)
        nodes = self._nodes
        num_facets = 0 if self._permutations is None else self._permutations.size // len(nodes)
        widths = np.array([part.shape[1] for part in values.coefficients], dtype=np.int64)
        GROUPS.call(
            "tabulate",
            len(cells),
            cells,
            self.width**2,
            nodes.shape[1],
            nodes,
            values.x,
            len(self._integrals),
            *self._places,
            _addresses(values.coefficients),
            widths,
            values.constants,
            self._permutations,
            num_facets,
            np.empty(3 * nodes.shape[1]),
            out,
        )
        return out

    def _tabulate_slowly(self, values: Values, cells: IntArray, out: FloatArray) -> FloatArray:
        """As :meth:`tabulate`, without the compiled loop."""
        ffi, nodes = self._form.module.ffi, self._nodes
        kind = "void(*)(double *, const double *, const double *, const double *, const int *, "
        out[:] = 0.0
        for part, coefficients in zip(self._integrals, values.coefficients, strict=True):
            kernel = ffi.cast(kind + "const uint8_t *, void *)", part.kernel)
            for matrix, cell in zip(out, cells.tolist(), strict=True):
                x = np.ascontiguousarray(values.x[nodes[cell]])
                first, last = cell, cell + 1
                if part.starts is not None:
                    first, last = part.starts[cell : cell + 2].tolist()
                for k in range(first, last):
                    given = [coefficients[k], values.constants, x]
                    given += [None, None] if part.facets is None else [part.facets[k : k + 1], None]
                    if part.facets is not None and self._permutations is not None:
                        each = self._permutations.size // len(nodes)
                        place = cell * each + part.facets[k]
                        given[-1] = self._permutations.reshape(-1)[place : place + 1]
                    names = ("double", "double", "double", "int", "uint8_t")
                    pointers = [
                        ffi.NULL if value is None else ffi.from_buffer(f"{name}[]", value)
                        for name, value in zip(names, given, strict=True)
                    ]
                    kernel(ffi.from_buffer("double[]", matrix), *pointers, ffi.NULL)
        return out


def _addresses(arrays: Sequence[npt.NDArray[Any] | None]) -> LongArray:
    """Where arrays begin, zero for none; they must be kept elsewhere."""
    found = [0 if part is None else part.ctypes.data for part in arrays]
    return np.array(found, dtype=np.int64)


class Findings:
    """What is wrong with element matrices, found in pieces and told at once.

    Args:
        msh: Mesh.
        name: What the user calls the form.
        strict: Whether energies must be positive, as those of ``a``.
    """

    def __init__(self, msh: Mesh, name: str, *, strict: bool) -> None:
        self._mesh, self._name, self._strict = msh, name, strict
        self._found: dict[str, tuple[int, int, float]] = {}

    def look(self, cells: IntArray, elements: FloatArray) -> None:
        """Look at the element matrices of some cells, shape ``(num, n_e, n_e)``."""
        magnitude, asymmetry, least = _measure(elements)
        with np.errstate(invalid="ignore"):
            relative = asymmetry / np.maximum(magnitude, np.finfo(float).tiny)
        self._note("finite", ~np.isfinite(magnitude), cells, magnitude)
        self._note("coercive", least <= 0 if self._strict else least < 0, cells, -least)
        self._note("symmetric", relative > 1e-10, cells, relative)

    def _note(self, what: str, bad: BoolArray, cells: IntArray, sizes: FloatArray) -> None:
        if bad.any():
            count, cell, worst = self._found.get(what, (0, int(cells[bad][0]), -np.inf))
            cell = min(cell, int(cells[bad].min()))
            self._found[what] = count + int(bad.sum()), cell, max(worst, float(sizes[bad].max()))

    def tell(self) -> None:
        """Refuse element matrices that cannot come from a coercive symmetric form.

        Raises:
            ValueError: If an entry is not finite, the matrices of ``a`` have a non-positive
                diagonal (a zero or negative coefficient) or those of others a negative one, or they
                are not symmetric. Not collective.
        """
        for what in ("finite", "coercive", "symmetric"):
            if what not in self._found:
                continue
            count, cell, worst = self._found[what]
            if what == "finite":
                text, wanted = (
                    "has a NaN or infinite element matrix",
                    "expected finite coefficients",
                )
            elif what == "coercive":
                text = f"is not coercive: its element matrix has a diagonal entry {-worst:.4g}"
                sign = "positive" if self._strict else "non-negative"
                wanted = f"expected {sign} coefficients"
            else:
                text = f"is not symmetric (relative asymmetry {worst:.1e})"
                wanted = "non-symmetric forms are not supported"
                if worst < 1e-5:
                    wanted += "; a tensor C of rounded data is made symmetric by "
                    wanted += "0.5 * (C + transpose(C))"
            geometry = self._mesh.geometry
            x = geometry.x[geometry.dofmaps[0][cell]].mean(axis=0)
            raise ValueError(
                f"The form {self._name} {text} in the cell at {point(x[: geometry.dim])} and "
                f"{count - 1} others of its rank; {wanted}."
            )


def _measure(elements: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sum of |K| (NaN or inf if an entry is), largest |K - Kᵀ| and least K_ii, for each K."""
    num, n = elements.shape[:2]
    if GROUPS.module is not None:
        size, asymmetry, least = np.empty((3, num))
        GROUPS.call("measure_elements", num, n, elements, size, asymmetry, least)
        return size, asymmetry, least
    with np.errstate(invalid="ignore"):
        asymmetry = np.abs(elements - elements.transpose(0, 2, 1)).max(axis=(1, 2))
    least = np.einsum("cii->ci", elements).min(axis=1)
    return np.abs(elements).sum(axis=(1, 2)), asymmetry, least
