# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The results of ``msnn solve`` as a dictionary for JSON, and as text."""

from collections.abc import Sequence
from typing import Any

from dolfinx_msnn import MultiscaleFunctionSpace
from dolfinx_msnn._utils.typing import Function
from dolfinx_msnn.cli import result
from dolfinx_msnn.cli.common import plain, rows
from dolfinx_msnn.cli.problem import Problem


def figures(
    name: str, problem: Problem, boxes: Sequence[int], W: MultiscaleFunctionSpace, u: Function
) -> dict[str, Any]:
    """Coefficient, mesh, coarse space and solution. Collective."""
    low, high = result.extrema(problem.kappa)
    least, most = result.extrema(u)
    cells = problem.V.mesh.topology
    solution = dict(zip(result.NORMS, result.norms(problem, u), strict=True))
    solution |= {"min": least, "max": most}
    return {
        "field": {"name": name, "min": low, "max": high, "contrast": high / low},
        "mesh": {
            "cell": cells.cell_type.name,
            "cells": cells.index_map(cells.dim).size_global,
            "degree": problem.V.ufl_element().degree,
            "dofs": problem.V.dofmap.index_map.size_global,
        },
        "coarse": {
            "boxes": list(boxes),
            "neighbourhoods": W.num_neighbourhoods,
            "dofs": W.num_dofs,
            "dropped": W.num_dropped,
        },
        "solution": solution,
        "warnings": warnings(problem, least, most),
    }


def warnings(problem: Problem, low: float, high: float) -> list[str]:
    """What the maximum principle says of the least and the largest value of a solution."""
    if problem.source or not isinstance(problem.flux, float) or not problem.values:
        return []
    least, most = min(problem.values), max(problem.values)
    beyond = max(least - low, high - most)
    # A thousandth of their range: the fine solution, too, may leave it a little.
    if beyond <= 1e-3 * ((most - least) or abs(most)):
        return []
    return [
        f"u leaves the range of its boundary values, {least:g} to {most:g}, by {beyond:.2g}, which "
        "the exact solution does not: more --modes or --boxes help"
    ]


def few_functions(found: dict[str, Any]) -> list[str]:
    """What a harmonic basis left out, where that is much."""
    said = found["basis"].get("harmonic", {})
    few = said.get("neighbourhoods_with_too_few", 0)
    if not few:
        return []
    return [
        f"too few functions in {few} of {found['coarse']['neighbourhoods']} neighbourhoods, with "
        f"widths up to {said['largest_width']:.2g} left out: --tolerance 0.01, more --modes or "
        "--boxes help"
    ]


def text(found: dict[str, Any]) -> str:
    """The results as lines of text."""
    field, mesh, coarse, basis = (found[k] for k in ("field", "mesh", "coarse", "basis"))
    criteria = (f"{k} {basis[k]:g}" for k in ("threshold", "tolerance") if basis[k] is not None)
    number = next(criteria, f"{basis['modes']} modes")
    lines = [
        ("coefficient", f"{field['name']}, contrast {field['contrast']:.3g}"),
        (
            "mesh",
            f"{mesh['cells']} cells ({mesh['cell']}), degree {mesh['degree']}, "
            f"{mesh['dofs']} dofs, {found['ranks']} rank{'s'[: found['ranks'] - 1]}",
        ),
        (
            "coarse space",
            f"{' x '.join(map(str, coarse['boxes']))} boxes, {coarse['neighbourhoods']} "
            f"neighbourhoods, {coarse['dofs']} dofs"
            + (f", {coarse['dropped']} functions dropped" if coarse["dropped"] else ""),
        ),
        ("basis", f"{basis['name']}, {number}" + ", guarded" * basis["guarded"]),
    ]
    for key, name in (
        ("source", "  from"),
        ("filter", "  filter"),
        ("harmonic", "  harmonic"),
        ("guard", "  guard"),
    ):
        if basis.get(key):
            lines.append((name, plain({k.replace("_", " "): v for k, v in basis[key].items()})))
    if basis.get("contrast_outside_training"):
        lines.append(
            ("  contrast", f"beyond training in {basis['contrast_outside_training']} of them")
        )
    values = found["solution"]
    lines.append(("solution", f"from {values['min']:.4g} to {values['max']:.4g}"))
    lines += [("warning", warning) for warning in found["warnings"]]
    if "errors" in found:
        relative = ", ".join(f"{name} {found['errors'][name]:.3g}" for name in result.NORMS)
        lines.append(("relative errors", relative))
    for against, bound in found.get("bounds", {}).items():
        text = bound.get("reason") or (
            f"at most {bound['relative']:.3g} of the solution's energy norm"
        )
        lines.append((f"bound ({against})", text))
    lines.append(("seconds", plain({k: round(v, 3) for k, v in found["seconds"].items()})))
    if found["files"]:
        lines.append(("files", plain(found["files"])))
    return rows(lines)
