# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Element matrices of any bilinear form, and the checks that a form must pass first.

The arguments of the form are replaced by those of the same element made discontinuous. The
assembled "broken" matrix is then block diagonal, one block a cell, and the blocks are the element
matrices, exterior-facet terms included. Any neighbourhood's matrix is a sum of such blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

import basix
import basix.ufl
import ufl
from dolfinx import fem, la
from dolfinx_msnn._utils.checks import point
from dolfinx_msnn._utils.forms import is_blocked, scalar_element
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import BoolArray, FloatArray, Form, FunctionSpace, Mesh


def broken_space(V: FunctionSpace) -> FunctionSpace:
    """The space of the same element made discontinuous. Collective."""
    element = V.ufl_element()
    scalar = scalar_element(element)
    shape = element.reference_value_shape if is_blocked(element) else None
    # Symmetric tensors have fewer blocks than components.
    symmetric = len(element.reference_value_shape) == 2 and element.block_size != prod(shape or ())
    broken = basix.ufl.element(
        scalar.element_family,
        scalar.cell_type,
        scalar.degree,
        lagrange_variant=scalar.lagrange_variant,
        dpc_variant=scalar.dpc_variant,
        discontinuous=True,
        shape=shape,
        symmetry=symmetric or None,
        dtype=scalar.basix_element.dtype,
    )
    return fem.functionspace(V.mesh, broken)


class ElementMatrices:
    """The element matrices of a form, now and after its coefficients have changed.

    Args:
        form: Bilinear form, checked by :func:`check_form`.
        broken: Space from :func:`broken_space`.
        compile_form: Turns UFL forms into DOLFINx forms.

    Note:
        Creation is collective (the form may have to be compiled).
    """

    def __init__(
        self,
        form: ufl.Form,
        broken: FunctionSpace,
        compile_form: Callable[[Any], Form] = fem.form,
    ) -> None:
        test, trial = form.arguments()
        self._broken = broken
        self._form: Any = compile_form(
            ufl.replace(form, {test: ufl.TestFunction(broken), trial: ufl.TrialFunction(broken)})
        )
        self._matrix: la.MatrixCSR[np.float64] | None = None

    def assemble(self, out: FloatArray, *, keep: bool = False) -> None:
        """Compute the element matrices on the cells of this rank.

        Args:
            out: Filled; shape ``(num_owned_cells, n_e, n_e)`` with ``n_e`` the unrolled dofs of a
                cell in the order of the dof map (component fastest).
            keep: Keep the memory and the pattern for the next time.

        Note:
            Collective.
        """
        matrix = fem.create_matrix(self._form) if self._matrix is None else self._matrix
        matrix.data[:] = 0.0
        fem.assemble_matrix(matrix, self._form)
        self._matrix = matrix if keep else None
        _extract_blocks(matrix, self._broken, out)


def _extract_blocks(
    matrix: la.MatrixCSR[np.float64], broken: FunctionSpace, out: FloatArray
) -> None:
    """Copy the diagonal blocks of a broken matrix to ``out``, in dof-map order."""
    num_cells = len(out)
    bs = broken.dofmap.index_map_bs
    dofs = broken.dofmap.list[:num_cells].astype(np.int64)
    width = dofs.shape[1]
    # A row of the broken matrix holds exactly the dofs of its own cell, ascending; or nothing, in
    # cells that no integral covers.
    covered = np.diff(matrix.indptr)[dofs[:, 0]] > 0
    if covered.all() and np.array_equal(dofs.reshape(-1), np.arange(dofs.size)):
        data = matrix.data[: out.size].reshape(num_cells, width, width, bs, bs)
        out.reshape(num_cells, width, bs, width, bs)[:] = data.transpose(0, 1, 3, 2, 4)
        return
    out[~covered] = 0.0
    dofs = dofs[covered]
    position = np.argsort(np.argsort(dofs, axis=1), axis=1)
    blocks = matrix.data.reshape(-1, bs, bs)
    view = out.reshape(num_cells, width, bs, width, bs)
    start = matrix.indptr[dofs]
    for i in range(width):
        for j in range(width):
            view[covered, i, :, j, :] = blocks[start[:, i] + position[:, j]]


def check_element_matrices(msh: Mesh, A: FloatArray, S: FloatArray | None = None) -> None:
    """Refuse element matrices that cannot come from a coercive symmetric form.

    Args:
        msh: Mesh.
        A: Element matrices of ``a`` on the owned cells, shape ``(num_owned_cells, n_e, n_e)``.
        S: Those of ``s``, if there is one.

    Raises:
        ValueError: If an entry is not finite, the matrices of ``a`` are not symmetric or have a
            non-positive diagonal (a zero or negative coefficient), or those of ``s`` are not
            symmetric or have a negative diagonal.

    Note:
        Collective; the same exception on every rank.
    """
    with collective_errors(msh.comm):
        if len(A):
            _check_blocks(A, msh, "a", strict=True)
            if S is not None:
                _check_blocks(S, msh, "s", strict=False)


def _check_blocks(blocks: FloatArray, msh: Mesh, name: str, *, strict: bool) -> None:
    """The same for one form, shape ``(num_owned_cells, n_e, n_e)``. Not collective."""

    def refuse(bad: BoolArray, what: str, wanted: str) -> None:
        if bad.any():
            x = msh.geometry.x[msh.geometry.dofmaps[0][np.argmax(bad)]].mean(axis=0)
            raise ValueError(
                f"The form {name} {what} in the cell at {point(x[: msh.geometry.dim])} and "
                f"{int(bad.sum()) - 1} others of its rank; {wanted}."
            )

    magnitude, asymmetry = _measure(blocks)
    wanted = "expected finite coefficients"
    refuse(~np.isfinite(magnitude), "has a NaN or infinite element matrix", wanted)
    least = np.einsum("cii->ci", blocks).min(axis=1)
    wanted = f"expected {'positive' if strict else 'non-negative'} coefficients"
    entry = f"its element matrix has a diagonal entry {least.min():.4g}"
    refuse(least <= 0 if strict else least < 0, f"is not coercive: {entry}", wanted)
    relative = asymmetry / np.maximum(magnitude, np.finfo(float).tiny)
    worst = f"is not symmetric (relative asymmetry {relative.max():.1e})"
    wanted = "non-symmetric forms are not supported"
    if relative.max() < 1e-5:
        wanted += "; a tensor C of rounded data is made symmetric by 0.5 * (C + transpose(C))"
    refuse(relative > 1e-10, worst, wanted)


def _measure(blocks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sum of |K| (NaN or inf if an entry is) and largest entry of |K - Kᵀ|, for each block K."""
    magnitude, asymmetry = np.empty(len(blocks)), np.empty(len(blocks))
    # Pieces that stay in cache.
    step = max(1, 2**16 // blocks[0].size)
    for k in range(0, len(blocks), step):
        part = blocks[k : k + step]
        magnitude[k : k + step] = np.abs(part).sum(axis=(1, 2))
        with np.errstate(invalid="ignore"):
            asymmetry[k : k + step] = np.abs(part - part.transpose(0, 2, 1)).max(axis=(1, 2))
    return magnitude, asymmetry
