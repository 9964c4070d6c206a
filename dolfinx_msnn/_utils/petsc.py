# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Housekeeping around PETSc: options, error messages, and objects that nobody destroyed.

petsc4py frees an object that is no longer referred to at once if it lives on one rank. Freeing one
that lives on several ranks is collective, and Python's garbage collection comes at another time on
every rank; so petsc4py only puts it aside. :func:`sweep` then frees what all ranks have put aside.
"""

from __future__ import annotations

import re
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Self

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

from dolfinx_msnn._utils.alone import in_time
from dolfinx_msnn._utils.mpi import collective_errors


def check_prefix(prefix: object) -> None:
    """Refuse what PETSc does not take as an options prefix. Not collective."""
    if not isinstance(prefix, str) or not re.fullmatch(r"[^\s-]\S*", prefix):
        raise ValueError(
            "petsc_options_prefix must be a non-empty string without spaces and leading hyphen, "
            f"got {prefix!r}."
        )


def check_options(options: object) -> None:
    """Refuse what is not a mapping of option names to values. Not collective."""
    if options is None:
        return
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise ValueError(
            "petsc_options must be a mapping from option names (without prefix) to values, got "
            f"{options!r}."
        )


def check_mat_type(mat_type: object) -> None:
    """Refuse what is not a matrix type of this PETSc. Not collective."""
    if mat_type is None:
        return
    trial = PETSc.Mat().create(MPI.COMM_SELF)
    try:
        if not isinstance(mat_type, str) or not is_aij(mat_type):
            raise ValueError
        trial.setType(mat_type)
    except (PETSc.Error, ValueError):
        raise ValueError(
            f"mat_type={mat_type!r} is not a sparse matrix type that can be used with this PETSc; "
            "expected 'aij', or one like 'aijcusparse' that it was built with."
        ) from None
    finally:
        trial.destroy()


def check_petsc_arguments(
    checks: collective_errors, prefix: str, options: object, mat_type: str | None = None
) -> dict[str, object]:
    """Check what a problem or a preconditioner is told of PETSc, also that all ranks say the same.

    Args:
        checks: The block around it.
        prefix: Argument ``petsc_options_prefix``.
        options: Argument ``petsc_options``.
        mat_type: Argument ``mat_type``.

    Returns:
        A copy of the options.
    """
    check_prefix(prefix)
    check_options(options)
    check_mat_type(mat_type)
    known: dict[str, object] = dict(options or {})  # type: ignore[call-overload] # it is a mapping
    checks.agree(petsc_options_prefix=prefix, petsc_options=known, mat_type=mat_type)
    return known


def is_aij(mat_type: str) -> bool:
    """Whether a PETSc matrix type is one of the AIJ family, on the host or on a device.

    All but aijsell: unless the number of rows is a multiple of eight, PETSc (3.25) multiplies by
    the transpose of such a matrix wrongly, and says nothing.
    """
    return re.match("(seq|mpi)?aij(?!sell)", mat_type) is not None


class Owner:
    """Owns PETSc objects and frees them, the last one first; a context manager.

    Args:
        comm: Communicator that the objects live on. Creation is collective: it frees first what
            all ranks have put aside (see :func:`sweep`).
    """

    #: What messages call it.
    _title: ClassVar[str] = "object"

    def __init__(self, comm: MPI.Comm) -> None:
        self._owned: list[Any] = []
        self._destroyed = False
        sweep(comm).add(self)

    def _own(self, item: Any) -> Any:
        """Keep ``item``, which has a method ``destroy``, until :meth:`destroy`; returns it."""
        self._owned.append(item)
        return item

    def _disown(self, item: Any) -> Any:
        """Hand ``item`` over to the caller, who destroys it."""
        self._owned[:] = [other for other in self._owned if other is not item]
        return item

    def _free(self, *items: Any) -> None:
        """Destroy some of what is owned now; ``None`` is passed over. Collective."""
        for item in items:
            if item is not None:
                self._disown(item).destroy()

    def _check_alive(self) -> None:
        if self._destroyed:
            raise RuntimeError(f"This {self._title} has been destroyed.")

    def destroy(self) -> None:
        """Free what is owned. Collective; calling it again does nothing."""
        self._free(*reversed(self._owned))
        self._destroyed = True

    def __enter__(self) -> Self:
        self._check_alive()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(value, KeyboardInterrupt) and MPI.COMM_WORLD.size > 1:
            # Perhaps on this rank alone: to free objects would wait for the others. They are freed
            # when Python drops them.
            return
        with in_time():
            self.destroy()


@contextmanager
def temporary_options(
    prefix: str, options: Mapping[str, object], defaults: Mapping[str, object] | None = None
) -> Iterator[PETSc.Options]:
    """Put options into PETSc's database, and leave the database as it was.

    Args:
        prefix: Prefix of all options.
        options: Options; they win over what the database holds.
        defaults: Options that the database wins over.

    Yields:
        The database under ``prefix``.
    """
    database = PETSc.Options(prefix)
    chosen = {k: v for k, v in (defaults or {}).items() if not database.hasName(k)} | dict(options)
    before = {k: database.getString(k) for k in chosen if database.hasName(k)}
    try:
        for name, value in chosen.items():
            database[name] = value
        yield database
    finally:
        for name in chosen:
            database.delValue(name)
        for name, text in before.items():
            database.setValue(name, text)


def unused(prefix: str, names: Iterable[str]) -> list[str]:
    """Which options, of those put in by :func:`temporary_options`, PETSc has not looked at yet."""
    database = PETSc.Options()
    return [name for name in names if not database.used(prefix + name.lstrip("-"))]


def warn_unused(comm: MPI.Comm | PETSc.Comm, prefix: str, names: Sequence[str]) -> None:
    """Warn, on the first rank, of options that PETSc has not looked at: they may be misspelt."""
    if names and comm.rank == 0:
        warnings.warn(
            f"petsc_options has {', '.join(names)} (under {prefix}), which nothing has asked for; "
            "expected options of the solvers in use.",
            UserWarning,
            stacklevel=2,
        )


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Turn an error of PETSc or SLEPc into one sentence, the same on every rank that has it.

    Raises:
        RuntimeError: ``what`` followed by PETSc's reason.
    """
    try:
        yield
    except (PETSc.Error, SystemError) as exc:
        # slepc4py hands PETSc's error on as the cause of a SystemError.
        cause = exc if isinstance(exc, PETSc.Error) else exc.__cause__
        if not isinstance(cause, PETSc.Error):
            raise
        lines = str(cause).splitlines()
        reason = lines[-1].partition("] ")[2] if len(lines) > 1 else lines[0]
        raise RuntimeError(f"{what}: {reason.strip().rstrip('.')}.") from exc


@dataclass(eq=False)
class _Ground:
    """A communicator of PETSc's, kept while objects on it may have been put aside."""

    comm: PETSc.Comm
    owners: weakref.WeakSet[object] = field(default_factory=weakref.WeakSet)


_grounds: list[_Ground] = []


def sweep(comm: MPI.Comm) -> weakref.WeakSet[object]:
    """Free the PETSc objects that all ranks of ``comm`` have put aside.

    Also those on other communicators of the same ranks that spaces or problems lived on, be their
    mesh gone or not. Every such communicator is seen by all of its ranks in the same order, since
    every call is collective on one of them.

    Args:
        comm: Communicator. Collective.

    Returns:
        Where to put the owners of new objects on ``comm``.
    """
    mine = _Ground(PETSc.Comm(comm).duplicate())
    if comm.size == 1:
        mine.comm.destroy()
        return mine.owners
    same = (MPI.IDENT, MPI.CONGRUENT)
    near = [g for g in _grounds if MPI.Comm.Compare(g.comm.tompi4py(), comm) in same]
    # petsc4py's own comparison finds all communicators equal.
    known = next((g for g in near if g.comm.tompi4py() == mine.comm.tompi4py()), None)
    unused = np.array([not g.owners for g in near], dtype=np.int32)
    comm.Allreduce(MPI.IN_PLACE, unused, op=MPI.MIN)
    for ground, last in zip(near, unused, strict=True):
        PETSc.garbage_cleanup(ground.comm)
        if last and ground is not known:
            _grounds.remove(ground)
            ground.comm.destroy()
    if known is not None:
        mine.comm.destroy()
        return known.owners
    _grounds.append(mine)
    return mine.owners
