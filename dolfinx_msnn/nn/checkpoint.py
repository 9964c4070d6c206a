# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Where training stands, and the file that it can go on from with the same numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from dolfinx_msnn._utils.files import reason, write_file
from dolfinx_msnn.nn.card import CONVENTIONS
from dolfinx_msnn.nn.config import Config
from dolfinx_msnn.nn.ffno import FFNO
from dolfinx_msnn.nn.lattice import num_channels

#: Keys that may change when training is resumed: they do not change what a step does.
_FREE = {"data.path"} | {
    f"training.{key}"
    for key in ("steps", "max_minutes", "patience", "checkpoint_seconds", "threads", "device")
}

#: Steps to do while their number is not known, because time is what is limited.
UNKNOWN = 10**9


@dataclass
class State:
    """All that changes while a network is trained.

    Attributes:
        network: The network.
        optimisers: AdamW and, for matrices, Muon.
        average: Moving average of its weights.
        total: Steps to do in all.
        step: Steps done.
        elapsed: Seconds of training.
        best: Smallest energy defect of a validation.
        best_state: Weights that had it.
        best_validation: All that this validation said.
        stale: Validations since then.
        bad: Steps on end whose loss was not finite.
        recent: Losses since the last validation.
        history: A row of figures for each validation.
    """

    network: torch.nn.Module
    optimisers: list[torch.optim.Optimizer]
    average: dict[str, Tensor]
    total: int
    step: int = 0
    elapsed: float = 0.0
    best: float = math.inf
    best_state: dict[str, Tensor] | None = None
    best_validation: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    bad: int = 0
    recent: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)


def create_network(config: Config) -> FFNO:
    """The network of a configuration, not trained."""
    options, data = asdict(config.network), config.data
    dim, outputs = config.problem.dim, options.pop("outputs")
    channels = num_channels(dim, data.samples, CONVENTIONS[data.solutions > 0])
    return FFNO(dim, channels, outputs, samples=data.samples * options.pop("fine"), **options)


def create_state(config: Config, device: torch.device) -> State:
    """The beginning of a training; sets the seed of torch."""
    options = config.training
    torch.manual_seed(config.seed)
    network = create_network(config).to(device)
    rates = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    muon = options.optimiser == "muon"
    inside = [p for p in network.layers.parameters() if muon and p.dim() > 1]
    known = set(inside)
    rest = [p for p in network.parameters() if p not in known]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, **rates)]
    optimisers += [Muon(inside, **rates)] if muon else []
    return State(network, optimisers, clone(network.state_dict()), options.steps or UNKNOWN)


class Muon(torch.optim.Optimizer):
    """Steps along the nearest orthogonal matrix to the momentum (Jordan et al., 2024).

    As ``torch.optim.Muon`` with ``match_rms_adamw``, whose rates are those of AdamW, for tensors
    whose last two dimensions are matrices, all of one tensor at a time.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step, by momentum 0.95 and five iterations of Newton and Schulz."""
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 0.05)
                x = p.grad.lerp(momentum, 0.95)
                tall = x.shape[-2] > x.shape[-1]
                x = x.mT if tall else x
                x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-12)
                for _ in range(5):
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                rate = 0.2 * math.sqrt(max(p.shape[-2:])) * group["lr"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(x.mT if tall else x, alpha=-rate)


def clone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a network's weights."""
    return {name: weight.clone() for name, weight in weights.items()}


def save_checkpoint(path: str, state: State, config: Config) -> None:
    """Write a checkpoint."""
    kept = vars(state) | {
        "network": state.network.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in state.optimisers],
        "config": config.as_dict(),
        "rng": torch.get_rng_state(),
    }
    # In memory: of a full disk torch says little.
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    write_file(path, buffer.getvalue())


def load_checkpoint(path: str, state: State, config: Config) -> None:
    """Put a new training where a checkpoint was written; sets the random numbers of torch.

    Raises:
        ValueError: If the file is damaged, or its configuration would change a step.
    """
    try:
        device = next(state.network.parameters()).device
        found = torch.load(path, map_location=device, weights_only=True)
        mine, theirs = _fixed(config.as_dict()), _fixed(found["config"])
        different = [key for key in mine if mine[key] != theirs.get(key)]
        if not different:
            state.network.load_state_dict(found["network"])
            for optimiser, kept in zip(state.optimisers, found["optimisers"], strict=True):
                optimiser.load_state_dict(kept)
            torch.set_rng_state(found["rng"].cpu())
            mended = {"network", "optimisers"} | ({"total"} if config.training.steps else set())
            vars(state).update({key: found[key] for key in vars(state).keys() - mended})
    except Exception as exc:
        raise ValueError(f"{path} is not a readable checkpoint: {reason(exc)[:200]}.") from exc
    for key in different:
        raise ValueError(
            f"{path} was made with another {key} ({theirs.get(key)!r} there, {mine[key]!r} here); "
            "expected the same configuration."
        )


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a configuration that must not change, with dots."""
    flat: dict[str, Any] = {}
    for table, value in config.items():
        keys = value if isinstance(value, Mapping) else {}
        flat |= {f"{table}.{key}": entry for key, entry in keys.items()} or {table: value}
    return {key: value for key, value in flat.items() if key not in _FREE}
