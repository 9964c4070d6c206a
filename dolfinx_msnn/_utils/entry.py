# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The check at the door of public functions: are the arguments of the types they are said to be?"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import cache, wraps
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

from dolfinx_msnn._utils.mpi import collective_errors

#: Where arguments keep the communicator of their mesh.
_PLACES = ("comm", "mesh.comm", "function_space.mesh.comm", "fine.comm", "W.comm")


def checked[**P, T](function: Callable[P, T]) -> Callable[P, T]:
    """Check the arguments of a public function, or of a class where this decorates ``__init__``.

    Objects of DOLFINx, of PETSc and of this package must be of the types that the annotations say;
    all else is left to the function. A PETSc object must not have been destroyed: PETSc would end
    the process. The call is collective on the communicator of the first argument that has a mesh.

    Raises:
        ValueError: The same on all ranks that found a communicator among their arguments.
    """
    signature = inspect.signature(function)
    kinds = cache(lambda: {k: _classes(v) for k, v in typing.get_type_hints(function).items()})

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            # Python's own message names the function.
            return function(*args, **kwargs)
        with collective_errors(_communicator(given.values())):
            for name, value in given.items():
                _check(name, value, kinds().get(name, ()))
        return function(*args, **kwargs)

    return call


def _check(name: str, value: object, kinds: tuple[type, ...]) -> None:
    if kinds and not isinstance(value, kinds):
        wanted = " or ".join("None" if kind is NoneType else _name(kind) for kind in kinds)
        raise ValueError(f"Expected a {wanted}, got {type(value).__name__} for {name}.")
    if isinstance(value, PETSc.Object) and not value:
        kind = type(value).__name__
        raise ValueError(f"{name} is a PETSc {kind} that has been destroyed, or not been created.")


def _name(kind: type) -> str:
    """A class as messages call it, e.g. ``dolfinx.fem.Function``."""
    module = kind.__module__.split(".")
    prefix = {"dolfinx": module[:2], "petsc4py": ["PETSc"]}.get(module[0], [])
    return ".".join([*prefix, kind.__name__])


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes of an annotation, none if it allows what cannot be checked here."""
    if isinstance(hint, typing.TypeAliasType):
        return _classes(hint.__value__)
    if typing.get_origin(hint) in (typing.Union, UnionType):
        parts = [_classes(part) for part in typing.get_args(hint)]
        return sum(parts, start=()) if all(parts) and any(p != (NoneType,) for p in parts) else ()
    kind = typing.get_origin(hint) or hint
    if not isinstance(kind, type):
        return ()
    ours = kind.__module__.split(".")[0] in ("dolfinx", "dolfinx_msnn", "petsc4py")
    return (kind,) if ours or kind is NoneType else ()


def _communicator(values: typing.Iterable[object]) -> MPI.Comm:
    """That of the first argument with a mesh; of this rank alone if there is none."""
    for value in values:
        # PETSc has communicators of its own, and those of a destroyed object end the process.
        for place in () if isinstance(value, PETSc.Object) else _PLACES:
            try:
                found = attrgetter(place)(value)
            except Exception:
                continue
            if isinstance(found, MPI.Comm):
                return found
    return MPI.COMM_SELF
