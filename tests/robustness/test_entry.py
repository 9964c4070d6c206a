# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Wrong types, destroyed PETSc objects and odd numbers: one sentence at the door, on every rank."""

import warnings

from petsc4py import PETSc

import numpy as np
import pytest
from sample import COMM, HERE, Sample, expect_error

from dolfinx import fem
from dolfinx_msnn import CoarseGrid, TwoLevelPreconditioner, estimate, fields, plot
from dolfinx_msnn import petsc as msnn
from dolfinx_msnn._utils.entry import checked


@pytest.fixture(scope="module")
def p():
    p = Sample(n=4)
    with p.space() as W, p.problem(W) as p.solved:
        p.W, p.uh = W, p.solved.solve()
        yield p


def calls(p):
    """Public functions with right arguments, by name; each is tried with wrong ones in turn."""
    A, W, u, a, msh = p.solved.A, p.W, p.uh, p.a, p.mesh
    b, c = p.solved.b, W.P.createVecRight()
    return [
        (msnn.create_coarse_matrix, {"A": A, "W": W}),
        (msnn.assemble_coarse_matrix, {"A0": p.solved.A0, "A": A, "W": W}),
        (msnn.assemble_coarse_vector, {"b": b, "W": W, "b0": c}),
        (estimate.local_indicators, {"problem": p.solved}),
        (estimate.local_energies, {"a": a, "w": u, "coarse": p.coarse}),
        (estimate.residual, {"problem": p.solved}),
        (estimate.bound_fine_error, {"problem": p.solved, "preconditioner": 3, "lambda_min": 1.0}),
        (estimate.bound_error, {"u": u, "kappa": 1.0, "f": 1.0, "coarse": p.coarse}),
        (estimate.stability_constants, {"W": W, "coarse": p.coarse, "a": a, "bcs": p.bcs}),
        (estimate.schwarz_lambda_min, {"W": W, "coarse": p.coarse, "constants": {}}),
        (estimate.SchwarzPreconditioner, {"problem": p.solved}),
        (estimate.SubdomainSolvers, {"A": A, "W": W}),
        (estimate.enrich, {"W": W}),
        (W.prolong, {"coefficients": c, "u": u}),
        (W.coefficients, {"f": u, "M": A}),
        (plot.draw_function, {"axes": None, "u": u}),
        (plot.draw_error, {"axes": None, "u": u, "reference": u}),
        (plot.draw_cells, {"axes": None, "msh": msh, "values": []}),
        (plot.draw_coarse_grid, {"axes": None, "coarse": p.coarse}),
        (plot.draw_neighbourhood, {"axes": None, "V": p.V, "coarse": p.coarse, "vertex": 0}),
        (plot.basis_function, {"W": W, "vertex": 0}),
        (plot.draw_spectra, {"axes": None, "W": W}),
        (plot.gather_spectra, {"W": W}),
        (plot.gather_nodes, {"u": u}),
        (plot.gather_slice, {"u": u}),
        (plot.gather_cells, {"msh": msh, "values": []}),
    ]


def test_wrong_types(p):
    """On all ranks, and, where another argument tells who the others are, on the last one only."""
    skipped = ("axes", "values", "vertex", "kappa", "f", "lambda_min", "constants", "a", "bcs")
    for function, right in calls(p):
        meshes = [k for k, v in right.items() if not isinstance(v, PETSc.Object | int | float)]
        for name in sorted(right.keys() - set(skipped)):
            alone = len({*meshes} - {name, *skipped}) > 0
            for wrong in (3, "text"):
                given = right | {name: wrong if HERE or not alone else right[name]}
                with expect_error(ValueError, f"Expected a .*, got (int|str) for {name}"):
                    function(**given)


def test_wrong_contents(p):
    for call, said in (
        (lambda: plot.draw_guard(None, [3]), "reports must be the reports of a GuardedBasis"),
        (lambda: plot.gather_reports(COMM, 3), "reports must be the reports of a GuardedBasis"),
        (
            lambda: plot.draw_basis_functions(None, p.W, 0, num="a"),
            "num must be a positive integer",
        ),
        (
            lambda: plot.draw_coarse_grid(None, p.coarse, plane_axes=3),
            "plane_axes must be two axes",
        ),
        (
            lambda: plot.draw_coarse_grid(None, p.coarse, plane_axes=(0, 0)),
            "plane_axes must be two",
        ),
        (
            lambda: estimate.stability_constants(p.W, p.coarse, p.a, p.bcs, vertices=3),
            "vertices must be coarse vertices of this rank, got 3",
        ),
        (lambda: estimate.enrich(p.W, 3 if HERE else []), "functions must be a sequence of"),
        (lambda: estimate.enrich(p.W, [(0,)] if HERE else []), "functions must be a sequence of"),
    ):
        with expect_error(ValueError, said):
            call()


def test_destroyed(p):
    """PETSc would end the process."""
    A, W = p.solved.A.copy(), p.W
    b, c, pc = A.createVecLeft(), W.P.createVecRight(), PETSc.PC().create(COMM)
    for item in (A, b, c, pc):
        item.destroy()
    for call, name in (
        (lambda: msnn.create_coarse_matrix(A, W), "A is a PETSc Mat"),
        (lambda: msnn.assemble_coarse_matrix(A, p.solved.A, W), "A0 is a PETSc Mat"),
        (lambda: msnn.assemble_coarse_vector(b, W), "b is a PETSc Vec"),
        (lambda: msnn.create_coarse_solver(A, "gone_"), "A0 is a PETSc Mat"),
        (lambda: W.prolong(c), "coefficients is a PETSc Vec"),
        (lambda: W.coefficients(p.uh, A), "M is a PETSc Mat"),
        (lambda: W.match_type(A), "A is a PETSc Mat"),
        (lambda: estimate.SubdomainSolvers(A, W), "A is a PETSc Mat"),
        (lambda: estimate.residual(p.solved, b), "u is a PETSc Vec"),
        (lambda: estimate.bound_fine_error(p.solved, pc, 1.0), "preconditioner is a PETSc PC"),
    ):
        with expect_error(ValueError, f"{name} that has been destroyed"):
            call()


def test_odd_numbers(p):
    with pytest.raises(ValueError, match="must be of real numbers"):
        fields.from_array(np.eye(2), low=0.1 + 1j, high=2.0)
    with pytest.raises(ValueError, match="must be of real numbers"):
        fields.from_array(np.eye(2), phases={0.0: 1.0, 1.0: "2"})
    for time in (np.nan, "0"):
        with expect_error(ValueError, "time must be a finite number, got"):
            msnn.BDF(fem.Function(p.V), 0.1, time=time)
    for ratio in (np.nan, 0.0, "1"):
        with expect_error(ValueError, "ratio must be a positive number, got"):
            pc = PETSc.PC().create(COMM)
            try:
                estimate.bound_fine_error(p.solved, pc, 1.0, ratio=ratio)
            finally:
                pc.destroy()
    vertex = int(p.W.vertex[0]) if len(p.W.vertex) else 0
    for rows in ([-1], [0.5], [10**6], [0, 0]):
        functions = [(vertex, np.array(rows), np.ones(len(rows)))] if HERE else []
        with expect_error(ValueError, "A new basis function of .*; expected distinct integers"):
            estimate.enrich(p.W, functions)


def warned(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in found if "nothing has asked for" in str(w.message)]


def test_misspelt_options(p):
    right = {"ksp_type": "cg", "ksp_rtol": 1e-9, "pc_type": "jacobi"}

    def solve(options):
        with p.problem(p.W, petsc_options=options) as problem:
            problem.solve()

    assert warned(lambda: solve(right)) == []
    found = warned(lambda: solve(right | {"kps_rtol": 1e-9}))
    assert len(found) == (COMM.rank == 0)
    assert all("petsc_options has kps_rtol (under " in text for text in found)

    def attach(options):
        ksp = PETSc.KSP().create(COMM)
        ksp.setOperators(p.solved.A)
        ksp.setType("cg")
        common = {"petsc_options_prefix": "odd_", "petsc_options": options}
        with TwoLevelPreconditioner(p.W, **common) as M:
            M.attach(ksp)
            ksp.destroy()

    assert warned(lambda: attach({"fine_ksp_max_it": 2})) == []
    assert len(warned(lambda: attach({"fine_kps_max_it": 2}))) == (COMM.rank == 0)


def test_what_is_not_checked():
    """Plain types are left to the function, and so is a wrong call."""

    @checked
    def function(grid: CoarseGrid | None, number: int = 0) -> object:
        return grid, number

    assert function(None, number="text") == (None, "text")
    with pytest.raises(TypeError, match="missing 1 required"):
        function()
    with pytest.raises(ValueError, match="Expected a CoarseGrid or None, got int for grid"):
        function(1)
