# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Seconds of stages: of one computation here, of all together in DOLFINx's table."""

import time
from itertools import count

import pytest

from dolfinx.common import timing
from dolfinx_msnn._utils.timings import Timings

numbers = count()


def test_stages():
    title = f"Test {next(numbers)}"
    one, two = Timings(title), Timings(title)
    for _ in range(2):
        with one.stage("outer"), one.stage("inner"):
            time.sleep(0.01)
    with two.stage("inner"):
        pass
    assert list(one) == ["inner", "outer"] and list(two) == ["inner"]
    assert 0.02 <= one["inner"] <= one["outer"] and two["inner"] < 0.01
    times, total = timing(f"{title}: inner")
    assert times == 3
    assert total.total_seconds() == pytest.approx(one["inner"] + two["inner"], abs=1e-4)


def test_failed_stage():
    timings = Timings(f"Test {next(numbers)}")
    with pytest.raises(ValueError), timings.stage("stage"):
        raise ValueError
    with timings.stage("stage"):
        pass
    assert 0 <= timings["stage"] < 1
