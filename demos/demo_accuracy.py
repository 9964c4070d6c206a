# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # How accurate can so few functions be?
#
# Eigenmodes of neighbourhoods leave an error of ten per cent and more, however many of them are
# computed and however exactly. This demo solves one problem with four kinds of spaces of the same
# size and emphasises:
#
# - *harmonic* functions, which are solutions without a load on somewhat larger neighbourhoods, and
#   responses to smooth loads: what solutions are made of, where eigenmodes are not;
# - boxes that *overlap* by a few cells in place of hat functions: fewer neighbourhoods, so more
#   functions in each;
# - *local solutions* for the load at hand, which take no function of the space at all.

# %%
# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
import os
from pathlib import Path

from mpi4py import MPI

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import plot
from dolfinx_msnn.petsc import LinearProblem

comm = MPI.COMM_WORLD
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
output = Path(os.environ.get("MSNN_OUTPUT") or here / "output")
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The problem
#
# Channels that conduct a thousand times better than the rock around them; a pressure drop from
# bottom to top, and a source that is spread over a part of the domain.

# %%
n, boxes = 100, 5
msh = mesh.create_unit_square(comm, n, n, mesh.CellType.quadrilateral)
V = fem.functionspace(msh, ("Lagrange", 1))
kappa = msnn.fields.channels(msh, contrast=1e3, seed=0, axis=1)
x, u, v = ufl.SpatialCoordinate(msh), ufl.TrialFunction(V), ufl.TestFunction(V)
a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
s = kappa * u * v * ufl.dx
f = 100 * ufl.exp(-((x[0] - 0.35) ** 2 + (x[1] - 0.6) ** 2) / 0.08)
L = f * v * ufl.dx
bcs = [
    fem.dirichletbc(value, fem.locate_dofs_geometrical(V, lambda x, y=y: np.isclose(x[1], y)), V)
    for value, y in ((1.0, 0.0), (0.0, 1.0))
]
mumps = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}
uf = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=mumps).solve()

difference = fem.Function(V)
energy = fem.form(kappa * ufl.inner(ufl.grad(difference), ufl.grad(difference)) * ufl.dx)


def norm(values):
    """Energy norm of a function by its values at the dofs."""
    difference.x.array[:] = values
    return np.sqrt(comm.allreduce(fem.assemble_scalar(energy)))


# %% [markdown]
# ## Two partitions, two bases
#
# Hat functions have a neighbourhood around each of the 36 vertices of the coarse grid, four boxes
# large. With `overlap=4` there is one for each of the 25 boxes: the box and four cells around it.
# To compare spaces of the same size the boxes are given more functions each.
#
# `HarmonicBasis` holds responses to polynomial loads; how well these approximate the load of this
# problem limits it in the end. With `local_solutions=True` the linear problem deals with the load
# itself, neighbourhood by neighbourhood, so all functions may be harmonic (`sources=[]`).

# %%
hats = msnn.CoarseGrid(msh, (boxes, boxes))
overlapping = msnn.CoarseGrid(msh, (boxes, boxes), overlap=4)
kinds = {
    "eigenmodes (GMsFEM)": (hats, msnn.SpectralBasis, {}),
    "harmonic": (hats, msnn.HarmonicBasis, {}),
    "harmonic, boxes overlap": (overlapping, msnn.HarmonicBasis, {}),
    "... and local solutions": (
        overlapping,
        lambda num: msnn.HarmonicBasis(num, sources=[]),
        {"local_solutions": True},
    ),
}
dofs = {name: [] for name in kinds}
errors = {name: [] for name in kinds}
for num in (4, 8, 12, 16):
    for name, (coarse, basis, options) in kinds.items():
        functions = num * hats.num_vertices // coarse.num_vertices
        with (
            msnn.multiscale_functionspace(V, coarse, basis(functions), a, s=s, bcs=bcs) as W,
            LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="coarse_", **options) as problem,
        ):
            error = norm(problem.solve().x.array - uf.x.array) / norm(uf.x.array)
            dofs[name].append(W.num_dofs)
            errors[name].append(error)
        if comm.rank == 0:
            print(f"{name:24s} {dofs[name][-1]:4d} functions, energy error {error:.2%}")

# %% [markdown]
# The numbers that matter, asserted: at 288 functions and fewer, harmonic ones divide the error by
# more than five, boxes that overlap by more than ten, local solutions by more than a hundred. And
# with 125 functions boxes that overlap are more accurate than 576 eigenmodes.

# %%
modes, harmonic, overlap, local = (np.array(errors[name]) for name in kinds)
assert harmonic[1] < modes[1] / 5
assert overlap[1] < modes[1] / 10
assert local[1] < modes[1] / 100
assert overlap[0] < modes[-1]

# %% [markdown]
# ## The picture

# %%
figure = Figure(figsize=(10.5, 3.5), layout="constrained")
left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.35))
plot.draw_coefficient(left, kappa, cmap="Greys")
plot.draw_coarse_grid(left, overlapping, colour="tab:blue")
plot.draw_neighbourhood(left, V, overlapping, 12)
plot.draw_function(middle, uf, bar="u")
if comm.rank == 0:
    left.set_title("channels, boxes, a neighbourhood", fontsize=10)
    middle.set_title(f"fine solution, {V.dofmap.index_map.size_global:,} unknowns", fontsize=10)
    for name, marker in zip(kinds, "osD^", strict=True):
        right.semilogy(dofs[name], errors[name], marker=marker, markersize=4, label=name)
    right.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    right.set_title("energy error of the coarse solution", fontsize=10)
    right.set_xlabel("functions of the space")
    right.grid(visible=True, color="0.9")
    right.legend(fontsize=8)
    figure.savefig(output / "accuracy.png", dpi=130)
    print(f"Figure: {output / 'accuracy.png'}")
