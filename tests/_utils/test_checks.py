# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Checks of numbers: what passes, and one form of sentence for what does not."""

import math

import numpy as np
import pytest

from dolfinx_msnn._utils.checks import is_integer, is_number, number_between, positive_integer

pytestmark = pytest.mark.serial


@pytest.mark.parametrize("value", [1, 2.5, np.float32(1), np.int64(3), math.inf])
def test_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, "1", None, 1j, np.complex128(1), np.bool_(1), [1]])
def test_what_is_no_number(value):
    assert not is_number(value) and not is_integer(value)


def test_integers():
    assert positive_integer("n", np.int32(4)) == 4 and is_integer(0) and not is_integer(0, 1)
    for value in (0, -1, 1.0, True, "1", None):
        with pytest.raises(ValueError, match=f"^n must be a positive integer, got {value!r}.$"):
            positive_integer("n", value)


def test_number_between():
    assert number_between("x", 2) == 2.0 and number_between("x", 1, 0, 1, closed=True) == 1.0
    for value in (0, -1.0, math.inf, math.nan, "1", None, True):
        with pytest.raises(ValueError, match=f"^x must be a positive number, got {value!r}.$"):
            number_between("x", value)
    with pytest.raises(ValueError, match=r"^x must be a number in \(0, 1\), got 1.$"):
        number_between("x", 1, 0, 1)
    with pytest.raises(ValueError, match=r"^x must be a number in \(0, 1\], got nan.$"):
        number_between("x", math.nan, 0, 1, closed=True)
