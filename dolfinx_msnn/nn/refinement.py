# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""From a network's lattice to a finer one; to be scripted with the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def first_steps(count: int, low: float = 0.4, high: float = 1.8) -> list[float]:
    """Steps of Chebyshev's semi-iteration on an interval."""
    middle, radius = 0.5 * (low + high), 0.5 * (high - low)
    nodes = [math.cos(math.pi * (2 * j + 1) / (2 * count)) for j in range(count)]
    return [1.0 / (middle + radius * node) for node in nodes]


def padded(y: Tensor, j: int) -> Tensor:
    """With a layer of zeros at both ends of dimension ``j``."""
    return torch.nn.functional.pad(y, [0, 0] * (y.dim() - 1 - j) + [1, 1])


def finer(y: Tensor, dim: int, q: int) -> Tensor:
    """Interpolate the first dimensions from n to ``q (n - 1) + 1`` nodes."""
    for _ in range(dim):
        # The last lattice dimension comes to the front: after all of them the order is the old one.
        j = dim - 1
        n = y.shape[j]
        left, right = y.narrow(j, 0, n - 1), y.narrow(j, 1, n - 1)
        parts = [left + (k / q) * (right - left) for k in range(q)]
        between = torch.stack(parts, dim=j + 1).flatten(j, j + 1)
        y = torch.cat([between, y.narrow(j, n - 1, 1)], dim=j).movedim(j, 0)
    return y


def around(boxes: Tensor, dim: int) -> Tensor:
    """The boxes around each node, shape ``(N_1, ..., N_d, B, 2**d)``, of one more in each row."""
    parts = [boxes]
    for j in range(dim):
        n = boxes.shape[j] - 1
        halves: list[Tensor] = []
        for part in parts:
            halves.append(part.narrow(j, 0, n))
            halves.append(part.narrow(j, 1, n))
        parts = halves
    return torch.stack(parts, dim=-1)
