# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # What if the network is wrong?
#
# A network predicts a basis in milliseconds, for coefficients like those of its training. Sooner or
# later it is given something else. This demo does that on purpose and emphasises:
#
# - what the raw prediction makes of it: a solution that looks like one, and is not;
# - the *guard*, which checks every neighbourhood and repairs what does not pass;
# - a *guaranteed bound* of the error, that needs no reference solution;
# - the *two-level preconditioner*, which turns even a bad space into the exact fine solution, for
#   more iterations.

# %%
# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
import importlib.util
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
from dolfinx_msnn import estimate, plot
from dolfinx_msnn.bases import cosines, pencil
from dolfinx_msnn.petsc import LinearProblem

comm = MPI.COMM_WORLD
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
output = Path(os.environ.get("MSNN_OUTPUT") or here / "output")
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Rock that no model has seen
#
# The contrast is ten million. The card of the pretrained model says that it was trained up to a
# million; and it was trained to have its prediction filtered, which we leave out here.

# %%
n, boxes, num_modes, contrast = 80, 4, 8, 1e7
msh = mesh.create_unit_square(comm, n, n, mesh.CellType.quadrilateral)
V = fem.functionspace(msh, ("Lagrange", 1))
kappa = msnn.fields.two_phase(msh, contrast=contrast, seed=77)
u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
s = kappa * u * v * ufl.dx
L = fem.Constant(msh, 1.0) * v * ufl.dx
sides = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0] * (1 - x[0]), 0))
bcs = [fem.dirichletbc(0.0, sides, V)]
coarse = msnn.CoarseGrid(msh, (boxes, boxes))


# %% [markdown]
# Without torch, cosines that have not looked at the coefficient take the network's place. Any
# object with a method `modes` is a basis:


# %%
class Blind:
    """Products of cosines, the same whatever the coefficient is."""

    num_modes = num_modes

    def modes(self, problems):
        """The first cosines on each neighbourhood."""
        found = []
        for problem in problems:
            functions, _ = cosines.cosines(pencil.Pencil.create(problem), num_modes)
            found.append(msnn.LocalModes(np.zeros(num_modes), functions.T.copy()))
        return found


def prediction():
    """The raw prediction: no filter."""
    if not importlib.util.find_spec("torch"):
        return Blind()
    return msnn.LearnedBasis.pretrained("diffusion-2d", kappa, num_modes, sweeps=0, max_rounds=1)


bases = {
    "raw prediction": prediction(),
    "guarded": msnn.GuardedBasis(prediction()),
    "computed": msnn.SpectralBasis(num_modes),
}

# %% [markdown]
# ## Errors, bounds, iterations
#
# The true error is measured against the fine solution. The bound knows only the multiscale
# solution and the matrices: a few steps of conjugate gradients, and a lower bound of the
# preconditioned spectrum from small eigenproblems (see `docs/error-control.md`). Where the basis
# does not even hold the constants, as the raw prediction does not, there is no such bound; it is
# refused with a sentence.
#
# The preconditioner takes the space as its coarse level. Its conjugate gradients go on until the
# fine problem is solved, whatever the space is worth.

# %%
direct = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}
uf = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=direct).solve()


def energy_norm(w):
    """Collective."""
    square = fem.assemble_scalar(fem.form(kappa * ufl.inner(ufl.grad(w), ufl.grad(w)) * ufl.dx))
    return np.sqrt(comm.allreduce(square))


def bound(W, problem):
    """Guaranteed bound of the energy error against the fine solution, or why there is none."""
    try:
        tau = estimate.stability_constants(W, coarse, a, bcs)
        lambda_min = estimate.schwarz_lambda_min(W, coarse, tau)
        with estimate.SchwarzPreconditioner(problem) as preconditioner:
            return estimate.bound_fine_error(problem, preconditioner, lambda_min).upper, ""
    except (ValueError, RuntimeError) as reason:
        return np.inf, str(reason)


def iterate(W):
    """Conjugate gradients on the fine problem, with the space as coarse level."""
    fine = FineProblem(
        a,
        L,
        bcs=bcs,
        petsc_options_prefix="krylov_",
        petsc_options={"ksp_type": "cg", "ksp_norm_type": "natural", "ksp_rtol": 1e-8},
    )
    residuals = []
    fine.solver.setMonitor(lambda ksp, k, r: residuals.append(r))
    with msnn.TwoLevelPreconditioner(W, petsc_options_prefix="two_level_") as M:
        M.attach(fine.solver)
        solution = fine.solve()
        reason = fine.solver.getConvergedReason()
    assert reason > 0, reason
    solution.x.array[:] -= uf.x.array
    return np.array(residuals) / residuals[0], energy_norm(solution) / size


size = energy_norm(uf)
errors, bounds, histories, exact, solutions = {}, {}, {}, {}, {}
for name, basis in bases.items():
    W = msnn.multiscale_functionspace(V, coarse, basis, a, s=s, bcs=bcs)
    with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="coarse_") as problem:
        solutions[name] = problem.solve()
        upper, why = bound(W, problem)
    difference = fem.Function(V)
    difference.x.array[:] = solutions[name].x.array - uf.x.array
    errors[name], bounds[name] = energy_norm(difference) / size, upper / size
    histories[name], exact[name] = iterate(W)
    W.destroy()
    if comm.rank == 0 and why:
        print(f"No bound for the {name}: {why}")

reports = plot.gather_reports(comm, bases["guarded"].reports)
if comm.rank == 0:
    print(f"contrast {contrast:.0e}, {boxes}x{boxes} boxes, {num_modes} modes, {comm.size} ranks")
    print(f"{'basis':15s} {'energy error':>13s} {'bound':>9s} {'CG steps':>9s} {'then':>9s}")
    for name in bases:
        print(
            f"{name:15s} {errors[name]:13.2%} {bounds[name]:9.2%} {len(histories[name]) - 1:9d} "
            f"{exact[name]:9.1e}"
        )
    print(msnn.bases.guard_table(reports).split("\n\n")[0])

# %% [markdown]
# The numbers that matter, asserted: the raw prediction is useless, the guard makes it as good as
# the eigensolver, no bound is below its error, and conjugate gradients converge in any case.

# %%
assert errors["raw prediction"] > 3 * errors["computed"]
assert errors["guarded"] <= 1.05 * errors["computed"]
for name in bases:
    assert bounds[name] >= errors[name] * (1 - 1e-9), name
    assert exact[name] < 1e-5, name
assert bounds["guarded"] <= 2 * errors["guarded"]

# %% [markdown]
# ## The picture

# %%
figure = Figure(figsize=(10.5, 6.6), layout="constrained")
axes = figure.subplots(2, 3)
plot.draw_coefficient(axes[0, 0], kappa)
axes[0, 0].set_title(rf"$\kappa$: 1 and $10^{{{np.log10(contrast):.0f}}}$", fontsize=10)
scale = {"cmap": "magma", "limits": (0, comm.allreduce(uf.x.array.max(), MPI.MAX))}
for ax, name in zip(axes[0, 1:], ("raw prediction", "guarded"), strict=True):
    picture = plot.draw_function(ax, solutions[name], **scale)
    ax.set_title(f"{name}: energy error {errors[name]:.1%}", fontsize=10)
if comm.rank == 0:
    figure.colorbar(picture, ax=axes[0, 1:], shrink=0.8)
    plot.draw_guard(axes[1, 0], reports)
    axes[1, 0].set_title("guard: deficiency of the raw modes", fontsize=10)
    for k, name in enumerate(bases):
        axes[1, 1].bar(k - 0.2, errors[name], 0.4, color="#4477aa", label="" if k else "error")
        if np.isfinite(bounds[name]):
            axes[1, 1].bar(k + 0.2, bounds[name], 0.4, color="#ee6677", label="" if k else "bound")
        else:
            axes[1, 1].text(k + 0.2, 0.02, "no\nbound", ha="center", fontsize=7)
        style = "--" if name == "computed" else "-"
        axes[1, 2].semilogy(histories[name], style, label=name)
    handles = [
        mpl.patches.Patch(color=colour, label=label)
        for colour, label in (("#4477aa", "true error"), ("#ee6677", "guaranteed bound"))
    ]
    axes[1, 1].legend(handles=handles, fontsize=8)
    axes[1, 1].yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    axes[1, 1].set_xticks(range(len(bases)), list(bases), fontsize=8)
    axes[1, 1].set_title("relative energy error", fontsize=10)
    axes[1, 2].legend(fontsize=8)
    axes[1, 2].set_title("CG with the two-level preconditioner", fontsize=10)
    axes[1, 2].set_xlabel("iterations", fontsize=8)
    for ax in axes.flat[:4]:
        ax.set_xticks([])
        ax.set_yticks([])
    figure.savefig(output / "trust.png", dpi=130)
    print(f"Figure: {output / 'trust.png'}")
