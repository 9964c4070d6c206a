# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Checks of function spaces, forms and conditions, names of forms, and a watch on their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpi4py import MPI

import numpy as np

import basix
import basix.ufl
import ufl
from dolfinx import fem
from dolfinx.mesh import EntityMap
from dolfinx_msnn._utils.checks import require
from dolfinx_msnn._utils.compiled import form_options
from dolfinx_msnn._utils.typing import (
    CompilerOptions,
    DirichletBC,
    FloatArray,
    Form,
    FunctionSpace,
)
from ufl.algorithms import extract_type
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives
from ufl.algorithms.check_arities import ArityMismatch, check_integrand_arity
from ufl.algorithms.remove_complex_nodes import remove_complex_nodes
from ufl.domain import extract_unique_domain

_ALLOWED_INTEGRALS = {"cell", "exterior_facet"}

#: Signatures of forms that passed :func:`check_arity`.
_linear_forms: set[str] = set()


def communicator(V: FunctionSpace) -> MPI.Intracomm:
    """The communicator that a space lives on. Not collective.

    Raises:
        ValueError: If ``V`` is no function space; what was given as one on some ranks only cannot
            be told to the others.
    """
    if not isinstance(V, fem.FunctionSpace):
        raise ValueError(f"Expected a dolfinx.fem.FunctionSpace, got {type(V).__name__}.")
    comm: MPI.Intracomm = V.mesh.comm
    return comm


def check_space(V: FunctionSpace) -> None:
    """Refuse function spaces other than continuous scalar or vector Lagrange spaces.

    Raises:
        ValueError: With what was given and what was expected. Not collective; the outcome is the
            same on every rank.
    """
    element = V.ufl_element()
    scalar = scalar_element(element)
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


def compiler(
    form_compiler_options: CompilerOptions | None = None,
    jit_options: CompilerOptions | None = None,
    entity_maps: Sequence[EntityMap] = (),
) -> Callable[[ufl.Form], Form]:
    """What turns UFL forms into DOLFINx forms. Not collective.

    Unless the user has compiler arguments, kernels are compiled for this processor.

    Raises:
        ValueError: If ``entity_maps`` is no sequence of entity maps.
    """
    ok = isinstance(entity_maps, Sequence) and all(isinstance(m, EntityMap) for m in entity_maps)
    require(ok, "entity_maps", entity_maps, "a sequence of entity maps (from create_submesh)")
    fast = form_options(jit_options)

    def compile_form(form: ufl.Form) -> Form:
        for options in (fast, jit_options):
            try:
                compiled: Form = fem.form(
                    form,
                    form_compiler_options=form_compiler_options,
                    jit_options=options,
                    entity_maps=list(entity_maps),
                )
                break
            except RuntimeError:
                # A compiler that does not know the flags gets another chance.
                if options is jit_options:
                    raise
        return compiled

    return compile_form


def check_form(
    form: ufl.Form, V: FunctionSpace, name: str, entity_maps: Sequence[EntityMap] = ()
) -> None:
    """Refuse forms that are not bilinear forms on ``V`` by cell and exterior-facet integrals.

    Args:
        form: UFL form.
        V: Fine space.
        name: What the user calls the form, for the message.
        entity_maps: They relate the mesh of V to those that other coefficients are on.

    Raises:
        ValueError: With what was given and what was expected. Not collective; the outcome is the
            same on every rank.
    """
    own = V.mesh.ufl_domain()
    if isinstance(form, ufl.Form):
        others = {d for d in _domains(form) if d != own}
        if any(integral.ufl_domain() in others for integral in form.integrals()):
            raise ValueError(f"{name} is defined on another mesh than V; expected the same mesh.")
        related = [m.sub_topology._cpp_object for m in entity_maps]
        related += [m.topology._cpp_object for m in entity_maps]
        # The cargo of a domain is the mesh in C++; one that only UFL knows has none.
        if any(getattr(d.ufl_cargo(), "topology", None) not in related for d in others):
            raise ValueError(
                f"{name} is defined on another mesh than V; expected the same mesh, or, where a "
                "function takes them, entity_maps for the meshes of its coefficients."
            )
    check_arguments(form, (V, V), name, "TrialFunction(V) and TestFunction(V)")
    types = {integral.integral_type() for integral in form.integrals()}
    refused = sorted(types - _ALLOWED_INTEGRALS)
    if refused:
        raise ValueError(
            f"{name} contains {' and '.join(refused)} integrals; only cell (dx) and exterior "
            "facet (ds) integrals can be split into element matrices."
        )


def check_arguments(
    form: ufl.Form,
    spaces: Sequence[FunctionSpace],
    name: str,
    expected: str = "TestFunction(V)",
) -> None:
    """Refuse what is not a form that is linear in its arguments, on the given spaces.

    Args:
        form: UFL form.
        spaces: That of the test function, and for a bilinear form that of the trial function.
        name: What the user calls the form, for the message.
        expected: The arguments, for the message.

    Raises:
        ValueError: With what was given and what was expected. Not collective.
    """
    bilinear = len(spaces) == 2
    kind, wanted = "bilinear" if bilinear else "linear", "a trial and " if bilinear else ""
    if not isinstance(form, ufl.Form):
        raise ValueError(f"{name} must be a UFL {kind} form, got {type(form).__name__}.")
    arguments = form.arguments()
    if len(arguments) != len(spaces):
        raise ValueError(
            f"{name} must be a {kind} form ({wanted}a test function), got a form with "
            f"{len(arguments)} arguments."
        )
    check_arity(form, name)
    if any(arg.ufl_function_space() != V for arg, V in zip(arguments, spaces, strict=True)):
        raise ValueError(
            f"The arguments of {name} are on another function space; expected {expected}."
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


def scalar_element(element: basix.ufl._ElementBase) -> Any:
    """The element of one component of a blocked element."""
    return element.sub_elements[0] if is_blocked(element) else element


def is_blocked(element: basix.ufl._ElementBase) -> bool:
    """Whether an element is some copies (perhaps one) of another."""
    return element.block_size > 1 or len(element.sub_elements) == 1


class Watch:
    """Tells whether the values of coefficients and constants of forms have changed.

    Args:
        forms: UFL forms; ``None`` is passed over.
    """

    def __init__(self, forms: Sequence[ufl.Form | None]) -> None:
        self._forms = [form for form in forms if form is not None]
        self._seen: list[FloatArray] = []

    def _values(self) -> list[FloatArray]:
        values = [c.x.array for form in self._forms for c in form.coefficients()]
        return values + [c.value for form in self._forms for c in form.constants()]

    def changed(self) -> bool:
        """Whether values on this rank differ from those that were remembered. Not collective."""
        now = self._values()
        return len(now) != len(self._seen) or not all(map(np.array_equal, now, self._seen))

    def remember(self) -> None:
        """Remember the present values. Not collective."""
        self._seen = [np.array(values) for values in self._values()]
