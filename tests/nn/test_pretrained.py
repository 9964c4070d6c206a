# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The models that come with the package, on fields that they were not trained on."""

from __future__ import annotations

from functools import partial

import pytest

pytest.importorskip("torch")

from mpi4py import MPI

import numpy as np
from utils import jiggle

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import fields
from dolfinx_msnn.nn.learned import LearnedBasis
from dolfinx_msnn.nn.model import load_model, read_card
from dolfinx_msnn.petsc import LinearProblem
from dolfinx_msnn.pretrained import pretrained_models

COMM = MPI.COMM_WORLD
DIRECT = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}


def errors(msh, degree, n, kappa, bases):
    """Relative L2 and energy errors of the multiscale solutions, for each basis. Collective."""
    V = fem.functionspace(msh, ("Lagrange", degree))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    s = kappa * u * v * ufl.dx
    L = fem.Constant(msh, 1.0) * v * ufl.dx
    sides = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0] * (1 - x[0]), 0))
    bcs = [fem.dirichletbc(0.0, sides, V)]
    uf = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=DIRECT).solve()

    def norms(w):
        forms = (w * w * ufl.dx, kappa * ufl.inner(ufl.grad(w), ufl.grad(w)) * ufl.dx)
        squares = [fem.assemble_scalar(fem.form(f)) for f in forms]
        return np.sqrt(msh.comm.allreduce(np.array(squares)))

    found = []
    for basis in bases:
        with (
            msnn.multiscale_functionspace(V, msnn.CoarseGrid(msh, n), basis, a, s, bcs) as W,
            LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="coarse_") as problem,
        ):
            difference = problem.solve()
            difference.x.array[:] -= uf.x.array
            found.append(norms(difference) / norms(uf))
    return np.array(found)


def both(kappa, name):
    return msnn.SpectralBasis(8), LearnedBasis.pretrained(name, kappa, 8)


def square(n=60, cell=mesh.CellType.quadrilateral):
    return mesh.create_unit_square(COMM, n, n, cell)


#: Of the weights as they were trained; what is loaded is compared with the hash in the card.
HASHES = {
    "diffusion-2d": "d378beaa2b017e2d6931e25920947277382abd82114a87d17abb1ac2994da518",
    "diffusion-3d": "519c97542f8e4d6080f92b9628fe0aefe781a6cd769a990d9bf15bd6b4031f4a",
    "solutions-2d": "6c8513c0df0ac75f8b4dd2710b2761ecfee3f48d58bbdb6d994fe313cebf86b6",
    "solutions-3d": "2232cb620e64e90e6c0f7b0f86dd44a164c8d21828b388764286b41ed9e1a8bb",
}


@pytest.mark.serial
@pytest.mark.parametrize("name", HASHES)
def test_cards(name):
    path = pretrained_models()[name]
    card = load_model(path).card
    assert card == read_card(path)
    assert card.sha256 == HASHES[name]
    assert path.stat().st_size <= 2e6
    assert card.dim == int(name[-2])
    assert set(card.classes) == {"full", "half", "corner"} | (
        {"quarter"} if card.dim == 3 else set()
    )
    assert card.log_kappa_range > np.log(9e5)
    assert set(card.validation) == {"all", *card.classes}
    assert all(0 < value < 1 for value in card.validation.values())
    assert card.training_time_s < 7200 * 2


def test_no_such_model():
    with pytest.raises(ValueError, match="must be one of diffusion-2d, diffusion-3d, sol"):
        LearnedBasis.pretrained("diffusion-4d", 1.0)


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize(
    "field,bound",
    [
        (lambda m, s: fields.log_normal(m, seed=s), 1.02),
        (lambda m, s: fields.two_phase(m, 1e3, seed=s), 1.05),
        (lambda m, s: fields.two_phase(m, 1e6, seed=s), 1.05),
        (lambda m, s: fields.channels(m, 1e3, seed=s), 1.05),
    ],
)
def test_as_good_as_computed_2d(field, bound):
    msh = square()
    ratios = []
    for seed in (1001, 1002, 1003):
        kappa = field(msh, seed)
        computed, predicted = errors(msh, 1, (3, 3), kappa, both(kappa, "diffusion-2d"))
        ratios.append(predicted / computed)
    assert np.all(np.mean(ratios, axis=0) <= bound), ratios


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 3])
def test_better_than_computed_without_a_filter(dim):
    """Functions learned from solutions, as they are, on log-normal fields."""
    msh, ratios = square() if dim == 2 else mesh.create_unit_cube(COMM, 20, 20, 20), []
    grid = (3, 3) if dim == 2 else (2, 2, 2)
    for seed in (1001, 1002, 1003):
        kappa = fields.log_normal(msh, seed=seed, correlation_length=0.06 if dim == 2 else 0.15)
        basis = both(kappa, f"solutions-{dim}d")
        assert basis[1].refine is None
        computed, predicted = errors(msh, 1, grid, kappa, basis)
        ratios.append(predicted / computed)
        assert COMM.allreduce(basis[1].num_fallbacks) == 0
    assert np.all(np.mean(ratios, axis=0) <= 0.9), ratios


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("field", [fields.log_normal, partial(fields.two_phase, contrast=1e3)])
def test_predicted_boundary_values(field):
    """Their harmonic extensions are as good as those of computed boundary values."""
    msh, ratios = square(), []
    for seed in (1001, 1002, 1003):
        kappa = field(msh, seed=seed)
        traces = LearnedBasis.pretrained("solutions-2d", kappa, max_jump=2000)
        bases = [msnn.SpectralBasis(8), msnn.HarmonicBasis(8), msnn.HarmonicBasis(8, traces=traces)]
        computed, harmonic, predicted = errors(msh, 1, (3, 3), kappa, bases)
        ratios.append([predicted / computed, predicted / harmonic])
        assert COMM.allreduce(traces.num_fallbacks) == 0
    over_modes, over_harmonic = np.mean(ratios, axis=0)
    assert np.all(over_modes <= 0.3) and np.all(over_harmonic <= 1.2), ratios


@pytest.mark.slow
@pytest.mark.parametrize("case", ["triangles", "P2", "cuts", "unstructured"])
def test_other_meshes_2d(case):
    """What the model was not trained on: other cells, degrees, and boxes that cut cells."""
    degree = 2 if case == "P2" else 1
    n = {"P2": 30, "unstructured": 44}.get(case, 50)
    cell = mesh.CellType.triangle if case in ("triangles", "unstructured") else None
    msh = square(n, cell or mesh.CellType.quadrilateral)
    if case == "unstructured":
        msh = jiggle(msh, 0.25 / n)
    grid = (3, 4) if case == "cuts" else (3, 3)
    kappa = fields.two_phase(msh, 1e3, seed=1004)
    computed, predicted = errors(msh, degree, grid, kappa, both(kappa, "diffusion-2d"))
    assert np.all(predicted <= 1.1 * computed)


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("contrast", [1e2, 1e4])
def test_as_good_as_computed_3d(contrast):
    msh = mesh.create_unit_cube(COMM, 16, 16, 16, mesh.CellType.hexahedron)
    kappa = fields.two_phase(msh, contrast, seed=1005, correlation_length=0.15)
    basis = both(kappa, "diffusion-3d")
    computed, predicted = errors(msh, 1, (2, 2, 2), kappa, basis)
    assert np.all(predicted <= 1.05 * computed)
    assert COMM.allreduce(basis[1].num_fallbacks) == 0


@pytest.mark.slow
def test_of_a_given_expression():
    """Kappa as an expression and as the function that has its values give the same space."""
    msh = square(30)
    function = fields.two_phase(msh, 1e3, seed=1006)
    found = [
        errors(msh, 1, (2, 2), function, [LearnedBasis.pretrained("diffusion-2d", kappa, 4)])
        for kappa in (function, 2.0 * function)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
