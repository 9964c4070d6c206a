# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The product kernel, the filter, Rayleigh-Ritz and FilteredBasis, against dense linear algebra."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
import time
from itertools import pairwise

from mpi4py import MPI

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg
from numpy.polynomial.chebyshev import Chebyshev
from pencils import (
    PROBLEMS,
    check_same_on_any_ranks,
    dense,
    energy_error,
    exact_modes,
    mesh_of,
    neighbourhood,
    pose,
    problem,
    solve,
)
from sample import expect_error, is_sentence, local_problems
from utils import (
    COMM,
    HEX,
    QUAD,
    TRI,
    box,
    diffusion,
    gather_matrix,
    mass,
    norm_in,
    pencil_eigh,
    rough,
)

from dolfinx import fem
from dolfinx_msnn import LocalBasis, SpectralBasis, fields, multiscale_functionspace
from dolfinx_msnn._utils import compiled
from dolfinx_msnn._utils.chebyshev import degree_for, smoothing_end
from dolfinx_msnn.bases import kernels
from dolfinx_msnn.bases.chebyshev import chebyshev_filter
from dolfinx_msnn.bases.filtered import FilteredBasis
from dolfinx_msnn.bases.pencil import Pencil
from dolfinx_msnn.bases.ritz import rayleigh_ritz

serial = pytest.mark.serial


#: How the kernel is compiled for processors with narrower vectors than this one may have.
NARROW = {"kernel, 256 bits": "-mno-avx512f", "kernel, 128 bits": "-mno-avx"}


@pytest.fixture(params=["kernel", *NARROW, "scipy"])
def how(request, monkeypatch):
    """The compiled kernel, also for narrower vectors, and what stands in for it."""
    if request.param == "scipy":
        monkeypatch.setattr(kernels.SWEEPS, "module", None)
    elif kernels.SWEEPS.module is None:
        pytest.skip("no C compiler")
    elif request.param in NARROW:
        if platform.machine() != "x86_64":
            pytest.skip("other processors have one width")
        monkeypatch.setattr(compiled, "_FLAGS", [*compiled._FLAGS, NARROW[request.param]])
        monkeypatch.setattr(kernels.SWEEPS, "module", kernels.SWEEPS._load())
    return request.param


# ---- products ----

KERNEL = ["small, hexahedra", "small, triangles", "small, elasticity"]
DEGREES = (1, 2, 5, 8)


def block(n, m, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal((n, m)).astype(dtype)


@serial
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", KERNEL)
def test_multiply(how, name, dtype):
    matrix = problem(name).A.astype(dtype)
    A = matrix.toarray().astype(np.longdouble)
    width = np.diff(matrix.indptr).max()
    for m in range(1, 41):
        y = block(len(A), m, dtype, m)
        before = y.copy()
        out = kernels.multiply(matrix, y)
        assert out.dtype == dtype and out.shape == y.shape and out.flags.c_contiguous
        np.testing.assert_array_equal(y, before)
        # Rounding errors of a sum, entry by entry.
        bound = 2 * width * np.finfo(dtype).eps * (np.abs(A) @ np.abs(y))
        assert np.all(np.abs(out - A @ y) <= bound)


@serial
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_time_of_a_column(dtype):
    """It does not grow with their number: vectors wider than the registers are 20 times slower."""
    if kernels.SWEEPS.module is None:
        pytest.skip("no C compiler")
    A = sp.diags([1.0, -4.0, 9.0, -4.0, 1.0], [-40, -1, 0, 1, 40], (1600, 1600), "csr", dtype)

    def seconds(m):
        y, least = block(1600, m, dtype), np.inf
        for _ in range(15):
            start = time.perf_counter()
            kernels.multiply(A, y)
            least = min(least, time.perf_counter() - start)
        return least / m

    assert max(seconds(m) for m in (16, 24, 32, 40, 48, 64)) < 3 * seconds(8)


@serial
def test_multiply_takes_any_order_of_the_block(how):
    A, y = problem("triangles").A, block(problem("triangles").num_dofs, 6, np.float64)
    for view in (np.asfortranarray(y), np.repeat(y, 2, axis=1)[:, ::2]):
        out = kernels.multiply(A, view)
        assert out.flags.c_contiguous
        np.testing.assert_allclose(out, A.toarray() @ y, atol=1e-10)


@serial
@pytest.mark.parametrize("name", KERNEL)
def test_measure(how, name):
    A = dense(name)[0]
    measures = kernels.measure(problem(name).A)
    d = A.diagonal()
    np.testing.assert_array_equal(measures.diagonal, d)
    assert measures.upper == pytest.approx((np.abs(A).sum(axis=1) / d).max(), rel=1e-13)
    pattern = problem(name).A.copy()
    pattern.data[:] = 1.0
    ratios = np.where(pattern.toarray() > 0, d[:, None] / d, 0.0)
    assert measures.jump == pytest.approx(ratios.max(), rel=1e-13)


def polynomial(degree, lower, upper):
    """The Chebyshev polynomial on [lower, upper], one at zero."""
    p = Chebyshev.basis(degree, domain=[lower, upper])
    return lambda t: p(t) / p(0.0)


def of_matrix(p, A, scale):
    """p(diag(scale) A) by LAPACK."""
    root = np.sqrt(scale)
    mu, U = scipy.linalg.eigh(root[:, None] * A * root)
    return (root[:, None] * U * p(mu)) @ (U.T / root)


@serial
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", KERNEL)
def test_chebyshev(how, name, dtype):
    """Any number of columns, even and odd degrees, and a scaling that is not Jacobi's."""
    A = dense(name)[0]
    n = len(A)
    scale = (np.random.default_rng(1).uniform(0.5, 1.0, n) / A.diagonal()).astype(dtype)
    upper = (np.abs(A).sum(axis=1) * scale.astype(float)).max()
    lower, data = 0.1 * upper, problem(name).A.data.astype(dtype)
    exact = [of_matrix(polynomial(k, lower, upper), A, scale.astype(float)) for k in DEGREES]
    size = [np.linalg.norm(p) for p in exact]
    for m in range(1, 41):
        for k, degree in enumerate(DEGREES):
            if m > 9 and (m + k) % len(DEGREES):
                continue
            y = block(n, m, dtype, m)
            expected = exact[k] @ y
            out = kernels.chebyshev(problem(name).A, data, scale, y, degree, lower, upper)
            assert out.dtype == dtype and out.shape == (n, m) and out.flags.c_contiguous
            error = np.linalg.norm(out - expected, axis=0)
            # LAPACK loses digits to the jumps of the diagonal.
            assert np.all(error <= (1e-4 if dtype == np.float32 else 1e-10) * size[k])
            # With a right-hand side the polynomial is that of the errors.
            x = block(n, m, np.float64, m + 1)
            rhs, y = (A @ x).astype(dtype), block(n, m, dtype, m)
            expected = x + exact[k] @ (y - x)
            out = kernels.chebyshev(problem(name).A, data, scale, y, degree, lower, upper, rhs)
            error = np.linalg.norm(out - expected, axis=0)
            assert np.all(error <= (1e-3 if dtype == np.float32 else 1e-9) * size[k])


@serial
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*KERNEL, "no s"])
def test_sums_of_rayleigh_ritz(how, name, dtype):
    """Any number of columns, in double precision whatever the functions are in."""
    (A, S), p = dense(name), problem(name)
    n, d = len(A), A.diagonal()
    for m in (*range(1, 10), 16, 23, 24, 31, 32, 40, 48, 56):
        y = block(n, m, dtype, m)
        exact = y.astype(np.float64)
        for found, matrix in zip(kernels.project(p.A, p.S, y), (A, S), strict=True):
            bound = 1e-13 * (np.abs(exact).T @ np.abs(matrix) @ np.abs(exact))
            assert found.shape == (m, m) and np.all(
                np.abs(found - exact.T @ matrix @ exact) <= bound
            )
            np.testing.assert_array_equal(found, found.T)
        for k in (1, 5, 8, 12, 16, 20):
            c = block(m, k, np.float64, k)
            out = kernels.combine(y, c)
            assert out.dtype == np.float64
            np.testing.assert_allclose(out, exact @ c, rtol=0, atol=1e-12 * m)
        values = np.random.default_rng(m).uniform(0.0, 9.0, m)
        rest = A @ exact - (S @ exact) * values
        squares = kernels.residuals(p.A, p.S, exact, values, d)
        np.testing.assert_allclose(squares, (rest**2 / d[:, None]).sum(axis=0), rtol=1e-11)
        if m % 4 == 0:
            found = kernels.energies(p.A, p.S, exact)
            expected = np.diag(exact.T @ A @ exact), d @ exact**2, S.diagonal() @ exact**2
            np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-11)


@serial
def test_sums_where_the_patterns_differ(how):
    """Then the kernel is of no use, but the result is the same."""
    p = problem("small, triangles")
    lumped = sp.diags(p.S.toarray().sum(axis=1)).tocsr()
    y = block(p.num_dofs, 8, np.float64)
    a, s = kernels.project(p.A, lumped, y)
    np.testing.assert_allclose(a, y.T @ p.A.toarray() @ y, atol=1e-9)
    np.testing.assert_allclose(s, y.T @ lumped.toarray() @ y, atol=1e-9)


# ---- with and without a compiler ----


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The kernel is looked for again, in an empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(compiled, "get_options", lambda: {"cache_dir": folder})
    monkeypatch.delenv("MSNN_NO_KERNEL", raising=False)
    kernels.SWEEPS.__dict__.pop("module", None)
    yield folder
    kernels.SWEEPS.__dict__.pop("module", None)


def still_right():
    """Products are the same without the kernel."""
    A, y = problem("triangles").A, block(problem("triangles").num_dofs, 5, np.float64)
    np.testing.assert_allclose(kernels.multiply(A, y), A.toarray() @ y, atol=1e-10)


def compiler(path, script):
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


@serial
def test_compiled_once(fresh, monkeypatch):
    if kernels.SWEEPS.module is None:
        pytest.skip("no C compiler")
    made = list(fresh.iterdir())
    assert len(made) == 1 and made[0].suffix == ".so"
    before = made[0].stat()
    kernels.SWEEPS.__dict__.pop("module", None)
    assert kernels.SWEEPS.module is not None
    after = made[0].stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    still_right()


@serial
def test_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("MSNN_NO_KERNEL", "1")
    assert kernels.SWEEPS.module is None and not fresh.exists()
    still_right()


@serial
@pytest.mark.parametrize("script", ["exit 1\n", "echo no >&2; kill -9 $$\n", "exit 0\n", "GARBAGE"])
def test_compiler_that_fails(fresh, monkeypatch, tmp_path, capfd, script):
    """Also one that dies, writes nothing, or writes nonsense."""
    if script == "GARBAGE":
        script = 'while [ "$1" != -o ]; do shift; done\necho nonsense > "$2"\n'
    monkeypatch.setenv("CC", compiler(tmp_path / "bad-cc", script))
    assert kernels.SWEEPS.module is None
    still_right()
    assert capfd.readouterr() == ("", "")


@serial
def test_compiler_that_is_missing(fresh, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernels.SWEEPS.module is None
    still_right()
    assert capfd.readouterr() == ("", "")


@serial
def test_cache_folder_that_cannot_be_written(fresh):
    fresh.write_text("a file, no folder")
    assert kernels.SWEEPS.module is None
    still_right()


@serial
def test_two_processes_compile_at_once(fresh, tmp_path):
    """The compiler waits until two of it run: nobody reads what is half written."""
    if kernels.SWEEPS.module is None:
        pytest.skip("no C compiler")
    real = os.environ.get("CC", "cc")
    wait = (
        f'touch "{tmp_path}/run.$$"\n'
        "for k in $(seq 300); do\n"
        f'  [ $(ls "{tmp_path}" | grep -c run.) -ge 2 ] && exec {real} "$@"\n'
        "  sleep 0.1\n"
        "done\n"
        "exit 1\n"
    )
    cc = compiler(tmp_path / "slow-cc", wait)
    folder = tmp_path / "shared"
    code = (
        "import sys\n"
        "import numpy as np, scipy.sparse as sp\n"
        "from dolfinx_msnn._utils import compiled\n"
        "from dolfinx_msnn.bases import kernels\n"
        f"compiled.get_options = lambda: {{'cache_dir': {str(folder)!r}}}\n"
        "assert kernels.SWEEPS.module is not None\n"
        "y = np.arange(30.0).reshape(3, 10)\n"
        "assert np.array_equal(kernels.multiply(sp.csr_matrix(2 * np.eye(3)), y), 2 * y)\n"
    )
    env = os.environ | {"CC": cc}
    runs = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(2)]
    assert [run.wait(timeout=100) for run in runs] == [0, 0]
    assert len(list(tmp_path.glob("run.*"))) == 2
    assert [path.suffix for path in folder.iterdir()] == [".so"]


# ---- the filter ----


@serial
@pytest.mark.parametrize("name", ["cells 2:1", "two phases, 1e8", "P2", "hexahedra", "elasticity"])
def test_filter_on_eigenvectors(how, name):
    """Each is multiplied by the value of the polynomial, and the constant by one."""
    A, D = dense(name)[0], np.diag(dense(name)[0].diagonal())
    mu, U = scipy.linalg.eigh(A, D)
    pencil = Pencil.create(problem(name), "double")
    assert not pencil.single
    for degree in (1, 4, 11):
        lower = 0.05 * pencil.upper
        p = polynomial(degree, lower, pencil.upper)
        before = U.copy()
        out = chebyshev_filter(pencil, U, degree, lower)
        np.testing.assert_array_equal(U, before)
        size = np.linalg.norm(U, axis=0)
        error = np.linalg.norm(out - U * p(mu), axis=0) / size
        assert error.max() < 1e-9
        damped = mu >= lower
        assert damped.any() and not damped.all()
        gain = np.cosh(degree * np.arccosh((pencil.upper + lower) / (pencil.upper - lower)))
        assert (np.linalg.norm(out, axis=0) / size)[damped].max() <= 1.001 / gain
    constant = np.zeros((len(A), 1))
    constant[:: problem(name).block_size] = 1.0
    np.testing.assert_allclose(chebyshev_filter(pencil, constant, 9, lower), constant, atol=1e-6)


@serial
def test_filter_in_single_precision(how):
    y = block(problem("triangles").num_dofs, 12, np.float64)
    pencils = [Pencil.create(problem("triangles"), name) for name in ("single", "double")]
    single, double = (chebyshev_filter(p, y, 10, 0.1 * p.upper) for p in pencils)
    assert single.dtype == np.float32 and double.dtype == np.float64
    np.testing.assert_allclose(single, double, atol=1e-5 * np.abs(double).max())


@serial
def test_precision_is_chosen_by_the_diagonal():
    for name, single in (
        ("two phases", True),
        ("two phases, 1e6", True),
        ("two phases, 1e8", False),
    ):
        d = dense(name)[0].diagonal()
        assert (d.max() / d.min() < 1e7) == single
        assert Pencil.create(problem(name)).single == single


@serial
def test_filter_of_degree_zero_and_bad_arguments():
    pencil = Pencil.create(problem("cells 2:1"), "double")
    y = block(problem("cells 2:1").num_dofs, 3, np.float64)
    out = chebyshev_filter(pencil, y, 0, 0.5)
    np.testing.assert_array_equal(out, y)
    assert out is not y
    for degree, lower, told in (
        (3, 0.0, "lower must lie between 0 and .* on neighbourhood 4 at .*, got 0.0"),
        (3, float("nan"), "lower must lie between 0 and .*, got nan"),
        (3, 2 * pencil.upper, "lower must lie between 0 and"),
        (-1, 0.5, "degree must not be negative, got -1"),
    ):
        with pytest.raises(ValueError, match=told) as error:
            chebyshev_filter(pencil, y, degree, lower)
        is_sentence(str(error.value))


@serial
def test_degree_for():
    """The smallest degree with that gain."""
    for lower, upper in ((0.1, 2.0), (0.01, 4.0), (0.9, 2.0)):
        for gain in (1.5, 10.0, 1e3, 1e6):
            degree = degree_for(gain, lower, upper)
            gains = [
                abs(Chebyshev.basis(k, domain=[lower, upper])(0.0)) for k in (degree - 1, degree)
            ]
            assert gains[0] < gain * (1 + 1e-9) and gains[1] >= gain * (1 - 1e-9)


@serial
def test_smoothing_end():
    """A polynomial of its degree gains some ten times on what lies above."""
    for degree in range(2, 60):
        p = Chebyshev.basis(degree, domain=[smoothing_end(degree, 3.0), 3.0])
        assert 8 < abs(p(0.0)) < 20


@serial
@pytest.mark.parametrize("name", PROBLEMS)
def test_upper_bounds_the_spectrum(how, name):
    A = dense(name)[0]
    largest = scipy.linalg.eigh(A, np.diag(A.diagonal()), eigvals_only=True)[-1]
    upper = Pencil.create(problem(name)).upper
    # And is not so far away that degrees are wasted.
    assert largest <= upper <= 3 * largest


# ---- Rayleigh-Ritz ----


def reduced(name, Y):
    """Ritz values in the span of the columns of Y, by LAPACK."""
    A, S = dense(name)
    num = Y.shape[1]
    return pencil_eigh(Y.T @ A @ Y, Y.T @ S @ Y, num)[0]


def check_ritz(name, ritz, exact, rtol=1e-8):
    A, S = dense(name)
    # Relative, but for what is a rounding error beside the largest.
    np.testing.assert_allclose(ritz.values, exact, rtol=rtol, atol=1e-11 * abs(exact[-1]))
    X = ritz.functions()
    np.testing.assert_allclose(X.T @ S @ X, np.eye(len(exact)), atol=1e-7)
    np.testing.assert_allclose(
        X.T @ A @ X, np.diag(ritz.values), atol=1e-7 * max(abs(ritz.values[-1]), 1e-300)
    )


@serial
@pytest.mark.parametrize("name", [n for n in PROBLEMS if n != "no s"])
def test_rayleigh_ritz_in_random_subspaces(name):
    A, S = dense(name)
    pencil = Pencil.create(problem(name))
    for m in (1, 2, 17):
        Y = block(len(A), m, np.float64, m)
        exact = scipy.linalg.eigh(Y.T @ A @ Y, Y.T @ S @ Y, eigvals_only=True)
        check_ritz(name, rayleigh_ritz(pencil, Y), exact)
        # Columns of other lengths make no difference.
        lengths = 10.0 ** np.random.default_rng(m).uniform(-8, 8, m)
        check_ritz(name, rayleigh_ritz(pencil, Y * lengths), exact)


@serial
@pytest.mark.parametrize("name", ["two phases", "two phases, 1e8", "elasticity", "hexahedra"])
@pytest.mark.parametrize("what", ["duplicate", "zero", "sum", "close", "closer"])
def test_dependent_columns(name, what):
    """They add nothing, and do no harm."""
    n = problem(name).num_dofs
    Y, noise = block(n, 7, np.float64), block(n, 2, np.float64, 1)
    added = {
        "duplicate": Y[:, :3],
        "zero": np.zeros((n, 2)),
        "sum": Y @ block(7, 4, np.float64, 2),
        # Independent, but only just; and not any more in double precision.
        "close": Y[:, :2] + 1e-4 * noise,
        "closer": Y[:, :2] * (1 + 1e-15),
    }[what]
    span = np.hstack([Y, noise]) if what == "close" else Y
    exact = reduced(name, span)
    ritz = rayleigh_ritz(Pencil.create(problem(name)), np.hstack([added, Y]))
    assert len(ritz.values) == span.shape[1]
    check_ritz(name, ritz, exact, rtol=1e-5 if what == "close" else 1e-8)


@serial
def test_rayleigh_ritz_where_s_is_singular():
    """As many pairs as there are finite eigenvalues."""
    A, S = dense("no s")
    n, rank = len(A), np.linalg.matrix_rank(S)
    assert rank < n
    pencil = Pencil.create(problem("no s"))
    Y = block(n, 9, np.float64)
    check_ritz("no s", rayleigh_ritz(pencil, Y), reduced("no s", Y))
    # Two functions on the rim, where χ is zero, have no mass.
    rim = np.zeros((n, 2))
    rim[np.flatnonzero(problem("no s").chi == 0)[[0, 7]], [0, 1]] = 1.0
    both = np.hstack([rim, Y])
    ritz = rayleigh_ritz(pencil, both)
    assert len(ritz.values) == 9
    with np.errstate(divide="ignore"):
        check_ritz("no s", ritz, reduced("no s", both)[:9])


@serial
@pytest.mark.parametrize("name", ["two phases", "P2", "elasticity"])
def test_estimated_errors(name):
    """They are what their description says, and bound what lies above α."""
    A, S = dense(name)
    pencil = Pencil.create(problem(name))
    Y = block(len(A), 10, np.float64)
    lower = 0.3 * pencil.upper
    ritz = rayleigh_ritz(pencil, Y, 6, lower=lower)
    assert ritz.errors.shape == (6,)
    X, values = ritz.functions(6), ritz.values[:6]
    residual = (A @ X - S @ X * values) / np.sqrt(A.diagonal())[:, None]
    expected = (residual**2).sum(axis=0) / (lower * (values + pencil.shift))
    np.testing.assert_allclose(ritz.errors, expected, rtol=1e-6)
    default = rayleigh_ritz(pencil, Y, 6).errors
    np.testing.assert_allclose(default, expected * 0.3, rtol=1e-6)
    # Exact pairs have none.
    _, phi = exact_modes(name)
    assert rayleigh_ritz(pencil, phi[:10].T, 10).errors.max() < 1e-9


# ---- FilteredBasis against LAPACK ----


def defect(A, S, vectors, exact, phi, num):
    """Sine, in the energy norm, between the exact modes and the space found."""
    root = np.linalg.cholesky(A + exact[num] * S)
    Q = np.linalg.qr((vectors @ root).T)[0]
    Z = (phi[:num] @ root).T
    Z = Z / np.linalg.norm(Z, axis=0)
    return np.linalg.norm(Z - Q @ (Q.T @ Z), axis=0).max()


#: Largest energy defect and relative excess of the Ritz values; three times what was measured.
ACCURACY = {
    "quadrilaterals": (0.01, 1e-3),
    "two phases": (0.01, 1e-3),
    "two phases, 1e6": (0.01, 1e-3),
    "two phases, 1e8": (0.02, 1e-3),
    "cells 2:1": (0.1, 0.01),
    "triangles": (0.1, 0.01),
    "unstructured": (0.15, 0.02),
    "P2": (0.15, 0.02),
    "hexahedra": (0.03, 1e-3),
}


@serial
@pytest.mark.parametrize("name", ACCURACY)
@pytest.mark.parametrize("precision", ["auto", "double"])
def test_filtered_modes(name, precision):
    num, (A, S) = 8, dense(name)
    basis = FilteredBasis(num, precision=precision)
    modes = basis.modes([problem(name)])[0]
    exact, phi = exact_modes(name)
    assert modes.values.shape == (num,) and modes.vectors.shape == (num, len(A))
    np.testing.assert_allclose(modes.vectors @ S @ modes.vectors.T, np.eye(num), atol=1e-7)
    # From above, and not far.
    excess = modes.values - exact[:num]
    assert excess.min() > -1e-7 * exact[num]
    worst, relative = ACCURACY[name]
    assert (excess / np.maximum(exact[:num], 1e-3 * exact[num])).max() < relative
    assert defect(A, S, modes.vectors, exact, phi, num) < worst
    report = basis.reports[0]
    assert (report.vertex, len(basis.reports)) == (problem(name).vertex, 1)
    assert report.converged == (report.error <= 0.05)
    assert report.sweeps >= report.rounds >= 1


@serial
@pytest.mark.parametrize(
    "name",
    [
        "quadrilaterals",
        "two phases",
        "two phases, 1e6",
        "two phases, 1e8",
        "cells 2:1",
        "hexahedra",
    ],
)
def test_converged(name):
    """On bilinear cells it says so."""
    basis = FilteredBasis()
    basis.modes([problem(name)])
    assert basis.reports[0].converged


@serial
@pytest.mark.parametrize("name,rigid", [("elasticity", 3), ("elasticity, 3D", 6)])
def test_elasticity_has_rigid_motions(name, rigid):
    A, S = dense(name)
    modes = FilteredBasis(rigid + 4).modes([problem(name)])[0]
    exact, _ = exact_modes(name)
    assert np.abs(modes.values[:rigid]).max() < 1e-6 * exact[-1]
    assert (modes.values - exact[: rigid + 4]).min() > -1e-7 * exact[-1]
    motions = modes.vectors[:rigid]
    x = problem(name).x
    assert norm_in(A, motions.sum(axis=0)) < 1e-3 * np.sqrt(exact[-1])
    # Translations are among them.
    for c in range(x.shape[1]):
        t = np.zeros(len(x))
        t[c :: x.shape[1]] = 1.0
        left = t - motions.T @ (motions @ S @ t)
        assert norm_in(S, left) < 1e-5 * norm_in(S, t)


@serial
def test_a_fixed_number_of_rounds_and_degree():
    basis = FilteredBasis(8, tol=1e-9, degree=5, max_rounds=3)
    basis.modes([problem("two phases")])
    report = basis.reports[0]
    assert (report.rounds, report.sweeps, report.converged) == (3, 15, False)
    assert 0 < report.change < 1


@serial
def test_more_rounds_are_better():
    """The Ritz values of many stiff islands come down."""
    exact = exact_modes("elasticity")[0][:8].sum()
    excess = [
        FilteredBasis(8, tol=1e-9, degree=6, max_rounds=k)
        .modes([problem("elasticity")])[0]
        .values.sum()
        / exact
        - 1
        for k in (1, 2, 4, 8)
    ]
    assert all(0 <= after < 0.5 * before for before, after in pairwise(excess))
    assert excess[-1] < 1e-2


@serial
@pytest.mark.parametrize("name", ["two phases", "triangles", "elasticity"])
def test_without_kernel(name, monkeypatch):
    with_kernel = FilteredBasis(6, precision="double").modes([problem(name)])[0]
    monkeypatch.setattr(kernels.SWEEPS, "module", None)
    without = FilteredBasis(6, precision="double").modes([problem(name)])[0]
    np.testing.assert_allclose(
        with_kernel.values, without.values, rtol=1e-8, atol=1e-9 * without.values[-1]
    )


@serial
@pytest.mark.parametrize("name", ["two phases", "two phases, 1e6", "hexahedra", "elasticity"])
def test_single_and_double_precision_agree(name):
    """To much less than the tolerance."""
    single, double = (
        FilteredBasis(8, precision=precision).modes([problem(name)])[0]
        for precision in ("single", "double")
    )
    np.testing.assert_allclose(
        single.values, double.values, rtol=1e-3, atol=1e-6 * double.values[-1]
    )


@serial
def test_threads_and_order():
    """Any number of threads and any company: the same numbers, in the order given."""
    chosen = [problem(name) for name in ("two phases", "triangles", "elasticity", "P2")] * 3
    alone = [FilteredBasis(5).modes([p])[0] for p in chosen]
    for threads in (1, 2, 5):
        basis = FilteredBasis(5, num_threads=threads)
        for mine, expected in zip(basis.modes(chosen), alone, strict=True):
            np.testing.assert_array_equal(mine.values, expected.values)
            np.testing.assert_array_equal(mine.vectors, expected.vectors)
        assert [r.vertex for r in basis.reports] == [p.vertex for p in chosen]
    assert FilteredBasis().modes([]) == []


@serial
def test_threads_come_from_the_environment(monkeypatch):
    for given, expected in (("3", 3), ("2,4", 2), ("nonsense", 1), ("0", 1), (None, 1)):
        if given is None:
            monkeypatch.delenv("OMP_NUM_THREADS")
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert FilteredBasis().num_threads == expected
    assert FilteredBasis(num_threads=7).num_threads == 7


@serial
@pytest.mark.parametrize(
    "cells,shape,num",
    [
        (4, None, 3),
        (4, None, 9),
        (6, None, 8),
        (6, None, 16),
        (4, (2,), 12),
    ],
)
def test_small_neighbourhoods_are_solved_exactly(cells, shape, num):
    """Where there are no more dofs than starting functions."""
    p = neighbourhood(mesh_of(QUAD, cells), (2, 2), 0, rough(1e3), shape=shape)
    basis = FilteredBasis(num)
    modes = basis.modes([p])[0]
    exact, _ = pencil_eigh(p.A.toarray(), p.S.toarray(), num)
    np.testing.assert_allclose(modes.values, exact, rtol=1e-8, atol=1e-9 * exact[-1])
    assert basis.reports[0].converged


# ---- errors ----


def test_is_a_local_basis():
    assert isinstance(FilteredBasis(), LocalBasis)
    assert FilteredBasis().num_modes == 8 and FilteredBasis().reports == []


@pytest.mark.parametrize(
    "arguments,told",
    [
        ({"num_modes": 0}, "num_modes must be a positive integer, got 0"),
        ({"num_modes": 2.5}, "num_modes must be a positive integer, got 2.5"),
        ({"num_modes": "8"}, "num_modes must be a positive integer, got '8'"),
        ({"num_modes": True}, "num_modes must be a positive integer, got True"),
        ({"tol": 0}, "tol must lie between 0 and 1, got 0"),
        ({"tol": 1.0}, "tol must lie between 0 and 1, got 1.0"),
        ({"tol": -0.1}, "tol must lie between 0 and 1, got -0.1"),
        ({"tol": float("nan")}, "tol must lie between 0 and 1, got nan"),
        ({"tol": "small"}, "tol must lie between 0 and 1, got 'small'"),
        ({"degree": 0}, "degree must be a positive integer, got 0"),
        ({"degree": 10**30}, "degree must be at most 800, got 1000000000000000000000000000000"),
        ({"degree": 3.5}, "degree must be a positive integer, got 3.5"),
        ({"max_rounds": 0}, "max_rounds must be a positive integer, got 0"),
        ({"num_start": 7}, "num_start must not be below num_modes=8, got 7"),
        ({"num_start": -1}, "num_start must be a positive integer, got -1"),
        ({"precision": "half"}, "precision must be 'single', 'double' or 'auto', got 'half'"),
        ({"num_threads": 0}, "num_threads must be a positive integer, got 0"),
        ({"num_modes": 8, "threshold": 1.0}, "Give num_modes or threshold, not both"),
        ({"threshold": -1.0}, "threshold must be a positive number, got -1.0"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, told):
    with expect_error(ValueError, told):
        FilteredBasis(**arguments)


# ---- solutions ----


@serial
@pytest.mark.parametrize(
    "options",
    [
        {"contrast": 1e3},
        {"contrast": 1e6},
        {"shape": (2,), "contrast": 1e3},
        {"cell": TRI},
        {"cell": HEX, "n": 9, "coarse": 2},
    ],
    ids=str,
)
def test_solution_is_as_good_as_that_of_the_eigensolver(options):
    num = 8 if "shape" not in options else 12
    errors = [
        energy_error(solve(MPI.COMM_SELF, lambda k=kind: k(num), **options)[0], **options)
        for kind in (FilteredBasis, SpectralBasis)
    ]
    assert errors[0] <= 1.05 * errors[1]
    assert 1e-3 < errors[1] < 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"contrast": 1e4},
        {"cell": TRI, "contrast": 1e3},
        {"shape": (2,), "contrast": 1e2},
        {"cell": HEX, "n": 8, "coarse": 2},
        {"contrast": 1e9},
    ],
    ids=str,
)
def test_same_solution_on_any_number_of_ranks(options):
    """In double precision; in single, sums in another order end on another rounded number."""
    for precision, tolerance in (("double", 1e-6), ("auto", 1e-5)):
        check_same_on_any_ranks(
            lambda precision=precision: FilteredBasis(6, precision=precision),
            tolerance,
            **options,
        )


@serial
@pytest.mark.parametrize("contrast", [1e6, 1e8])
def test_filter_that_is_too_strong_for_finite_precision(contrast):
    """Many modes on few dofs: filtered functions depend on each other, so it filters less."""
    msh = box(MPI.COMM_SELF, HEX, 8)
    kappa = fields.channels(msh, contrast, seed=10**6)
    V = fem.functionspace(msh, ("Lagrange", 1))
    chosen = local_problems((2, 2, 2), diffusion(V, kappa), mass(V, kappa))
    basis = FilteredBasis(16)
    bad = 0
    for p, modes in zip(chosen, basis.modes(chosen), strict=True):
        values = pencil_eigh(p.A.toarray(), p.S.toarray(), 17)[0]
        if np.abs(modes.values - values[:16]).max() > 0.05 * values[16]:
            bad += 1
            assert not next(r for r in basis.reports if r.vertex == p.vertex).converged
    assert bad == 0 or contrast > 1e6


def test_reports_of_all_ranks():
    """Each neighbourhood is done once, by one rank."""
    V, grid, a, s, _, bcs = pose(COMM)
    basis = FilteredBasis(4)
    with multiscale_functionspace(V, grid, basis, a, s, bcs) as W:
        assert gather_matrix(W.P).shape[1] <= 4 * 16
        vertices = [r.vertex for part in COMM.allgather(basis.reports) for r in part]
        assert sorted(vertices) == list(range(16))
        values = {k: v for part in COMM.allgather(W.eigenvalues) for k, v in part.items()}
        assert sorted(values) == list(range(16))
        assert all(len(v) == 4 and np.all(np.diff(v) >= 0) for v in values.values())


# ---- a threshold ----


@serial
@pytest.mark.parametrize("name", ["two phases, 1e8", "P2", "hexahedra"])
def test_threshold(name):
    """As many modes as there are eigenvalues below, counted by SciPy, and the same space."""
    A, S = dense(name)
    exact = scipy.linalg.eigh(A, S, eigvals_only=True, subset_by_index=(0, 24))
    p = problem(name)
    for count in (3, 8, 13):
        threshold = 0.5 * (exact[count - 1] + exact[count])
        basis = FilteredBasis(threshold=threshold, tol=1e-3)
        modes = basis.modes([p])[0]
        assert len(modes.values) == count and basis.reports[-1].vertex == p.vertex
        np.testing.assert_allclose(modes.values, exact[:count], rtol=1e-2, atol=1e-6 * exact[1])
    assert len(FilteredBasis(threshold=1e-12 * exact[1]).modes([p])[0].values) == 1
    assert len(FilteredBasis(threshold=2 * exact[24], max_modes=11).modes([p])[0].values) == 11
