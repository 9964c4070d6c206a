# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Local problems by name, all different in what matters for a basis, and problems to solve."""

from __future__ import annotations

from functools import cache

from mpi4py import MPI

import numpy as np
import utils
from utils import (
    COMM,
    HEX,
    QUAD,
    TRI,
    box,
    cell_field,
    clamp,
    diffusion,
    dof_points,
    elasticity,
    gather_function,
    holed_square,
    jiggle,
    mass,
    match,
    on_root,
    pencil_eigh,
    rough,
    two_phase,
)

import ufl
from dolfinx import fem
from dolfinx_msnn import CoarseGrid, multiscale_functionspace
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.petsc import LinearProblem


def one(x):
    return np.ones(x.shape[1])


def smooth(x):
    return 1.0 + x[0] * x[1]


def neighbourhood(msh, n, vertex, value=one, *, degree=1, shape=None, s=mass):
    """One local problem of a serial mesh; elasticity if it has a shape."""
    element = ("Lagrange", degree) if shape is None else ("Lagrange", degree, shape)
    V = fem.functionspace(msh, element)
    kappa = cell_field(msh, value)
    a = (diffusion if shape is None else elasticity)(V, kappa)
    right = None if s is None else s(V, kappa)
    found = LocalProblems(V, CoarseGrid(msh, n), a, right, [])
    return next(p for p in found if p.vertex == vertex)


def mesh_of(cell, cells, upper=(1.0, 1.0, 1.0)):
    return box(MPI.COMM_SELF, cell, cells, upper)


#: Local problems by name, all different in what matters for the filter.
PROBLEMS = {
    "quadrilaterals": lambda: neighbourhood(mesh_of(QUAD, 12), (2, 2), 4, smooth),
    "two phases": lambda: neighbourhood(mesh_of(QUAD, 16), (2, 2), 4, two_phase(1e3)),
    "two phases, 1e6": lambda: neighbourhood(mesh_of(QUAD, 16), (2, 2), 4, two_phase(1e6)),
    "two phases, 1e8": lambda: neighbourhood(mesh_of(QUAD, 14), (2, 2), 4, two_phase(1e8)),
    "cells 2:1": lambda: neighbourhood(mesh_of(QUAD, (8, 16)), (2, 2), 4, rough(1e3)),
    "triangles": lambda: neighbourhood(jiggle(mesh_of(TRI, 14), 0.01), (2, 2), 4, two_phase(1e3)),
    "unstructured": lambda: neighbourhood(
        holed_square(MPI.COMM_SELF, 32), (3, 3), 5, two_phase(1e3)
    ),
    "P2": lambda: neighbourhood(mesh_of(TRI, 8), (2, 2), 4, two_phase(1e3), degree=2),
    "hexahedra": lambda: neighbourhood(mesh_of(HEX, 6), (2, 2, 2), 13, two_phase(1e3)),
    "elasticity": lambda: neighbourhood(mesh_of(QUAD, 10), (2, 2), 4, two_phase(1e3), shape=(2,)),
    "elasticity, 3D": lambda: neighbourhood(mesh_of(HEX, 4), (2, 2, 1), 8, rough(1e2), shape=(3,)),
    "small, hexahedra": lambda: neighbourhood(mesh_of(HEX, 4), (2, 2, 2), 13, rough(1e3)),
    "small, triangles": lambda: neighbourhood(
        holed_square(MPI.COMM_SELF, 14), (3, 3), 5, two_phase(1e3)
    ),
    "small, elasticity": lambda: neighbourhood(mesh_of(QUAD, 6), (2, 2), 4, rough(1e3), shape=(2,)),
    "no s": lambda: neighbourhood(mesh_of(QUAD, 12), (2, 2), 4, two_phase(1e3), s=None),
}


@cache
def problem(name):
    return PROBLEMS[name]()


@cache
def dense(name):
    p = problem(name)
    return p.A.toarray(), p.S.toarray()


@cache
def exact_modes(name):
    return pencil_eigh(*dense(name), 16)


def pose(comm, shape=None, cell=QUAD, n=24, coarse=3, contrast=1e3, with_s=True):
    """A problem: space, coarse grid, forms, load and conditions."""
    msh = jiggle(box(comm, cell, n), 0.2 / n) if cell == TRI else box(comm, cell, n)
    V = fem.functionspace(msh, ("Lagrange", 1) if shape is None else ("Lagrange", 1, shape))
    kappa = cell_field(msh, two_phase(contrast))
    a = (diffusion if shape is None else elasticity)(V, kappa)
    s = mass(V, kappa) if with_s else None
    v, x = ufl.TestFunction(V), ufl.SpatialCoordinate(msh)
    load = (1 + x[1]) * (v if shape is None else v[0] + 2 * v[1]) * ufl.dx
    bcs = [clamp(V, lambda x: np.isclose(x[0], 0.0))]
    grid = CoarseGrid(msh, (coarse,) * msh.geometry.dim)
    return V, grid, a, s, load, bcs


def solve(comm, make_basis, **options):
    """The multiscale solution by global dof, and the dofs' positions."""
    V, grid, a, s, load, bcs = pose(comm, **options)
    with (
        multiscale_functionspace(V, grid, make_basis(), a, s, bcs) as W,
        LinearProblem(a, load, W, bcs=bcs, petsc_options_prefix="filtered_") as problem,
    ):
        problem.solve()
        return gather_function(problem.u), dof_points(V)


def energy_error(u, **options):
    """Error of a serial solution against SciPy's, relative, in the energy norm."""
    _, _, a, _, load, bcs = pose(MPI.COMM_SELF, **options)
    return utils.energy_error(u, a, load, bcs)


def check_same_on_any_ranks(make_basis, tolerance=1e-6, **options):
    """The solution on all ranks is that of one."""
    u, points = solve(COMM, make_basis, **options)
    alone, places = on_root(lambda: solve(MPI.COMM_SELF, make_basis, **options))
    order = match(places, points)
    assert np.linalg.norm(u[order] - alone) <= tolerance * np.linalg.norm(alone)
