# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Constitutive laws against NumPy, and steady Richards problems against Kirchhoff's solution."""

from __future__ import annotations

import re
from pathlib import Path

from mpi4py.MPI import MAX

import numpy as np
import pytest
from sample import expect_error
from utils import COMM, QUAD, box, cell_field, clamp, diffusion, mass

import ufl
from dolfinx import fem, mesh
from dolfinx_msnn import CoarseGrid, SpectralBasis, multiscale_functionspace
from dolfinx_msnn.petsc import NonlinearProblem, PicardProblem
from dolfinx_msnn.richards import Haverkamp, VanGenuchtenMualem

#: Pressure heads, zero among them, in the order of an interval's nodes.
HEADS = np.concatenate([-np.logspace(3, -6, 40), [0.0], np.logspace(-6, 3, 19)])


def evaluate(expression):
    """Values at HEADS of a UFL expression in p, given as a function of p."""
    msh = mesh.create_unit_interval(COMM, len(HEADS) - 1)
    V = fem.functionspace(msh, ("Lagrange", 1))
    p, found = fem.Function(V), fem.Function(V)
    index = np.rint(V.tabulate_dof_coordinates()[:, 0] * (len(HEADS) - 1)).astype(int)
    p.x.array[:] = HEADS[index]
    found.interpolate(fem.Expression(expression(p), V.element.interpolation_points))
    owned = V.dofmap.index_map.size_local
    values = np.full(len(HEADS), np.nan)
    for part in COMM.allgather((index[:owned], found.x.array[:owned])):
        values[part[0]] = part[1]
    return values


def derivative(function):
    """dk/dp by UFL."""

    def expression(p):
        variable = ufl.variable(p)
        return ufl.diff(function(variable), variable)

    return expression


def van_genuchten(p, alpha, n):
    """S_e and k_r by the formulas of 1980 (equations 3 and 8), for p < 0; 1 for p >= 0."""
    m = 1 - 1 / n
    Se = (1 + (alpha * np.maximum(-p, 0.0)) ** n) ** -m
    # 1 - (1 - x)^m, accurate for small x.
    with np.errstate(divide="ignore"):
        inner = -np.expm1(m * np.log1p(-(Se ** (1 / m))))
    return Se, np.where(p < 0, np.sqrt(Se) * inner**2, 1.0)


@pytest.mark.parametrize(("alpha", "n"), [(3.6, 1.56), (0.5, 2.0), (14.5, 2.68), (1.0, 6.0)])
def test_van_genuchten_mualem(alpha, n):
    """Away from zero the formulas of the paper; soils from loam to sand (1/m)."""
    law = VanGenuchtenMualem(alpha=alpha, n=n, theta_r=0.05, theta_s=0.4, k_min=1e-9, epsilon=1e-7)
    Se, k = van_genuchten(HEADS, alpha, n)
    far = np.abs(HEADS) > 1e-3
    np.testing.assert_allclose(evaluate(law.saturation)[far], Se[far], rtol=1e-6)
    np.testing.assert_allclose(evaluate(law.water_content)[far], 0.05 + 0.35 * Se[far], rtol=1e-6)
    found = evaluate(law.relative_permeability)
    unsaturated = far & (HEADS < 0)
    expected = 1e-9 + (1 - 1e-9) * k[unsaturated]
    np.testing.assert_allclose(found[unsaturated], expected, rtol=1e-6)
    # Above zero only the regularisation is left.
    assert np.all(found[HEADS >= 0] > (1 - 1e-7 ** (n - 1)) ** 2 - 1e-12)
    assert found.min() >= 1e-9 and found.max() <= 1.0
    assert np.all(np.diff(found) >= 0)


@pytest.mark.parametrize("n", [1.2, 1.5, 2.0, 3.0])
def test_regularisation(n):
    """Finite slopes everywhere, by finite differences; k_r(0) and the floor as documented."""
    law = VanGenuchtenMualem(alpha=2.0, n=n, k_min=1e-6)
    slope = evaluate(derivative(law.relative_permeability))
    assert np.all(np.isfinite(slope)) and np.all(slope >= 0)
    step = 1e-7
    numeric = evaluate(
        lambda p: (
            (law.relative_permeability(p + step) - law.relative_permeability(p - step)) / (2 * step)
        )
    )
    np.testing.assert_allclose(slope, numeric, rtol=1e-4, atol=1e-6)
    k = evaluate(law.relative_permeability)
    np.testing.assert_allclose(k[HEADS == 0], (1 - 5e-4 ** (n - 1)) ** 2, rtol=1e-3)
    assert 1e-6 <= k[0] < 0.02
    assert np.all(np.isfinite(evaluate(derivative(law.water_content))))


def test_haverkamp():
    """The sand of Haverkamp et al. (cm), and the law without parameters."""
    law = Haverkamp(A=1.175e6, gamma=4.74, a=1.611e6, beta=3.96, theta_r=0.075, theta_s=0.287)
    size = np.abs(HEADS)
    np.testing.assert_allclose(
        evaluate(law.relative_permeability), 1.175e6 / (1.175e6 + size**4.74), rtol=1e-12
    )
    theta = 1.611e6 * (0.287 - 0.075) / (1.611e6 + size**3.96) + 0.075
    np.testing.assert_allclose(evaluate(law.water_content), theta, rtol=1e-12)
    np.testing.assert_allclose(
        evaluate(Haverkamp().relative_permeability), 1 / (1 + size), rtol=1e-14
    )
    slopes = evaluate(derivative(Haverkamp().relative_permeability))
    away = HEADS != 0
    np.testing.assert_allclose(
        slopes[away], -np.sign(HEADS[away]) / (1 + size[away]) ** 2, rtol=1e-12
    )
    assert np.all(np.isfinite(slopes))
    floor = evaluate(Haverkamp(k_min=0.1).relative_permeability)
    np.testing.assert_allclose(floor, 0.1 + 0.9 / (1 + size), rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "changed", "match"),
    [
        (VanGenuchtenMualem, {"n": 1.0}, "n of VanGenuchtenMualem must be a finite number above 1"),
        (VanGenuchtenMualem, {"alpha": 0}, "alpha of .* above 0, got 0"),
        (VanGenuchtenMualem, {"alpha": "3"}, "alpha of .* got '3'"),
        (VanGenuchtenMualem, {"epsilon": 0.0}, "epsilon of .* above 0"),
        (VanGenuchtenMualem, {"n": np.nan}, "n of .* got nan"),
        (VanGenuchtenMualem, {"theta_r": 0.5, "theta_s": 0.4}, "theta_r < theta_s <= 1"),
        (Haverkamp, {"theta_s": 1.5}, "theta_r < theta_s <= 1"),
        (Haverkamp, {"gamma": 0.5}, "gamma of Haverkamp must be a finite number at least 1"),
        (Haverkamp, {"k_min": 1.0}, "k_min of Haverkamp must be below 1"),
        (Haverkamp, {"k_min": -1e-3}, "k_min of .* at least 0"),
    ],
)
def test_mistakes(kind, changed, match):
    with expect_error(ValueError, match):
        kind(**changed)


def test_laws_are_values():
    """Equal if their parameters are, and immutable."""
    assert Haverkamp() == Haverkamp(A=1.0) != Haverkamp(A=2.0)
    assert len({VanGenuchtenMualem(n=2.0), VanGenuchtenMualem()}) == 1
    with pytest.raises(AttributeError):
        Haverkamp().A = 2.0


@pytest.mark.slow
def test_documentation(capsys):
    """The example of docs/nonlinear.md runs as printed."""
    page = Path(__file__).resolve().parents[2] / "docs" / "nonlinear.md"
    if not page.exists():
        pytest.skip("there is no checkout with documentation")
    text = page.read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    scope = {}
    exec(compile(example, "nonlinear.md", "exec"), scope)
    try:
        (stated,) = re.findall(r"^It prints `(.*?)`", text, re.MULTILINE)
        assert capsys.readouterr().out.strip() == stated
    finally:
        scope["problem"].destroy()
        scope["W"].destroy()


def layers(x):
    """Conductivity of four layers across the flow."""
    return np.array([1.0, 50.0, 0.2, 8.0])[np.minimum((4 * x[0]).astype(int), 3)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["newton", "picard"])
def test_kirchhoff(kind):
    """Layers in series, k_r = 1/(1+|p|): with w = -ln(1 - p), κ w' is constant."""
    depth = 8.0
    resistance = np.cumsum([0.0, *(0.25 / layers(np.array([[0.1, 0.3, 0.6, 0.9]])))])
    errors = []
    for n in (16, 32):
        msh = box(COMM, QUAD, (n, 2), (1.0, 0.05))
        V = fem.functionspace(msh, ("Lagrange", 1))
        kappa, p, v = cell_field(msh, layers), fem.Function(V), ufl.TestFunction(V)

        def exact(x):
            at = np.interp(x[0], np.linspace(0, 1, 5), resistance) / resistance[-1]
            return 1 - np.exp(at * np.log1p(depth))

        bcs = [
            clamp(V, lambda x: np.isclose(x[0], 0.0)),
            clamp(V, lambda x: np.isclose(x[0], 1.0), -depth),
        ]
        law, dx = Haverkamp(), ufl.dx(metadata={"quadrature_degree": 3})
        q, zero = ufl.TrialFunction(V), fem.Constant(msh, 0.0)
        a = kappa * law.relative_permeability(p) * ufl.inner(ufl.grad(q), ufl.grad(v)) * dx
        # A strip, coarse boxes of one layer, and (nearly) all functions of x on them.
        grid = CoarseGrid(msh, (4, 1))
        with multiscale_functionspace(
            V, grid, SpectralBasis(n // 4 + 1), diffusion(V, kappa), mass(V, kappa), bcs
        ) as W:
            settings = {"bcs": bcs, "petsc_options_prefix": "k_"}
            with (
                NonlinearProblem(ufl.action(a, p), p, W, **settings)
                if kind == "newton"
                else PicardProblem(a, zero * v * ufl.dx, p, W, **settings)
            ) as problem:
                problem.solve()
        wanted = fem.Function(V)
        wanted.interpolate(exact)
        errors.append(COMM.allreduce(np.abs(p.x.array - wanted.x.array).max(), op=MAX))
    # Fourth order at the nodes, as measured; second is what one can count on.
    assert errors[0] < 1e-4 * depth and np.log2(errors[0] / errors[1]) > 1.8, errors
