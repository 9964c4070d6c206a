# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What the tests make with dolfinx_msnn.

A small problem to make mistakes with, and what every mistake must lead to; local problems; models
that were never trained.
"""

from __future__ import annotations

import re
from contextlib import contextmanager

from mpi4py import MPI

import numpy as np

import ufl
from dolfinx import fem, mesh
from dolfinx_msnn import CoarseGrid, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.nn.lattice import CLASSES
from dolfinx_msnn.nn.model import ModelCard
from dolfinx_msnn.petsc import LinearProblem

COMM = MPI.COMM_WORLD

#: The rank that makes a mistake that only one rank makes.
HERE = COMM.rank == COMM.size - 1


@contextmanager
def expect_error(kind, match, comm=COMM):
    """The body must raise, on every rank the same, and say what is wrong in one sentence.

    Collective: every rank must come here, so a rank that hangs or goes on alone is found out.
    """
    error = None
    try:
        yield
    except Exception as exc:
        error = exc
    told = comm.allgather(None if error is None else (type(error).__name__, str(error)))
    assert None not in told, f"no error on rank {told.index(None)}: {told}"
    assert len(set(told)) == 1, f"ranks disagree: {told}"
    message = told[0][1]
    assert isinstance(error, kind), told[0]
    assert re.search(match, message), message
    is_sentence(message)
    # The frames that raised may hold PETSc objects.
    del error


def is_sentence(message):
    """One line, one sentence."""
    assert "\n" not in message, message
    assert re.fullmatch(r"\S.*\.", message), message
    assert not re.search(r"\. [A-Z]", message), message


class Sample:
    """-div(kappa grad u) = 1 on the unit square, u = 0 at x = 0; all that a user makes for it."""

    def __init__(self, comm=COMM, element=("Lagrange", 1), n=6, dim=2):
        create = {2: mesh.create_unit_square, 3: mesh.create_unit_cube}[dim]
        self.mesh = create(comm, *[n] * dim)
        self.V = fem.functionspace(self.mesh, element)
        self.kappa = fem.Function(fem.functionspace(self.mesh, ("DG", 0)))
        self.kappa.interpolate(lambda x: 1.0 + 99.0 * (np.abs(x[1] - 0.5) < 0.2))
        u, v = self.u, self.v = ufl.TrialFunction(self.V), ufl.TestFunction(self.V)
        self.a = self.kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        self.s = self.kappa * ufl.inner(u, v) * ufl.dx
        self.one = fem.Function(self.V)
        self.one.x.array[:] = 1.0
        self.L = ufl.inner(self.one, v) * ufl.dx
        self.bcs = [self.bc(0.0)]
        self.coarse = CoarseGrid(self.mesh, [2] * dim)
        self.basis = SpectralBasis(2)

    def bc(self, x, V=None):
        """A homogeneous condition on the face at x."""
        V = self.V if V is None else V
        dofs = fem.locate_dofs_geometrical(V, lambda p: np.isclose(p[0], x))
        return fem.dirichletbc(fem.Function(V), dofs)

    def space(self, **changed):
        """A multiscale space, with some arguments changed."""
        arguments = {
            "V": self.V,
            "coarse": self.coarse,
            "basis": self.basis,
            "a": self.a,
            "bcs": self.bcs,
        }
        return multiscale_functionspace(**(arguments | changed))

    def problem(self, W, **changed):
        """A linear problem, with some arguments changed."""
        arguments = {
            "a": self.a,
            "L": self.L,
            "W": W,
            "bcs": self.bcs,
            "petsc_options_prefix": "sample_",
        }
        return LinearProblem(**(arguments | changed))

    def solve(self):
        """Build, solve, destroy; a copy of the solution's values."""
        with self.space() as W, self.problem(W) as problem:
            return problem.solve().x.array.copy()


# ---- local problems ----


def local_problems(n, a, s=None, coefficient=None, overlap=None):
    """Those of a grid of n boxes, without conditions, in the order in which they come."""
    V = a.arguments()[0].ufl_function_space()
    grid = CoarseGrid(V.mesh, n, overlap=overlap)
    return list(LocalProblems(V, grid, a, s, [], coefficient=coefficient))


# ---- models ----


def model_card(**changed):
    """The card of a small model."""
    dim = changed.get("dim", 2)
    entries = {
        "pde": "diffusion",
        "dim": dim,
        "n_out": 24,
        "classes": CLASSES[dim],
        "lattice": 17,
        "samples": 2,
        "log_kappa_range": 7.0,
        "family": "two_phase",
        "num_fields": 1,
        "loss": "energy",
        "training_time_s": 0.0,
        "hardware": "none",
        "licence": "MIT",
        "width": 4,
        "modes": 4,
        "layers": 1,
    }
    return ModelCard(**(entries | changed))


def network(card, change=0.0):
    """The network of a card: tensor cosines, and a little of what a random network says."""
    import torch

    from dolfinx_msnn.nn.ffno import FFNO

    torch.manual_seed(0)
    net = FFNO(
        card.dim,
        card.in_channels,
        card.n_out,
        width=card.width,
        modes=card.modes,
        layers=card.layers,
        samples=card.samples * card.fine,
        constant=card.constant,
        steps=card.steps,
    )
    if change:
        torch.nn.init.normal_(net.head.weight, std=change)
    return net
