# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""After many spaces there are as many PETSc objects, MPI communicators and bytes as after a few."""

import gc

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import pytest
from leaks import check_cycles, free_communicators, grown, live_objects, logging, memory  # noqa: F401 (a fixture)
from sample import COMM, HERE, Sample

from dolfinx import fem
from dolfinx_msnn import (
    FilteredBasis,
    LocalModes,
    MultiscaleFunctionSpace,
    SpectralBasis,
    TwoLevelPreconditioner,
)
from dolfinx_msnn._utils import petsc
from dolfinx_msnn.bases import protocol

# What is destroyed is destroyed in the same way on any number of ranks; what is dropped is not.
DESTROYED_OR_DROPPED = pytest.mark.parametrize(
    "destroy",
    [
        pytest.param(True, id="destroyed", marks=pytest.mark.serial),
        pytest.param(False, id="dropped"),
    ],
)


def test_the_measures_see_leaks(tmp_path):
    """What the other tests rely on."""
    path = tmp_path / "log"
    # Less than none, if some are gone that were made before anybody counted.
    vectors = live_objects(path).get("Vector", 0)
    # While there is an object, PETSc has a communicator of its own.
    vector = PETSc.Vec().createSeq(1)
    objects, communicators = live_objects(path), free_communicators()
    matrix = PETSc.Mat().createAIJ((3, 3), comm=MPI.COMM_SELF)
    comm = MPI.COMM_WORLD.Dup()
    assert grown(objects, live_objects(path)) == {"Matrix": objects.get("Matrix", 0) + 1}
    assert free_communicators() == communicators - 1
    matrix.destroy()
    comm.Free()
    assert live_objects(path) == objects
    assert objects["Vector"] == vectors + 1
    assert free_communicators() == communicators
    vector.destroy()


def build_and_solve(p, destroy=True):
    W = p.space()
    problem = p.problem(W)
    problem.solve()
    if destroy:
        problem.destroy()
        W.destroy()


def test_destroy_frees_at_once(tmp_path):
    """While Python still refers to everything."""
    p, path = Sample(n=4), tmp_path / "log"
    p.solve()
    gc.collect()
    petsc.sweep(COMM)
    before = live_objects(path)
    W = p.space()
    after_space = live_objects(path)
    assert after_space["Matrix"] > before.get("Matrix", 0)
    assert W.R.getSize()[0] == W.num_dofs
    W.interpolate(p.one)
    problem = p.problem(W)
    problem.solve()
    held = problem.A, problem.A0, problem.b, problem.solver, W.P, W.R
    problem.destroy()
    W.destroy()
    assert not grown(before, live_objects(path))
    assert not any(held)


def test_same_mesh(tmp_path):
    """Build, solve, destroy."""
    p = Sample()
    check_cycles(lambda: build_and_solve(p), tmp_path / "log", 200)


def test_nobody_destroys(tmp_path):
    p = Sample()
    check_cycles(lambda: build_and_solve(p, destroy=False), tmp_path / "log", 20)


@DESTROYED_OR_DROPPED
def test_new_mesh(tmp_path, destroy):
    """Every mesh has communicators of its own, and PETSc one for each of these."""
    check_cycles(lambda: build_and_solve(Sample(n=4), destroy), tmp_path / "log", 10)


@DESTROYED_OR_DROPPED
def test_everything_else(tmp_path, destroy):
    """All that one does with a space, and that makes PETSc objects."""
    p = Sample()

    def cycle():
        W = p.space(s=p.s)
        problem = p.problem(W, mat_type="aij")
        problem.solve()
        problem.assemble()
        problem.solve(2 * p.L)
        assert W.R.getSize()[0] == W.num_dofs == problem.A0.getSize()[0]
        W.interpolate(p.one)
        W.project(p.one)
        c = W.coefficients(p.one)
        W.prolong(c)
        if destroy:
            c.destroy()
            problem.destroy()
            W.destroy()

    check_cycles(cycle, tmp_path / "log", 10)


@pytest.mark.serial
def test_3d_and_neumann(tmp_path):
    """MUMPS in every neighbourhood, a null space, vectors, an iterative coarse solver."""
    p = Sample(n=4, dim=3, element=("Lagrange", 1, (3,)))
    p.basis = SpectralBasis(7)
    options = {"ksp_type": "cg", "pc_type": "gamg"}

    def cycle():
        with p.space(bcs=[]) as W:
            for chosen in (None, options):
                with p.problem(W, bcs=[], petsc_options=chosen) as problem:
                    problem.solve()

    check_cycles(cycle, tmp_path / "log", 3)


def test_preconditioner_of_a_dropped_ksp(tmp_path):
    """On another communicator than the space, where nobody else makes anything."""
    p = Sample(n=4)
    with p.space() as W, p.problem(W) as problem:
        problem.solve()

        def cycle():
            ksp = PETSc.KSP().create(COMM)
            ksp.setOperators(problem.A)
            ksp.setType("cg")
            with TwoLevelPreconditioner(W, petsc_options_prefix="dropped_") as M:
                M.attach(ksp)
                x = problem.A.createVecRight()
                ksp.solve(problem.b, x)
                x.destroy()

        check_cycles(cycle, tmp_path / "log", 10)


def test_reports_are_bounded(monkeypatch):
    monkeypatch.setattr(protocol, "MOST_REPORTS", 5)
    p = Sample(n=4)
    p.basis = FilteredBasis(2)
    with p.space() as W:
        count = len(W.eigenvalues)
    p.space().destroy()
    assert len(p.basis.reports) == min(5, 2 * count)
    assert {report.vertex for report in p.basis.reports} <= set(W.eigenvalues)


@pytest.mark.serial
def test_save_and_load(tmp_path):
    p = Sample()
    path = COMM.bcast(str(tmp_path / "space.h5"))
    with p.space() as W:
        W.save(path, p.a)

    def cycle():
        with MultiscaleFunctionSpace.load(path, p.V, p.a, bcs=p.bcs) as W:
            W.save(path, p.a)

    check_cycles(cycle, tmp_path / "log", 20)


class Broken:
    """Raises on one rank, at the end."""

    def modes(self, problems):
        if HERE:
            raise ValueError("broken")
        return [LocalModes(np.zeros(1), np.ones((1, p.num_dofs))) for p in problems]


MANY = ("coefficient", "empty space", "divergence")


def failures(p, W, path):
    """Ways to fail at each stage."""
    nan = fem.Constant(p.mesh, np.nan)
    stubborn = SpectralBasis(3, petsc_options={"eps_max_it": 1, "eps_tol": 1e-16})
    refused = SpectralBasis(3, petsc_options={"st_pc_type": "nonsense"})
    everywhere = [fem.dirichletbc(fem.Function(p.V), np.arange(len(p.one.x.array), dtype=np.int32))]
    other = fem.Constant(p.mesh, 2.0)

    def load(**changed):
        MultiscaleFunctionSpace.load(path, **({"V": p.V, "a": p.a, "bcs": p.bcs} | changed))

    def solve(**changed):
        p.problem(W, **changed).solve()

    return {
        "arguments": lambda: p.space(basis=0),
        "coefficient": lambda: p.space(a=nan * p.a),
        "basis": lambda: p.space(basis=Broken()),
        "convergence": lambda: p.space(basis=stubborn),
        "eigensolver": lambda: p.space(basis=refused),
        "empty space": lambda: p.space(bcs=everywhere),
        "problem": lambda: p.problem(W, bcs=[]),
        "solver": lambda: solve(petsc_options={"pc_type": "nonsense"}),
        "divergence": lambda: solve(
            petsc_options={"ksp_type": "cg", "pc_type": "none", "ksp_max_it": 1}
        ),
        "interpolation": lambda: W.interpolate(None),
        "another form": lambda: load(a=other * p.a),
        "another space": lambda: load(bcs=[]),
        "saving": lambda: W.save("/nowhere/space.h5", p.a),
    }


@pytest.mark.parametrize(
    "stage",
    [
        # Several ranks are different where objects on all of them are left.
        stage if stage in MANY else pytest.param(stage, marks=pytest.mark.serial)
        for stage in failures(Sample(n=2), None, None)
    ],
)
def test_failures(tmp_path, stage):
    """What fails leaves nothing behind, be it the tenth time."""
    p = Sample(n=12)
    path = COMM.bcast(str(tmp_path / "space.h5"))
    with p.space() as W:
        W.save(path, p.a)
        fail = failures(p, W, path)[stage]

        def cycle():
            with pytest.raises((ValueError, RuntimeError, OSError)):
                fail()
            # What several ranks left, exceptions with frames in their tracebacks among it, is freed
            # when Python has collected it and the next space is built.
            gc.collect()
            petsc.sweep(COMM)

        check_cycles(cycle, tmp_path / "log", 4)


@pytest.mark.skipif(COMM.size == 1, reason="one rank frees its objects at once")
def test_sweep(tmp_path):
    """Dropped in another order on each rank, swept at once, though their meshes are gone."""
    path = tmp_path / "log"
    petsc.sweep(COMM)
    gc.collect()
    petsc.sweep(COMM)
    before = live_objects(path)
    samples = [Sample(n=4) for _ in range(3)]
    spaces = [p.space() for p in samples]
    problems = [p.problem(W) for p, W in zip(samples, spaces, strict=True)]
    for problem in problems:
        problem.solve()
    del problem
    assert "Matrix" in grown(before, live_objects(path))
    grounds = [g for g in petsc._grounds if any(W in g.owners for W in spaces)]
    assert len(grounds) == 3
    for k in range(3):
        # Another order on each rank.
        i = (k + COMM.rank) % 3
        problems[i] = spaces[i] = samples[i] = None
    gc.collect()
    assert "Matrix" in grown(before, live_objects(path))
    petsc.sweep(COMM)
    assert not grown(before, live_objects(path))
    assert not any(g in petsc._grounds for g in grounds)


@pytest.mark.skipif(COMM.size == 1, reason="one rank frees its objects at once")
def test_sweep_keeps_what_one_rank_still_has():
    p = Sample(n=4)
    W = p.space()
    ground = petsc._grounds[-1]
    assert W in ground.owners
    kept = W if HERE else None
    del W
    gc.collect()
    petsc.sweep(COMM)
    petsc.sweep(COMM)
    assert ground in petsc._grounds
    if HERE:
        assert kept.P.getSize()[1] == 18
        assert kept.P.getInfo(PETSc.Mat.InfoType.LOCAL)["nz_used"] > 0
    kept = None
    gc.collect()
    petsc.sweep(COMM)
    assert ground not in petsc._grounds
