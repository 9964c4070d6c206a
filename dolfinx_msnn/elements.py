# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Element matrices of any bilinear form, and the checks that a form must pass first.

The arguments of the form are replaced by those of the same element made discontinuous. The
assembled "broken" matrix is then block diagonal, one block a cell, and the blocks are the element
matrices, exterior-facet terms included. Any neighbourhood's matrix is a sum of such blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

import basix
import basix.ufl
import ufl
from dolfinx import fem, la
from dolfinx_msnn._mpi import collective_errors
from dolfinx_msnn._typing import BoolArray, CompilerOptions, DirichletBC, FloatArray, FunctionSpace
from ufl.algorithms import extract_type
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives
from ufl.algorithms.check_arities import ArityMismatch, check_integrand_arity
from ufl.algorithms.remove_complex_nodes import remove_complex_nodes
from ufl.domain import extract_unique_domain

_ALLOWED_INTEGRALS = ("cell", "exterior_facet")

#: Signatures of forms that passed :func:`check_arity`.
_linear_forms: set[str] = set()


def check_space(V: FunctionSpace) -> None:
    """Refuse spaces that the multiscale construction does not cover.

    Raises:
        ValueError: Unless ``V`` is a continuous scalar or vector Lagrange space. Not collective;
            the outcome is the same on every rank.
    """
    if not isinstance(V, fem.FunctionSpace):
        raise ValueError(f"Expected a dolfinx.fem.FunctionSpace, got {type(V).__name__}.")
    element = V.ufl_element()
    scalar = _scalar_element(element)
    name = getattr(scalar, "element_family", None)
    if V.component():
        raise ValueError(
            f"Expected a whole function space, got component {V.component()} of one; collapse() "
            "makes a space of it."
        )
    if name != basix.ElementFamily.P or scalar.degree < 1 or scalar.discontinuous:
        raise ValueError(
            "Expected a continuous Lagrange space of degree >= 1 (scalar or vector), got "
            f"{element}."
        )
    if V.mesh.geometry.x.dtype != np.float64:
        raise ValueError(
            f"Expected a mesh with float64 coordinates, got {V.mesh.geometry.x.dtype}."
        )


def check_form(form: ufl.Form, V: FunctionSpace, name: str) -> None:
    """Refuse forms that are not bilinear forms on ``V`` by cell and exterior-facet integrals.

    Args:
        form: UFL form.
        V: Fine space.
        name: What the user calls the form, for the message.

    Raises:
        ValueError: With what was given and what was expected. Not collective; the outcome is the
            same on every rank.
    """
    if not isinstance(form, ufl.Form):
        raise ValueError(f"{name} must be a UFL bilinear form, got {type(form).__name__}.")
    arguments = form.arguments()
    if len(arguments) != 2:
        raise ValueError(
            f"{name} must be a bilinear form (a trial and a test function), got a form with "
            f"{len(arguments)} arguments."
        )
    check_arity(form, name)
    kinds = sorted({integral.integral_type() for integral in form.integrals()})
    refused = [kind for kind in kinds if kind not in _ALLOWED_INTEGRALS]
    if refused:
        raise ValueError(
            f"{name} contains {' and '.join(refused)} integrals; only cell (dx) and exterior "
            "facet (ds) integrals can be split into element matrices."
        )
    if any(domain != V.mesh.ufl_domain() for domain in _domains(form)):
        raise ValueError(f"{name} is defined on another mesh than V; expected the same mesh.")
    if any(arg.ufl_function_space() != V for arg in arguments):
        raise ValueError(
            f"The arguments of {name} are on another function space than V; expected "
            "TrialFunction(V) and TestFunction(V)."
        )


def check_arity(form: ufl.Form, name: str) -> None:
    """Refuse forms that are not linear in each argument. Not collective.

    In parallel DOLFINx would hang on them: UFL's ArityMismatch is no ``Exception``.

    Raises:
        ValueError: With UFL's reason.
    """
    # Once for each form: UFL's algorithms keep memory on Python 3.13, and take a while.
    if form.signature() in _linear_forms:
        return
    try:
        # Derivatives of inner products leave conjugates behind.
        lowered = remove_complex_nodes(apply_algebra_lowering(form))
        for integral in apply_derivatives(lowered).integrals():
            check_integrand_arity(integral.integrand(), form.arguments(), False)
        _linear_forms.add(form.signature())
    except ArityMismatch as exc:
        # Some of UFL's reasons hold the whole representation of the arguments.
        reason = str(exc).rstrip(".") if len(str(exc)) < 120 else "not all terms have all of them"
        raise ValueError(f"{name} must be linear in each of its arguments: {reason}.") from None


def identify(form: ufl.Form | None) -> str:
    """What a form is called where ranks compare theirs. Not collective."""
    return "none" if form is None else f"form {form.signature()[:8]}"


def _domains(form: ufl.Form) -> set[Any]:
    """Meshes of the integrals, coefficients and geometric quantities of a form."""
    domains = set(form.ufl_domains())
    domains |= {c.ufl_function_space().ufl_domain() for c in form.coefficients()}
    geometry = extract_type(form, ufl.classes.GeometricQuantity)
    return domains | {extract_unique_domain(quantity) for quantity in geometry}


def check_bcs(bcs: Sequence[DirichletBC], V: FunctionSpace) -> None:
    """Refuse boundary conditions that are not on ``V`` or a component of it.

    Raises:
        ValueError: With what was given and what was expected. Not collective.
    """
    if not isinstance(bcs, Sequence) or isinstance(bcs, str):
        raise ValueError(
            "bcs must be a sequence of dolfinx.fem.DirichletBC (may be empty), got "
            f"{type(bcs).__name__}."
        )
    for k, bc in enumerate(bcs):
        if not isinstance(bc, fem.DirichletBC):
            raise ValueError(
                f"bcs[{k}] must be a dolfinx.fem.DirichletBC, got {type(bc).__name__}."
            )
        if not V._cpp_object.contains(bc.function_space):
            raise ValueError(
                f"bcs[{k}] is on another function space than V; expected a condition on V or one "
                "of its components."
            )


def _scalar_element(element: basix.ufl._ElementBase) -> Any:
    """The element of one component of a blocked element."""
    return element.sub_elements[0] if _is_blocked(element) else element


def _is_blocked(element: basix.ufl._ElementBase) -> bool:
    """Whether an element is some copies (perhaps one) of another."""
    return element.block_size > 1 or len(element.sub_elements) == 1


def broken_space(V: FunctionSpace) -> FunctionSpace:
    """The space of the same element made discontinuous. Collective."""
    element = V.ufl_element()
    scalar = _scalar_element(element)
    shape = element.reference_value_shape if _is_blocked(element) else None
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
        form_compiler_options: Passed to DOLFINx.
        jit_options: Passed to DOLFINx.

    Note:
        Creation is collective (the form may have to be compiled).
    """

    def __init__(
        self,
        form: ufl.Form,
        broken: FunctionSpace,
        *,
        form_compiler_options: CompilerOptions | None = None,
        jit_options: CompilerOptions | None = None,
    ) -> None:
        test, trial = form.arguments()
        self._broken = broken
        self._form = fem.form(
            ufl.replace(form, {test: ufl.TestFunction(broken), trial: ufl.TrialFunction(broken)}),
            form_compiler_options=form_compiler_options,
            jit_options=jit_options,
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
    blocks = matrix.data.reshape(-1, bs, bs) if bs > 1 else matrix.data.reshape(-1, 1, 1)
    view = out.reshape(num_cells, width, bs, width, bs)
    start = matrix.indptr[dofs]
    for i in range(width):
        for j in range(width):
            view[covered, i, :, j, :] = blocks[start[:, i] + position[:, j]]


def check_element_matrices(broken: FunctionSpace, A: FloatArray, S: FloatArray | None) -> None:
    """Refuse element matrices that cannot come from a coercive symmetric form.

    Raises:
        ValueError: If an entry is not finite, the matrices of ``a`` are not symmetric or have a
            non-positive diagonal (a zero or negative coefficient), or those of ``s`` are not
            symmetric or have a negative diagonal.

    Note:
        Collective; the same exception on every rank.
    """
    with collective_errors(broken.mesh.comm):
        _check_blocks(A, broken, "a", strict=True)
        if S is not None:
            _check_blocks(S, broken, "s", strict=False)


def _check_blocks(blocks: FloatArray, broken: FunctionSpace, name: str, *, strict: bool) -> None:
    def where(bad: BoolArray) -> str:
        cell = int(np.argmax(bad))
        msh = broken.mesh
        x = msh.geometry.x[msh.geometry.dofmaps[0][cell]].mean(axis=0)[: msh.geometry.dim]
        place = ", ".join(f"{v:.4g}" for v in x)
        return f"in the cell at ({place}) and {int(bad.sum()) - 1} others of its rank"

    if len(blocks) == 0:
        return
    size = np.einsum("cii->ci", blocks)
    magnitude, asymmetry = _measure(blocks)
    bad = ~np.isfinite(magnitude)
    if bad.any():
        raise ValueError(
            f"The form {name} has a NaN or infinite element matrix {where(bad)}; expected finite "
            "coefficients."
        )
    bad = (size <= 0).any(axis=1) if strict else (size < 0).any(axis=1)
    if bad.any():
        wanted = "positive" if strict else "non-negative"
        raise ValueError(
            f"The form {name} is not coercive: its element matrix has a diagonal entry "
            f"{size[bad].min():.4g} {where(bad)}; expected {wanted} coefficients."
        )
    bad = asymmetry > 1e-10 * magnitude
    if bad.any():
        raise ValueError(
            f"The form {name} is not symmetric {where(bad)}; non-symmetric forms are not supported."
        )


def _measure(
    blocks: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Sum of |K| (NaN or inf if an entry is) and largest entry of |K - K^T|, for each block."""
    magnitude, asymmetry = np.empty(len(blocks)), np.empty(len(blocks))
    # Pieces that stay in cache.
    step = max(1, 2**16 // blocks[0].size)
    for k in range(0, len(blocks), step):
        part = blocks[k : k + step]
        magnitude[k : k + step] = np.abs(part).sum(axis=(1, 2))
        with np.errstate(invalid="ignore"):
            asymmetry[k : k + step] = np.abs(part - part.transpose(0, 2, 1)).max(axis=(1, 2))
    return magnitude, asymmetry
