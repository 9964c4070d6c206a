# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Training, forward passes and filter sweeps on a GPU, without DOLFINx: at most eight minutes.

Needs torch and h5py, this repository, and the set of samples of a configuration, made by
``msnn sample`` on a machine that has DOLFINx. Writes one JSON file:

- training: steps and seconds, and the figures of the validation;
- forward: seconds of a pass of the trained network for batches of 1 to 4096 neighbourhoods;
- sweeps: seconds of one sweep of the filter, a product of the sparse matrices of a batch of
  neighbourhoods with 24 functions each, in torch on the device.

    python benchmarks/gpu.py configs/solutions-2d.toml [--device cuda] [--output gpu.json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dolfinx_msnn.nn.config import Config
from dolfinx_msnn.nn.filter import Pencils
from dolfinx_msnn.nn.model import load_model
from dolfinx_msnn.nn.train import load_samples, train

#: Minutes of training and largest batches, in full and with ``--quick``.
MINUTES, BATCHES, SMALL = (5.0, 0.5), 4096, 4
FUNCTIONS, DEGREE = 24, 10


def seconds(action: Callable[[], Any], device: str, least: float = 0.5) -> float:
    """Seconds of a run: the median of as many as fit in a time, three at least."""
    found: list[float] = []
    # The first ones compile and allocate.
    for _ in range(2):
        action()
    while len(found) < 3 or sum(found) < least:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def main() -> None:
    """Train, time, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", help="configuration whose samples are there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--quick", action="store_true", help="half a minute, to see that it works")
    options = parser.parse_args()
    device, quick = options.device, options.quick
    config = Config.read(options.config)
    limits = {"device": device, "max_minutes": MINUTES[quick], "checkpoint_seconds": 600.0}
    config = replace(config, training=replace(config.training, **limits))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, output=folder, progress=False)
        if result.model is None:
            raise SystemExit(f"There was no validation in {MINUTES[quick]:g} minutes.")
        model = load_model(result.model, device=device)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    report: dict[str, Any] = {
        "device": name,
        "torch": str(torch.__version__),
        "training": {
            "steps": result.steps,
            "seconds": time.perf_counter() - begin,
            "validation": result.validation,
        },
    }
    group = load_samples(config, "train").groups[0]
    batches = [4**k for k in range(7) if 4**k <= (SMALL if quick else BATCHES)]
    card = model.card
    for key in ("forward", "sweeps"):
        report[key] = {}
    for batch in batches:
        rows = np.arange(batch) % len(group)
        x = torch.from_numpy(group.inputs[rows]).to(device)
        with torch.inference_mode():
            taken = seconds(partial(model.network, x), device)
        report["forward"][batch] = taken
        pencils = Pencils(group.indptr, group.indices, group.A[rows], group.S[rows], device)
        y = torch.randn(batch, FUNCTIONS, len(group.indptr) - 1, device=device)
        taken = seconds(partial(pencils.filter, y, DEGREE), device) / DEGREE
        report["sweeps"][batch] = taken
    report |= {"lattice": card.lattice, "dofs": len(group.indptr) - 1, "functions": FUNCTIONS}
    report["seconds"] = time.perf_counter() - begin
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
