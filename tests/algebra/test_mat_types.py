# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The PETSc type of the fine matrix or of ``mat_type`` is that of P, R, A and A_0.

Driven with a CPU type that is not the default; device types take the same way. Of PETSc 3.25's
other CPU types, aijsell is refused (see below) and aijcrl cannot be duplicated.
"""

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import pytest
from utils import (
    COMM,
    box,
    cell_field,
    clamp,
    diffusion,
    gather_function,
    gather_matrix,
    mass,
    rough,
)

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx.mesh import CellType
from dolfinx_msnn import CoarseGrid, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.petsc import (
    LinearProblem,
    assemble_coarse_matrix,
    assemble_coarse_vector,
    create_coarse_matrix,
)

MAT_TYPE = "aijperm"


def full_name(mat_type):
    return ("seq" if COMM.size == 1 else "mpi") + mat_type


class Problem:
    def __init__(self):
        msh = box(COMM, CellType.triangle, 12)
        self.V = fem.functionspace(msh, ("Lagrange", 1))
        self.kappa = cell_field(msh, rough(1e3))
        self.a, self.s = diffusion(self.V, self.kappa), mass(self.V, self.kappa)
        self.L = ufl.TestFunction(self.V) * ufl.dx
        self.bcs = [clamp(self.V, lambda x: np.isclose(x[0], 0.0), 1.0)]
        self.coarse = CoarseGrid(msh, (3, 3))

    def space(self, mat_type=None):
        return multiscale_functionspace(
            self.V, self.coarse, SpectralBasis(4), self.a, self.s, self.bcs, mat_type=mat_type
        )

    def linear(self, W, mat_type=None):
        return LinearProblem(
            self.a, self.L, W, bcs=self.bcs, petsc_options_prefix="types_", mat_type=mat_type
        )

    def matrix(self, mat_type):
        A = assemble_matrix(fem.form(self.a), bcs=self.bcs, kind=mat_type)
        A.assemble()
        assert A.getType() == full_name(mat_type)
        return A


@pytest.fixture(scope="module")
def expected():
    """P, A_0 and the solution with the default type."""
    problem = Problem()
    with problem.space() as W, problem.linear(W) as linear:
        assert W.P.getType() == full_name("aij")
        u = gather_function(linear.solve())
        return gather_matrix(W.P).toarray(), gather_matrix(linear.A0).toarray(), u


def test_everything_follows_the_space(expected):
    """A space of that type: P, R, then A, A_0, vectors, and the solution stays the same."""
    P, A0, u = expected
    problem, name = Problem(), full_name(MAT_TYPE)
    with problem.space(MAT_TYPE) as W, problem.linear(W) as linear:
        assert [W.P.getType(), W.R.getType()] == [name] * 2
        np.testing.assert_allclose(gather_matrix(W.P).toarray(), P, atol=1e-12 * abs(P).max())
        assert [linear.A.getType(), linear.A0.getType()] == [name] * 2
        np.testing.assert_allclose(gather_matrix(linear.A0).toarray(), A0, atol=1e-11 * A0.max())
        np.testing.assert_allclose(gather_function(linear.solve()), u, rtol=1e-9)
        assert linear.b.getType() == linear.A.createVecLeft().getType()
        # Nothing has been converted on the way, also not by a change of coefficient.
        problem.kappa.x.array[:] *= 2.0
        linear.assemble()
        assert [x.getType() for x in (W.P, linear.A, linear.A0)] == [name] * 3
        np.testing.assert_allclose(
            gather_matrix(linear.A0).toarray(), 2 * A0, atol=1e-11 * A0.max()
        )
        # Projections, too, make their matrices of that type.
        f = fem.Function(problem.V)
        f.interpolate(lambda x: x[0] * np.cos(x[1]))
        a, b = (gather_function(W.project(f, m)) for m in (None, problem.s))
        assert np.isfinite(a).all() and np.abs(a - b).max() > 1e-6


def test_everything_follows_the_matrix(expected):
    """A host space used with a matrix of another type moves there, once, with its values."""
    P, _, u = expected
    problem, name = Problem(), full_name(MAT_TYPE)
    with problem.space() as W:
        R_before = W.R
        assert R_before.getType() == full_name("aij")
        handle = W.P.handle
        with problem.linear(W, MAT_TYPE) as linear:
            np.testing.assert_allclose(gather_function(linear.solve()), u, rtol=1e-9)
            types = [x.getType() for x in (linear.A, linear.A0, W.P, W.R)]
            assert types == [name] * 4
        assert W.P.handle == handle
        np.testing.assert_allclose(gather_matrix(W.P).toarray(), P, atol=1e-12 * abs(P).max())
        np.testing.assert_array_equal(gather_matrix(W.R).toarray(), gather_matrix(W.P).toarray().T)
        # The next problem takes the type that P has now.
        with problem.linear(W) as linear:
            assert linear.A.getType() == name


def test_coarse_matrix_and_vector(expected):
    """create_coarse_matrix moves a host P to A's type, and never P or A to the host."""
    _, A0_expected, _ = expected
    problem, name = Problem(), full_name(MAT_TYPE)
    A, host = problem.matrix(MAT_TYPE), problem.matrix("aij")
    with problem.space() as W:
        A0 = create_coarse_matrix(A, W)
        assert [A0.getType(), W.P.getType(), A.getType()] == [name] * 3
        np.testing.assert_allclose(
            gather_matrix(A0).toarray(), A0_expected, atol=1e-11 * A0_expected.max()
        )
        A.scale(3.0)
        assert assemble_coarse_matrix(A0, A, W) is A0
        np.testing.assert_allclose(
            gather_matrix(A0).toarray(), 3 * A0_expected, atol=1e-11 * A0_expected.max()
        )
        b = A.createVecLeft()
        b.set(1.0)
        b0 = assemble_coarse_vector(b, W)
        assert b0.getType() == A0.createVecLeft().getType()
        assert b0.getSizes() == A0.createVecLeft().getSizes()
        with pytest.raises(ValueError, match="expected the same type"):
            create_coarse_matrix(host, W)
        assert W.P.getType() == name
        for item in (A, host, A0, b, b0):
            item.destroy()


def test_types_that_cannot_be_used_are_refused():
    """Multiplying by the transpose of an aijsell matrix is wrong, unless 8 divides its rows."""
    problem = Problem()
    with problem.space() as W:
        for mat_type in ("aijsell", "seqaijsell", "baij", "dense", "nonsense", 3):
            with pytest.raises(ValueError, match="sparse matrix type"):
                problem.space(mat_type)
            with pytest.raises(ValueError, match="sparse matrix type"):
                problem.linear(W, mat_type)


@pytest.mark.serial
def test_aijsell_is_refused_for_a_reason():
    """Fails once PETSc multiplies rightly: then aijsell can be let in again."""
    rows, cols = 20, 6
    data = np.arange(1.0, 1 + rows * cols).reshape(rows, cols)
    A = PETSc.Mat().createDense(data.shape, array=data, comm=MPI.COMM_SELF)
    A.convert("aij")
    A.convert("aijsell")
    x, y = A.createVecs()
    y.set(1.0)
    A.multTranspose(y, x)
    assert not np.allclose(x.array_r, data.sum(axis=0))
    for item in (A, x, y):
        item.destroy()
