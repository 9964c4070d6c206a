# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Training steps and validation: predictions at the dofs, through the filter, against the modes.

A batch holds neighbourhoods of any shapes. The network sees them all at once, since its lattice is
the same for all; then, shape by shape, its outputs are interpolated to the dofs, filtered with
the true local matrices, and compared with the labels.

All that is random in a step follows from the configuration's seed and the number of the step.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dolfinx_msnn.nn import losses
from dolfinx_msnn.nn.card import CONVENTIONS
from dolfinx_msnn.nn.checkpoint import State
from dolfinx_msnn.nn.config import Config, Data, Training
from dolfinx_msnn.nn.dataset import Group
from dolfinx_msnn.nn.filter import Pencils
from dolfinx_msnn.nn.lattice import fine_nodes, symmetries

if TYPE_CHECKING:
    from dolfinx_msnn._utils.typing import LongArray

#: Steps on end with a loss that is not finite before training gives up.
_MAX_BAD = 20


class Shape:
    """Samples of one shape, and what they share on the training device."""

    def __init__(self, group: Group, device: torch.device, data: Data, fine: bool) -> None:
        self.group, self.device = group, device
        dim, p = group.inputs.ndim - 2, group.inputs.shape[-1]
        #: Channels that lie on the lattice; after them come coordinates and proportions.
        self.num_moved = group.inputs.shape[1] - 2 * dim
        shown = (group.class_name, group.sides)
        convention = CONVENTIONS[group.solutions.size > 0]
        tables = symmetries(*shown, p, data.samples, convention)
        self.channels, self.nodes = (torch.from_numpy(t).to(device) for t in tables[:2])
        nodes = fine_nodes(p, data.samples) if fine else p
        self.inverse = torch.from_numpy(symmetries(*shown, nodes, 2).inverse).to(device)
        #: By how much a solution counts; the functions of the data's modes miss one on average.
        self.scale = torch.empty(0)
        if group.solutions.size:
            self.scale = torch.from_numpy(self._scale(len(data.kinds)))
        matrix = group.interpolation(nodes)
        parts = (matrix.indptr, matrix.indices, matrix.data)
        with warnings.catch_warnings():
            # "Sparse CSR tensor support is in beta state": a product is all that is asked of it.
            warnings.simplefilter("ignore", UserWarning)
            self._lattice = torch.sparse_csr_tensor(
                *map(torch.from_numpy, parts), matrix.shape, check_invariants=True
            ).to(device)

    def _scale(self, num_kinds: int) -> npt.NDArray[np.float32]:
        """Factors of ``losses.solutions``, shape ``(N, num_solutions)``.

        They turn errors relative to the energy of χu into those relative to u's own on the
        neighbourhood and its mean there, and balance the kinds: each divided by what the labels'
        modes and the constant miss of it.
        """
        group, size = self.group, 64
        shape = group.solutions.shape[:2]
        own, cut = (np.empty(shape, np.float32) for _ in range(2))
        missed: list[npt.NDArray[np.float32]] = []
        for first in range(0, len(group), size):
            rows = np.arange(first, min(first + size, len(group)))
            inner = self.double_pencils(rows).apply_a
            u, chi = (
                torch.from_numpy(t[rows]).to(self.device, torch.float64)
                for t in (group.solutions, group.weight)
            )
            for out, v in ((own, u), (cut, u * chi.unsqueeze(1))):
                out[rows] = (v * inner(v)).sum(dim=2).cpu()
            if len(missed) * size < 256:
                modes = torch.from_numpy(group.modes[rows]).to(self.device, torch.float64)
                missed.append(losses.solutions(modes, u, chi, inner=inner).float().cpu().numpy())
        kind = np.arange(shape[1]) % num_kinds
        scale = cut / (own + own.mean())
        left = np.concatenate(missed)
        left *= scale[: len(left)]
        for k in range(num_kinds):
            scale[:, kind == k] /= left[:, kind == k].mean()
        return scale

    def inputs(self, rows: LongArray, symmetry: Tensor) -> Tensor:
        """The network's input of some samples, each moved by a symmetry.

        Args:
            rows: Numbers of the samples, shape ``(B,)``.
            symmetry: Numbers of the symmetries, shape ``(B,)``; 0 moves nothing.

        Returns:
            Shape ``(B, C, p**d)``.
        """
        x = torch.from_numpy(self.group.inputs[rows]).to(self.device).flatten(2)
        channels = self.channels[symmetry][:, :, None].expand_as(x)
        moved = move(x.gather(1, channels)[:, : self.num_moved], self.nodes[symmetry])
        # Coordinates and proportions belong to the lattice, not to what lies on it.
        return torch.cat([moved, x[:, self.num_moved :]], dim=1)

    def interpolate(self, functions: Tensor) -> Tensor:
        """Lattice functions, shape ``(B, N, p**d)``, at the dofs, shape ``(B, N, n)``."""
        flat = functions.reshape(-1, functions.shape[-1])
        return (self._lattice @ flat.T).T.reshape(*functions.shape[:-1], -1).contiguous()

    def pencils(self, rows: LongArray) -> Pencils:
        """The local matrices of some samples."""
        group = self.group
        return Pencils(group.indptr, group.indices, group.A[rows], group.S[rows], self.device)

    def double_pencils(self, rows: LongArray) -> Pencils:
        """The same with A in double precision, and rows of it whose sum is zero.

        What is missed of a solution is a small difference of energies where kappa jumps much; and
        entries in single precision give energy to a constant.
        """
        group = self.group
        A = group.A[rows].astype(np.float64)
        row = np.repeat(np.arange(len(group.indptr) - 1), np.diff(group.indptr))
        A[:, row == group.indices] -= np.add.reduceat(A, group.indptr[:-1], axis=1)
        return Pencils(group.indptr, group.indices, A, group.S[rows], self.device)


def move(fields: Tensor, index: Tensor) -> Tensor:
    """Take the last axis of each sample by its own index, ``(B, C, n)`` and ``(B, n)``."""
    return torch.gather(fields, 2, index[:, None, :].expand(-1, fields.shape[1], -1))


def batches(
    shapes: Sequence[Shape], size: int, seed: int, first: int
) -> Iterator[tuple[int, LongArray]]:
    """Epoch and samples of all steps from ``first`` on; every epoch has an order of its own.

    Samples are given by the numbers of the shape and in the shape, shape ``(size, 2)``.
    """
    sizes = [len(shape.group) for shape in shapes]
    members = np.array([(k, row) for k, size in enumerate(sizes) for row in range(size)])
    per_epoch = -(-len(members) // size)
    for epoch in itertools.count(first // per_epoch):
        order = np.random.default_rng([seed, 2, epoch]).permutation(len(members))
        for k in range(first % per_epoch, per_epoch):
            yield epoch, members[order[k * size : (k + 1) * size]]
        first = 0


def predict(
    network: torch.nn.Module,
    shapes: Sequence[Shape],
    batch: LongArray,
    rng: np.random.Generator | None = None,
) -> Iterator[tuple[Shape, LongArray, Tensor]]:
    """Predictions at the dofs, shape by shape.

    Args:
        network: The network.
        shapes: All shapes.
        batch: Shape and row of each sample, shape ``(B, 2)``.
        rng: Draws the symmetry by which each sample is moved, and its prediction moved back; none
            is moved without.

    Yields:
        A shape, rows of samples in it and their functions, shape ``(len(rows), N_out, n)``.
    """
    batch = batch[np.argsort(batch[:, 0], kind="stable")]
    used, starts = np.unique(batch[:, 0], return_index=True)
    split = np.split(batch[:, 1], starts[1:])
    parts = [(shapes[k], rows) for k, rows in zip(used, split, strict=True)]
    inputs, inverse = [], []
    for shape, rows in parts:
        drawn = rng.integers(len(shape.nodes), size=len(rows)) if rng else np.zeros_like(rows)
        symmetry = torch.from_numpy(drawn).to(shape.device)
        inputs.append(shape.inputs(rows, symmetry))
        inverse.append(shape.inverse[symmetry])
    x = torch.cat(inputs)
    y = network(x.reshape(*x.shape[:2], *parts[0][0].group.inputs.shape[2:])).flatten(2)
    outputs = torch.split(move(y, torch.cat(inverse)), [len(rows) for _, rows in parts])
    for (shape, rows), output in zip(parts, outputs, strict=True):
        yield shape, rows, shape.interpolate(output)


def loss(
    name: str,
    shape: Shape,
    rows: LongArray,
    functions: Tensor,
    options: Training,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A loss of predictions of one shape, seen through the filter; a scalar.

    Args:
        name: One of :data:`~dolfinx_msnn.nn.config.LOSSES`.
        shape: The shape.
        rows: Numbers of the samples in it, shape ``(B,)``.
        functions: Predictions at the dofs, shape ``(B, N_out, n)``.
        options: Degree of the filter and weight of the regularisation.
        generator: Random numbers for ``sal_pr``.
    """
    if name == "solutions":
        return missed(shape, rows, functions).mean()
    modes = torch.from_numpy(shape.group.modes[rows]).to(shape.device)
    values = torch.from_numpy(shape.group.eigenvalues[rows].astype(np.float32)).to(shape.device)
    pencils = shape.pencils(rows)
    y = pencils.filter(functions, options.sweeps)
    if name == "basis_l2":
        return losses.basis_l2(y, modes)
    if name == "sal":
        return losses.sal(y, modes)
    if name == "sal_pr":
        assert generator is not None
        return losses.sal_pr(y, modes, weight=options.sal_weight, generator=generator)
    if name == "rayleigh":
        apply = {"apply_a": pencils.apply_a, "apply_s": pencils.apply_s}
        return losses.rayleigh(y, **apply, num_modes=modes.shape[1], exact=values)
    # A + λ S with λ the largest wanted eigenvalue.
    largest = values[:, -1:, None]
    return losses.energy(
        y, modes, inner=lambda z: pencils.apply_a(z) + largest * pencils.apply_s(z)
    )


def missed(shape: Shape, rows: LongArray, functions: Tensor) -> Tensor:
    """What predictions miss of solutions, squared, shape ``(B, num_solutions)``; modes miss 1."""
    u, chi, scale = (
        torch.as_tensor(t[rows]).to(shape.device, torch.float64)
        for t in (shape.group.solutions, shape.group.weight, shape.scale)
    )
    inner = shape.double_pencils(rows).apply_a
    return scale * losses.solutions(functions.double(), u, chi, inner=inner)


def learning_rate(training: Training, step: int, total: int) -> float:
    """Learning rate of a step, by its number and that of all steps alone."""
    if training.schedule == "one_cycle":
        rise, start = max(1, round(0.3 * total)), 0.04
    else:
        rise, start = min(training.warmup, max(1, total // 10)), 0.0
    if step < rise:
        share = start + (1 - start) * (step + 1) / rise
    else:
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total - rise))))
    return training.learning_rate * max(share, 1e-3)


def step(state: State, config: Config, shapes: Sequence[Shape], batch: LongArray) -> float:
    """One step of the optimiser; the mean loss of its samples.

    Args:
        state: Where training stands; network, average and number of bad steps change.
        config: The configuration.
        shapes: All shapes.
        batch: Shape and row of each sample, shape ``(B, 2)``.

    Raises:
        ValueError: If the loss has not been finite for many steps.
    """
    options, network = config.training, state.network
    for optimiser in state.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(options, state.step, state.total)
    network.train()
    network.zero_grad(set_to_none=True)
    rng = np.random.default_rng([config.seed, 3, state.step])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    total = torch.zeros((), device=next(network.parameters()).device)
    for shape, rows, y in predict(network, shapes, batch, rng if options.augment else None):
        for name, factor in options.terms.items():
            part = loss(name, shape, rows, y, options, generator=generator)
            total = total + factor * len(rows) / len(batch) * part
    value = float(total.detach())
    if not math.isfinite(value):
        # Rounding may spoil a sample; what is wrong for good shows in every step.
        state.bad += 1
        if state.bad > _MAX_BAD:
            raise ValueError(
                f"The loss is {value} in {state.bad} steps on end, up to step {state.step}; "
                "expected a finite one, try a smaller training.learning_rate."
            )
        return value
    state.bad = 0
    torch.autograd.backward(total)
    if options.clip:
        torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip)
    for optimiser in state.optimisers:
        optimiser.step()
    if options.ema:
        # Short memory at first, or the average would remember the start.
        decay = min(options.ema, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            for key, weight in network.state_dict().items():
                if weight.dtype.is_floating_point:
                    state.average[key].lerp_(weight, 1 - decay)
    return value


def validate(
    network: torch.nn.Module, shapes: Sequence[Shape], options: Training
) -> dict[str, float]:
    """Mean energy defect of the modes over the validation's samples, and by class.

    With the loss ``solutions``, the square root of what is missed of them, relative to what the
    modes miss.
    """
    name, power = ("solutions", 0.5) if "solutions" in options.terms else ("energy", 1.0)
    every = sum(len(shape.group) for shape in shapes)
    share = min(1.0, (options.validation_samples or every) / every)
    sums: dict[str, float] = {}
    counts: Counter[str] = Counter()
    network.eval()
    with torch.no_grad():
        for k, shape in enumerate(shapes):
            size = max(1, round(share * len(shape.group)))
            samples = np.stack([np.full(size, k), np.arange(size)], axis=1)
            for first in range(0, size, options.batch_size):
                batch = samples[first : first + options.batch_size]
                for _, rows, y in predict(network, shapes, batch):
                    value = float(loss(name, shape, rows, y, options))
                    for part in ("all", shape.group.class_name):
                        sums[part] = sums.get(part, 0.0) + value * len(rows)
                        counts[part] += len(rows)
    return {part: (value / counts[part]) ** power for part, value in sums.items()}
