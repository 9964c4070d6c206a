# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Local pencils for training: products and filters that gradients run through, on any device.

The matrices of a batch are the blocks of one sparse matrix, so that a product with all of them is
one call. A polynomial of D⁻¹A is linear, and D times it is symmetric. So the gradient of the filter
is the same filter, between a division and a multiplication by D: no step of the recurrence is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dolfinx_msnn._utils.chebyshev import smoothing_end


class Pencils:
    """A batch of pencils (A, S) of one size.

    Args:
        indptr: Row pointers of all matrices, shape ``(n + 1,)``, int32.
        indices: Columns, shape ``(nnz,)``, int32.
        A: Entries of A of each sample, shape ``(B, nnz)``, float32 or float64 as the functions.
        S: Entries of S.
        device: Where products are done.

    Raises:
        ValueError: If the shapes do not fit.
    """

    def __init__(
        self,
        indptr: npt.NDArray[np.int32],
        indices: npt.NDArray[np.int32],
        A: npt.NDArray[np.floating],
        S: npt.NDArray[np.floating],
        device: torch.device | str = "cpu",
    ) -> None:
        if A.shape != S.shape or A.shape[1:] != indices.shape:
            raise ValueError(
                f"Expected entries of shape (B, {len(indices)}) for both matrices, got {A.shape} "
                f"and {S.shape}."
            )
        count, n = len(A), len(indptr) - 1
        shift = np.arange(count, dtype=np.int32)[:, None]
        rows = np.append((indptr[:-1] + shift * indptr[-1]).reshape(-1), count * indptr[-1])
        self._pattern = [torch.from_numpy(t) for t in (rows, (indices + shift * n).reshape(-1))]
        self._size, self._device = count * n, device
        self._indptr, self._indices, self._entries = indptr, indices, (A, S)

    def _blocks(self, entries: npt.NDArray[np.floating]) -> Tensor:
        with warnings.catch_warnings():
            # "Sparse CSR tensor support is in beta state": products are all that it does.
            warnings.simplefilter("ignore", UserWarning)
            parts = (*self._pattern, torch.from_numpy(entries.reshape(-1)))
            return torch.sparse_csr_tensor(*parts, (self._size,) * 2).to(self._device)

    # What a loss does not need is not built.
    @cached_property
    def _A(self) -> Tensor:
        return self._blocks(self._entries[0])

    @cached_property
    def _S(self) -> Tensor:
        return self._blocks(self._entries[1])

    @cached_property
    def _diagonal(self) -> Tensor:
        row = np.repeat(np.arange(len(self._indptr) - 1), np.diff(self._indptr))
        return torch.from_numpy(self._entries[0][:, row == self._indices]).to(self._device)

    @cached_property
    def _bounds(self) -> npt.NDArray[np.float64]:
        """Of the eigenvalues of D⁻¹A."""
        sums = np.add.reduceat(
            np.abs(self._entries[0]), self._indptr[:-1], axis=1, dtype=np.float64
        )
        return np.asarray((sums / self._diagonal.cpu().double().numpy()).max(axis=1))

    def apply_a(self, y: Tensor) -> Tensor:
        """A y of each sample, shape ``(B, m, n)``."""
        return torch.as_tensor(_Symmetric.apply(y, lambda block: _product(self._A, block)))

    def apply_s(self, y: Tensor) -> Tensor:
        """S y of each sample, shape ``(B, m, n)``."""
        return torch.as_tensor(_Symmetric.apply(y, lambda block: _product(self._S, block)))

    def filter(self, y: Tensor, degree: int) -> Tensor:
        """The Chebyshev filter of that degree, shape ``(B, m, n)``; damps what it resolves.

        The interval is that of :func:`~dolfinx_msnn._utils.chebyshev.smoothing_end`.
        """
        if degree == 0:
            return y
        diagonal, bounds = self._diagonal[:, None].to(y), self._bounds
        ends = np.array([(smoothing_end(degree, bound), bound) for bound in bounds])
        centre, half = (
            torch.from_numpy(t).to(y)[:, None, None]
            for t in (0.5 * ends.sum(axis=1), 0.5 * np.diff(ends)[:, 0])
        )

        def scaled(block: Tensor) -> Tensor:
            return _product(self._A, block) / diagonal

        def sweep(block: Tensor) -> Tensor:
            first = sigma = -half / centre
            before, now = block, (scaled(block) - centre * block) * (sigma / half)
            for _ in range(degree - 1):
                following = 1.0 / (2.0 / first - sigma)
                after = (2.0 * following / half) * (scaled(now) - centre * now)
                before, now, sigma = now, after - sigma * following * before, following
            return now * diagonal

        # p(D⁻¹A) = D⁻¹ (D p(D⁻¹A)), and D p(D⁻¹A) is symmetric.
        return torch.as_tensor(_Symmetric.apply(y, sweep)) / diagonal


def _product(matrix: Tensor, y: Tensor) -> Tensor:
    """Blocks times functions, shape ``(B, m, n)``."""
    count, m, n = y.shape
    columns = y.transpose(1, 2).reshape(count * n, m)
    return (matrix @ columns).reshape(count, n, m).transpose(1, 2).contiguous()


class _Symmetric(torch.autograd.Function):
    """A linear map that is its own transpose."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.apply_map = apply
        return apply(y.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.apply_map(gradient.contiguous()), None
