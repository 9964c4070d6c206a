# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A factorized Fourier neural operator on lattices that are not periodic.

With x (B, C, n_1, ..., n_d) on a lattice of the unit box, corners included, and pointwise linear
maps L:

    y_0     = L_lift x
    z_l     = y_l + Σ_j C_j W_lj F_j y_l          spectral mixing along one dimension at a time
    y_{l+1} = y_l + L'_l GELU(L_l z_l)            feed-forward, with skip
    f, g    = L_head y_end                         d and N_out channels
    out_k   = Π_j cos(π a_kj (x_j + f_j)) + g_k

F_j is the cosine transform of type I cut after m modes, C_j = cos(π k x_i) its inverse and W_lj one
(width, width) matrix a mode. The frequencies a_k are the lowest of the box, and the head starts at
zero: a network that has not been trained predicts tensor cosines, and training learns the rest.
Low modes are flat where κ is large and steep where it is small: much like cosines of coordinates
x + f that are compressed and stretched (exactly so in one dimension). One displacement f serves all
outputs.

The transform holds the weights of the trapezoidal rule, so the coefficients approximate integrals
and one set of weights serves lattices of any resolution. It is a dense matrix product: for the few
modes and nodes of a neighbourhood that is faster than an FFT, and it scripts and exports.

Source: A. Tran, A. Mathews, L. Xie, C. S. Ong, Factorized Fourier neural operators, ICLR 2023;
the term y_l in z_l and the cosines are ours: without it no nonlinearity would see what the cut
removes, such as a thin channel.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from dolfinx_msnn._utils.checks import require


def lowest_frequencies(dim: int, count: int) -> list[list[int]]:
    """The multi-indices a >= 0 of smallest |a|², ties in lexicographic order.

    Args:
        dim: Number of directions.
        count: How many.

    Returns:
        ``count`` lists of ``dim`` integers, the first of them zero.
    """
    side = 1
    while side**dim < count:
        side += 1
    # The cube of that side holds enough, with |a|² <= dim * (side - 1)²: so have the lowest.
    reach = math.isqrt(dim * (side - 1) ** 2)
    cube = itertools.product(range(reach + 1), repeat=dim)
    return [list(a) for a in sorted(cube, key=lambda a: (sum(k * k for k in a), a))[:count]]


def cosines(n: int, modes: int, like: Tensor) -> Tensor:
    """Table of cos(π k i / (n - 1)).

    Args:
        n: Number of nodes, ends included.
        modes: Number of frequencies k = 0, 1, ...
        like: A tensor of the device and dtype wanted.

    Returns:
        Shape ``(n, modes)``.
    """
    i = torch.arange(n, device=like.device, dtype=torch.float64)
    k = torch.arange(modes, device=like.device, dtype=torch.float64)
    # In double: the argument is large where both are.
    return torch.cos(i[:, None] * k[None, :] * (math.pi / (n - 1))).to(like.dtype)


def cosine_transform(n: int, modes: int, like: Tensor) -> Tensor:
    """Cosine transform of type I, scaled to the coefficients of f(x) = Σ_k c_k cos(π k x).

    c_k = (2 - δ_k0 - δ_k,n-1) Σ_i w_i cos(π k x_i) f(x_i), with w the trapezoidal rule on [0, 1].
    With ``modes == n`` it is the inverse of :func:`cosines`.

    Args:
        n: Number of nodes, ends included, at least 2.
        modes: Number of coefficients, at most n.
        like: A tensor of the device and dtype wanted.

    Returns:
        Shape ``(modes, n)``.
    """
    weight = torch.full((n,), 1.0 / (n - 1), device=like.device, dtype=like.dtype)
    weight[0] *= 0.5
    weight[n - 1] *= 0.5
    norm = torch.full((modes,), 2.0, device=like.device, dtype=like.dtype)
    norm[0] = 1.0
    if modes == n:
        # The highest mode of the lattice is ±1 at every node, so its square integrates to 1.
        norm[n - 1] = 1.0
    return norm[:, None] * cosines(n, modes, like).t() * weight


class Layer(torch.nn.Module):
    """One layer: spectral mixing along each dimension, then feed-forward with skip.

    Args:
        dim: Number of lattice dimensions.
        width: Number of channels.
        modes: Largest number of modes per dimension.
        hidden: Number of channels inside the feed-forward part.
    """

    def __init__(self, dim: int, width: int, modes: int, hidden: int) -> None:
        super().__init__()
        self.dim = dim
        scale = 1.0 / math.sqrt(dim * width)
        self.spectral = torch.nn.Parameter(scale * torch.randn(dim, modes, width, width))
        self.expand = torch.nn.Linear(width, hidden)
        self.contract = torch.nn.Linear(hidden, width)

    def forward(self, y: Tensor, analysis: list[Tensor], synthesis: list[Tensor]) -> Tensor:
        """Apply the layer.

        The batch stands between the lattice and the channels, so that every product below is one
        of large matrices, and no transform needs a copy of the whole lattice.

        Args:
            y: Shape ``(n_1, ..., n_d, B, width)``, contiguous.
            analysis: For each dimension :func:`cosine_transform`, shape ``(m_j, n_j)``.
            synthesis: For each dimension :func:`cosines`, shape ``(n_j, m_j)``.

        Returns:
            Same shape as ``y``.
        """
        width = y.shape[-1]
        mixed = y
        before = 1
        for j in range(self.dim):
            n, m = synthesis[j].shape
            after = y.shape[self.dim]
            for k in range(j + 1, self.dim):
                after = after * y.shape[k]
            lines = y.reshape(before, n, after * width)
            # (before, m, after * width): coefficients along dimension j
            c = torch.bmm(analysis[j].expand(before, m, n), lines)
            # (m, before * after, width): one channel matrix for each mode
            c = c.reshape(before, m, after * width).transpose(0, 1)
            c = torch.bmm(c.reshape(m, before * after, width), self.spectral[j, :m])
            c = c.reshape(m, before, after * width).transpose(0, 1)
            mixed = torch.baddbmm(
                mixed.reshape(before, n, after * width), synthesis[j].expand(before, n, m), c
            )
            before = before * n
        mixed = mixed.reshape(y.shape)
        change: Tensor = self.contract(torch.nn.functional.gelu(self.expand(mixed)))
        return y + change


class FFNO(torch.nn.Module):
    """Factorized Fourier neural operator; see the module for the formulas.

    Can be compiled by ``torch.jit.script`` (any lattice) and by ``torch.export`` (any batch, the
    lattice of the example).

    Args:
        dim: Number of lattice dimensions, 1, 2 or 3.
        in_channels: Channels of the input.
        out_channels: Lattice functions to predict.
        width: Channels inside.
        modes: Cosine modes per dimension; on lattices of fewer nodes, as many as there are nodes.
        layers: Number of layers.
        hidden: Channels inside the feed-forward part. Default: twice ``width``.
        warp: Predict a displacement f of the coordinates; without it f = 0.

    Raises:
        ValueError: If ``dim`` is not 1, 2 or 3 or another size is not positive.
    """

    def __init__(
        self,
        dim: int,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        modes: int = 12,
        layers: int = 4,
        hidden: int | None = None,
        warp: bool = True,
    ) -> None:
        super().__init__()
        hidden = 2 * width if hidden is None else hidden
        names = ("in_channels", "out_channels", "width", "modes", "layers", "hidden")
        sizes = (in_channels, out_channels, width, modes, layers, hidden)
        for name, size in zip(names, sizes, strict=True):
            require(size >= 1, name, size, "at least 1")
        require(dim in (1, 2, 3), "dim", dim, "1, 2 or 3")
        self.dim, self.modes, self.in_channels = dim, modes, in_channels
        # A list for each direction, not a buffer: formats differ in what they do with buffers.
        lowest = lowest_frequencies(dim, out_channels)
        self.frequencies = [[a[j] for a in lowest] for j in range(dim)]
        self.highest = max(max(line) for line in self.frequencies)
        self.lift = torch.nn.Linear(in_channels, width)
        self.layers = torch.nn.ModuleList([Layer(dim, width, modes, hidden) for _ in range(layers)])
        self.warp = warp
        self.head = torch.nn.Linear(width, out_channels + (dim if warp else 0))
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        # Lattice to the front, batch and channels to the back, and the way back again.
        self.inward = [2 + j for j in range(dim)] + [0, 1]
        self.outward = [dim, dim + 1] + [j for j in range(dim)]

    def forward(self, x: Tensor) -> Tensor:
        """Predict lattice functions.

        Args:
            x: Shape ``(B, in_channels, n_1, ..., n_d)``, with every n_j above the highest
                frequency of the tensor cosines, and at least 2.

        Returns:
            Shape ``(B, out_channels, n_1, ..., n_d)``, contiguous.

        Raises:
            ValueError: If the shape of ``x`` does not fit.
        """
        if x.dim() != self.dim + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"The input has shape {list(x.shape)}, expected a batch of {self.in_channels} "
                f"channels on a lattice of {self.dim} dimensions."
            )
        analysis: list[Tensor] = []
        synthesis: list[Tensor] = []
        for j in range(self.dim):
            n = x.shape[2 + j]
            if n < 2 or n <= self.highest:
                raise ValueError(
                    f"The lattice has {n} nodes in direction {j}, expected at least "
                    f"{max(2, self.highest + 1)} for the tensor cosines."
                )
            m = min(self.modes, n)
            analysis.append(cosine_transform(n, m, x))
            synthesis.append(cosines(n, m, x))
        y = self.lift(x.permute(self.inward))
        for layer in self.layers:
            y = layer(y, analysis, synthesis)
        y = self.head(y)
        # (n_1, ..., n_d, B, out) or, without displacement, (n_1, ..., n_d, 1, out)
        basis = torch.ones(1, device=x.device, dtype=x.dtype)
        for j in range(self.dim):
            n = x.shape[2 + j]
            chosen = torch.tensor(self.frequencies[j], device=x.device)
            if self.warp:
                shape = [1] * (self.dim + 1)
                shape[j] = n
                place = torch.linspace(0.0, 1.0, n, device=x.device, dtype=x.dtype).reshape(shape)
                waves = multiples(place + y.select(-1, j), self.highest + 1)
                basis = basis * waves.index_select(-1, chosen)
            else:
                basis = basis.unsqueeze(-2) * cosines(n, self.highest + 1, x)[:, chosen]
        if self.warp:
            y = y.narrow(-1, self.dim, y.shape[-1] - self.dim) + basis
        else:
            y = y + basis.unsqueeze(-2)
        return y.permute(self.outward).contiguous()


def multiples(t: Tensor, count: int) -> Tensor:
    """cos(π k t) for k = 0, ..., count - 1 by Chebyshev's recurrence, one cosine a place.

    Args:
        t: Of any shape.
        count: At least 1.

    Returns:
        Shape ``(*t.shape, count)``.
    """
    first = torch.cos(math.pi * t)
    found = [torch.ones_like(t), first]
    for _ in range(count - 2):
        found.append(2.0 * first * found[-1] - found[-2])
    return torch.stack(found[:count], dim=-1)
