# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Rivals of reduced order, which learn from the fine solutions that networks learn from.

PCA-Net (Bhattacharya, Hosseini, Kovachki, Stuart, SMAI J. Comput. Math. 7, 2021): a network from
principal components of log κ, f and g to those of p - g. DeepPOD (after Franco, Manzoni, Zunino,
Math. Comp. 2024): a network from those of log κ to a space of few functions, in which Newton's
method solves. Local POD: no network, but the leading functions of other fields' solutions in each
neighbourhood as a basis of the multiscale space. ``networks.py`` trains the first two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.bases import WithConstant
from harness.flow import Data, FlowProblem, Load
from harness.networks import Predictor, blocks, inputs, reflect
from harness.problems import NUM_MODES
from harness.richards import TOLERANCES

from petsc4py import PETSc

import numpy as np
import torch
from scipy.sparse import csr_matrix

import dolfinx_msnn as msnn


class Components(torch.nn.Module):
    """Principal components of rows, at most so many, as numbers of order one."""

    def __init__(self, rows: torch.Tensor, count: int, *, centred: bool = True) -> None:
        super().__init__()
        count = min(count, *rows.shape)
        self.register_buffer("mean", rows.mean(dim=0) * centred)
        _, size, axes = torch.pca_lowrank(rows - self.mean, count, center=False, niter=4)
        self.register_buffer("axes", axes)
        self.register_buffer("scale", size[0] / len(rows) ** 0.5)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Numbers of rows."""
        return (rows.flatten(1) - self.mean) @ self.axes / self.scale

    def back(self, numbers: torch.Tensor) -> torch.Tensor:
        """Rows of numbers."""
        return self.mean + (self.scale * numbers) @ self.axes.T


def dense(first: int, width: int, last: int) -> torch.nn.Module:
    """A network with two hidden layers."""
    linear, bent = torch.nn.Linear, torch.nn.GELU()
    layers = linear(first, width), bent, linear(width, width), bent, linear(width, last)
    return torch.nn.Sequential(*layers)


class PCANet(torch.nn.Module):
    """From images of log κ, f and g to one of (p - g) / s: (B, 14, m, m) to (B, 4, m, m)."""

    def __init__(self, x: Any, y: Any, counts: Sequence[int], width: int) -> None:
        super().__init__()
        self.shape = y.shape[1:]
        parts = zip(x[:, 2:].split(4, dim=1), counts, strict=False)
        self.encoders = torch.nn.ModuleList(Components(v.flatten(1), k) for v, k in parts)
        self.output = Components(y.flatten(1), counts[-1])
        first = sum(e.axes.shape[1] for e in self.encoders)
        self.layers = dense(first, width, self.output.axes.shape[1])

    def forward(self, x: Any) -> Any:
        """The output of images."""
        parts = zip(self.encoders, x[:, 2:].split(4, dim=1), strict=True)
        found = self.layers(torch.cat([encode(v) for encode, v in parts], dim=1))
        return self.output.back(found).unflatten(1, self.shape)


class DeepPOD(torch.nn.Module):
    """From images of log κ to orthonormal vectors, (B, ambient, num), of components of p - g."""

    def __init__(self, x: Any, y: Any, counts: Sequence[int], num: int, width: int) -> None:
        super().__init__()
        self.encoder = Components(x[:, 2:6].flatten(1), counts[0])
        self.output = Components(y, counts[1], centred=False)
        self.shape = self.output.axes.shape[1], min(num, *self.output.axes.shape)
        self.layers = dense(self.encoder.axes.shape[1], width, self.shape[0] * self.shape[1])

    def forward(self, x: Any) -> Any:
        """At first not far from the leading components, whatever κ is."""
        found = self.layers(self.encoder(x[:, 2:6])).unflatten(1, self.shape)
        return torch.linalg.qr(found + torch.eye(*self.shape)).Q


class PredictedSpace(Predictor):
    """DeepPOD as a predictor: in training, the best approximation of p; then Newton's method."""

    def __call__(self, x: Any, lift: Any, p: Any = None) -> Any:
        """What the space has of the solutions, (B, n * n)."""
        axes, Q = self.network.output.axes, self.network(x)
        found = Q @ (Q.mT @ ((p - lift) @ axes)[..., None])
        return lift + found[..., 0] @ axes.T

    def solve(self, flow: FlowProblem, load: Load) -> np.ndarray:
        """The Galerkin solution in the space."""
        Q = self.network(inputs(*self.rows(flow, load), self.n))[0]
        return galerkin(flow, load, (self.network.output.axes @ Q).numpy())


def galerkin(flow: FlowProblem, load: Load, functions: np.ndarray) -> np.ndarray:
    """The solution by Newton in g + the span of functions, less their values on the boundary."""
    fine, num = flow.problems[load.axis], functions.shape[1]
    P = np.zeros(functions.shape)
    P[flow.order] = functions
    P[flow.bcs[load.axis][0].dof_indices()[0]] = 0.0
    flow.start(load)
    x, b, g = fine.x.duplicate(), fine.b.duplicate(), flow.g.x.array.copy()
    c, r = PETSc.Vec().createSeq(num), PETSc.Vec().createSeq(num)
    J = PETSc.Mat().createDense((num, num)).setUp()

    def residual(_: Any, c: Any, r: Any) -> None:
        x.array[:] = g + P @ c.array_r
        fine.solver.computeFunction(x, b)
        r.array[:] = P.T @ b.array_r

    def jacobian(_: Any, c: Any, J: Any, __: Any) -> None:
        x.array[:] = g + P @ c.array_r
        fine.solver.computeJacobian(x, fine.A)
        A = csr_matrix(fine.A.getValuesCSR()[::-1], shape=fine.A.getSize())
        J.getDenseArray()[:] = P.T @ (A @ P)
        J.assemble()

    snes = PETSc.SNES().create()
    snes.setFunction(residual, r)
    snes.setJacobian(jacobian, J)
    snes.setTolerances(*(TOLERANCES[f"snes_{k}tol"] for k in "ras"))
    snes.getKSP().setType("preonly")
    snes.getKSP().getPC().setType("lu")
    snes.solve(None, c)
    return (g + P @ c.array_r)[flow.order]


class LocalPOD:
    """In each neighbourhood, the leading functions of other fields' solutions, less constants."""

    matrices = False

    def __init__(self, flow: FlowProblem, data: Data, num_modes: int) -> None:
        p = torch.from_numpy(data.p / np.linalg.norm(data.p, axis=1, keepdims=True))
        self.rows = torch.cat([p, reflect(p, True)]).numpy()
        self.place, self.num_modes = np.argsort(flow.order), num_modes
        self.made: dict[int, np.ndarray] = {}

    def modes(self, problems: Sequence[msnn.LocalProblem]) -> list[msnn.LocalModes]:
        """Made once for a coarse vertex: the coefficient does not matter."""
        for problem in problems:
            if problem.vertex not in self.made:
                rows = self.rows[:, self.place[problem.dofs]].astype(float)
                rows -= rows.mean(axis=1, keepdims=True)
                _, found = np.linalg.eigh(rows.T @ rows)
                self.made[problem.vertex] = found[:, : -self.num_modes - 1 : -1].T.copy()
        return [msnn.LocalModes(np.zeros(self.num_modes), self.made[q.vertex]) for q in problems]


def pod(data: Data, num: int) -> np.ndarray:
    """The leading functions of p - g of the fine solutions, one a column, by relative size."""
    torch.manual_seed(0)
    p, lift = (torch.cat([v, reflect(v, True)]) for v in map(torch.from_numpy, (data.p, data.lift)))
    return Components((p - lift) / p.norm(dim=1, keepdim=True), num, centred=False).axes.numpy()


def local_pod(flow: FlowProblem, data: Data) -> WithConstant:
    """The constant and local POD, as many functions as other bases have."""
    return WithConstant(LocalPOD(flow, data, NUM_MODES - 1))


def create(name: str, rows: Sequence[Any], n: int, scale: float, size: dict[str, Any]) -> Any:
    """An untrained network with the components of fine solutions and of their reflections."""
    log_kappa, f, lift, p = (torch.cat([row, reflect(row, True)]) for row in rows)
    x, y = inputs(log_kappa, f, lift, n), (p - lift) / scale
    if name == "PCA-Net":
        return PCANet(x, blocks(y, n, False), **size)
    return DeepPOD(x, y / (p / scale).norm(dim=1, keepdim=True), **size)
