# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Networks that predict a solution by themselves: F-FNO, FNO, Transolver, and their training.

All networks see the same and are trained alike: log κ of all cells, f, the linear interpolant g of
the pressures, and the coordinates, on a lattice of every second node; a node of it has the 2 x 2
cells around it as channels, and predicts (p - g) / s in 2 x 2 nodes of the mesh. So nothing of κ is
lost, and a step costs a fourth of what it would on all nodes. The loss is the mean relative l2
error of p; AdamW, a learning rate that rises and falls with the processor time that is left,
reflections across the axis of the pressures as augmentation. Data and problem: ``flow.py``.

PCA-Net and DeepPOD are those of ``reduced.py``. FNO of ``neuraloperator`` and Transolver of
``nvidia-physicsnemo`` (its import alone takes some ten seconds) are optional.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness.flow import Data, FlowProblem, Load
from harness.machine import installed
from harness.results import WORK, Record
from harness.timing import Stopwatch

import numpy as np

#: Name in tables: package that it needs, or none.
NETWORKS = {
    "F-FNO": "",
    "FNO": "neuralop",
    "Transolver": "physicsnemo",
    "PCA-Net": "",
    "DeepPOD": "",
}
BATCH = 8
LEARNING_RATE = 3e-3


def blocks(values: Any, n: int, of_cells: bool) -> Any:
    """Values (B, n * n) as 2 x 2 channels of a lattice of every second node: (B, 4, m, m)."""
    import torch

    side = n - 1 if of_cells else n
    # Cells: one more on each side, so that every node has four.
    image = values.reshape(len(values), 1, side, side)
    pad = (1, 1, 1, 1) if of_cells else (0, 1, 0, 1)
    image = torch.nn.functional.pad(image, pad, mode="replicate")
    return torch.nn.functional.pixel_unshuffle(image, 2)


def inputs(log_kappa: Any, f: Any, lift: Any, n: int) -> Any:
    """What the networks see: (B, 14, m, m), all of order one."""
    import torch

    t = torch.linspace(0, 1, (n + 1) // 2)
    place = torch.stack(torch.meshgrid(t, t, indexing="ij")).expand(len(f), 2, -1, -1)
    parts = [(log_kappa / 2, True), (f / 2, False), (lift / 3, False)]
    return torch.cat([place, *(blocks(v, n, cells) for v, cells in parts)], dim=1)


type Sizes = dict[str, dict[str, Any]]

FULL: Sizes = {
    "F-FNO": {"width": 32, "modes": 16, "layers": 4},
    "FNO": {"hidden_channels": 16, "n_layers": 4},
    "Transolver": {"n_hidden": 48, "n_layers": 3, "n_head": 2, "slice_num": 16},
    "PCA-Net": {"counts": (100, 40, 2, 100), "width": 96},
    "DeepPOD": {"counts": (40, 150), "num": 32, "width": 32},
}
SMALL: Sizes = {
    "F-FNO": {"width": 8, "modes": 6, "layers": 2},
    "FNO": {"hidden_channels": 8, "n_layers": 2},
    "Transolver": {"n_hidden": 16, "n_layers": 2, "n_head": 2, "slice_num": 8},
    "PCA-Net": {"counts": (8, 8, 2, 8), "width": 16},
    "DeepPOD": {"counts": (8, 8), "num": 4, "width": 16},
}
CHANNELS, OUTPUTS = 14, 4


def available(name: str) -> bool:
    """Whether the package of a network is there."""
    return not NETWORKS[name] or installed(NETWORKS[name])


def create(name: str, size: dict[str, Any], m: int) -> Any:
    """An untrained network: (B, 14, m, m) to (B, 4, m, m)."""
    import torch

    if name == "F-FNO":
        from dolfinx_msnn.nn.ffno import FFNO

        class FromZero(FFNO):
            """Without the cosines that the outputs of a basis start from."""

            start: Any = 0.0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) - self.start

        network = FromZero(2, CHANNELS, OUTPUTS, warp=False, **size)
        network.start = network(torch.zeros(1, CHANNELS, m, m)).detach()
        return network
    if name == "FNO":
        from neuralop.models import FNO

        modes = min(12, 2 * (m // 4))
        return FNO(
            n_modes=(modes, modes),
            in_channels=CHANNELS,
            out_channels=OUTPUTS,
            positional_embedding=None,
            domain_padding=0.1,
            **size,
        )
    from physicsnemo.models.transolver import Transolver

    class OnLattice(torch.nn.Module):
        """Transolver with its channels first."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = Transolver(
                functional_dim=CHANNELS - 2,
                embedding_dim=2,
                out_dim=OUTPUTS,
                mlp_ratio=2,
                structured_shape=(m, m),
                use_te=False,
                **size,
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.flatten(2).mT
            y = self.inner(y[..., 2:], embedding=y[..., :2])
            return y.mT.reshape(len(x), OUTPUTS, m, m)

    return OnLattice()


class Predictor(NamedTuple):
    """A trained network.

    Attributes:
        network: The module.
        scale: Of its output, s.
        n: Nodes of the mesh in each direction.
        report: Steps, seconds, parameters, last loss.
    """

    network: Any
    scale: float
    n: int
    report: dict[str, Any]

    def __call__(self, x: Any, lift: Any, p: Any = None) -> Any:
        """Solutions at the nodes, (B, n * n), of inputs; the true ones p are not looked at."""
        import torch

        image = torch.nn.functional.pixel_shuffle(self.network(x), 2)
        return lift + self.scale * image[:, 0, : self.n, : self.n].flatten(1)

    def rows(self, flow: FlowProblem, load: Load) -> list[Any]:
        """Log κ, f and g of one problem."""
        import torch

        found = (flow.log_kappa, load.f, flow.lift(load))
        return [torch.from_numpy(v[None].astype(np.float32)) for v in found]

    def solve(self, flow: FlowProblem, load: Load) -> np.ndarray:
        """The solution of one problem."""
        rows = self.rows(flow, load)
        found: np.ndarray = self(inputs(*rows, self.n), rows[2])[0].numpy()
        return found


def train(name: str, data: Data, seed: int, seconds: float, sizes: Sizes) -> Predictor:
    """Train a network for so many seconds of processor time, unless it is there already."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    n = math.isqrt(data.p.shape[1])
    rows = [torch.from_numpy(column) for column in data]
    scale, kind = float(np.std(data.p - data.lift)), Predictor
    if name in ("PCA-Net", "DeepPOD"):
        from harness import reduced

        network = reduced.create(name, rows, n, scale, sizes[name])
        kind = reduced.PredictedSpace if name == "DeepPOD" else kind
    else:
        network = create(name, sizes[name], (n + 1) // 2)
    settings = repr([name, seed, seconds, sizes[name], BATCH, LEARNING_RATE])
    digest = hashlib.blake2b(settings.encode() + data.p.tobytes(), digest_size=6).hexdigest()
    key = f"{name}-{n - 1}-{len(data.p)}-{seed}-{digest}"
    path = WORK / "operators" / f"{key}.pt"
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=False))
        report = json.loads(path.with_suffix(".json").read_text())
        return kind(network.eval(), scale, n, report)
    predictor = kind(network, scale, n, {})
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    begin, steps, losses = time.process_time(), 0, []
    order = torch.empty(0, dtype=torch.int64)
    network.train()
    while (share := (time.process_time() - begin) / seconds) < 1:
        if len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(data.p))])
        batch, order = order[:BATCH], order[BATCH:]
        for group in optimiser.param_groups:
            rise = min(1.0, (share + 0.01) / 0.1)
            group["lr"] = LEARNING_RATE * rise * 0.5 * (1 + math.cos(math.pi * share))
        log_kappa, f, lift, p = (reflect(row[batch], steps % 2 == 1) for row in rows)
        error = predictor(inputs(log_kappa, f, lift, n), lift, p) - p
        loss = (error.norm(dim=1) / p.norm(dim=1)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        steps += 1
        losses.append(float(loss.detach()))
    report = {"steps": steps, "train s": time.process_time() - begin}
    report["loss"] = float(np.mean(losses[-50:]))
    # Real numbers to be learned.
    report["parameters"] = sum(p.numel() * (1 + p.is_complex()) for p in network.parameters())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(report))
    torch.save(network.state_dict(), path)
    print(f"trained {key}: {report}", flush=True)
    return kind(network.eval(), scale, n, report)


def reflect(values: Any, wanted: bool) -> Any:
    """Values on a lattice, upside down if wanted."""
    side = math.isqrt(values.shape[1])
    return values.reshape(-1, side, side).flip(2).flatten(1) if wanted else values


def evaluate(
    flow: FlowProblem, predictor: Predictor, tests: Sequence[tuple[int, dict[str, Any]]]
) -> list[Record]:
    """Records of a network on test problems."""
    import torch

    found, watch = [], Stopwatch()
    for number, problems in tests:
        for kind, (log_kappa, load, exact) in problems.items():
            flow.log_kappa = log_kappa
            watch.start()
            with torch.no_grad():
                p = predictor.solve(flow, load)
            seconds = watch.book("solve")
            entry = {"kind": kind, "field": number, "solve s": seconds}
            found.append(entry | flow.errors(p, exact) | predictor.report)
    return found
