# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A hundred time steps for the price of one coarse space
#
# A multiscale space pays back slowly for a single solve: most of its cost is the basis. In time the
# coefficient mostly stays and the basis with it, and a step is one coarse solve. This demo
# emphasises:
#
# - pressure diffusion with wells that are switched and a boundary that breathes, stepped by BDF2 in
#   the coarse space, the fine solution next to it;
# - what a step costs, and what `u` on the fine mesh costs on top;
# - infiltration into dry soil (Richards' equation), nonlinear also in the time derivative, and why
#   its mixed form keeps the water.

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
from dolfinx.fem.petsc import NonlinearProblem as FineNonlinearProblem
from dolfinx_msnn.petsc import BDF, NonlinearProblem, TransientProblem
from dolfinx_msnn.richards import VanGenuchtenMualem

comm = MPI.COMM_WORLD
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
output = Path(os.environ.get("MSNN_OUTPUT") or here / "output")
output.mkdir(parents=True, exist_ok=True)
direct = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}

# %% [markdown]
# ## Pressure in a rough reservoir
#
# $c\,\partial_t p - \nabla\cdot(\kappa\nabla p) = q_1(t)\,w_1 + q_2(t)\,w_2$ on the unit square,
# with $\kappa$ of contrast a thousand. Well 1 injects for the first half of the time, well 2
# produces in the second half. The pressure on the left side goes up and down, the other sides are
# sealed. All of that is data, and none of it is in the basis.

# %%
n, boxes, num_modes, num_steps, end = 96, 8, 12, 100, 0.02
msh = mesh.create_unit_square(comm, n, n, mesh.CellType.quadrilateral)
V = fem.functionspace(msh, ("Lagrange", 1))
kappa = msnn.fields.two_phase(msh, contrast=1e3, seed=2027)
storage = fem.Constant(msh, 1.0)
u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
m = storage * u * v * ufl.dx
a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
s = kappa * u * v * ufl.dx

rates = [fem.Constant(msh, 0.0), fem.Constant(msh, 0.0)]
x = ufl.SpatialCoordinate(msh)
places = [(0.7, 0.75), (0.6, 0.2)]
shapes = [ufl.exp(-((x[0] - i) ** 2 + (x[1] - j) ** 2) / 0.06**2) for i, j in places]
L = sum(q * w * v * ufl.dx for q, w in zip(rates, shapes, strict=True))
outside = fem.Constant(msh, 0.0)
bcs = [fem.dirichletbc(outside, fem.locate_dofs_geometrical(V, lambda y: np.isclose(y[0], 0)), V)]


def set_data(t):
    """Well rates and boundary pressure at a time."""
    rates[0].value = 2000.0 if t <= end / 2 else 0.0
    rates[1].value = 0.0 if t <= end / 2 else -3000.0
    outside.value = np.sin(4 * np.pi * t / end)


def total(form):
    """An integral over the whole domain. Collective."""
    return comm.allreduce(fem.assemble_scalar(form))


# %% [markdown]
# ## Stepping
#
# `TransientProblem` takes the two forms, and restricts and factors once. Before each step the data
# get the values of its end; what has changed is noticed. With $u = Pc + g$ a step solves
#
# $$\Big(\tfrac{c_0}{\Delta t}M_0 + A_0\Big)c = R\Big(L - Ag - \tfrac{c_0}{\Delta t}Mg\Big)
#   - \sum_{k\ge 1}\tfrac{c_k}{\Delta t}RMu_{n-k}.$$
#
# The fine solution uses the same formula through `BDF`, which makes the discrete derivative as a
# UFL expression, for any form and solver.

# %%
dt = end / num_steps
start = time.perf_counter()
W = msnn.multiscale_functionspace(
    V, msnn.CoarseGrid(msh, (boxes, boxes)), msnn.FilteredBasis(num_modes), a, s=s, bcs=bcs
)
building = time.perf_counter() - start
uh, uf = fem.Function(V), fem.Function(V)
problem = TransientProblem(
    m, a, L, uh, W, dt=dt, order=2, bcs=bcs, petsc_options_prefix="pressure_"
)

bdf = BDF(uf, dt, order=2)
F = storage * bdf.derivative() * v * ufl.dx + ufl.replace(a, {u: uf}) - L
F = ufl.replace(F, {uf: u})
fine = FineProblem(
    ufl.lhs(F),
    ufl.rhs(F),
    u=uf,
    bcs=bcs,
    petsc_options_prefix="fine_pressure_",
    petsc_options=direct,
)
difference = fem.Function(V)
forms = [
    fem.form(e)
    for w in (difference, uf)
    for e in (w * w * ufl.dx, kappa * ufl.inner(ufl.grad(w), ufl.grad(w)) * ufl.dx)
]

times, errors, seconds, snapshots = [], [], {"step": [], "with u": [], "fine": []}, {}
for k in range(num_steps):
    set_data(problem.time + dt)
    begin = time.perf_counter()
    problem.step(prolong=False)
    middle = time.perf_counter()
    problem.prolong()
    seconds["step"].append(middle - begin)
    seconds["with u"].append(time.perf_counter() - begin)
    begin = time.perf_counter()
    fine.solve()
    seconds["fine"].append(time.perf_counter() - begin)
    bdf.advance()
    difference.x.array[:] = uh.x.array - uf.x.array
    norms = np.sqrt([total(f) for f in forms])
    times.append(problem.time)
    errors.append(norms[:2] / norms[2:])
    if k + 1 in (num_steps // 2, num_steps):
        snapshots[k + 1] = uh.x.array.copy(), uf.x.array.copy()
errors = np.array(errors)
medians = {
    name: comm.allreduce(float(np.median(values)), MPI.MAX) for name, values in seconds.items()
}
assert np.isclose(problem.time, end) and np.isclose(bdf.time, end)

if comm.rank == 0:
    print(f"{V.dofmap.index_map.size_global} fine dofs, {W.num_dofs} coarse dofs")
    print(f"building the space {building:.2f} s; a step {1e3 * medians['step']:.2f} ms,")
    print(f"with u on the fine mesh {1e3 * medians['with u']:.2f} ms,")
    print(f"by DOLFINx's LinearProblem {1e3 * medians['fine']:.1f} ms (assembles, factors)")
    print(f"L2 error: mean {errors[:, 0].mean():.2%}, largest {errors[:, 0].max():.2%}")
    print(f"energy error: mean {errors[:, 1].mean():.1%}, largest {errors[:, 1].max():.1%}")
problem.destroy()

# %% [markdown]
# The errors stay those of the space: they do not add up from step to step. They are largest where
# something has just been switched, for the basis knows nothing of the first instants after that.

# %%
assert errors[:, 0].mean() < 0.015
assert errors[:, 0].max() < 0.06

# %% [markdown]
# ## Water into dry soil
#
# Richards' equation $\partial_t\theta(p) - \nabla\cdot(\kappa k_r(p)\nabla(p + z)) = 0$ for the
# pressure head $p$: water content and permeability depend on it steeply (van Genuchten, Mualem).
# Rain keeps the top wet. The space is built from $\kappa$ alone, once; Newton's method runs in it.
#
# $\theta(p_{n+1}) - \theta(p_n)$ is water. Written with $\theta'(p)\,\partial_t p$ it would be that
# only in the limit of small steps; `bdf.derivative(law.water_content)` is the mixed form of Celia,
# Bouloutas and Zarba (1990), in which what has come in is what there is more of, at any step size.
# For such laws UFL would take hundreds of quadrature points a cell: give a `quadrature_degree`.

# %%
law = VanGenuchtenMualem(alpha=2.0, n=2.0, theta_r=0.1, theta_s=0.4, k_min=1e-3)
dx = ufl.dx(metadata={"quadrature_degree": 3})
soil = mesh.create_unit_square(comm, 32, 32, mesh.CellType.quadrilateral)
Q = fem.functionspace(soil, ("Lagrange", 1))
k_sat = msnn.fields.log_normal(soil, seed=7, variance=1.0, correlation_length=0.1)
phi = ufl.TestFunction(Q)
trial = ufl.TrialFunction(Q)
darcy = k_sat * ufl.inner(ufl.grad(trial), ufl.grad(phi)) * ufl.dx
top = fem.locate_dofs_geometrical(Q, lambda y: np.isclose(y[1], 1) & (np.abs(y[0] - 0.5) < 0.26))
dry, moist = -1.0, -0.1
wet = fem.Constant(soil, dry)
rain = [fem.dirichletbc(wet, top, Q)]
gravity = ufl.as_vector([0.0, 1.0])


def infiltrate(W, dt, num):
    """Pressure head after some steps (in W, or fine for None), and the balance of water."""
    p = fem.Function(Q)
    p.x.array[:] = dry
    bdf = BDF(p, dt)
    flux = k_sat * law.relative_permeability(p) * (ufl.grad(p) + gravity)
    F = bdf.derivative(law.water_content) * phi * dx + ufl.inner(flux, ufl.grad(phi)) * dx
    options = {"snes_rtol": 1e-9, "snes_atol": 1e-10}
    if W is None:
        problem = FineNonlinearProblem(
            F, p, bcs=rain, petsc_options_prefix="fine_soil_", petsc_options=direct | options
        )
    else:
        problem = NonlinearProblem(
            F, p, W, bcs=rain, petsc_options_prefix="soil_", petsc_options=options
        )
    # What comes in where it rains is the residual of the equation, tested with 1 there and 0 at all
    # other nodes; what is stored is water content. Two sides of the balance, by two integrals.
    one = fem.Function(Q)
    one.x.array[top] = 1.0
    inflow = fem.form(ufl.replace(F, {phi: one}))
    water = fem.form(law.water_content(p) * dx)
    before, came, stored, iterations = total(water), [0.0], [0.0], 0
    for k in range(1, num + 1):
        # It does not start to rain from one moment to the next.
        wet.value = dry + (moist - dry) * min(1.0, k / 5)
        problem.solve()
        iterations += problem.solver.getIterationNumber()
        came.append(came[-1] + dt * total(inflow))
        stored.append(total(water) - before)
        bdf.advance()
    if W is not None:
        problem.destroy()
    return p, stored, came, iterations / num


soil_W = msnn.multiscale_functionspace(
    Q, msnn.CoarseGrid(soil, (4, 4)), msnn.FilteredBasis(12), darcy, bcs=rain
)
found = {"coarse": infiltrate(soil_W, 0.006, 20), "fine": infiltrate(None, 0.006, 20)}
ph, pf = found["coarse"][0], found["fine"][0]


def water_in(p):
    """Water content as a function on the mesh."""
    w = fem.Function(Q)
    w.interpolate(fem.Expression(law.water_content(p), Q.element.interpolation_points))
    return w


dry_soil = fem.Function(Q)
dry_soil.x.array[:] = dry
theta_h, theta_f, theta_0 = water_in(ph), water_in(pf), water_in(dry_soil)
square = fem.Function(Q)
soil_norms = []
for one, other in ((theta_h, theta_f), (theta_f, theta_0)):
    square.x.array[:] = one.x.array - other.x.array
    soil_norms.append(np.sqrt(total(fem.form(square * square * ufl.dx))))
soil_error = soil_norms[0] / soil_norms[1]
if comm.rank == 0:
    print(f"Richards: {soil_W.num_dofs} coarse dofs of {Q.dofmap.index_map.size_global}")
    for name, (_, stored, came, iterations) in found.items():
        print(
            f"{name:6s} stored {stored[-1]:.8f}, came in {came[-1]:.8f}, "
            f"{iterations:.1f} Newton iterations a step"
        )
    print(f"new water in the soil: L2 difference {soil_error:.2%}")

# %% [markdown]
# Not a drop is lost in the coarse space either: where it does not rain the constant function is in
# it, so the discrete balance holds for it as it does on the fine mesh, up to Newton's tolerance.

# %%
for _, stored, came, iterations in found.values():
    assert np.abs(np.subtract(stored, came)).max() < 1e-6 * stored[-1]
    assert iterations < 7
assert soil_error < 0.05

# %% [markdown]
# ## The picture
#
# Above, the pressure at the end of each phase, coarse and fine, and the errors over time; below the
# soil, its water in the coarse and in the fine space, and the difference.


# %%
def on_grid(w, k):
    """Nodal values on a k x k mesh as an image on rank 0. Collective."""
    X = w.function_space
    owned = X.dofmap.index_map.size_local
    parts = comm.gather((X.tabulate_dof_coordinates()[:owned], w.x.array[:owned]))
    if comm.rank != 0:
        return None
    image = np.empty((k + 1, k + 1))
    for y, values in parts:
        i, j = np.rint(k * y[:, :2]).astype(int).T
        image[j, i] = values
    return image


def cell_image(c, k):
    """Cell values on a k x k mesh as an image on rank 0. Collective."""
    owned = soil.topology.index_map(2).size_local
    y = mesh.compute_midpoints(soil, 2, np.arange(owned, dtype=np.int32))
    parts = comm.gather((y, c.x.array[c.function_space.dofmap.list[:owned, 0]]))
    if comm.rank != 0:
        return None
    image = np.empty((k, k))
    for y, values in parts:
        i, j = np.floor(k * y[:, :2]).astype(int).T
        image[j, i] = values
    return image


pictures = []
for values in snapshots.values():
    for part, title in zip(values, ("coarse", "fine"), strict=True):
        difference.x.array[:] = part
        pictures.append((on_grid(difference, n), title))
lost = fem.Function(Q)
lost.x.array[:] = theta_h.x.array - theta_f.x.array
below = [cell_image(k_sat, 32), *(on_grid(w, 32) for w in (theta_h, theta_f, lost))]
if comm.rank == 0:
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    axes = figure.subplots(2, 5, width_ratios=(1, 1, 1, 1, 1.2))
    whole = {"origin": "lower", "extent": (0, 1, 0, 1)}
    when = [times[k - 1] for k in snapshots for _ in range(2)]
    for k, ((image, title), t) in enumerate(zip(pictures, when, strict=True)):
        # Coarse and fine of one time on one scale.
        limits = np.abs(pictures[2 * (k // 2) + 1][0]).max() * np.array([-1, 1])
        axes[0, k].imshow(image, cmap="RdBu_r", vmin=limits[0], vmax=limits[1], **whole)
        axes[0, k].set_title(f"pressure, t = {t:.3g}, {title}", fontsize=10)
    axes[0, 4].semilogy(times, errors[:, 0], label="$L^2$")
    axes[0, 4].semilogy(times, errors[:, 1], label="energy")
    axes[0, 4].axvline(end / 2, color="0.7", lw=1)
    axes[0, 4].set_title("relative error over time", fontsize=10)
    axes[0, 4].legend(fontsize=9)
    axes[1, 0].imshow(np.log10(below[0]), cmap="cividis", **whole)
    axes[1, 0].set_title(r"$\log_{10}\kappa$ of the soil", fontsize=10)
    wettest = below[2].max()
    for k, title in ((1, "coarse"), (2, "fine")):
        picture = axes[1, k].imshow(below[k], cmap="Blues", vmin=0.1, vmax=wettest, **whole)
        axes[1, k].set_title(f"water content, {title}", fontsize=10)
    figure.colorbar(picture, ax=axes[1, 1:3], location="bottom", shrink=0.6)
    worst = np.abs(below[3]).max()
    picture = axes[1, 3].imshow(below[3], cmap="PuOr", vmin=-worst, vmax=worst, **whole)
    axes[1, 3].set_title(f"difference, {soil_error:.1%}", fontsize=10)
    figure.colorbar(picture, ax=axes[1, 3], location="bottom", shrink=0.8)
    _, stored, came, _ = found["coarse"]
    axes[1, 4].plot(found["fine"][1], color="0.7", lw=5, label="stored, fine")
    axes[1, 4].plot(stored, color="tab:blue", label="stored, coarse")
    axes[1, 4].plot(came, "k.", ms=5, label="came in, coarse")
    axes[1, 4].legend(fontsize=9)
    axes[1, 4].set_title("water in the soil, by step", fontsize=10)
    for ax in (*axes[0, :4], *axes[1, :4]):
        ax.set_xticks([])
        ax.set_yticks([])
    with mpl.rc_context({"svg.hashsalt": "msnn"}):
        figure.savefig(output / "time_dependent.png", dpi=110)
    print(f"Figure: {output / 'time_dependent.png'}")
W.destroy()
soil_W.destroy()
