# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Random flow problems for networks that predict solutions, on one mesh, and their solution.

Steady Richards' equation of ``richards.py`` on the unit square, with a random right-hand side
f and random pressures on two opposite sides, no flow through the others. Fields to learn from are
those that a configuration of a learned basis draws for the same seed, so both learn from the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from harness.bases import FILTERED, HARMONIC, LEARNED, SLEPC, make
from harness.learning import LOG_NORMAL
from harness.problems import FAMILIES, FIRST_SEED, box
from harness.results import WORK, Record
from harness.richards import DX, LAW, TOLERANCES, fine_options
from harness.timing import Stopwatch

import numpy as np
from scipy.sparse import csr_matrix

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem
from dolfinx.fem.petsc import NonlinearProblem as FineProblem
from dolfinx_msnn.nn.config import Family
from dolfinx_msnn.nn.sampling import draw_field
from dolfinx_msnn.petsc import NonlinearProblem

FAMILY = LOG_NORMAL
#: Fine cells, coarse boxes, fields to learn from, fields to test, training seeds, minutes each.
FULL, QUICK = (60, 6, 800, 20, 5, 0.7), (16, 2, 8, 1, 2, 0.005)
#: Of the fields that all learn from; seeds of training are others.
DATA_SEED = 1
#: Data in the range of training, and beyond: right-hand sides, and boundary values.
KINDS = ("in range", "wells", "2 f", "other sides", "2 drops")


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


class FlowProblem:
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

    @property
    def log_kappa(self) -> np.ndarray:
        """Log κ of the cells."""
        return np.log(self.kappa.x.array[self.cell_order])

    @log_kappa.setter
    def log_kappa(self, values: np.ndarray) -> None:
        self.kappa.x.array[self.cell_order] = np.exp(values)

    def errors(self, found: np.ndarray, exact: np.ndarray) -> Record:
        """Relative errors in L2 and in the energy norm of κ."""
        e, matrices = found.ravel() - exact, {"L2": self.mass, "energy": self._matrix(1)}
        return {k: float(np.sqrt(e @ (A @ e) / (exact @ (A @ exact)))) for k, A in matrices.items()}

    def multiscale(
        self, basis: Callable[[], Any], loads: dict[str, Load]
    ) -> dict[str, tuple[np.ndarray, Record]]:
        """Solutions in a coarse space, seconds for its making, and for all."""
        found, watch = {}, Stopwatch()
        for axis in sorted({load.axis for load in loads.values()}):
            made = basis()
            watch.start()
            with msnn.multiscale_functionspace(
                self.V, self.coarse, made, self.a, s=self.s, bcs=self.bcs[axis]
            ) as W:
                build = watch.book("build")
                settings: dict[str, Any] = {"bcs": self.bcs[axis], "petsc_options": TOLERANCES}
                settings["petsc_options_prefix"] = "coarse_"
                for name, load in loads.items():
                    if load.axis != axis:
                        continue
                    with NonlinearProblem(self.F, self.p, W, **settings) as problem:
                        self.start(load)
                        watch.start()
                        problem.solve()
                        times = {"build s": build, "solve s": build + watch.book("solve")}
                    found[name] = self.p.x.array[self.order].copy(), times
        return found


def bases(flow: FlowProblem) -> dict[str, Callable[[], Any]]:
    """Coarse spaces that need no training here."""
    names = {"SLEPc": SLEPC, "filtered cosines": FILTERED, "learned (shipped)": LEARNED}
    names["harmonic"] = HARMONIC
    return {name: partial(make, kind, flow.kappa) for name, kind in names.items()}


class Data(NamedTuple):
    """Fine solutions, one a row."""

    log_kappa: np.ndarray
    f: np.ndarray
    lift: np.ndarray
    p: np.ndarray


def dataset(flow: FlowProblem, seed: int, count: int) -> Data:
    """Fine solutions for the first fields of a seed, made once."""
    path = WORK / "operators" / f"data-{flow.n - 1}-{seed}-{count}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows: list[list[np.ndarray]] = []
        watch = Stopwatch()
        for number in range(count):
            flow.draw(seed, number)
            # Pumped where κ is 1e-4, p falls beyond all reason, and Newton fails: draw anew.
            for attempt in range(1, 9):
                load = draw_load(flow.x, np.random.default_rng([seed, number, attempt]))
                with contextlib.suppress(RuntimeError):
                    p = flow.solve(load)
                    rows.append([flow.log_kappa, load.f, flow.lift(load), p])
                    break
            else:
                raise RuntimeError(f"Newton fails for every load of field {number}.")
        print(f"{count} fine solutions, {watch.book('all') / count:.2g} s each", flush=True)
        arrays = [np.array(column, dtype=np.float32) for column in zip(*rows, strict=True)]
        part = path.with_suffix(".part.npz")
        np.savez(part, **dict(zip(Data._fields, arrays, strict=True)))
        part.replace(path)
    with np.load(path) as file:
        return Data(*(file[name] for name in Data._fields))


def unseen(flow: FlowProblem, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Test problems: field, then kind of load, then log κ, load, and fine solution."""
    found = []
    for k in range(count):
        flow.kappa.x.array[:] = FAMILIES["log-normal"](flow.msh, FIRST_SEED + k).x.array
        log_kappa, problems = flow.log_kappa, {}
        for kind in KINDS:
            load = draw_load(flow.x, np.random.default_rng([FIRST_SEED, k]), kind)
            problems[kind] = log_kappa, load, flow.solve(load)
        found.append((k, problems))
    return found
