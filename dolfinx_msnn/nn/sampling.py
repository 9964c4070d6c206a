# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Sets of neighbourhoods for training, computed from the user's own mesh and coefficients.

A sample is one neighbourhood of one coefficient field for a(u, v) = κ ∇u·∇v dx and
s(u, v) = κ u v dx: the network's input, the local pencil, its lowest modes and, if asked for, fine
solutions.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mpi4py import MPI

import h5py
import numpy as np

import ufl
from dolfinx import fem
from dolfinx_msnn import fields as generators
from dolfinx_msnn._utils.checks import is_integer, require
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import DirichletBC, FloatArray, Function, FunctionSpace
from dolfinx_msnn.bases.spectral import SpectralBasis
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.problem import LocalProblem
from dolfinx_msnn.nn.card import CONVENTIONS
from dolfinx_msnn.nn.config import KINDS
from dolfinx_msnn.nn.family import Family
from dolfinx_msnn.nn.lattice import Pose, network_input
from dolfinx_msnn.nn.sample_file import finished_fields, merge_parts, new_samples, put
from dolfinx_msnn.nn.solutions import draw_solutions


class DrawnField(NamedTuple):
    """A coefficient and where it came from.

    Attributes:
        kappa: DG0 function.
        description: Family, parameters and seed, as they go to the file.
    """

    kappa: Function
    description: dict[str, Any]


def draw_field(
    coarse: CoarseGrid, families: Sequence[Family], seed: int, number: int
) -> DrawnField:
    """Draw a family by its weight, its parameters and the field, from two numbers alone."""
    rng = np.random.default_rng([seed, number])
    weights = np.array([family.weight for family in families])
    family = families[int(rng.choice(len(families), p=weights / weights.sum()))]
    parameters: dict[str, Any] = family.draw(rng)
    parameters["seed"] = int(rng.integers(2**31))
    kappa = getattr(generators, family.name)(coarse.fine, **parameters)
    return DrawnField(kappa, {"family": family.name, **parameters})


def generate(
    path: str | os.PathLike[str],
    coarse: CoarseGrid,
    fields: Sequence[Family] | Callable[[int], Function],
    *,
    num_fields: int,
    per_field: int = 0,
    num_modes: int = 8,
    lattice: int,
    samples: int = 2,
    solutions: int = 0,
    kinds: Sequence[str] = KINDS[:4],
    degree: int = 1,
    seed: int = 0,
    comm: MPI.Comm = MPI.COMM_WORLD,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Compute what is missing of a set of samples and write it to one file.

    A set that is there already is continued: fields in it are not computed again, and with a
    larger ``num_fields`` it grows. The set depends on the arguments alone, not on the number of
    ranks nor on interruptions.

    Args:
        path: HDF5 file.
        coarse: Coarse grid on the user's mesh, which must live on ``MPI.COMM_SELF``; equal on all
            ranks, each of which computes whole fields.
        fields: Families to draw from, or a function that gives the DG0 coefficient on that mesh
            of a field's number.
        num_fields: Fields in the set.
        per_field: Neighbourhoods drawn from each field; 0 for all.
        num_modes: Modes of each neighbourhood.
        lattice: Lattice nodes p in each direction.
        samples: Sub-boxes q of a node in each direction, even.
        solutions: Fine solutions of each field; Dirichlet conditions are drawn with them, see
            :mod:`~dolfinx_msnn.nn.solutions`, and the network's input tells χ and their places.
        kinds: Kinds of the solutions, see there.
        degree: Degree of the Lagrange elements.
        seed: Seed of the fields and of the choice of neighbourhoods.
        comm: The ranks that share the work.
        progress: Called after each field of this rank with the numbers of those done and to do.

    Returns:
        Number of fields that were computed in this call.

    Raises:
        ValueError: If an argument is out of range, if ``path`` is damaged or of other settings, or
            if a coefficient is not positive and finite.

    Note:
        Collective on ``comm``.
    """
    name = os.fspath(path)
    settings: dict[str, Any] = {}
    todo: list[int] = []
    with collective_errors(comm) as checks:
        if coarse.fine.comm.size != 1:
            raise ValueError(
                "The mesh must live on MPI.COMM_SELF, since each rank computes whole fields; got "
                f"one on {coarse.fine.comm.size} ranks."
            )
        require(is_integer(num_fields, 1), "num_fields", num_fields, "an integer of at least 1")
        settings |= _describe(coarse, fields)
        for key, value, least in (
            ("degree", degree, 1),
            ("per_field", per_field, 0),
            ("num_modes", num_modes, 1),
            ("lattice", lattice, 3),
            ("samples", samples, 2),
            ("solutions", solutions, 0),
            ("seed", seed, 0),
        ):
            require(is_integer(value, least), key, value, f"an integer of at least {least}")
            settings[key] = int(value)
        require(samples % 2 == 0, "samples", samples, "even")
        known = kinds and not set(kinds) - set(KINDS)
        require(known, "kinds", kinds, f"one or more of {', '.join(KINDS)}")
        settings["kinds"] = list(kinds) if solutions else []
        if comm.rank == 0:
            todo = sorted(set(range(num_fields)) - finished_fields(name, settings))
        checks.agree(path=name, num_fields=num_fields, settings=settings)
    todo = comm.bcast(todo)
    with collective_errors(comm):
        mine = todo[comm.rank :: comm.size]
        V = fem.functionspace(coarse.fine, ("Lagrange", degree))
        os.makedirs(name + ".parts", exist_ok=True)
        for count, number in enumerate(mine, start=1):
            if callable(fields):
                drawn = DrawnField(fields(number), {"family": "callable"})
            else:
                drawn = draw_field(coarse, fields, seed, number)
            bcs: list[DirichletBC] = []
            found = None
            if solutions:
                rng = np.random.default_rng([seed, number, 2])
                bcs, found = draw_solutions(V, drawn.kappa, tuple(kinds), solutions, rng)
            problems = _choose(V, coarse, drawn.kappa, bcs, settings, number)
            _write_field(name, number, problems, found, settings, drawn.description)
            del problems, drawn, bcs
            # Function spaces sit in reference cycles, and each holds an MPI communicator.
            gc.collect()
            if progress is not None:
                progress(count, len(mine))
    with collective_errors(comm):
        if comm.rank == 0:
            merge_parts(name, settings)
    return len(todo)


def _describe(
    coarse: CoarseGrid, fields: Sequence[Family] | Callable[[int], Function]
) -> dict[str, Any]:
    """What a set depends on, but for numbers; sets of equal settings may be joined."""
    msh = coarse.fine
    points = np.round(msh.geometry.x, 9) + 0.0
    return {
        "dim": msh.topology.dim,
        "cell": msh.topology.cell_type.name,
        "num_cells": msh.topology.index_map(msh.topology.dim).size_global,
        "mesh": hashlib.blake2b(points.tobytes(), digest_size=8).hexdigest(),
        "coarse": list(getattr(coarse, "n", ())),
        "oversampling": coarse.layers(),
        "families": "callable" if callable(fields) else [family.describe() for family in fields],
        **({} if coarse.overlap is None else {"overlap": coarse.overlap}),
    }


def _choose(
    V: FunctionSpace,
    coarse: CoarseGrid,
    kappa: Function,
    bcs: list[DirichletBC],
    settings: dict[str, Any],
    number: int,
) -> list[LocalProblem]:
    """The local problems of the neighbourhoods drawn from a field, by their vertex."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    s = kappa * ufl.inner(u, v) * ufl.dx
    local = LocalProblems(V, coarse, a, s, bcs, coefficient=kappa)
    chosen = np.arange(len(local))
    if 0 < settings["per_field"] < len(local):
        rng = np.random.default_rng([settings["seed"], number, 1])
        chosen = rng.choice(len(local), settings["per_field"], replace=False)
    wanted = set(chosen.tolist())
    return sorted((p for k, p in enumerate(local) if k in wanted), key=lambda p: p.vertex)


def _write_field(
    path: str,
    number: int,
    problems: list[LocalProblem],
    solutions: FloatArray | None,
    settings: dict[str, Any],
    description: dict[str, Any],
) -> None:
    """Compute the samples of a field and write them as a part of the set."""
    p, q = settings["lattice"], settings["samples"]
    convention = CONVENTIONS[solutions is not None]
    modes = SpectralBasis(settings["num_modes"]).modes(problems)
    shapes: dict[str, list[int]] = {}
    for k, problem in enumerate(problems):
        shapes.setdefault(_geometry_key(problem, p), []).append(k)
    label = f"{number:06d}"
    with new_samples(os.path.join(path + ".parts", f"{label}.h5"), settings) as file:
        field = file.create_group(f"fields/{label}")
        field.attrs["description"] = np.bytes_(json.dumps(description))
        for key, members in sorted(shapes.items()):
            mine = [problems[k] for k in members]
            _write_geometry(file.create_group(f"geometry/{key}"), mine[0])
            group = field.create_group(key)
            inputs = [network_input(m, Pose.of(m), p, q, convention) for m in mine]
            put(group, "input", np.stack(inputs))
            put(group, "A", np.stack([m.A.data for m in mine]).astype(np.float32))
            put(group, "S", np.stack([m.S.data for m in mine]).astype(np.float32))
            put(group, "modes", np.stack([modes[k].vectors for k in members]).astype(np.float32))
            put(group, "eigenvalues", np.stack([modes[k].values for k in members]))
            put(group, "vertex", np.array([m.vertex for m in mine], dtype=np.int64))
            if solutions is not None:
                parts = [solutions[:, m.dofs] for m in mine]
                put(group, "solutions", np.stack(parts).astype(np.float32))
                weights = [np.where(m.dirichlet, 0.0, m.chi) for m in mine]
                put(group, "weight", np.stack(weights).astype(np.float32))


def _geometry_key(problem: LocalProblem, p: int) -> str:
    """Name of a shape: equal for equal patterns with dofs at the same places of the pose."""
    pose = Pose.of(problem)
    positions = np.rint(pose.positions(problem, problem.x) * 1e6).astype(np.int32)
    sides = np.round(np.array(pose.sides) / max(pose.sides), 6).tolist()
    content = problem.pattern + positions.tobytes() + repr((pose.name, sides, p)).encode()
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _write_geometry(group: h5py.Group, problem: LocalProblem) -> None:
    """Write what the samples of a shape have in common, as told by one of them."""
    pose = Pose.of(problem)
    # Rounded: the rounding errors of a neighbourhood's place are no part of its shape.
    group.attrs["class"] = np.bytes_(pose.name)
    group.attrs["sides"] = _rounded(np.array(pose.sides) / max(pose.sides))
    put(group, "indptr", problem.A.indptr.astype(np.int32))
    put(group, "indices", problem.A.indices.astype(np.int32))
    put(group, "x", _rounded(pose.positions(problem, problem.x)).astype(np.float32))


def _rounded(x: FloatArray) -> FloatArray:
    """Numbers rounded to multiples of 2^-20, without negative zeros."""
    return np.rint(x * 2.0**20) / 2.0**20 + 0.0
