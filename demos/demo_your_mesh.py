# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Your mesh, your coefficient, ParaView
#
# A plate of concrete with stones in it and a steel bar through it: a mesh with a tag for each
# material, a coefficient from the tags, a multiscale solution, and files for ParaView. This demo
# emphasises:
#
# - that a mesh of Gmsh and its physical groups are all that is needed;
# - that the result is a function of DOLFINx, and is written as one.
#
# Without a program, for a mesh in a file: `msnn solve --mesh plate.msh --tag 1=1 --tag 2=1e-3
# --tag 3=1e3 -o plate.bp`.

# %%
# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
import os
from pathlib import Path

from mpi4py import MPI

import numpy as np
from matplotlib.figure import Figure

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, has_adios2, io, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import plot
from dolfinx_msnn.petsc import LinearProblem

try:
    import gmsh
except (ImportError, OSError):
    gmsh = None  # pip install gmsh

comm = MPI.COMM_WORLD
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
output = Path(os.environ.get("MSNN_OUTPUT") or here / "output")
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A mesh with tags
#
# A plate of 2 x 1. Gmsh cuts it along the stones and the bar, and gives the triangles of each
# material a number, the tag of their physical group. Rank 0 makes the mesh, `model_to_mesh`
# distributes it. A file works as well: `dolfinx.io.gmsh.read_from_msh("plate.msh", comm, gdim=2)`.

# %%
CONCRETE, STONE, STEEL = 1, 2, 3
h = 0.016
# Centre and radius of the stones; corner and sides of the bar.
rng = np.random.default_rng(2)
stones = [
    (0.2 + 0.32 * i + 0.06 * rng.uniform(-1, 1), y, 0.08 + 0.03 * rng.uniform(-1, 1))
    for y in (0.2, 0.8)
    for i in range(6)
]
bar = (0.3, 0.47, 1.4, 0.06)


def with_gmsh():
    """Mesh and tags of its cells, by Gmsh. Collective."""
    gmsh.initialize(interruptible=False)
    gmsh.option.setNumber("General.Terminal", 0)
    if comm.rank == 0:
        occ = gmsh.model.occ
        plate = occ.addRectangle(0, 0, 0, 2, 1)
        parts = [(2, occ.addDisk(x, y, 0, r, r)) for x, y, r in stones]
        parts.append((2, occ.addRectangle(*bar[:2], 0, *bar[2:])))
        _, pieces = occ.fragment([(2, plate)], parts)
        occ.synchronize()
        inner = {tag for found in pieces[1:] for _, tag in found}
        concrete = [tag for _, tag in pieces[0] if tag not in inner]
        gmsh.model.addPhysicalGroup(2, concrete, CONCRETE)
        gmsh.model.addPhysicalGroup(2, [t for p in pieces[1:-1] for _, t in p], STONE)
        gmsh.model.addPhysicalGroup(2, [tag for _, tag in pieces[-1]], STEEL)
        gmsh.option.setNumber("Mesh.MeshSizeMax", h)
        gmsh.model.mesh.generate(2)
    data = io.gmsh.model_to_mesh(gmsh.model, comm, 0, gdim=2)
    gmsh.finalize()
    return data.mesh, data.cell_tags


def without_gmsh():
    """The same of a regular mesh, where the rims are staircases. Collective."""
    msh = mesh.create_rectangle(comm, [[0.0, 0.0], [2.0, 1.0]], [200, 100])
    cells = np.arange(msh.topology.index_map(2).size_local, dtype=np.int32)
    x, y, _ = mesh.compute_midpoints(msh, 2, cells).T
    tags = np.full(len(cells), CONCRETE, dtype=np.int32)
    for a, b, r in stones:
        tags[(x - a) ** 2 + (y - b) ** 2 < r**2] = STONE
    a, b, width, height = bar
    tags[(x > a) & (x < a + width) & (y > b) & (y < b + height)] = STEEL
    return msh, mesh.meshtags(msh, 2, cells, tags)


if gmsh is None:
    msh, tags = without_gmsh()
else:
    msh, tags = with_gmsh()

# %% [markdown]
# ## A coefficient from the tags
#
# One value a cell is a function in DG0, whose dofs are numbered as the cells are. `scatter_forward`
# fills the cells that a rank only has a copy of.

# %%
values = {CONCRETE: 1.0, STONE: 1e-3, STEEL: 1e3}
kappa = fem.Function(fem.functionspace(msh, ("DG", 0)), name="kappa")
kappa.x.array[tags.indices] = [values[tag] for tag in tags.values]
kappa.x.scatter_forward()

# %% [markdown]
# ## Solve
#
# Heat from the warm left to the cold right side. The coarse boxes know nothing of stones and bar.

# %%
V = fem.functionspace(msh, ("Lagrange", 1))
u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
s = kappa * u * v * ufl.dx
L = fem.Constant(msh, 0.0) * v * ufl.dx
ends = [fem.locate_dofs_geometrical(V, lambda x, c=c: np.isclose(x[0], c)) for c in (0.0, 2.0)]
bcs = [fem.dirichletbc(1.0 - k, dofs, V) for k, dofs in enumerate(ends)]

coarse = msnn.CoarseGrid(msh, (12, 6))
W = msnn.multiscale_functionspace(V, coarse, msnn.FilteredBasis(8), a, s=s, bcs=bcs)
with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="plate_") as problem:
    uh = problem.solve()
if comm.rank == 0:
    print(W)

# %% [markdown]
# ## Write
#
# A `VTXWriter` writes a folder `.bp` for ParaView, with functions of any degree; it needs a DOLFINx
# that was built with ADIOS2, as most are. An XDMF file takes values in cells and at the nodes of
# the mesh. Names in the file are those of the functions, here `u` and `kappa`.

# %%
if has_adios2:
    with io.VTXWriter(comm, output / "plate.bp", [uh, kappa]) as file:
        file.write(0.0)
with io.XDMFFile(comm, output / "plate.xdmf", "w") as file:
    file.write_mesh(msh)
    file.write_function(uh)
    file.write_function(kappa)

# %% [markdown]
# ## How good is it?
#
# The heat that flows through the plate is the energy of $u$. Against the solution on the same mesh:

# %%
direct = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}
uf = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=direct).solve()


def flow(w):
    """Energy of a function. Collective."""
    square = fem.assemble_scalar(fem.form(kappa * ufl.inner(ufl.grad(w), ufl.grad(w)) * ufl.dx))
    return comm.allreduce(square)


difference = uf.copy()
difference.x.array[:] -= uh.x.array
coarse_flow, fine_flow = flow(uh), flow(uf)
error = (flow(difference) / fine_flow) ** 0.5
if comm.rank == 0:
    print(f"flow {coarse_flow:.3f}, on the fine mesh {fine_flow:.3f}, energy error {error:.3f}")

# %%
figure = Figure(figsize=(11.0, 3.4), layout="constrained", dpi=120) if comm.rank == 0 else None
axes = figure.subplots(1, 2) if figure else [None, None]
plot.draw_coefficient(axes[0], kappa, log=True, bar=r"$\kappa$")
plot.draw_coarse_grid(axes[0], coarse)
plot.draw_function(axes[1], uh, contours=15, bar="u")
if figure:
    figure.savefig(output / "your_mesh.png")

# %%
assert abs(coarse_flow - 0.895) < 0.01
assert error < 0.06
W.destroy()
