# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Processor time: of a basis, of the least of some runs, by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import dolfinx_msnn as msnn


class Clock:
    """A basis whose processor time is taken.

    Attributes:
        seconds: Spent in it.
        count: Local problems that it has solved.
    """

    def __init__(self, basis: Any) -> None:
        self.basis, self.wrapped = basis, (basis,)
        self.seconds, self.count = 0.0, 0

    def modes(self, problems: Sequence[msnn.LocalProblem]) -> list[msnn.LocalModes]:
        """The modes of the basis, with the clock running."""
        start = time.process_time()
        found: list[msnn.LocalModes] = self.basis.modes(problems)
        self.seconds += time.process_time() - start
        self.count += len(problems)
        return found


class Stopwatch:
    """Processor seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._start = time.process_time()

    def start(self) -> None:
        """Start again."""
        self._start = time.process_time()

    def book(self, name: str) -> float:
        """Book the time since the start under a name, give it back, and start again."""
        seconds = time.process_time() - self._start
        self.seconds.setdefault(name, []).append(seconds)
        self.start()
        return seconds

    def medians(self) -> dict[str, float]:
        """The median of each name."""
        return {name: float(np.median(values)) for name, values in self.seconds.items()}


def runs(action: Callable[[], Any], repeats: int) -> list[float]:
    """Processor time of each of some runs."""
    watch, found = Stopwatch(), []
    for _ in range(repeats):
        watch.start()
        action()
        found.append(watch.book("run"))
    return found


def least(action: Callable[[], Any], repeats: int = 3) -> float:
    """Least processor time of some runs."""
    return min(runs(action, repeats))
