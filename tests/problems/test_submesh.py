# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Data on submeshes: problems with a known solution, with entity maps and without."""

import numpy as np
import pytest
from sample import expect_error
from utils import COMM, TRI, box

import ufl
from dolfinx import fem, mesh
from dolfinx_msnn import CoarseGrid, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.petsc import LinearProblem, NonlinearProblem, TransientProblem


@pytest.fixture
def p():
    """U = y: held at y = 0, flow 1 through y = 1 (a function on the facets there).

    The coefficient is 1: 3 on the cells of a submesh, the left half, less 2 there.
    """

    class P: ...

    p = P()
    p.msh = msh = box(COMM, TRI, 8)
    p.V = V = fem.functionspace(msh, ("Lagrange", 1))
    u, p.v = ufl.TrialFunction(V), ufl.TestFunction(V)
    top = np.sort(mesh.locate_entities_boundary(msh, 1, lambda x: np.isclose(x[1], 1)))
    lines, facets, *_ = mesh.create_submesh(msh, 1, top)
    half = mesh.locate_entities(msh, 2, lambda x: x[0] <= 0.5 + 1e-10)
    part, cells, *_ = mesh.create_submesh(msh, 2, half)
    p.q = fem.Function(fem.functionspace(lines, ("Lagrange", 1)))
    p.kappa = fem.Function(fem.functionspace(part, ("DG", 0)))
    p.q.x.array[:], p.kappa.x.array[:] = 1.0, 3.0
    p.maps = [facets, cells]
    tags = mesh.meshtags(msh, 1, top, np.full(len(top), 9, np.int32))
    ds = ufl.Measure("ds", domain=msh, subdomain_data=tags)
    owned = half[half < msh.topology.index_map(2).size_local]
    tags = mesh.meshtags(msh, 2, owned, np.full(len(owned), 7, np.int32))
    dx = ufl.Measure("dx", domain=msh, subdomain_data=tags)
    product = ufl.inner(ufl.grad(u), ufl.grad(p.v))
    p.a = product * ufl.dx(msh) + (p.kappa - 3) * product * dx(7)
    p.L = p.q * p.v * ds(9)
    p.m = u * p.v * ufl.dx
    bottom = mesh.locate_entities_boundary(msh, 1, lambda x: np.isclose(x[1], 0))
    p.bcs = [fem.dirichletbc(0.0, fem.locate_dofs_topological(V, 1, bottom), V)]
    p.exact = V.tabulate_dof_coordinates()[:, 1]
    p.coarse = CoarseGrid(msh, (2, 2))
    return p


def space(p, **maps):
    return multiscale_functionspace(p.V, p.coarse, SpectralBasis(4), p.a, p.m, p.bcs, **maps)


def test_exact_solutions(p):
    """The hat functions of the boxes, and so y, are in the space."""
    maps = {"entity_maps": p.maps}
    common = {"bcs": p.bcs, "petsc_options_prefix": "sub_", **maps}
    w = fem.Function(p.V)
    with space(p, **maps) as W:
        with LinearProblem(p.a, p.L, W, **common) as problem:
            np.testing.assert_allclose(problem.solve().x.array, p.exact, atol=1e-10)
            # Data on a submesh that change are seen, too.
            p.kappa.x.array[:] = 5.0
            assert np.abs(problem.solve().x.array - p.exact).max() > 0.01
            p.kappa.x.array[:] = 3.0
        F = ufl.action(p.a, w) - p.L
        with NonlinearProblem(F, w, W, **common) as problem:
            np.testing.assert_allclose(problem.solve().x.array, p.exact, atol=1e-10)
        w.x.array[:] = 0.0
        with TransientProblem(p.m, p.a, p.L, w, W, dt=1e6, **common) as problem:
            np.testing.assert_allclose(problem.step().x.array, p.exact, atol=1e-5)


def test_what_is_missing_is_said(p):
    said = "a is defined on another mesh than V; .* entity_maps for the meshes of its coefficients"
    for maps in ({}, {"entity_maps": p.maps[:1]}):
        with expect_error(ValueError, said):
            space(p, **maps)
    with expect_error(ValueError, "entity_maps must be a sequence of entity maps"):
        space(p, entity_maps=[p.q])
