# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Bring your own network
#
# `LearnedBasis` takes any network that turns a picture of the coefficient into functions on a
# lattice, whoever trained it and whatever is inside. This demo writes one from scratch that has
# nothing in common with those of the package and has never been trained, and uses it at a contrast
# of a thousand. It emphasises:
#
# - what a module must take and return, and what its card says;
# - that a file with code in it is loaded only if it is trusted, and checked against accidents;
# - that the filter repairs a poor prediction and a guard certifies the result: a network can cost
#   time, but not accuracy.

# %%
# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
import importlib.util
import math
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from mpi4py import MPI

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

if importlib.util.find_spec("torch") is None:
    if comm.rank == 0:
        print('This demo needs torch, and there is none: pip install "dolfinx-msnn[nn]".')
    sys.exit(0)

import torch

from dolfinx_msnn.nn.model import ModelCard, load_model, read_card, save_model

# %% [markdown]
# ## What a module takes and returns
#
# The bounding box of each neighbourhood carries a lattice of $p\times p$ nodes. The network is
# called with a batch of $B$ neighbourhoods, float32 of shape $(B, q^2 + 4, p, p)$:
#
# - the first $q^2$ channels hold $(\log\kappa - \text{mean})/4$ in the $q\times q$ sub-boxes around
#   each node, the first axis slowest;
# - then come two channels of coordinates, from 0 to 1;
# - and two of proportions, $\log_2$ of each side over the longest one, constant.
#
# It returns $(B, N_\text{out}, p, p)$, at least as many functions as modes will be asked for. Order
# and scale do not matter, only what they span.
#
# Ours passes messages. Each node holds the values of some products of cosines; in each layer it
# moves towards the mean of its neighbours, weighted by the conductances between them: a random walk
# that rarely leaves a channel. How far it moves are the weights of the network, one number for each
# layer, which one could train. TorchScript compiles the source of `forward`, so types other than
# tensors are annotated and everything is an operator of torch.


# %%
class Messages(torch.nn.Module):
    """Cosines, averaged along the conductances of the lattice. For q = 2, in 2D."""

    def __init__(self, n_out: int = 16, layers: int = 24) -> None:
        super().__init__()
        waves = sorted((i * i + j * j, i, j) for i in range(n_out) for j in range(n_out))
        pairs = torch.tensor([wave[1:] for wave in waves[:n_out]], dtype=torch.float32)
        self.register_buffer("waves", math.pi * pairs[:, :, None, None])
        self.steps = torch.nn.Parameter(torch.full((layers,), 0.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 8, p, p) to (B, N_out, p, p)."""
        kappa = torch.exp(4 * x[:, :4])  # (B, 4, p, p), of sub-boxes 00, 01, 10, 11
        sides = torch.exp2(x[:, 6:, :1, :1])  # (B, 2, 1, 1)

        # Two half-edges in series: the far side of a node, the near side of the next one.
        right, left = kappa[:, 2:].sum(1)[:, :-1], kappa[:, :2].sum(1)[:, 1:]
        above, below = kappa[:, 1::2].sum(1)[:, :, :-1], kappa[:, ::2].sum(1)[:, :, 1:]
        gx = (right * left / (right + left) / sides[:, 0] ** 2)[:, None]  # (B, 1, p - 1, p)
        gy = (above * below / (above + below) / sides[:, 1] ** 2)[:, None]  # (B, 1, p, p - 1)
        pad = torch.nn.functional.pad
        total = pad(gx, [0, 0, 0, 1]) + pad(gx, [0, 0, 1, 0]) + pad(gy, [0, 1]) + pad(gy, [1, 0])

        cosines = torch.cos(self.waves * x[:, None, 4:6])  # (B, N_out, 2, p, p)
        u = cosines[:, :, 0] * cosines[:, :, 1]
        for step in self.steps:
            fx = gx * (u[:, :, 1:] - u[:, :, :-1])
            fy = gy * (u[:, :, :, 1:] - u[:, :, :, :-1])
            flow = pad(fx, [0, 0, 0, 1]) - pad(fx, [0, 0, 1, 0]) + pad(fy, [0, 1]) - pad(fy, [1, 0])
            u = u + step * flow / total
        return u


# %% [markdown]
# ## The card
#
# Every model file carries a card. `dim`, `n_out`, `classes`, `lattice`, `samples` and
# `log_kappa_range` are used by the program; `width`, `modes` and `layers` are those of the
# package's own networks; the others tell people what they have in hands. `classes` are the
# positions of a neighbourhood in the domain: in the middle, at a side, in a corner. Where a model
# knows no such class, another basis steps in.

# %%
card = ModelCard(
    pde="diffusion",
    dim=2,
    n_out=16,
    classes=("full", "half", "corner"),
    lattice=17,
    samples=2,
    log_kappa_range=float(np.log(1e3)),
    family="not trained",
    num_fields=0,
    loss="none",
    training_time_s=0.0,
    hardware="none",
    licence="MIT",
    width=1,
    modes=1,
    layers=24,
)

# %% [markdown]
# `save_model` compiles the network, tries it, and writes one file with card and hash. A card that
# promises something else is refused, and so is a damaged file when it is loaded. TorchScript is a
# program, which could do anything; so it is loaded only with `trust=True`:


# %%
def write(folder):
    """Write the model, and see what is refused. On one rank."""
    path, network = folder / "messages.pt", Messages()
    try:
        save_model(path, network, replace(card, n_out=12))
    except ValueError as reason:
        print(f"Refused: {reason}")
    save_model(path, network, card)
    damaged = folder / "damaged.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    for trust in (False, True):
        try:
            load_model(damaged, trust=trust)
        except ValueError as reason:
            print(f"Refused: {str(reason).replace(str(folder) + os.sep, '')}")
    print(
        f"Written: {path.name}, {path.stat().st_size} bytes, sha256 {read_card(path).sha256[:12]}"
    )


folder = Path(comm.bcast(tempfile.mkdtemp(prefix="msnn-") if comm.rank == 0 else None))
if comm.rank == 0:
    write(folder)
comm.barrier()
model = load_model(folder / "messages.pt", trust=True)
comm.barrier()
if comm.rank == 0:
    shutil.rmtree(folder)

# %% [markdown]
# ## A problem
#
# Islands a thousand times more conductive than what is around them, with flow from the top to the
# bottom.

# %%
n, boxes, num_modes, contrast = 100, 5, 8, 1e3
msh = mesh.create_unit_square(comm, n, n, mesh.CellType.quadrilateral)
V = fem.functionspace(msh, ("Lagrange", 1))
kappa = msnn.fields.two_phase(msh, contrast=contrast, seed=42)
u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
s = kappa * u * v * ufl.dx
L = fem.Constant(msh, 0.0) * v * ufl.dx
ends = [fem.locate_dofs_geometrical(V, lambda x, c=c: np.isclose(x[1], c)) for c in (0, 1)]
bcs = [fem.dirichletbc(1.0 * k, dofs, V) for k, dofs in enumerate(ends)]
coarse = msnn.CoarseGrid(msh, (boxes, boxes))
direct = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}
uf = FineProblem(a, L, bcs=bcs, petsc_options_prefix="fine_", petsc_options=direct).solve()

# %% [markdown]
# ## Raw, filtered, guarded
#
# With `sweeps=0` and one round the prediction is used as it is (Rayleigh-Ritz picks the best of
# the sixteen functions). By default the filter works on it until the estimated error is small. And
# a `GuardedBasis` around the *raw* one trusts nobody: it checks each neighbourhood with random
# functions, filters where the check fails, and computes what cannot be repaired.

# %%
bases = {
    "raw": msnn.LearnedBasis(model, kappa, num_modes, sweeps=0, max_rounds=1),
    "filtered": msnn.LearnedBasis(model, kappa, num_modes),
    "guarded": msnn.GuardedBasis(
        msnn.LearnedBasis(model, kappa, num_modes, sweeps=0, max_rounds=1)
    ),
    "computed": msnn.SpectralBasis(num_modes),
}


def norms(w):
    """L2 and energy norm. Collective."""
    forms = (w * w * ufl.dx, kappa * ufl.inner(ufl.grad(w), ufl.grad(w)) * ufl.dx)
    squares = [fem.assemble_scalar(fem.form(f)) for f in forms]
    return np.sqrt(comm.allreduce(np.array(squares)))


size = norms(uf)
middle = (boxes // 2) * (boxes + 1) + boxes // 2
errors, differences, functions = {}, {}, {}
if comm.rank == 0:
    print(f"contrast {contrast:.0e}, {boxes}x{boxes} boxes, {num_modes} modes, {comm.size} ranks")
    print("basis          L2  energy")
for name, basis in bases.items():
    with msnn.multiscale_functionspace(V, coarse, basis, a, s=s, bcs=bcs) as W:
        with LinearProblem(a, L, W, bcs=bcs, petsc_options_prefix="coarse_") as problem:
            uh = problem.solve()
        functions[name] = plot.basis_function(W, middle, 2)
    differences[name] = fem.Function(V)
    differences[name].x.array[:] = uh.x.array - uf.x.array
    errors[name] = l2, energy = norms(differences[name]) / size
    if comm.rank == 0:
        print(f"{name:10s} {l2:6.2%} {energy:7.2%}")

# %% [markdown]
# The raw prediction of a network that nobody has trained is useless, with an energy error above
# 100 %. Filtered or guarded it is as good as what the eigensolver computes. The key number,
# asserted:

# %%
assert errors["raw"][1] > 3 * errors["computed"][1]
for name in ("filtered", "guarded"):
    assert np.all(errors[name] <= 1.05 * errors["computed"]), name

# %% [markdown]
# ## What it costs
#
# Accuracy does not depend on the network, time does: the first filter of a prediction, which has
# seen $\kappa$, is weaker than that of cosines, which have not; where it turns out too weak,
# another round follows. So sweeps (products with $A_i$) and rounds are what to look at to see
# whether a network is worth having, next to those of `FilteredBasis`. Messages on a lattice of 17
# nodes, their steps guessed, save some. `demo_train_your_own.py` trains a network.

# %%
cosines = msnn.FilteredBasis(num_modes)
msnn.multiscale_functionspace(V, coarse, cosines, a, s=s, bcs=bcs).destroy()
reports = plot.gather_reports(comm, bases["guarded"].reports)
given = bases["filtered"].reports
used = {
    "messages": [r.filtered for r in given if r.filtered],
    "cosines": cosines.reports,
}
fallbacks = comm.allreduce(bases["filtered"].num_fallbacks)
assert fallbacks == 0
for name, found in used.items():
    sweeps, rounds = (
        comm.allreduce(sum(part)) / coarse.num_vertices
        for part in ([r.sweeps for r in found], [r.rounds for r in found])
    )
    if comm.rank == 0:
        print(f"{name}: {sweeps:.0f} sweeps in {rounds:.1f} rounds for a neighbourhood, on average")
if comm.rank == 0:
    print(f"{fallbacks} neighbourhoods went to another basis; the guard of the raw prediction:")
    print(msnn.bases.guard_table(reports).split("\n\n")[0])

# %% [markdown]
# ## The picture
#
# Above the coefficient and the errors of the solutions, on one scale; below what the guard found in
# the raw prediction, and the third basis function of the vertex in the middle: computed and
# filtered agree, the raw one is another function altogether.

# %%
figure = Figure(figsize=(12.5, 6.2), layout="constrained")
axes = figure.subplots(2, 4)
plot.draw_coefficient(axes[0, 0], kappa)
plot.draw_coarse_grid(axes[0, 0], coarse)
worst = max(comm.allreduce(np.abs(d.x.array).max(), MPI.MAX) for d in differences.values())
scale = {"cmap": "RdBu_r", "limits": (-worst / 4, worst / 4)}
shown = ("raw", "filtered", "guarded")
for k, name in enumerate(shown, start=1):
    picture = plot.draw_function(axes[0, k], differences[name], **scale)
below = ("raw", "filtered", "computed")
for ax, name in zip(axes[1, 1:], below, strict=True):
    plot.draw_function(ax, functions[name], cmap="PuOr", limits=(-1, 1))
if comm.rank == 0:
    figure.colorbar(picture, ax=axes[0, 1:], shrink=0.8, extend="both")
    plot.draw_guard(axes[1, 0], reports)
    axes[0, 0].set_title(r"$\kappa$: 1 and $10^3$", fontsize=10)
    axes[1, 0].set_title("guard: deficiency of the raw modes", fontsize=10)
    for k, name in enumerate(shown, start=1):
        axes[0, k].set_title(f"{name}: error (energy {errors[name][1]:.1%})", fontsize=10)
        axes[1, k].set_title(f"{below[k - 1]}: a basis function", fontsize=10)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    figure.savefig(output / "bring_your_own.png", dpi=130)
    print(f"Figure: {output / 'bring_your_own.png'}")
