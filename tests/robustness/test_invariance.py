# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The space and the solution do not depend on the number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

from mpi4py import MPI

import numpy as np
import pytest
from utils import (
    COMM,
    box,
    cell_field,
    clamp,
    diffusion,
    dof_points,
    elasticity,
    gather_function,
    gather_matrix,
    holed_square,
    jiggle,
    l_shape,
    mass,
    match,
    on_root,
    rough,
    sine,
)

import ufl
from dolfinx import fem
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.petsc import LinearProblem


@dataclass
class Case:
    """A problem that can be posed on any communicator."""

    mesh: object
    n: tuple[int, ...]
    element: tuple = ("Lagrange", 1)
    contrast: float = 1e3
    oversampling: int = 0
    with_s: bool = True
    overlap: int | None = None
    coarse: object = None


CASES = {
    "quads": Case(lambda c: box(c, CellType.quadrilateral, 24), (3, 3)),
    "triangles, oversampled": Case(lambda c: box(c, CellType.triangle, 20), (3, 3), oversampling=2),
    "P2 triangles, boxes cut cells": Case(
        lambda c: jiggle(box(c, CellType.triangle, 14), 0.02), (3, 2), ("Lagrange", 2)
    ),
    "hole, GenEO": Case(lambda c: holed_square(c, 16), (4, 4), with_s=False),
    "L-shape": Case(lambda c: l_shape(c, 16), (4, 4)),
    "hexahedra": Case(lambda c: box(c, CellType.hexahedron, 8), (2, 2, 2)),
    "P2 tetrahedra": Case(lambda c: box(c, CellType.tetrahedron, 5), (2, 1, 2), ("Lagrange", 2)),
    "elasticity, contrast 1e4": Case(
        lambda c: box(c, CellType.hexahedron, 6), (2, 2, 1), ("Lagrange", 1, (3,)), 1e4
    ),
    "L-shape in 3D, no s": Case(lambda c: l_shape(c, 6, 3), (2, 2, 1), with_s=False),
    "elasticity P2, boxes cut cells": Case(
        lambda c: jiggle(box(c, CellType.quadrilateral, 7), 0.03), (2, 2), ("Lagrange", 2, (2,)), 10
    ),
    "hole, contrast 1e4": Case(lambda c: holed_square(c, 14), (4, 4), contrast=1e4),
    "overlapping boxes that cut cells, P2": Case(
        lambda c: jiggle(box(c, CellType.triangle, 14), 0.02), (3, 2), ("Lagrange", 2), overlap=2
    ),
    "overlapping boxes, hole, oversampled": Case(
        lambda c: holed_square(c, 16), (3, 3), with_s=False, overlap=1, oversampling=2
    ),
    "overlapping boxes, tetrahedra": Case(
        lambda c: box(c, CellType.tetrahedron, 7), (2, 1, 2), overlap=1
    ),
    "coarse mesh": Case(
        lambda c: box(c, CellType.quadrilateral, 18),
        (3, 3),
        coarse=lambda c: box(c, CellType.triangle, 3),
    ),
}


def build(comm, case, num_modes):
    """Space, solution and all that is compared, on every rank of ``comm``."""
    msh = case.mesh(comm)
    V = fem.functionspace(msh, case.element)
    kappa = cell_field(msh, rough(case.contrast))
    bs = V.dofmap.index_map_bs
    a = diffusion(V, kappa) if bs == 1 else elasticity(V, kappa)
    s = mass(V, kappa) if case.with_s else None
    bcs = [clamp(V, lambda x: np.isclose(x[0], x[0].min()) & np.isclose(x[0], 0.0), 0.5)]
    v = ufl.TestFunction(V)
    x = ufl.SpatialCoordinate(msh)
    load = (1 + x[1]) * (v if bs == 1 else v[0] + 2 * v[1]) * ufl.dx
    if case.coarse is None:
        coarse = CoarseGrid(msh, case.n, oversampling=case.oversampling, overlap=case.overlap)
    else:
        coarse = CoarseGrid.from_mesh(msh, case.coarse(comm), oversampling=case.oversampling)
    basis = SpectralBasis(num_modes, tol=1e-12)
    W = multiscale_functionspace(V, coarse, basis, a, s, bcs)
    problem = LinearProblem(a, load, W, bcs=bcs, petsc_options_prefix="invariance_")
    problem.solve()
    spectra = {}
    for part in comm.allgather(W.eigenvalues):
        spectra |= part
    result = {
        "P": gather_matrix(W.P),
        "vertex": np.concatenate(comm.allgather(W.vertex)),
        "u": gather_function(problem.u),
        "points": dof_points(V),
        "spectra": spectra,
    }
    problem.destroy()
    W.destroy()
    return result


def columns(result, vertex, order):
    """Basis functions of one neighbourhood as rows, dofs in a given order."""
    return result["P"][order][:, result["vertex"] == vertex].toarray().T


def norms(u):
    return np.linalg.norm(u)


@pytest.mark.parametrize("name", CASES)
def test_same_on_any_number_of_ranks(name):
    case, num_modes = CASES[name], 6
    here = build(COMM, case, num_modes)
    alone = on_root(build, MPI.COMM_SELF, case, num_modes)
    assert here["P"].shape == alone["P"].shape
    order = match(alone["points"], here["points"])
    assert norms(here["u"][order] - alone["u"]) <= 1e-8 * norms(alone["u"])

    # Neighbourhoods have the same numbers in any case, boxes or coarse meshes.
    assert sorted(here["spectra"]) == sorted(alone["spectra"])
    compared = 0
    for vertex, values in alone["spectra"].items():
        np.testing.assert_allclose(
            here["spectra"][vertex], values, rtol=1e-7, atol=1e-8 * np.abs(values).max()
        )
        one = columns(alone, vertex, slice(None))
        two = columns(here, vertex, order)
        assert len(one) == len(two)
        # All of a neighbourhood's functions together: where the spectrum was cut at a gap.
        if len(one):
            compared += 1
            assert sine(one, two) <= 1e-8, (vertex, values)
    assert compared > 0
