# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Networks that predict a solution by themselves: fine solutions to learn from, networks, training.

The problem is steady Richards' equation of ``bench_richards.py`` on the unit square, with a random
right-hand side f and random pressures on two opposite sides, no flow through the others. Fields are
those that a configuration of a learned basis draws for the same seed, so both learn from the same.

All networks see the same and are trained alike: log κ of all cells, f, the linear interpolant g of
the pressures, and the coordinates, on a lattice of every second node; a node of it has the 2 x 2
cells around it as channels, and predicts (p - g) / s in 2 x 2 nodes of the mesh. So nothing of κ is
lost, and a step costs a fourth of what it would on all nodes. The loss is the mean relative l2
error of p; AdamW, a learning rate that rises and falls with the processor time that is left,
reflections across the axis of the pressures as augmentation.

The other networks are optional: FNO from ``neuraloperator`` and Transolver from
``nvidia-physicsnemo`` (its import alone takes some ten seconds).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bench_richards import DX, LAW, TOLERANCES, fine_options
from common import FIRST_SEED, NUM_MODES, box
from scipy.sparse import csr_matrix
from tables import WORK

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx.fem.petsc import NonlinearProblem as FineProblem
from dolfinx_msnn.nn.config import Family
from dolfinx_msnn.nn.dataset import draw_field
from dolfinx_msnn.petsc import NonlinearProblem

#: The test family of ``common.py`` as a configuration has it.
FAMILY: dict[str, Any] = {"name": "log_normal", "variance": 4.0, "correlation_length": 0.06}
#: Data in the range of training, and beyond: right-hand sides, and boundary values.
KINDS = ("in range", "wells", "2 f", "other sides", "2 drops")
#: Name in tables: package that it needs, or none.
NETWORKS = {"F-FNO": "", "FNO": "neuralop", "Transolver": "physicsnemo"}
BATCH = 8
LEARNING_RATE = 3e-3


class Load(NamedTuple):
    """What drives a flow: f at the nodes, and the pressures at both ends of an axis."""

    f: np.ndarray
    axis: int
    ends: tuple[float, float]


def draw_load(x: np.ndarray, rng: np.random.Generator, kind: str = "in range") -> Load:
    """A random load at the nodes x; equal draws for all kinds but ``wells``.

    In range: f is a Gaussian field of correlation length 0.3 and amplitude 1 to 4; p between -2
    and 0 at x = 0 and between -6 and -3 at x = 1. Wells: two that inject and two that pump, of
    radius 0.03 and rates between 0.3 and 1.
    """
    waves = rng.standard_normal((64, 2)) / 0.3
    phases = rng.uniform(0, 2 * np.pi, 64)
    f = rng.uniform(1, 4) * np.cos(x @ waves.T + phases).sum(axis=1) * np.sqrt(2 / 64)
    ends = rng.uniform(-2, 0), rng.uniform(-6, -3)
    if kind == "wells":
        f = np.zeros(len(x))
        for sign in (1, 1, -1, -1):
            squared = ((x - rng.uniform(0.1, 0.9, 2)) ** 2).sum(axis=1)
            rate = sign * rng.uniform(0.3, 1.0)
            f += rate / (2 * np.pi * 0.03**2) * np.exp(-squared / (2 * 0.03**2))
    if kind == "2 f":
        f *= 2
    if kind == "2 drops":
        ends = ends[0], ends[0] + 2 * (ends[1] - ends[0])
    return Load(f, 1 if kind == "other sides" else 0, ends)


class Richards:
    """The problem on one mesh, its fine solver, and errors; values are in the order of a lattice.

    Args:
        cells: Of the mesh in each direction.
        boxes: Of the coarse grid in each direction.
    """

    def __init__(self, cells: int, boxes: int) -> None:
        self.msh = box(2, cells)
        self.V = V = fem.functionspace(self.msh, ("Lagrange", 1))
        self.coarse = msnn.CoarseGrid(self.msh, (boxes, boxes))
        self.n = cells + 1
        x = V.tabulate_dof_coordinates()[:, :2]
        self.order = np.lexsort(np.round(x, 9).T[::-1])
        self.x = x[self.order]
        self.kappa = fem.Function(fem.functionspace(self.msh, ("DG", 0)))
        middles = self.kappa.function_space.tabulate_dof_coordinates()[:, :2]
        self.cell_order = np.lexsort(np.round(middles, 9).T[::-1])
        self.p, self.f, self.g = (fem.Function(V) for _ in range(3))
        q, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        flux = self.kappa * ufl.inner(ufl.grad(q), ufl.grad(v))
        self.a, self.s = flux * ufl.dx, self.kappa * q * v * ufl.dx
        picard = LAW.relative_permeability(self.p) * flux * DX
        self.F = ufl.action(picard, self.p) - self.f * v * ufl.dx
        self.bcs = [
            [fem.dirichletbc(self.g, np.flatnonzero(np.isclose(x[:, k], 0) | (x[:, k] == 1)))]
            for k in range(2)
        ]
        options = TOLERANCES | fine_options(2, False)
        self.problems = [
            FineProblem(
                self.F, self.p, bcs=b, petsc_options_prefix=f"fine{k}_", petsc_options=options
            )
            for k, b in enumerate(self.bcs)
        ]
        self._gram = fem.form(q * v * ufl.dx), fem.form(self.a)
        self.mass = self._matrix(0)

    def _matrix(self, k: int) -> csr_matrix:
        A = fem.assemble_matrix(self._gram[k])
        A.scatter_reverse()
        return A.to_scipy()[self.order][:, self.order]

    def lift(self, load: Load) -> np.ndarray:
        """The linear interpolant of the pressures."""
        t = self.x[:, load.axis]
        return (1 - t) * load.ends[0] + t * load.ends[1]

    def draw(self, seed: int, number: int) -> None:
        """A field for training, the one that a set of samples with that seed has."""
        drawn = draw_field(self.coarse, [Family.parse(FAMILY, "family")], seed, number)
        self.kappa.x.array[:] = drawn.kappa.x.array

    def start(self, load: Load) -> None:
        """Set the load; p is as given on the boundary, and zero inside."""
        self.f.x.array[self.order] = load.f
        self.g.x.array[self.order] = self.lift(load)
        self.p.x.array[:] = 0.0
        self.bcs[load.axis][0].set(self.p.x.array)

    def solve(self, load: Load) -> np.ndarray:
        """The fine solution by Newton.

        Raises:
            RuntimeError: If it does not converge.
        """
        self.start(load)
        problem = self.problems[load.axis]
        problem.solve()
        reason = problem.solver.getConvergedReason()
        if reason <= 0:
            raise RuntimeError(f"Newton ended with {reason}.")
        return self.p.x.array[self.order].copy()

    def log_kappa(self) -> np.ndarray:
        """Log κ of the cells."""
        return np.log(self.kappa.x.array[self.cell_order])

    def set_log_kappa(self, values: np.ndarray) -> None:
        """The reverse."""
        self.kappa.x.array[self.cell_order] = np.exp(values)

    def errors(self, found: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
        """Relative errors in L2 and in the energy norm of κ."""
        e = found.ravel() - exact
        stiffness = self._matrix(1)
        return tuple(  # type: ignore[return-value]
            float(np.sqrt(e @ (A @ e) / (exact @ (A @ exact)))) for A in (self.mass, stiffness)
        )

    def multiscale(
        self, basis: Any, loads: dict[str, Load]
    ) -> dict[str, tuple[np.ndarray, float, float]]:
        """Solutions in a coarse space, seconds for its making, and for the solution."""
        found = {}
        for axis in sorted({load.axis for load in loads.values()}):
            made = basis()
            begin = time.process_time()
            with msnn.multiscale_functionspace(
                self.V, self.coarse, made, self.a, s=self.s, bcs=self.bcs[axis]
            ) as W:
                build = time.process_time() - begin
                settings: dict[str, Any] = {"bcs": self.bcs[axis], "petsc_options": TOLERANCES}
                settings["petsc_options_prefix"] = "coarse_"
                for name, load in loads.items():
                    if load.axis != axis:
                        continue
                    with NonlinearProblem(self.F, self.p, W, **settings) as problem:
                        self.start(load)
                        begin = time.process_time()
                        problem.solve()
                        seconds = time.process_time() - begin
                    found[name] = self.p.x.array[self.order].copy(), build, seconds
        return found


def bases(richards: Richards) -> dict[str, Callable[[], Any]]:
    """Coarse spaces that need no training here."""
    return {
        "SLEPc": lambda: msnn.SpectralBasis(NUM_MODES),
        "filtered cosines": lambda: msnn.FilteredBasis(NUM_MODES),
        "learned (shipped)": lambda: msnn.LearnedBasis.pretrained(
            "diffusion-2d", richards.kappa, NUM_MODES
        ),
    }


class Data(NamedTuple):
    """Fine solutions, one a row."""

    log_kappa: np.ndarray
    f: np.ndarray
    lift: np.ndarray
    p: np.ndarray


def dataset(richards: Richards, seed: int, count: int, folder: Path = WORK) -> Data:
    """Fine solutions for the first fields of a seed, made once."""
    path = folder / "operators" / f"data-{richards.n - 1}-{seed}-{count}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows: list[list[np.ndarray]] = []
        begin = time.process_time()
        for number in range(count):
            richards.draw(seed, number)
            # Pumped where κ is 1e-4, p falls beyond all reason, and Newton fails: draw anew.
            for attempt in range(1, 9):
                load = draw_load(richards.x, np.random.default_rng([seed, number, attempt]))
                with contextlib.suppress(RuntimeError):
                    p = richards.solve(load)
                    rows.append([richards.log_kappa(), load.f, richards.lift(load), p])
                    break
            else:
                raise RuntimeError(f"Newton fails for every load of field {number}.")
        seconds = (time.process_time() - begin) / count
        print(f"{count} fine solutions, {seconds:.2g} s each", flush=True)
        arrays = [np.array(column, dtype=np.float32) for column in zip(*rows, strict=True)]
        part = path.with_suffix(".part.npz")
        np.savez(part, **dict(zip(Data._fields, arrays, strict=True)))
        part.replace(path)
    with np.load(path) as file:
        return Data(*(file[name] for name in Data._fields))


def test_loads(richards: Richards, number: int) -> dict[str, Load]:
    """The loads of an unseen field, one of each kind."""
    return {
        kind: draw_load(richards.x, np.random.default_rng([FIRST_SEED, number]), kind)
        for kind in KINDS
    }


# ---- networks ----


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


class Sizes(NamedTuple):
    """Of the three networks."""

    ffno: dict[str, int]
    fno: dict[str, int]
    transolver: dict[str, int]


FULL = Sizes(
    {"width": 32, "modes": 16, "layers": 4},
    {"hidden_channels": 16, "n_layers": 4},
    {"n_hidden": 48, "n_layers": 3, "n_head": 2, "slice_num": 16},
)
SMALL = Sizes(
    {"width": 8, "modes": 6, "layers": 2},
    {"hidden_channels": 8, "n_layers": 2},
    {"n_hidden": 16, "n_layers": 2, "n_head": 2, "slice_num": 8},
)
CHANNELS, OUTPUTS = 14, 4


def installed(name: str) -> bool:
    """Whether the package of a network is there."""
    return not NETWORKS[name] or importlib.util.find_spec(NETWORKS[name]) is not None


def create(name: str, sizes: Sizes, m: int) -> Any:
    """An untrained network: (B, 14, m, m) to (B, 4, m, m)."""
    import torch

    if name == "F-FNO":
        from dolfinx_msnn.nn.ffno import FFNO

        class FromZero(FFNO):
            """Without the cosines that the outputs of a basis start from."""

            start: Any = 0.0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) - self.start

        network = FromZero(2, CHANNELS, OUTPUTS, warp=False, **sizes.ffno)
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
            **sizes.fno,
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
                **sizes.transolver,
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

    def __call__(self, x: Any, lift: Any) -> Any:
        """Solutions at the nodes, (B, n * n), of inputs."""
        import torch

        image = torch.nn.functional.pixel_shuffle(self.network(x), 2)
        return lift + self.scale * image[:, 0, : self.n, : self.n].flatten(1)

    def solve(self, log_kappa: np.ndarray, f: np.ndarray, lift: np.ndarray) -> np.ndarray:
        """The solution of one problem."""
        import torch

        row = [torch.from_numpy(v[None].astype(np.float32)) for v in (log_kappa, f, lift)]
        with torch.no_grad():
            found: np.ndarray = self(inputs(*row, self.n), row[2])[0].numpy()
        return found


def train(
    name: str, data: Data, seed: int, seconds: float, sizes: Sizes, folder: Path = WORK
) -> Predictor:
    """Train a network for so many seconds of processor time, unless it is there already."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    n = math.isqrt(data.p.shape[1])
    network = create(name, sizes, (n + 1) // 2)
    settings = repr([name, seed, seconds, sizes, BATCH, LEARNING_RATE])
    digest = hashlib.blake2b(settings.encode() + data.p.tobytes(), digest_size=6).hexdigest()
    key = f"{name}-{n - 1}-{len(data.p)}-{seed}-{digest}"
    path = folder / "operators" / f"{key}.pt"
    scale = float(np.std(data.p - data.lift))
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=False))
        report = json.loads(path.with_suffix(".json").read_text())
        return Predictor(network.eval(), scale, n, report)
    rows = [torch.from_numpy(column) for column in data]
    predictor = Predictor(network, scale, n, {})
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
        error = predictor(inputs(log_kappa, f, lift, n), lift) - p
        loss = (error.norm(dim=1) / p.norm(dim=1)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        steps += 1
        losses.append(float(loss.detach()))
    report = {"steps": steps, "train s": time.process_time() - begin}
    report |= {"loss": float(np.mean(losses[-50:])), "parameters": parameters(network)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(report))
    torch.save(network.state_dict(), path)
    print(f"trained {key}: {report}", flush=True)
    return Predictor(network.eval(), scale, n, report)


def reflect(values: Any, wanted: bool) -> Any:
    """Values on a lattice, upside down if wanted."""
    side = math.isqrt(values.shape[1])
    return values.reshape(-1, side, side).flip(2).flatten(1) if wanted else values


def parameters(network: Any) -> int:
    """Real numbers to be learned."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in network.parameters())


def evaluate(
    richards: Richards, predictor: Predictor, tests: Sequence[tuple[int, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Records of a network on test problems."""
    found = []
    for number, problems in tests:
        for kind, (log_kappa, load, exact) in problems.items():
            lift = richards.lift(load)
            begin = time.process_time()
            p = predictor.solve(log_kappa, load.f, lift)
            seconds = time.process_time() - begin
            richards.set_log_kappa(log_kappa)
            l2, energy = richards.errors(p, exact)
            found.append(
                {"kind": kind, "field": number, "L2": l2, "energy": energy, "solve s": seconds}
            )
    return found
