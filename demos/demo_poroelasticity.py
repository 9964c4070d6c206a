# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Rough rock, soaked: two fields, two coarse spaces
#
# Load a block of saturated soil, and it gives way twice: at once as far as its skeleton lets it,
# with the water carrying the rest of the load, and then slowly while the water is pressed out.
# Biot's equations (1941) say so for the displacement $u$ and the pressure $p$:
#
# $$-\nabla\cdot(\sigma(u) - \alpha p I) = 0, \qquad
#   \partial_t(\alpha\,\nabla\cdot u + S p) - \nabla\cdot(\kappa\nabla p) = 0.$$
#
# This demo emphasises:
#
# - each field has a coarse space of its own, from its own operator: the elasticity of the rough
#   skeleton, and the diffusion of the rough permeability; the coupling comes with the Galerkin
#   product;
# - `TransientProblem` takes the forms by blocks, with `None` for zero; the first row has no time
#   derivative, so that field is quasi-static;
# - how good both fields are next to the fine block solution.

# %%
# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
import os
import time
from pathlib import Path

from mpi4py import MPI

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import dolfinx_msnn as msnn
import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn.petsc import TransientProblem

comm = MPI.COMM_WORLD
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
output = Path(os.environ.get("MSNN_OUTPUT") or here / "output")
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The block of soil
#
# Stiffness and permeability are rough and have nothing to do with each other: soft lenses in the
# skeleton (contrast ten), and conductive channels of contrast a thousand. A footing in the middle
# of the top pushes down harder and harder, then stays. Below the soil stands on rock, at the sides
# it slides; water leaves through the top only.

# %%
n, boxes = 60, 6
msh = mesh.create_unit_square(comm, n, n, mesh.CellType.quadrilateral)
V = fem.functionspace(msh, ("Lagrange", 1, (2,)))
Q = fem.functionspace(msh, ("Lagrange", 1))
E = msnn.fields.two_phase(msh, contrast=10.0, seed=4)
kappa = msnn.fields.channels(msh, contrast=1e3, seed=2)
alpha, storage, nu = 0.9, 0.05, 0.3
mu, lam = E / (2 * (1 + nu)), E * nu / ((1 + nu) * (1 - 2 * nu))

u, v, p, q = (f(X) for X in (V, Q) for f in (ufl.TrialFunction, ufl.TestFunction))


def strain(w):
    """Symmetric gradient."""
    return ufl.sym(ufl.grad(w))


stress = 2 * mu * strain(u) + lam * ufl.tr(strain(u)) * ufl.Identity(2)
skeleton = ufl.inner(stress, strain(v)) * ufl.dx
flow = kappa * ufl.inner(ufl.grad(p), ufl.grad(q)) * ufl.dx
a = [[skeleton, -alpha * p * ufl.div(v) * ufl.dx], [None, flow]]
m = [[None, None], [alpha * ufl.div(u) * q * ufl.dx, storage * p * q * ufl.dx]]

x = ufl.SpatialCoordinate(msh)
push = fem.Constant(msh, 0.0)
footing = ufl.exp(-(((x[0] - 0.5) / 0.15) ** 2)) * ufl.conditional(ufl.gt(x[1], 1 - 1e-6), 1.0, 0.0)
L = [-push * footing * v[1] * ufl.ds, None]


def side(X, axis, at, component=None):
    """A homogeneous condition on a side, for a field or one of its components."""

    def on_side(y):
        return np.isclose(y[axis], at)

    if component is None:
        zero = np.zeros(2) if X == V else 0.0
        return fem.dirichletbc(zero, fem.locate_dofs_geometrical(X, on_side), X)
    part = X.sub(component)
    collapsed, _ = part.collapse()
    dofs = fem.locate_dofs_geometrical((part, collapsed), on_side)
    return fem.dirichletbc(fem.Function(collapsed), dofs, part)


bcs_u = [side(V, 1, 0.0), side(V, 0, 0.0, 0), side(V, 0, 1.0, 0)]
bcs_p = [side(Q, 1, 1.0)]

# %% [markdown]
# ## Two spaces
#
# The elasticity of the neighbourhoods has three rigid motions where pressure has one constant; so
# displacement gets more modes.

# %%
grid = msnn.CoarseGrid(msh, (boxes, boxes))
begin = time.perf_counter()
W = [
    msnn.multiscale_functionspace(V, grid, msnn.HarmonicBasis(20), skeleton, bcs=bcs_u),
    msnn.multiscale_functionspace(Q, grid, msnn.HarmonicBasis(16), flow, bcs=bcs_p),
]
building = time.perf_counter() - begin

# %% [markdown]
# ## In time
#
# The coarse block matrix has blocks $P_i^T A_{ij} P_j$ and is factored once for the first step
# (implicit Euler), and once for the rest (BDF2). The fine solution is by DOLFINx's own block solver
# with the same formula: its right-hand side has last steps in it.

# %%
dt, num_steps = 2e-4, 50
ramp = 0.2 * num_steps * dt
uh = fem.Function(V), fem.Function(Q)
problem = TransientProblem(
    m, a, L, uh, W, dt=dt, order=2, bcs=bcs_u + bcs_p, petsc_options_prefix="biot_"
)

c = [fem.Constant(msh, 0.0) for _ in range(3)]
past = [(fem.Function(V), fem.Function(Q)) for _ in range(2)]


def content(w, r):
    """Content of water, but for a constant: its derivative is in the second equation."""
    return alpha * ufl.div(w) + storage * r


old = sum(k * content(*f) for k, f in zip(c[1:], past, strict=True))
fine = FineProblem(
    [
        [a[0][0], a[0][1]],
        [
            c[0] * alpha * ufl.div(u) * q * ufl.dx,
            flow + c[0] * storage * p * q * ufl.dx,
        ],
    ],
    [L[0], -old * q * ufl.dx],
    bcs=bcs_u + bcs_p,
    petsc_options_prefix="fine_biot_",
    petsc_options={
        "ksp_type": "preonly",
        "pc_type": "lu",
        "pc_factor_mat_solver_type": "mumps",
    },
)
uf = fine.u


def total(form):
    """An integral over the whole domain. Collective."""
    return comm.allreduce(fem.assemble_scalar(form))


difference = fem.Function(V), fem.Function(Q)


def measures(w, r):
    """Squares of the L2 norms of both fields, and of their energies."""
    two = 2 * mu * ufl.inner(strain(w), strain(w)) + lam * ufl.div(w) ** 2
    drop = kappa * ufl.inner(ufl.grad(r), ufl.grad(r))
    return [fem.form(e * ufl.dx) for e in (ufl.inner(w, w), r * r, two, drop)]


forms = [measures(*difference), measures(*uf)]
names = ["displacement, L2", "pressure, L2", "displacement, energy", "pressure, energy"]
times, errors, settlement, seconds = [], [], [], []
weight = fem.form(footing * ufl.ds(domain=msh))
under = [fem.form(-f[1] * footing * ufl.ds) for f in (uh[0], uf[0])]
for k in range(num_steps):
    push.value = min(1.0, (problem.time + dt) / ramp)
    begin = time.perf_counter()
    problem.step(prolong=False)
    seconds.append(time.perf_counter() - begin)
    problem.prolong()
    for constant, value in zip(c, (1.0, -1.0, 0.0) if k == 0 else (1.5, -2.0, 0.5), strict=True):
        constant.value = value / dt
    fine.solve()
    for new, last, before in zip(uf, *past, strict=True):
        before.x.array[:] = last.x.array
        last.x.array[:] = new.x.array
    for f, h, e in zip(uf, uh, difference, strict=True):
        e.x.array[:] = h.x.array - f.x.array
    error, size = (np.sqrt([total(form) for form in group]) for group in forms)
    times.append(problem.time)
    errors.append(error / size)
    settlement.append([total(form) / total(weight) for form in under])
errors, settlement = np.array(errors), np.array(settlement)

if comm.rank == 0:
    fine_dofs = sum(X.dofmap.index_map.size_global * X.dofmap.index_map_bs for X in (V, Q))
    print(f"{fine_dofs} fine dofs, {problem.num_dofs} coarse ones, {comm.size} ranks")
    print(f"both spaces {building:.2f} s, a step {1e3 * np.median(seconds):.1f} ms")
    for name, over in zip(names, errors.T, strict=True):
        print(f"{name:22s} mean {over.mean():6.2%}, largest {over.max():6.2%}")
    print(f"settlement {settlement[-1, 0]:.5f}, fine {settlement[-1, 1]:.5f}")

# %% [markdown]
# What an engineer asks for is how much the footing sinks, and how fast. That is good to a few per
# cent at every time, and always a little too stiff, as a subspace is. The fields are as good as
# each of the spaces can make them; pressure has a hard time at first, when all of it is in a thin
# layer under the footing.

# %%
assert errors[:, 0].mean() < 0.01
assert errors[:, 1].mean() < 0.01
assert (np.abs(settlement[:, 0] - settlement[:, 1]) < 0.04 * settlement[:, 1]).all()

# %% [markdown]
# ## The picture
#
# Stiffness and permeability; what is left of the pressure at the end, in a corner that no channel
# drains, and the deformed block; errors and settlement over time.


# %%
def nodal(w, component=None):
    """Nodal values as an image on rank 0. Collective."""
    X = w.function_space
    owned, bs = X.dofmap.index_map.size_local, X.dofmap.index_map_bs
    values = w.x.array.reshape(-1, bs)[:owned, component or 0]
    parts = comm.gather((X.tabulate_dof_coordinates()[:owned], values))
    if comm.rank != 0:
        return None
    image = np.empty((n + 1, n + 1))
    for y, values in parts:
        i, j = np.rint(n * y[:, :2]).astype(int).T
        image[j, i] = values
    return image


def cellwise(k):
    """Cell values as an image on rank 0. Collective."""
    owned = msh.topology.index_map(2).size_local
    y = mesh.compute_midpoints(msh, 2, np.arange(owned, dtype=np.int32))
    parts = comm.gather((y, k.x.array[k.function_space.dofmap.list[:owned, 0]]))
    if comm.rank != 0:
        return None
    image = np.empty((n, n))
    for y, values in parts:
        i, j = np.floor(n * y[:, :2]).astype(int).T
        image[j, i] = values
    return image


rocks = [cellwise(E), cellwise(kappa)]
pressures = [nodal(uh[1]), nodal(uf[1])]
moved = [[nodal(f[0], i) for i in range(2)] for f in (uh, uf)]
if comm.rank == 0:
    figure = Figure(figsize=(12.5, 6.2), layout="constrained")
    axes = figure.subplots(2, 4, width_ratios=(1, 1, 1, 1.25))
    whole = {"origin": "lower", "extent": (0, 1, 0, 1)}
    for k, (image, title) in enumerate(zip(rocks, ("stiffness", "permeability"), strict=True)):
        axes[k, 0].imshow(np.log10(image), cmap=("copper", "cividis")[k], **whole)
        axes[k, 0].set_title(rf"$\log_{{10}}$ {title}", fontsize=10)
    top = pressures[1].max()
    factor = 0.08 / np.abs(moved[1]).max()
    line = np.linspace(0, 1, n + 1)
    X, Y = np.meshgrid(line, line)
    for k, title in enumerate(("coarse", "fine")):
        picture = axes[0, k + 1].imshow(pressures[k], cmap="magma", vmin=0, vmax=top, **whole)
        axes[0, k + 1].set_title(f"pressure, {title}", fontsize=10)
        x1, x2 = X + factor * moved[k][0], Y + factor * moved[k][1]
        axes[1, k + 1].pcolormesh(x1, x2, np.log10(rocks[0]), cmap="copper")
        axes[1, k + 1].set_title(f"displacement, {title} (x {factor:.2g})", fontsize=10)
        axes[1, k + 1].set_aspect("equal")
        axes[1, k + 1].set_ylim(0, 1.02)
    figure.colorbar(picture, ax=axes[0, 1:3], shrink=0.8)
    for name, over in zip(names, errors.T, strict=True):
        axes[0, 3].semilogy(times, over, label=name.replace("L2", "$L^2$"))
    axes[0, 3].set_title("relative error over time", fontsize=10)
    axes[0, 3].legend(fontsize=8)
    axes[1, 3].plot(times, settlement[:, 1], color="0.6", lw=4, label="fine")
    axes[1, 3].plot(times, settlement[:, 0], color="tab:red", lw=1.2, label="coarse")
    axes[1, 3].axvline(ramp, color="0.8", lw=1)
    axes[1, 3].set_title("settlement of the footing", fontsize=10)
    axes[1, 3].legend(fontsize=8)
    for ax in axes[:, :3].flat:
        ax.set_xticks([])
        ax.set_yticks([])
    with mpl.rc_context({"svg.hashsalt": "msnn"}):
        figure.savefig(output / "poroelasticity.png", dpi=110)
    print(f"Figure: {output / 'poroelasticity.png'}")
problem.destroy()
for w in W:
    w.destroy()
