# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What the tests share: meshes, gathering to every rank, and an independent multiscale space.

The oracle (:class:`Reference`) is serial and dense, and uses nothing of dolfinx_msnn: hat functions
from their formula, neighbourhoods as sets, local matrices by DOLFINx's own assembly of the form
times an indicator function, modes by LAPACK.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg
from scipy.spatial import Delaunay, cKDTree

import basix.ufl
import ufl
from dolfinx import fem, mesh
from dolfinx.mesh import CellType

COMM = MPI.COMM_WORLD
QUAD, TRI, HEX = CellType.quadrilateral, CellType.triangle, CellType.hexahedron
CELLS = [CellType.triangle, CellType.quadrilateral, CellType.tetrahedron, CellType.hexahedron]
SIMPLICES = [CellType.triangle, CellType.tetrahedron]


def gdim(cell):
    return mesh.cell_dim(cell)


def on_root(function, *args):
    """Call a function on rank 0 only and give its result, or its exception, to every rank.

    The function must not communicate except on COMM_SELF. The other ranks sleep meanwhile.
    """
    result, error = None, None
    if COMM.rank == 0:
        try:
            result = function(*args)
        except Exception as exc:
            error = exc
    request = COMM.Ibarrier()
    while not request.Test():
        time.sleep(1e-3)
    result, error = COMM.bcast((result, error), root=0)
    if error is not None:
        raise error
    return result


def on_ranks(size):
    """The command that starts Python on so many ranks, and the environment that it needs.

    For tests on one rank, whose process may have started MPI itself. No command without mpiexec.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    launcher = shutil.which("mpiexec", path=path)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "HYDI"))}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return None if launcher is None else [launcher, "-n", str(size), sys.executable], env


# ---- meshes ----


def box(comm, cell, n, upper=(1.0, 1.0, 1.0)):
    """A structured mesh of a box with n (one number or several) cells a direction."""
    d = gdim(cell)
    counts = [n] * d if np.isscalar(n) else list(n)
    create = mesh.create_rectangle if d == 2 else mesh.create_box
    return create(comm, [np.zeros(d), np.array(upper[:d])], counts, cell)


def jiggle(msh, amount):
    """Move the vertices by a rough function of position that vanishes on the unit box's boundary.

    ``amount`` is the largest displacement in a direction. Independent of the partition.
    """
    d = msh.geometry.dim
    x = msh.geometry.x
    bubble = np.prod(4 * x[:, :d] * (1 - x[:, :d]), axis=1)
    waves = np.array([[57.0, 31.0, 43.0], [37.0, 61.0, 29.0], [41.0, 23.0, 67.0]])[:d, :d]
    x[:, :d] += amount * bubble[:, None] * np.sin(x[:, :d] @ waves.T)
    return msh


def from_points(comm, points, keep):
    """An unstructured simplicial mesh: Delaunay's of rank 0's points, cells kept by midpoint."""
    d = points.shape[1]
    cells = np.zeros((0, d + 1), dtype=np.int64)
    x = np.zeros((0, d))
    if comm.rank == 0:
        simplices = Delaunay(points).simplices
        corners = points[simplices]
        volume = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
        cells = simplices[(volume > 1e-8) & keep(corners.mean(axis=1))].astype(np.int64)
        used, cells = np.unique(cells, return_inverse=True)
        x, cells = points[used], cells.reshape(-1, d + 1)
    name = "triangle" if d == 2 else "tetrahedron"
    return mesh.create_mesh(
        comm, cells, basix.ufl.element("Lagrange", name, 1, shape=(d,)), np.ascontiguousarray(x)
    )


def holed_square(comm, n=16):
    """Triangles on the unit square without a disc of radius 0.3 about its centre."""
    return from_points(comm, _cloud(n, 2), lambda m: np.linalg.norm(m - 0.5, axis=1) > 0.3)


def l_shape(comm, n=16, dim=2):
    """Simplices on the unit box without its quarter where x > 0.5 and y > 0.5."""
    return from_points(comm, _cloud(n, dim), lambda m: ~np.all(m[:, :2] > 0.5, axis=1))


def _cloud(n, dim):
    """Points of a lattice, those inside the unit box moved by up to 0.3 of a cell."""
    rng = np.random.default_rng(n)
    lattice = np.stack(np.meshgrid(*[np.arange(n + 1)] * dim, indexing="ij"), -1).reshape(-1, dim)
    inside = np.all((lattice > 0) & (lattice < n) & (2 * lattice != n), axis=1)
    return (lattice + 0.3 * inside[:, None] * rng.uniform(-1, 1, lattice.shape)) / n


# ---- fields ----


def cell_field(msh, value):
    """A DG0 function of the cells' midpoints (gdim rows)."""
    d = msh.topology.dim
    index_map = msh.topology.index_map(d)
    cells = np.arange(index_map.size_local + index_map.num_ghosts, dtype=np.int32)
    f = fem.Function(fem.functionspace(msh, ("DG", 0)))
    midpoints = mesh.compute_midpoints(msh, d, cells)
    f.x.array[f.function_space.dofmap.list[:, 0]] = value(midpoints[:, : msh.geometry.dim].T)
    return f


def rough(contrast):
    """A function of position with values between 1 and ``contrast`` and no symmetry."""

    def value(x):
        wave = np.sin(9.1 * x[0] + 2.3 * x[-1]) * np.cos(7.7 * x[1] - 3.1 * x[0])
        return contrast ** (
            np.tanh(3 * (wave + 0.3 * np.sin(23.0 * x[1] + 19.0 * x[-1]))) / 2 + 0.5
        )

    return value


def two_phase(contrast):
    """A function of position with two values, in stripes and islands without symmetry."""

    def value(x):
        wave = np.sin(9.1 * x[0] + 2.3 * x[-1]) * np.cos(7.7 * x[1] - 3.1 * x[0])
        return np.where(wave > 0, contrast, 1.0)

    return value


def diffusion(V, kappa):
    """κ ∇u·∇v dx."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx


def mass(V, kappa):
    """κ u v dx."""
    return kappa * ufl.inner(ufl.TrialFunction(V), ufl.TestFunction(V)) * ufl.dx


def elasticity(V, E, nu=0.3):
    """σ(u) : ε(v) dx, isotropic, with Young's modulus E."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    mu, lam = E / (2 * (1 + nu)), E * nu / ((1 + nu) * (1 - 2 * nu))

    def strain(w):
        return ufl.sym(ufl.grad(w))

    stress = 2 * mu * strain(u) + lam * ufl.tr(strain(u)) * ufl.Identity(V.mesh.geometry.dim)
    return ufl.inner(stress, strain(v)) * ufl.dx


def clamp(V, where, value=0.0, component=None):
    """A Dirichlet condition by the dofs' positions."""
    space = V if component is None else V.sub(component)
    if component is None:
        dofs = fem.locate_dofs_geometrical(space, where)
        bs = V.dofmap.index_map_bs
        constant = value if bs == 1 else np.full(bs, value)
        return fem.dirichletbc(constant, dofs, space)
    collapsed, _ = space.collapse()
    g = fem.Function(collapsed)
    g.x.array[:] = value
    return fem.dirichletbc(g, fem.locate_dofs_geometrical((space, collapsed), where), space)


# ---- gathering ----


def gather_rows(comm, array):
    """Rows of all ranks in rank order, on every rank."""
    return np.concatenate(comm.allgather(np.asarray(array)))


def gather_matrix(A):
    """A PETSc matrix as SciPy CSR, on every rank."""
    host = A.copy()
    host.convert("aij")
    indptr, indices, data = host.getValuesCSR()
    host.destroy()
    comm = A.comm.tompi4py()
    parts = comm.allgather(
        sp.csr_matrix((data, indices, indptr), (len(indptr) - 1, A.getSize()[1]))
    )
    return sp.vstack(parts).tocsr()


def hang_spring(A, plain, i, j):
    """Make a PETSc matrix ``plain`` (SciPy, of all ranks) and a stiff spring between two dofs."""
    ends = np.zeros((1, plain.shape[0]))
    ends[0, [i, j]] = 30.0, -30.0
    rows = sp.csr_matrix(plain + sp.csr_matrix(ends.T @ ends))[slice(*A.getOwnershipRange())]
    rows.sort_indices()
    pattern = [part.astype(PETSc.IntType) for part in (rows.indptr, rows.indices)]
    A.setPreallocationCSR((*pattern, rows.data))


def gather_vector(x):
    """A PETSc vector, on every rank."""
    return gather_rows(x.comm.tompi4py(), x.array_r)


def gather_function(f):
    """Owned values of a function by global (unrolled) dof, on every rank."""
    V = f.function_space
    size = V.dofmap.index_map.size_local * V.dofmap.index_map_bs
    return gather_rows(V.mesh.comm, f.x.array[:size])


def dof_points(V):
    """Positions of all dofs by global (unrolled) number, component added as last column."""
    bs = V.dofmap.index_map_bs
    x = gather_rows(V.mesh.comm, V.tabulate_dof_coordinates()[: V.dofmap.index_map.size_local])
    points = np.repeat(x[:, : V.mesh.geometry.dim], bs, axis=0)
    return np.column_stack([points, np.tile(np.arange(bs), len(x))])


def match(points, others):
    """For each row of ``points`` the equal row of ``others``; both must be permutations."""
    assert points.shape == others.shape
    distance, index = cKDTree(others).query(points)
    assert distance.max(initial=0.0) < 1e-9
    assert len(np.unique(index)) == len(others)
    return index


def sine(X, Y):
    """Sine of the largest principal angle between the row spaces of X and Y (equal dimension)."""
    assert X.shape == Y.shape
    Q, Z = (
        scipy.linalg.qr((B / np.linalg.norm(B, axis=1, keepdims=True)).T, mode="economic")[0]
        for B in (X, Y)
    )
    return np.linalg.norm(Z - Q @ (Q.T @ Z), 2)


def norm_in(A, e):
    """Energy norm √(eᵀAe)."""
    return np.sqrt(max(e @ (A @ e), 0.0))


def energy_error(u, a, load, bcs):
    """Error of a serial solution against SciPy's, relative, in the energy norm."""
    A = fem.assemble_matrix(fem.form(a)).to_scipy().tocsr()
    b = fem.assemble_vector(fem.form(load)).array
    free = np.ones(len(b), bool)
    for bc in bcs:
        free[bc.dof_indices()[0]] = False
    fine = np.zeros(len(b))
    for bc in bcs:
        bc.set(fine)
    b = b - A @ fine
    fine[free] = scipy.sparse.linalg.spsolve(A[free][:, free].tocsc(), b[free])
    return norm_in(A, u - fine) / norm_in(A, fine)


# ---- the oracle ----


def hat_values(x, vertices, h):
    """Tensor-product hats by their formula, shape ``(num_points, num_vertices)``."""
    t = np.abs(x[:, None, :] - vertices[None, :, :]) / h
    return np.prod(np.clip(1 - t, 0, None), axis=2)


def box_vertices(n, lower=None, upper=None):
    """Vertices of a box grid, x fastest, and the box size."""
    d = len(n)
    lower = np.zeros(d) if lower is None else np.asarray(lower)
    upper = np.ones(d) if upper is None else np.asarray(upper)
    axes = [np.linspace(a, b, k + 1) for a, b, k in zip(lower, upper, n, strict=True)]
    grid = np.meshgrid(*axes[::-1], indexing="ij")
    return np.stack(grid[::-1], axis=-1).reshape(-1, d), (upper - lower) / np.array(n)


@dataclass
class Local:
    """What the oracle knows of one neighbourhood; all by unrolled serial dofs."""

    cells: np.ndarray
    dofs: np.ndarray
    A: np.ndarray
    S: np.ndarray
    chi: np.ndarray


class Reference:
    """A multiscale space without dolfinx_msnn, on COMM_SELF.

    Args:
        kappa: DG0 coefficient, on COMM_SELF.
        chi: Hat functions at the dof blocks, shape ``(num_blocks, num_vertices)``.
        a: Form linear in ``kappa``: zeroing it on all other cells leaves a neighbourhood's matrix.
        s: Right-hand form, linear in ``kappa``, or ``None``.
        dirichlet: Constrained unrolled dofs.
        layers: Oversampling.
    """

    def __init__(self, kappa, chi, a, s=None, dirichlet=(), layers=0):
        self.V = a.arguments()[0].ufl_function_space()
        self.chi, self.layers = np.where(chi < 1e-10, 0.0, chi), layers
        self.kappa, self.values = kappa, kappa.x.array.copy()
        self.forms = [fem.form(a), None if s is None else fem.form(s)]
        self.num_dofs = self.V.dofmap.index_map.size_local * self.V.dofmap.index_map_bs
        self.free = np.ones(self.num_dofs, bool)
        self.free[np.asarray(dirichlet, dtype=int)] = False

    def cells(self, vertex):
        """Cells where χ is positive at a dof, and the layers around them."""
        dofs = self.V.dofmap.list
        members = (self.chi[:, vertex][dofs] > 0).any(axis=1)
        for _ in range(self.layers):
            members = np.isin(dofs, dofs[members]).any(axis=1)
        return np.flatnonzero(members)

    def assemble(self, form, cells=None):
        """The matrix of a form on some cells only (default: all), natural boundary."""
        keep = np.ones(len(self.values)) if cells is None else np.zeros(len(self.values))
        if cells is not None:
            keep[self.kappa.function_space.dofmap.list[cells, 0]] = 1.0
        self.kappa.x.array[:] = self.values * keep
        matrix = fem.assemble_matrix(form).to_scipy().tocsr()
        self.kappa.x.array[:] = self.values
        return matrix

    def local(self, vertex):
        """The pencil of one neighbourhood."""
        bs = self.V.dofmap.index_map_bs
        cells = self.cells(vertex)
        blocks = np.unique(self.V.dofmap.list[cells])
        dofs = (bs * blocks[:, None] + np.arange(bs)).reshape(-1)
        chi = np.repeat(self.chi[blocks, vertex], bs)
        A, S = (
            None if f is None else self.assemble(f, cells)[dofs][:, dofs].toarray()
            for f in self.forms
        )
        if S is None:
            S = chi[:, None] * A * chi
        return Local(cells, dofs, A, S, chi)

    def basis(self, num_modes):
        """Rows R of the space: for each vertex with cells, its functions and all eigenvalues."""
        rows = {}
        for vertex in range(self.chi.shape[1]):
            if len(self.cells(vertex)):
                local = self.local(vertex)
                values, phi = pencil_eigh(local.A, local.S, num_modes + 1)
                R = np.zeros((num_modes, self.num_dofs))
                R[:, local.dofs] = local.chi * phi[:num_modes]
                rows[vertex] = (R * self.free, values)
        return rows


def pencil_eigh(A, S, num):
    """The smallest eigenpairs of A φ = λ S φ (rows φ), S singular or not, by LAPACK."""
    shift = np.trace(A) / np.trace(S) * 1e-3
    theta, phi = scipy.linalg.eigh(S, A + shift * S)
    theta, phi = theta[::-1][:num], phi[:, ::-1][:, :num]
    return 1 / theta - shift, phi.T
