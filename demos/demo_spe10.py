# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Flow through rock on a multiscale space
#
# Water seeps through rock whose permeability $\kappa$ jumps by a factor of a thousand, or of ten
# million, from one cell of the mesh to the next. A coarse mesh cannot see these jumps, and
# polynomials on it give a wrong flow. This demo solves the problem with a few basis functions for
# each coarse vertex instead, computed from $\kappa$ itself, and compares the result with the
# solution on the fine mesh. It emphasises:
#
# - what is added to an ordinary DOLFINx program: a coarse grid, a local basis and a space;
# - how the errors fall as basis functions are added, and how the local spectra announce it;
# - what each stage costs, beside the cost of simply solving on the fine mesh.
#
# By default the rock is a generated field of winding channels on the unit square. If you have the
# permeability of Model 2 of the tenth SPE comparative solution project (Christie and Blunt, SPE
# 72469, 2001), name its folder or file, `SPE10=path make demo`, and the demo takes two layers of
# it: one from the smooth Tarbert formation on top, one from the channels of the Upper Ness below.

# %%
# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
import os
import re
import time
from itertools import pairwise
from pathlib import Path

from mpi4py import MPI

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import ufl
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem as FineProblem
from dolfinx_msnn import CoarseGrid, SpectralBasis, fields, multiscale_functionspace
from dolfinx_msnn.petsc import LinearProblem

comm = MPI.COMM_WORLD
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
output = Path(os.environ.get("MSNN_OUTPUT") or here / "output")
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The problem
#
# The pressure is 1 where $y$ is smallest and 0 where it is largest, nothing flows through the other
# sides, and there are no wells: $-\nabla\cdot(\kappa\nabla p) = 0$. So far everything is plain
# DOLFINx. The one unusual line is the form `s`: the local eigenproblems below compare the energy
# `a` of a function with its size in `s`, and the choice $\int\kappa u v$ asks for functions that
# vary little where the rock conducts well.


# %%
class PressureDrop:
    """The forms and boundary conditions of a pressure drop along y, for one permeability."""

    def __init__(self, kappa):
        self.kappa, self.msh = kappa, kappa.function_space.mesh
        self.V = V = fem.functionspace(self.msh, ("Lagrange", 1))
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        self.a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        self.s = kappa * u * v * ufl.dx
        self.L = fem.Constant(self.msh, 0.0) * v * ufl.dx

        y = self.msh.geometry.x[:, 1]
        bottom, top = comm.allreduce(y.min(), MPI.MIN), comm.allreduce(y.max(), MPI.MAX)
        at_bottom = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[1], bottom))
        at_top = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[1], top))
        self.bcs = [fem.dirichletbc(1.0, at_bottom, V), fem.dirichletbc(0.0, at_top, V)]

        self.w = w = fem.Function(V)
        grad2 = ufl.inner(ufl.grad(w), ufl.grad(w))
        self.squares = [fem.form(f * ufl.dx) for f in (w**2, kappa * grad2, grad2)]

    def norms(self, values):
        """L2, energy and H1 (semi-)norm of the function with these dof values. Collective."""
        self.w.x.array[:] = values
        squares = [fem.assemble_scalar(f) for f in self.squares]
        return np.sqrt(comm.allreduce(np.array(squares)))


# %% [markdown]
# The reference is the fine solution, by a sparse Cholesky factorisation. Errors are measured in
# $L^2$, in the energy norm $\|w\|_a^2 = a(w, w)$, and in the $H^1$ seminorm (in the full norm the
# unit of length would decide which part counts), always relative to the fine solution, never to
# the unknown exact one. All times are wall-clock seconds on the slowest rank.


# %%
def seconds_since(begin):
    """Wall-clock seconds since ``begin``, on the slowest rank. Collective."""
    return comm.allreduce(time.perf_counter() - begin, MPI.MAX)


def solve_fine(flow):
    """The solution in V, and the seconds for assembly, factorisation and solve."""
    direct = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}
    problem = FineProblem(
        flow.a, flow.L, bcs=flow.bcs, petsc_options_prefix="fine_", petsc_options=direct
    )
    comm.barrier()
    begin = time.perf_counter()
    p = problem.solve()
    return p, seconds_since(begin)


# %% [markdown]
# ## The multiscale space
#
# A coarse grid of boxes covers the domain. Its bilinear hat functions $\chi_i$ sum to one, and the
# fine cells under the hat of coarse vertex $i$ are its neighbourhood $\omega_i$. On each of these
# SLEPc computes the eigenvectors of smallest $\lambda$ of
#
# $$A_i\,\varphi_{ij} = \lambda_{ij}\,S_i\,\varphi_{ij},$$
#
# with the matrices of `a` and `s` on $\omega_i$ alone and nothing prescribed on its rim. The first
# is the constant, with $\lambda_{i1} = 0$. The next ones are nearly constant on each channel that
# crosses $\omega_i$: these are the functions that polynomials on a coarse mesh lack. The products
# $\psi_{ij} = \chi_i\varphi_{ij}$, zero at Dirichlet nodes and made orthonormal within each
# neighbourhood, are the columns of a sparse matrix $P$, and the small problem to be solved has the
# matrix $A_0 = P^T A P$.
#
# In code that is one call for the space and one for the problem. Its `assemble` forms $A$ and $A_0$
# and factors $A_0$, its `solve` leaves a function in the fine space.


# %%
def solve_multiscale(flow, boxes, num_modes, s):
    """The space, the solution as a function in V, and the seconds of each stage."""
    comm.barrier()
    coarse = CoarseGrid(flow.msh, boxes)
    W = multiscale_functionspace(
        flow.V, coarse, SpectralBasis(num_modes), flow.a, s=s, bcs=flow.bcs
    )
    stage = {name: comm.allreduce(t, MPI.MAX) for name, t in W.timings.items()}
    local = ("neighbourhoods", "exchange", "element matrices", "local matrices")
    seconds = [sum(stage[name] for name in local), stage["basis"], stage["prolongation"]]

    with LinearProblem(flow.a, flow.L, W, bcs=flow.bcs, petsc_options_prefix="coarse_") as problem:
        comm.barrier()
        begin = time.perf_counter()
        problem.assemble()
        seconds.append(seconds_since(begin))
        begin = time.perf_counter()
        p = problem.solve()
        seconds.append(seconds_since(begin))
    return W, p, seconds


# %% [markdown]
# A basis function is a column of $P$: put 1 at its coarse dof and prolong. The dofs of a vertex are
# known on the rank that computed its neighbourhood, and only there. The figure will show those of
# the vertex in the middle of the grid.


# %%
def basis_functions(W, boxes, num=3):
    """The first basis functions of the middle vertex, scaled to a maximum of 1. Collective."""
    vertex = (boxes[0] + 1) * (boxes[1] // 2) + boxes[0] // 2
    dofs = W.neighbourhood_dofs(vertex)
    functions = []
    for j in range(num):
        c = W.P.createVecRight()
        if len(dofs) > 0:
            c[dofs[j]] = 1.0
        c.assemble()
        psi = W.prolong(c)
        psi.x.array[:] /= comm.allreduce(np.abs(psi.x.array).max(), MPI.MAX)
        functions.append(psi)
        c.destroy()
    return functions


# %% [markdown]
# ## The table
#
# Every row builds its space from nothing. (The first modes of a large basis span the small one, so
# one eigensolve could serve all rows, but then the times would not be what a row costs.) The
# columns *local* (element matrices, their exchange between ranks, local matrices), *eigen* and *P*
# are the three stages of building the space; *PtAP* is the assembly of $A$, the triple product and
# the factorisation of $A_0$; *solve* is all that a further right-hand side costs. On the fine mesh
# assembly, factorisation and solve are one number.
#
# One row leaves out `s`. The library then takes $S_i = D_i A_i D_i$ with $D_i = \mathrm{diag}
# (\chi_i)$, which needs no second form, and is the choice of the GenEO preconditioner. It is good
# for that purpose and poor for this one, as the row shows: whoever wants to approximate the
# solution should give `s`.

# %%
MODES = (1, 2, 4, 8, 12, 16)
SHOWN = 8


def study(name, flow, boxes):
    """Print a row for each number of modes; return what `draw` needs. Collective."""
    fine, fine_seconds = solve_fine(flow)
    num_fine = flow.V.dofmap.index_map.size_global
    reference = flow.norms(fine.x.array)
    kappa = flow.kappa.x.array
    contrast = comm.allreduce(kappa.max(), MPI.MAX) / comm.allreduce(kappa.min(), MPI.MIN)
    head = ("L2", "energy", "H1", "local", "eigen", "P", "PtAP", "solve")
    lines = [
        f"{name}: contrast {contrast:.1e}, {num_fine} fine dofs, {boxes[0]} x {boxes[1]} boxes, "
        f"{comm.size} rank{'s'[: comm.size - 1]}",
        f"{'':16}{'relative errors':^26}{'seconds':^38}",
        f"{'modes':8}{'N_c':>8}" + "".join(f"{title:>8}" for title in head),
    ]
    result = {"name": name, "flow": flow, "boxes": boxes, "fine": fine, "energy": {}}
    for num_modes, s in [(n, flow.s) for n in MODES] + [(SHOWN, None)]:
        W, p, seconds = solve_multiscale(flow, boxes, num_modes, s)
        errors = flow.norms(p.x.array - fine.x.array) / reference
        label = f"{num_modes}, no s" if s is None else f"{num_modes}"
        numbers = [f"{e:8.4f}" for e in errors] + [f"{t:8.3f}" for t in seconds]
        lines.append(f"{label:8}{W.num_dofs:8d}" + "".join(numbers))
        if s is not None:
            result["energy"][num_modes] = errors[1]
            result["spectra"] = comm.gather(list(W.eigenvalues.values()))
            if num_modes == SHOWN:
                result |= {"coarse": p, "N_c": W.num_dofs, "basis": basis_functions(W, boxes)}
        W.destroy()
    lines.append(f"{'fine':8}{num_fine:8d}{'':56}{fine_seconds:8.3f}")
    if comm.rank == 0:
        print("\n".join(lines), end="\n\n", flush=True)
    return result


# %% [markdown]
# ## The figure
#
# In parallel each rank holds a part of a function. For the picture, and for nothing else, rank 0
# collects all of it. The meshes here are lattices, so the values fit a matrix.


# %%
def gather(f):
    """Collect a scalar function on a lattice of nodes or cells on rank 0. Collective.

    Args:
        f: Function with one dof a node (Lagrange, degree 1) or a cell (DG0).

    Returns:
        On rank 0 the coordinates x, shape ``(nx,)``, and y, shape ``(ny,)``, of the dofs and the
        values, shape ``(ny, nx)``; elsewhere ``None``. These are as large as the global problem.
    """
    V = f.function_space
    num = V.dofmap.index_map.size_local
    parts = comm.gather(np.c_[V.tabulate_dof_coordinates()[:num, :2], f.x.array[:num]])
    if parts is None:
        return None
    points = np.concatenate(parts)
    x, column = np.unique(points[:, 0].round(9), return_inverse=True)
    y, row = np.unique(points[:, 1].round(9), return_inverse=True)
    values = np.empty((len(y), len(x)))
    values[row, column] = points[:, 2]
    return x, y, values


# %% [markdown]
# Above: permeability, the two pressures on one scale with isobars at every twentieth of the drop,
# and their difference. Below: basis functions of the middle vertex, in the lines of the coarse
# grid (and of the channels, if there are two values of $\kappa$ only), and the eigenvalues
# $\lambda_{ij}$ of all neighbourhoods in grey, with their median. Modes left of the dashed line are
# kept. The theory of these spaces (Efendiev, Galvis and Hou, J. Comput. Phys. 251, 2013) bounds the
# energy error by a multiple of $\Lambda^{-1/2}$, where $\Lambda$ is the smallest eigenvalue that is
# left out: the steep part of the spectra should lie to the left.

# %%
mpl.rcParams.update({"font.size": 13, "axes.titlesize": 14, "axes.linewidth": 0.8})


def draw(result, unit, file):
    """Draw a study on rank 0 into a file; ``unit`` is the unit of length or empty. Collective."""
    error = fem.Function(result["flow"].V)
    error.x.array[:] = np.abs(result["coarse"].x.array - result["fine"].x.array)
    functions = result["flow"].kappa, result["fine"], result["coarse"], error, *result["basis"]
    gathered = [gather(f) for f in functions]
    if comm.rank != 0:
        return

    centres, (x, y, _) = gathered[0][:2], gathered[1]
    kappa, fine, coarse, error, *basis = (values for _, _, values in gathered)
    boxes = np.array(result["boxes"])
    H = np.array([np.ptp(x), np.ptp(y)]) / boxes
    heights = np.ptp(y) / np.ptp(x), H[1] / H[0]
    fig = Figure(figsize=(13, 3 * sum(heights) + 2.9), dpi=110, layout="compressed")
    maps, below = fig.subplots(2, 4, height_ratios=heights)

    def show(axis, values, title, low, high, cmap):
        axis.set(title=title)
        return axis.pcolormesh(x, y, values, vmin=low, vmax=high, cmap=cmap, shading="gouraud")

    def colorbar(image, axes, label, shrink=0.9, **options):
        fig.colorbar(image, ax=axes, location="bottom", label=label, shrink=shrink, **options)

    image = maps[0].pcolormesh(*centres, kappa, norm="log", cmap="cividis", shading="nearest")
    maps[0].set_title(result["name"])
    colorbar(image, maps[0], "permeability (mD)" if unit else "permeability")
    for axis, values, title in (
        (maps[1], fine, f"fine: {fine.size:,} dofs"),
        (maps[2], coarse, f"multiscale: {result['N_c']:,} dofs"),
    ):
        image = show(axis, values, title, 0, 1, cmap="viridis")
        axis.contour(x, y, values, np.arange(1, 20) / 20, colors="w", linewidths=0.6, alpha=0.8)
    colorbar(image, maps[1:3], "pressure / pressure drop", shrink=0.6)
    image = show(maps[3], error, "difference", 0, error.max(), cmap="magma_r")
    colorbar(image, maps[3], "|difference| / pressure drop", ticks=mpl.ticker.MaxNLocator(4))

    corner = np.array([x[0], y[0]]) + H * (boxes // 2 - 1.5)
    for j, (axis, values) in enumerate(zip(below[:3], basis, strict=True)):
        title = rf"basis function $\psi_{{i{j + 1}}}$"
        image = show(axis, values, title, -1, 1, cmap="RdBu_r")
        if len(np.unique(kappa)) == 2:
            middle = np.sqrt(kappa.min() * kappa.max())
            axis.contour(*centres, kappa, [middle], colors="0.65", linewidths=1)
        axis.set(xticks=x[0] + H[0] * np.arange(boxes[0] + 1), xlim=corner[0] + [0, 3 * H[0]])
        axis.set(yticks=y[0] + H[1] * np.arange(boxes[1] + 1), ylim=corner[1] + [0, 3 * H[1]])
        axis.grid(color="0.2", linewidth=0.8)
        axis.xaxis.set_major_formatter("{x:.3g}")
        axis.yaxis.set_major_formatter("{x:.3g}")
    colorbar(image, below[:3], "value / largest value", shrink=0.4, ticks=[-1, -0.5, 0, 0.5, 1])

    for axis in maps:
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3, steps=[1, 1.5, 2, 5, 10]))
    for row in (maps, below[:3]):
        for axis in row:
            axis.set(aspect="equal", xlabel=f"x ({unit})" if unit else "x")
            axis.tick_params(labelleft=axis is row[0])
        row[0].set_ylabel(f"y ({unit})" if unit else "y")

    spectra = np.array([values for rank in result["spectra"] for values in rank])[:, 1:].T
    modes, axis = np.arange(2, len(spectra) + 2), below[3]
    axis.semilogy(modes, spectra, color="0.75", linewidth=0.7)
    axis.semilogy(modes, np.median(spectra, axis=1), color="#00224e", linewidth=2)
    axis.axvline(SHOWN + 0.5, color="#b63679", linestyle="--")
    axis.set(title="local spectra", xlabel="mode $j$", xlim=(2, modes[-1]), xticks=MODES[1:])
    axis.set_ylabel(rf"$\lambda_{{ij}}$ ({unit}$^{{-2}}$)" if unit else r"$\lambda_{ij}$")
    axis.yaxis.set(label_position="right", ticks_position="right")
    axis.set_box_aspect(heights[1])

    fig.savefig(file, bbox_inches="tight", pad_inches=0.1)
    print(f"Figure: {file}\n", flush=True)


# %% [markdown]
# ## The rock
#
# The generated channels conduct a thousand times better than the rock around them, and run along
# the pressure drop. Their `seed` changes the numbers: over the seeds 0 to 9 the relative energy
# error lies between 0.25 and 0.38 with 8 modes and between 0.08 and 0.15 with 12. With `axis=0` the
# channels run across the drop. The pressure then falls in thin barriers, some of them at the ends
# of the domain, which is harder: the errors lie between 0.23 and 0.67, and between 0.13 and 0.52.
#
# SPE10 layers are 60 x 220 cells of 6.096 m x 3.048 m with the permeability as given, in
# millidarcy. A coarse box has 10 x 10 of them. A file with the layers 1 to 50 only will do: the
# Upper Ness is then represented by layer 45. The last number of each case bounds the energy error
# with 8 modes and is 20 % above what was measured.


# %%
def cases():
    """Name, permeability, coarse boxes, unit of length, and bound on the energy error."""
    path = os.environ.get("SPE10")
    if not path:
        msh = mesh.create_unit_square(comm, 100, 100, mesh.CellType.quadrilateral)
        yield "channels", fields.channels(msh, contrast=1e3, seed=0, axis=1), (5, 5), "", 0.38
        return
    found = 0
    for formation, candidates in (("Tarbert", {10: 0.18}), ("Upper Ness", {85: 0.17, 45: 0.13})):
        for layer, bound in candidates.items():
            try:
                rock = fields.read_spe10(path, layer)
            except ValueError as error:
                reason = error
                continue
            found += 1
            kappa = rock.interpolate(rock.create_mesh(comm))
            yield f"{formation}, layer {layer}", kappa, (6, 22), "m", bound
            break
    if found == 0:
        raise reason


# %% [markdown]
# The first use of a form waits for its compiler, so a small problem goes first, without a clock.
# Then the cases follow, and we check that the energy error falls from row to row, as it must for
# nested spaces.

# %%
small = mesh.create_unit_square(comm, 16, 16, mesh.CellType.quadrilateral)
warm_up = PressureDrop(fields.channels(small))
solve_fine(warm_up)
for s in (warm_up.s, None):
    solve_multiscale(warm_up, (4, 4), 2, s)[0].destroy()

for name, kappa, boxes, unit, bound in cases():
    result = study(name, PressureDrop(kappa), boxes)
    draw(result, unit, output / f"{'_'.join(re.findall(r'[a-z0-9]+', name.lower()))}.png")
    energy = result["energy"]
    assert all(energy[n] < energy[m] for m, n in pairwise(MODES)), energy
    assert energy[SHOWN] < bound, (energy[SHOWN], bound)

# %% [markdown]
# The energy error falls from row to row, while $L^2$ and $H^1$ errors may rise for a while: the
# Galerkin solution is the best one in energy, and in no other norm. With one mode the space holds
# coarse bilinear functions only, which ignore the channels and yet must meet the Dirichlet values,
# so that the error may exceed one.
#
# The times say plainly what such a space is not for. A direct solver needs less time for one fine
# problem of this size than SLEPc needs for all the local ones. The space pays when it is used
# again: the *solve* column is all that another right-hand side costs, and the *PtAP* column what a
# new coefficient costs, as long as the channels stay where they are.
