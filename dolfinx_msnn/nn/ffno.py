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

With ``samples`` the trunk sees a lattice that is coarser than its answer: what the head gives is
interpolated to the lattice whose boxes are the sub-boxes of κ, and a linear map of the sub-boxes
around a node is added. With ``steps``, out is then smoothed towards functions without forces, and
zero at Dirichlet nodes:

    out <- out - a_s(x) D⁻¹A out               s = 1, ..., steps

A is the finite-difference operator of κ's sub-boxes, D its diagonal, a_s > 0 a learned step of
Chebyshev's semi-iteration times a learned field. No matrix of the user's problem is needed. With
``constant`` the constant is put before all, unchanged.

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
from dolfinx_msnn.nn.card import LOG_SCALE
from dolfinx_msnn.nn.refinement import around, finer, first_steps, padded


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
        samples: Sub-boxes q of a node in each direction, the first channels of the input; the
            output is then on ``q (n - 1) + 1`` nodes. With 0 it is on those of the input.
        constant: The first of the output channels is one everywhere.
        steps: Number of learned steps; they need ``samples``, and an input of the convention that
            tells where Dirichlet conditions are.

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
        samples: int = 0,
        constant: bool = False,
        steps: int = 0,
    ) -> None:
        super().__init__()
        hidden = 2 * width if hidden is None else hidden
        names = ("in_channels", "out_channels", "width", "modes", "layers", "hidden")
        sizes = (in_channels, out_channels, width, modes, layers, hidden)
        for name, size in zip(names, sizes, strict=True):
            require(size >= 1, name, size, "at least 1")
        require(dim in (1, 2, 3), "dim", dim, "1, 2 or 3")
        require(samples or not steps, "steps", steps, "0 without samples")
        require(samples % 2 == 0, "samples", samples, "even")
        self.dim, self.modes, self.in_channels = dim, modes, in_channels
        # A list for each direction, not a buffer: formats differ in what they do with buffers.
        lowest = lowest_frequencies(dim, out_channels)[int(constant) :]
        self.frequencies = [[a[j] for a in lowest] for j in range(dim)]
        self.highest = max(max(line) for line in self.frequencies)
        self.lift = torch.nn.Linear(in_channels, width)
        self.layers = torch.nn.ModuleList([Layer(dim, width, modes, hidden) for _ in range(layers)])
        self.warp = warp
        self.samples, self.constant, self.steps = samples, constant, steps
        self.scale = LOG_SCALE
        self.num_out, self.num_boxes = len(lowest), samples**dim
        self.head = torch.nn.Linear(width, len(lowest) + (dim if warp else 0) + steps)
        heads = [self.head]
        if samples:
            # The sub-boxes that touch a node of the fine lattice.
            self.local = torch.nn.Linear(2**dim, self.head.out_features, bias=False)
            heads.append(self.local)
        if steps:
            self.lengths = torch.nn.Parameter(torch.tensor(first_steps(steps)))
        for part in heads:
            for value in part.parameters():
                torch.nn.init.zeros_(value)
        # Lattice to the front, batch and channels to the back, and the way back again.
        self.inward = [2 + j for j in range(dim)] + [0, 1]
        self.outward = [dim, dim + 1] + [j for j in range(dim)]
        # From (B, q, ..., q, n_1, ..., n_d) to (n_1, q, n_2, q, ..., B).
        self.shuffle = [k for j in range(dim) for k in (1 + dim + j, 1 + j)] + [0]

    def forward(self, x: Tensor) -> Tensor:
        """Predict lattice functions.

        Args:
            x: Shape ``(B, in_channels, n_1, ..., n_d)``, with every n_j above the highest
                frequency of the tensor cosines, and at least 2.

        Returns:
            Shape ``(B, out_channels, n_1, ..., n_d)``, or ``q (n_j - 1) + 1`` nodes with
            ``samples``; contiguous.

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
        boxes = x
        if hasattr(self, "local"):
            boxes = self.sub_boxes(x)
            y = finer(y, self.dim, self.samples) + self.local(around(boxes, self.dim))
        # (n_1, ..., n_d, B, out) or, without displacement, (n_1, ..., n_d, 1, out)
        basis = torch.ones(1, device=x.device, dtype=x.dtype)
        for j in range(self.dim):
            n = y.shape[j]
            chosen = torch.tensor(self.frequencies[j], device=x.device)
            if self.warp:
                shape = [1] * (self.dim + 1)
                shape[j] = n
                place = torch.linspace(0.0, 1.0, n, device=x.device, dtype=x.dtype).reshape(shape)
                waves = multiples(place + y.select(-1, j), self.highest + 1)
                basis = basis * waves.index_select(-1, chosen)
            else:
                basis = basis.unsqueeze(-2) * cosines(n, self.highest + 1, x)[:, chosen]
        if not self.warp:
            basis = basis.unsqueeze(-2)
        out = y.narrow(-1, self.dim if self.warp else 0, self.num_out) + basis
        if hasattr(self, "lengths"):
            field = 1.0 + 0.5 * torch.tanh(y.narrow(-1, y.shape[-1] - self.steps, self.steps))
            out = self.smooth(out, x, boxes, field)
        if self.constant:
            out = torch.cat([torch.ones_like(out.narrow(-1, 0, 1)), out], dim=-1)
        return out.permute(self.outward).contiguous()

    def sub_boxes(self, x: Tensor) -> Tensor:
        """The sub-boxes of κ and one more layer around, ``(q (n_j - 1) + 2, ..., B)``."""
        q, dim = self.samples, self.dim
        split = [x.shape[0]] + [q] * dim + [x.shape[2 + j] for j in range(dim)]
        boxes = x.narrow(1, 0, self.num_boxes).reshape(split).permute(self.shuffle)
        boxes = boxes.reshape([q * x.shape[2 + j] for j in range(dim)] + [x.shape[0]])
        for j in range(dim):
            boxes = boxes.narrow(j, q // 2 - 1, q * (x.shape[2 + j] - 1) + 2)
        return boxes

    def smooth(self, v: Tensor, x: Tensor, boxes: Tensor, field: Tensor) -> Tensor:
        """The learned steps.

        Args:
            v: Shape ``(N_1, ..., N_d, B, out)``.
            x: The network's input.
            boxes: From :meth:`sub_boxes`.
            field: Factors of the steps, shape ``(N_1, ..., N_d, B, steps)``.
        """
        dim = self.dim
        kappa = torch.exp(boxes / self.scale)
        for j in range(dim):
            kappa = kappa.narrow(j, 1, kappa.shape[j] - 2)
        edges: list[Tensor] = []
        diagonal = torch.zeros_like(v.select(-1, 0))
        for j in range(dim):
            # Half of each box beside an edge; a shorter side makes steeper functions.
            edge = kappa
            for k in range(dim):
                if k != j:
                    edge = padded(edge, k)
                    edge = 0.5 * (
                        edge.narrow(k, 0, edge.shape[k] - 1) + edge.narrow(k, 1, edge.shape[k] - 1)
                    )
            side = x.select(1, x.shape[1] - dim + j).flatten(1).select(1, 0)
            edge = edge * torch.exp(-2.0 * math.log(2.0) * side)
            edges.append(edge.unsqueeze(-1))
            both = padded(edge, j)
            diagonal = diagonal + both.narrow(j, 0, v.shape[j]) + both.narrow(j, 1, v.shape[j])
        fixed = x.narrow(1, self.num_boxes + 1, 1).permute(self.inward)
        free = 1.0 - (finer(fixed, dim, self.samples) > 0.999).to(v.dtype)
        v, scale = v * free, free / diagonal.unsqueeze(-1)
        for s in range(self.steps):
            force = torch.zeros_like(v)
            for j in range(dim):
                force = force - torch.diff(padded(edges[j] * torch.diff(v, dim=j), j), dim=j)
            v = v - force * (scale * field.narrow(-1, s, 1) * self.lengths[s])
        return v


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
