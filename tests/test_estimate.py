# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Error control: indicators and bounds against dense linear algebra and known solutions."""

from __future__ import annotations

import numpy as np
import pytest
from sample import COMM, expect_error
from scipy.stats import spearmanr
from utils import (
    box,
    cell_field,
    clamp,
    diffusion,
    elasticity,
    gather_function,
    gather_matrix,
    gather_vector,
    mass,
    rough,
)

import ufl
from dolfinx import fem
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid, FilteredBasis, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.estimate import SubdomainSolvers, local_indicators, residual
from dolfinx_msnn.petsc import LinearProblem


class Case:
    """A rough diffusion (or elasticity) problem with its space, solution and dense oracle."""

    def __init__(
        self,
        comm=COMM,
        *,
        cell=CellType.quadrilateral,
        n=16,
        boxes=4,
        modes=4,
        basis=None,
        contrast=1e3,
        vector=False,
        conditions="mixed",
        seed=0,
    ):
        msh = box(comm, cell, n)
        d = msh.geometry.dim
        self.V = fem.functionspace(msh, ("Lagrange", 1, (d,) if vector else ()))
        self.kappa = cell_field(msh, rough(contrast))
        self.coarse = CoarseGrid(msh, [boxes] * d)
        self.f = cell_field(msh, lambda x: np.cos(3 * x[0] + seed) + 2 * x[1])
        v = ufl.TestFunction(self.V)
        self.a = elasticity(self.V, self.kappa) if vector else diffusion(self.V, self.kappa)
        load = ufl.as_vector([self.f] * d) if vector else self.f
        self.L = ufl.inner(load, v) * ufl.dx
        self.g = 0.0
        self.bcs = [clamp(self.V, lambda x: np.isclose(x[0], 0), 0.5)]
        if conditions == "dirichlet":
            self.bcs = [clamp(self.V, lambda x: np.isclose(x * (1 - x), 0)[:d].any(axis=0), 0.0)]
        elif conditions == "mixed" and not vector:
            self.g = 2.0
            self.L += self.g * v * ufl.ds
        basis = SpectralBasis(modes) if basis is None else basis
        s = mass(self.V, self.kappa)
        self.W = multiscale_functionspace(self.V, self.coarse, basis, self.a, s, self.bcs)
        self.problem = LinearProblem(
            self.a, self.L, self.W, bcs=self.bcs, petsc_options_prefix="estimate_"
        )
        self.u = self.problem.solve()

    def gathered(self):
        """A, b and the free part of u as SciPy and NumPy objects on every rank."""
        A, b = gather_matrix(self.problem.A), gather_vector(self.problem.b)
        u = gather_function(self.u)
        u[b.shape[0] :] = 0
        mask = np.concatenate(self.W.comm.allgather(self.W.dirichlet))
        return A, b, np.where(mask, 0.0, u)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.problem.destroy()
        self.W.destroy()


def test_residual():
    with Case() as case:
        A, b, u = case.gathered()
        r = residual(case.problem)
        np.testing.assert_allclose(gather_vector(r), b - A @ u, atol=1e-10 * abs(b).max())
        r.destroy()


@pytest.mark.parametrize("vector", [False, True])
def test_indicators_against_dense_dual_norms(vector):
    with Case(vector=vector, boxes=3, n=12) as case:
        found = local_indicators(case.problem)
        A, b, u = case.gathered()
        P = gather_matrix(case.W.P).tocsc()
        vertex = np.concatenate(COMM.allgather(case.W.vertex))
        r = b - A @ u
        expected = {}
        for i in np.unique(vertex):
            dofs = np.unique(P[:, np.flatnonzero(vertex == i)].indices)
            expected[i] = np.sqrt(r[dofs] @ np.linalg.solve(A[dofs][:, dofs].toarray(), r[dofs]))
        pairs = COMM.allgather(dict(zip(found.vertex.tolist(), found.values, strict=True)))
        values = {i: x for part in pairs for i, x in part.items()}
        assert sorted(values) == sorted(expected)
        for i, x in expected.items():
            assert values[i] == pytest.approx(x, rel=1e-8)
        assert found.total == pytest.approx(np.linalg.norm(list(expected.values())), rel=1e-8)
        doubled = local_indicators(case.problem, constants=dict.fromkeys(expected, 4.0))
        np.testing.assert_allclose(doubled.values, 2 * found.values, rtol=1e-12)


def local_errors(case):
    """Energy of u_h - u_H on each neighbourhood (cells where χ_i > 0), by coarse vertex."""
    from dolfinx.fem.petsc import LinearProblem as FineProblem

    options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    fine = FineProblem(
        case.a, case.L, bcs=case.bcs, petsc_options=options, petsc_options_prefix="fine_"
    )
    uh = fine.solve()
    e = fem.Function(case.V)
    e.x.array[:] = uh.x.array - case.u.x.array
    w = ufl.TestFunction(fem.functionspace(case.V.mesh, ("DG", 0)))
    energy = fem.assemble_vector(
        fem.form(case.kappa * ufl.inner(ufl.grad(e), ufl.grad(e)) * w * ufl.dx)
    ).array
    hats = case.coarse.hats(case.V.tabulate_dof_coordinates())
    num_cells = case.V.mesh.topology.index_map(case.V.mesh.topology.dim).size_local
    sums = np.zeros(case.coarse.num_vertices)
    for cell, dofs in enumerate(case.V.dofmap.list[:num_cells]):
        inside = np.unique(hats.vertices[dofs][hats.values[dofs] > 0])
        sums[inside] += energy[cell]
    return np.sqrt(COMM.allreduce(sums)), np.sqrt(COMM.allreduce(energy[:num_cells].sum()))


@pytest.mark.parametrize("basis", [SpectralBasis(4), FilteredBasis(num_modes=4)])
def test_indicators_rank_neighbourhoods(basis):
    """They order neighbourhoods as the true local errors do."""
    with Case(n=32, boxes=8, basis=basis) as case:
        errors, _ = local_errors(case)
        found = local_indicators(case.problem)
        vertex = np.concatenate(COMM.allgather(found.vertex))
        values = np.concatenate(COMM.allgather(found.values))
        assert spearmanr(values, errors[vertex]).statistic > 0.8


def test_solvers_can_be_kept_and_refuse():
    with Case() as case:
        with SubdomainSolvers(case.problem.A, case.W) as solvers:
            first = local_indicators(case.problem, solvers=solvers)
            case.u.x.array[:] = 0.0
            second = local_indicators(case.problem, solvers=solvers)
            assert second.total > first.total
            with expect_error(ValueError, "constants has no entry"):
                local_indicators(case.problem, solvers=solvers, constants={})
        with expect_error(RuntimeError, "destroyed"):
            local_indicators(case.problem, solvers=solvers)
        with expect_error(ValueError, "fine matrix is"):
            SubdomainSolvers(case.problem.A0, case.W)
