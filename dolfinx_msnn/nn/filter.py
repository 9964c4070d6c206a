# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Local pencils for training: products and filters that gradients run through.

A polynomial of D⁻¹A is linear, and D times it is symmetric. So the gradient of the filter is the
same filter, between a division and a multiplication by D: no step of the recurrence is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dolfinx_msnn.bases import kernels
from dolfinx_msnn.bases.chebyshev import smoothing_end
from dolfinx_msnn.bases.kernels import Matrix


class Pencils:
    """A batch of pencils (A, S) of one size.

    Args:
        indptr: Row pointers of all matrices, shape ``(n + 1,)``, int32.
        indices: Columns, shape ``(nnz,)``, int32.
        A: Entries of A of each sample, shape ``(B, nnz)``, float32.
        S: Entries of S.

    Raises:
        ValueError: If the shapes do not fit.

    Note:
        Products are done on the host, also for tensors of a device: the matrices are the user's.
    """

    def __init__(
        self,
        indptr: npt.NDArray[np.int32],
        indices: npt.NDArray[np.int32],
        A: npt.NDArray[np.float32],
        S: npt.NDArray[np.float32],
    ) -> None:
        if A.shape != S.shape or A.shape[1:] != indices.shape:
            raise ValueError(
                f"Expected entries of shape (B, {len(indices)}) for both matrices, got {A.shape} "
                f"and {S.shape}."
            )
        self.A = [Matrix(indptr, indices, a) for a in A]
        self.S = [Matrix(indptr, indices, s) for s in S]
        measures = [kernels.measure(a._replace(data=a.data.astype(np.float64))) for a in self.A]
        self._scale = [(1 / m.diagonal).astype(np.float32) for m in measures]
        self._upper = [m.upper for m in measures]
        self._diagonal = torch.from_numpy(np.stack([m.diagonal for m in measures])).float()

    def to(self, device: torch.device | str) -> Self:
        """Keep what tensors are combined with on a device."""
        self._diagonal = self._diagonal.to(device)
        return self

    def apply_a(self, y: Tensor) -> Tensor:
        """A y of each sample, shape ``(B, m, n)``."""
        return self._apply(y, lambda k, block: kernels.multiply(self.A[k], block))

    def apply_s(self, y: Tensor) -> Tensor:
        """S y of each sample, shape ``(B, m, n)``."""
        return self._apply(y, lambda k, block: kernels.multiply(self.S[k], block))

    def filter(self, y: Tensor, degree: int) -> Tensor:
        """The Chebyshev filter of that degree, shape ``(B, m, n)``; damps what it resolves.

        The interval is that of :func:`dolfinx_msnn.bases.pencil.smoothing_end`.
        """
        if degree == 0:
            return y

        def sweep(k: int, block: Any) -> Any:
            lower = smoothing_end(degree, self._upper[k])
            A = self.A[k]
            return kernels.chebyshev(
                A, A.data, self._scale[k], block, degree, lower, self._upper[k]
            )

        # p(D⁻¹A) = D⁻¹ (D p(D⁻¹A)), and D p(D⁻¹A) is symmetric.
        diagonal = self._diagonal[:, None, :]
        scaled = _Symmetric.apply(y, lambda block: self._each(block, sweep) * diagonal)
        return torch.as_tensor(scaled) / diagonal

    def _apply(self, y: Tensor, work: Callable[[int, Any], Any]) -> Tensor:
        return torch.as_tensor(_Symmetric.apply(y, lambda block: self._each(block, work)))

    def _each(self, y: Tensor, work: Callable[[int, Any], Any]) -> Tensor:
        blocks = y.detach().transpose(1, 2).cpu().numpy()
        done = [work(k, np.array(block, order="C")) for k, block in enumerate(blocks)]
        return torch.from_numpy(np.stack(done)).transpose(1, 2).to(y.device).contiguous()


class _Symmetric(torch.autograd.Function):
    """A linear map that is its own transpose."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.apply_map = apply
        return apply(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.apply_map(gradient.contiguous()), None
