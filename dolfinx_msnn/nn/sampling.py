# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Samples of one coefficient field: draw it, choose neighbourhoods, compute their modes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

import ufl
from dolfinx_msnn import fields as generators
from dolfinx_msnn._utils.typing import FloatArray, Function, FunctionSpace
from dolfinx_msnn.bases.spectral import SpectralBasis
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.local.problem import LocalProblem
from dolfinx_msnn.nn.family import Family
from dolfinx_msnn.nn.lattice import Pose, interpolation, network_input
from dolfinx_msnn.nn.sample_file import put, writing


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


def choose(
    V: FunctionSpace,
    coarse: CoarseGrid,
    kappa: Function,
    per_field: int,
    seed: int,
    number: int,
) -> list[LocalProblem]:
    """The local problems of the neighbourhoods drawn from a field, by their vertex."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    a = kappa * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    s = kappa * ufl.inner(u, v) * ufl.dx
    local = LocalProblems(V, coarse, a, s, [], coefficient=kappa)
    chosen = np.arange(len(local))
    if per_field and per_field < len(local):
        rng = np.random.default_rng([seed, number, 1])
        chosen = rng.choice(len(local), per_field, replace=False)
    wanted = set(chosen.tolist())
    return sorted(
        (problem for k, problem in enumerate(local) if k in wanted), key=lambda p: p.vertex
    )


def write_part(
    folder: str,
    number: int,
    problems: list[LocalProblem],
    settings: dict[str, Any],
    description: dict[str, Any],
) -> None:
    """Compute the samples of a field and write them as a file that appears when complete."""
    p, q = settings["lattice"], settings["samples"]
    modes = SpectralBasis(settings["num_modes"]).modes(problems)
    shapes: dict[str, tuple[Pose, list[int]]] = {}
    for k, problem in enumerate(problems):
        pose = Pose.of(problem)
        shapes.setdefault(_geometry_key(problem, pose, p), (pose, []))[1].append(k)
    with writing(os.path.join(folder, f"{number:06d}.h5"), settings) as file:
        field = file.create_group(f"fields/{number:06d}")
        field.attrs["description"] = json.dumps(description)
        for key, (pose, members) in sorted(shapes.items()):
            mine = [problems[k] for k in members]
            _write_geometry(file.create_group(f"geometry/{key}"), mine[0], pose, p)
            group = field.create_group(key)
            put(group, "input", np.stack([network_input(m, Pose.of(m), p, q) for m in mine]))
            put(group, "A", np.stack([m.A.data for m in mine]).astype(np.float32))
            put(group, "S", np.stack([m.S.data for m in mine]).astype(np.float32))
            put(group, "modes", np.stack([modes[k].vectors for k in members]).astype(np.float32))
            put(group, "eigenvalues", np.stack([modes[k].values for k in members]))
            put(group, "vertex", np.array([m.vertex for m in mine], dtype=np.int64))


def _geometry_key(problem: LocalProblem, pose: Pose, p: int) -> str:
    """Name of a shape: equal for equal patterns with dofs at the same places of the pose."""
    positions = np.rint(pose.positions(problem, problem.x) * 1e6).astype(np.int32)
    sides = np.round(np.array(pose.sides) / max(pose.sides), 6).tolist()
    content = problem.pattern + positions.tobytes() + repr((pose.name, sides, p)).encode()
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _write_geometry(group: h5py.Group, problem: LocalProblem, pose: Pose, p: int) -> None:
    if problem.block_size != 1:
        raise ValueError(f"{problem.name} has vector-valued dofs; expected a scalar problem.")
    # Rounded: the rounding errors of a neighbourhood's place are no part of its shape.
    weights = interpolation(problem, pose, p)
    weights = weights.copy()
    weights.data = _rounded(weights.data)
    weights.eliminate_zeros()
    group.attrs["class"] = pose.name
    group.attrs["sides"] = _rounded(np.array(pose.sides) / max(pose.sides))
    group.attrs["nodes"] = p**problem.gdim
    put(group, "indptr", problem.A.indptr.astype(np.int32))
    put(group, "indices", problem.A.indices.astype(np.int32))
    put(group, "lattice_indptr", weights.indptr.astype(np.int32))
    put(group, "lattice_indices", weights.indices.astype(np.int32))
    put(group, "lattice_data", weights.data.astype(np.float32))
    put(group, "x", _rounded(pose.positions(problem, problem.x)).astype(np.float32))


def _rounded(x: FloatArray) -> FloatArray:
    """To multiples of 2^-20, and no negative zeros."""
    return np.rint(x * 2.0**20) / 2.0**20 + 0.0
