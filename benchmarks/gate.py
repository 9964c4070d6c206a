# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Whether any basis has become worse on coefficients that nothing else here has seen.

Every kind of space, and the pretrained networks, on small meshes of all four kinds of cells; energy
errors against a direct solution on the fine mesh, for four loads. Fails, and says where, if one is
more than five per cent above what ``gate.json`` has. Rounding is far below that.

    python benchmarks/gate.py [--record] [--modes N]

``--record`` writes ``gate.json`` anew: after a change that is meant to change errors. ``--modes``
takes another number of functions, to see that the gate closes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness.bases import LEARNED, PREDICTED, RAW, make, usable
from harness.problems import FAMILIES, NUM_MODES, Diffusion, box
from harness.spaces import SPACES, Space, at_zero, fine_solutions, loads, measure

from dolfinx_msnn import fields

FILE = Path(__file__).with_suffix(".json")
#: No program, test or demo has fields of these seeds.
SEED = 7 * 10**6
#: Cells: dimension, cells and boxes along an axis, simplices.
CELLS = {
    "quadrilaterals": (2, 40, 4, False),
    "triangles": (2, 40, 4, True),
    "hexahedra": (3, 10, 2, False),
    "tetrahedra": (3, 10, 2, True),
}
COEFFICIENTS: dict[str, Callable[[Any, int], Any]] = FAMILIES | {
    "channels 1e5": lambda m, s: fields.channels(m, 1e5, seed=s),
    "inclusions 1e4": lambda m, s: fields.inclusions(m, 1e4, seed=s),
    "layers 1e4": lambda m, s: fields.two_phase(
        m, 1e4, seed=s, correlation_length=(*[0.5] * (m.topology.dim - 1), 0.05)
    ),
}
LOADS = ("f = 1", "smooth", "drop", "well")
NETWORKS = (LEARNED, RAW, PREDICTED)
MARGIN, NOISE = 1.05, 1e-8


def errors(num_modes: int) -> Iterator[tuple[str, float]]:
    """Energy errors by coefficient, cells, space and load."""
    learned = usable(NETWORKS)
    for kind, (dim, cells, boxes, simplices) in CELLS.items():
        msh = box(dim, cells, simplices=simplices)
        for number, (name, coefficient) in enumerate(COEFFICIENTS.items()):
            kappa = coefficient(msh, SEED + number)
            drop = Diffusion(kappa, boxes, f=0.0)
            zero = at_zero(drop)
            forms = {k: v for k, v in loads(drop.V, SEED + number).items() if k in LOADS}
            exact = fine_solutions(zero, drop, forms)
            spaces = SPACES | {name: Space(partial(make, name, kappa, None)) for name in learned}
            for title in [*SPACES, *learned]:
                space = spaces[title]
                found = measure(zero, drop, forms, exact, space, space.make(num_modes))
                for load in LOADS:
                    yield f"{name}, {kind}, {title}, {load}", found[load]


def main() -> None:
    """Compare, or record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write gate.json")
    parser.add_argument("--modes", type=int, default=NUM_MODES, help="functions a neighbourhood")
    options = parser.parse_args()
    start = time.process_time()
    found = dict(errors(options.modes))
    print(f"{len(found)} errors, {time.process_time() - start:.0f} s")
    if options.record:
        FILE.write_text(
            json.dumps({k: float(f"{v:.6g}") for k, v in found.items()}, indent=1) + "\n"
        )
        return
    recorded = json.loads(FILE.read_text())
    if not usable(NETWORKS):
        ours = tuple(f", {name}, {load}" for name in NETWORKS for load in LOADS)
        recorded = {k: v for k, v in recorded.items() if not k.endswith(ours)}
    if other := recorded.keys() ^ found.keys():
        raise SystemExit(f"{FILE.name} is of other cases, see --record: {sorted(other)}")
    ratios = {k: v / (recorded[k] + NOISE) for k, v in found.items()}
    worse = {k: v for k, v in ratios.items() if not v <= MARGIN}
    print(f"over those recorded: {min(ratios.values()):.4f} to {max(ratios.values()):.4f}")
    for k in worse:
        print(f"{k}: energy error {found[k]:.4g}, recorded {recorded[k]:.4g}")
    if worse:
        raise SystemExit(f"{len(worse)} of {len(found)} energy errors are worse than recorded")


if __name__ == "__main__":
    main()
