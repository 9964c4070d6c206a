# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Seconds that the stages of a computation take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dolfinx.common import Timer


class Timings(dict[str, float]):
    """Wall-clock seconds of the stages of one computation, on this rank.

    DOLFINx's own timers only add up over the whole run; they are fed too, so that
    ``dolfinx.common.list_timings`` shows the stages of all computations together.

    Args:
        title: What the computation is called there.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the body takes to a stage."""
        with Timer(f"{self._title}: {name}") as timer:
            yield
        self[name] = self.get(name, 0.0) + timer.elapsed().total_seconds()
