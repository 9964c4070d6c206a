# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Losses against principal angles and eigenvalues of SciPy; invariances; degenerate data."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

torch = pytest.importorskip("torch")

from dolfinx_msnn.nn import losses  # noqa: E402

pytestmark = pytest.mark.serial

B, N, OUT, SIZE = 3, 3, 5, 20


def rows(k, seed=0, batch=B, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, k, size, generator=generator, dtype=torch.float64)


def matrices(seed, contrast=1e2):
    """Symmetric positive definite, one for each sample."""
    q = torch.linalg.qr(rows(SIZE, seed))[0]
    d = torch.logspace(0, np.log10(contrast), SIZE, dtype=torch.float64)
    return q @ torch.diag(d) @ q.transpose(1, 2)


M, A, S = matrices(10), matrices(11), matrices(12)


def apply(matrix):
    return lambda y: y @ matrix.to(y.dtype)


def pr(prediction, target):
    """A new generator each time, so that the draw is the same."""
    generator = torch.Generator().manual_seed(5)
    return losses.sal_pr(prediction, target, weight=0.7, generator=generator)


def energy(prediction, target):
    return losses.energy(prediction, target, inner=apply(M))


def euclidean(prediction, target):
    return losses.energy(prediction, target, inner=None)


def ritz(prediction, target=None):
    return losses.rayleigh(prediction, apply_a=apply(A), apply_s=apply(S), num_modes=N)


COMPARED = [losses.sal, pr, energy, euclidean]
SPANS = [losses.sal, energy, euclidean]
ALL = [losses.basis_l2, *COMPARED, ritz]


def sines(p, t):
    """Squared sines of the principal angles; those of the smaller span."""
    return np.sin(scipy.linalg.subspace_angles(p.T, t.T)) ** 2


@pytest.mark.parametrize("out", [N, OUT])
def test_sal_and_energy_are_principal_angles(out):
    p, t = rows(out, 1).numpy(), rows(N, 2).numpy()
    value = losses.sal(torch.from_numpy(p), torch.from_numpy(t)).item()
    expected = np.mean([sines(*pair).sum() for pair in zip(p, t, strict=True)])
    assert value == pytest.approx(expected, rel=1e-10)
    value = energy(torch.from_numpy(p), torch.from_numpy(t)).item()
    roots = [scipy.linalg.cholesky(m) for m in M.numpy()]
    angles = [sines(x @ r.T, y @ r.T).mean() for x, y, r in zip(p, t, roots, strict=True)]
    assert value == pytest.approx(np.mean(angles), rel=1e-10)


def test_small_angles_are_not_lost():
    """An angle of 1e-5 has a sin² of 1e-10, far below the rounding of a cosine in single."""
    eye = torch.eye(SIZE, dtype=torch.float64)
    t = eye[:N].expand(1, N, SIZE)
    for dtype, angle, rel in ((torch.float64, 1e-5, 1e-4), (torch.float32, 1e-3, 1e-3)):
        p = t.clone()
        p[0, 0] = np.cos(angle) * eye[0] + np.sin(angle) * eye[N]
        value = losses.sal(p.to(dtype), t.to(dtype)).item()
        assert value == pytest.approx(angle**2, rel=rel)


def test_energy_is_the_mean_error_of_eigenvectors():
    p = rows(OUT, 1).numpy()
    total, modes = 0.0, []
    for b in range(B):
        v = scipy.linalg.eigh(A[b].numpy(), S[b].numpy())[1][:, :N]
        m = (A[b] + S[b]).numpy()
        x = np.linalg.solve(p[b] @ m @ p[b].T, p[b] @ m @ v)
        r = v - p[b].T @ x
        total += np.mean(np.sum(r * (m @ r), 0) / np.sum(v * (m @ v), 0)) / B
        modes.append(v.T)
    value = losses.energy(
        torch.from_numpy(p), torch.from_numpy(np.stack(modes)), inner=apply(A + S)
    )
    assert value.item() == pytest.approx(total, rel=1e-10)


def test_sal_pr_adds_the_expected_error():
    """Its mean over many draws is the trace of the residuals of the modes of unit length."""
    p, t = rows(OUT, 1, batch=1), rows(N, 2, batch=1)
    unit = (t / t.norm(dim=2, keepdim=True))[0].numpy().T
    projected = unit - p[0].numpy().T @ np.linalg.lstsq(p[0].numpy().T, unit)[0]
    generator = torch.Generator().manual_seed(0)
    draws = 4000
    many = losses.sal_pr(
        p.expand(draws, -1, -1), t.expand(draws, -1, -1), weight=2.0, generator=generator
    )
    extra = (many - losses.sal(p, t)).item() / 2.0
    # The variance of cᵀEc is 2 ‖E‖_F².
    deviation = np.sqrt(2.0 / draws) * np.linalg.norm(projected.T @ projected)
    assert abs(extra - np.sum(projected**2)) < 4 * deviation
    assert deviation < 0.04 * extra
    zero = losses.sal_pr(p, t, weight=0.0, generator=generator)
    torch.testing.assert_close(zero, losses.sal(p, t))


def test_rayleigh_is_the_sum_of_ritz_values():
    p = rows(OUT, 1)
    expected, ratios, exact = [], [], []
    for b in range(B):
        a, s, y = A[b].numpy(), S[b].numpy(), p[b].numpy()
        expected.append(scipy.linalg.eigh(y @ a @ y.T, y @ s @ y.T)[0][:N].sum())
        exact.append(scipy.linalg.eigh(a, s)[0][:N])
        ratios.append(expected[-1] / exact[-1].sum())
    assert ritz(p).item() == pytest.approx(np.mean(expected), rel=1e-9)
    value = losses.rayleigh(
        p,
        apply_a=apply(A),
        apply_s=apply(S),
        num_modes=N,
        exact=torch.from_numpy(np.stack(exact)),
    )
    assert value.item() == pytest.approx(np.mean(ratios), rel=1e-9)
    assert value.item() > 1


def test_rayleigh_is_least_at_the_modes():
    exact = [scipy.linalg.eigh(A[b].numpy(), S[b].numpy()) for b in range(B)]
    modes = torch.from_numpy(np.stack([v[:, :N].T for _, v in exact])).requires_grad_()
    value = ritz(modes)
    assert value.item() == pytest.approx(np.mean([w[:N].sum() for w, _ in exact]), rel=1e-9)
    (slope,) = torch.autograd.grad(value, modes)
    assert slope.abs().max() < 1e-9


def test_basis_l2():
    p, t = rows(OUT, 1), rows(N, 2)
    a, b = p.numpy()[:, :N], t.numpy()
    errors = [np.linalg.norm(a - s * b, axis=2) / np.linalg.norm(b, axis=2) for s in (1, -1)]
    assert losses.basis_l2(p, t).item() == pytest.approx(np.minimum(*errors).mean(), rel=1e-12)
    signs = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64).reshape(1, N, 1)
    torch.testing.assert_close(losses.basis_l2(p, signs * t), losses.basis_l2(p, t))
    exact = t.clone().requires_grad_()
    value = losses.basis_l2(exact, -t)
    (slope,) = torch.autograd.grad(value, exact)
    assert value == 0 and torch.all(torch.isfinite(slope))


@pytest.mark.parametrize("loss", [*SPANS, pr, ritz])
def test_prediction_counts_by_its_span(loss):
    """Rotated, sheared, of other signs and lengths, it is worth the same."""
    p, t = rows(OUT, 1), rows(N, 2)
    rotation = torch.linalg.qr(rows(OUT, 3, size=OUT))[0]
    shear = torch.eye(OUT, dtype=torch.float64) + 0.3 * torch.tril(rows(OUT, 4, size=OUT), -1)
    lengths = torch.tensor([1e-4, -1.0, 3.0, 1e3, -1e2], dtype=torch.float64).reshape(1, OUT, 1)
    for other in (rotation @ p, shear @ p, lengths * p):
        torch.testing.assert_close(loss(other, t), loss(p, t), rtol=1e-8, atol=0)


@pytest.mark.parametrize("loss", SPANS)
def test_target_counts_by_its_span(loss):
    p, t = rows(OUT, 1), rows(N, 2)
    rotation = torch.linalg.qr(rows(N, 3, size=N))[0]
    lengths = torch.tensor([1e-4, -1.0, 1e3], dtype=torch.float64).reshape(1, N, 1)
    for other in (rotation @ t, lengths * t):
        torch.testing.assert_close(loss(p, other), loss(p, t), rtol=1e-8, atol=0)


def test_sal_pr_does_not_see_lengths_of_the_target():
    p, t = rows(OUT, 1), rows(N, 2)
    lengths = torch.tensor([1e-4, 1.0, 1e3], dtype=torch.float64).reshape(1, N, 1)
    torch.testing.assert_close(pr(p, lengths * t), pr(p, t), rtol=1e-8, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", COMPARED)
def test_zero_if_and_only_if_contained(loss, dtype):
    t = rows(N, 2)
    mix = rows(N, 3, size=N) + 3 * torch.eye(N, dtype=torch.float64)
    # Rounding of the functions counts by its square, rounding of an inner product by itself.
    noise = 1e-6 if dtype == torch.float32 else 1e-14
    same = (mix @ t).to(dtype)
    assert abs(loss(same, t.to(dtype)).item()) < noise
    more = torch.cat([same, rows(2, 4).to(dtype)], dim=1)
    assert abs(loss(more, t.to(dtype)).item()) < noise
    # One function replaced: a right angle or nearly so.
    fewer = torch.cat([same[:, 1:], rows(1, 4).to(dtype)], dim=1)
    assert loss(fewer, t.to(dtype)).item() > 0.01


@pytest.mark.parametrize("loss", ALL)
def test_gradients(loss):
    p = rows(OUT, 1, batch=B).requires_grad_()
    t = rows(N, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, t.detach()), (p,), atol=1e-6)
    if loss is not ritz:
        assert torch.autograd.gradcheck(lambda y: loss(p.detach(), y), (t,), atol=1e-6)


def degenerate(kind, k, seed):
    """Rows that do not span what their number says."""
    x = rows(k, seed)
    if kind == "duplicate":
        x[:, 1] = x[:, 0]
    elif kind == "opposite":
        x[:, 1] = -2 * x[:, 0]
    elif kind == "sum":
        x[:, 2] = x[:, 0] + x[:, 1]
    elif kind == "zero row":
        x[:, 1] = 0
    elif kind == "all zero":
        x[:] = 0
    elif kind == "all equal":
        x[:] = x[:, :1]
    else:
        x[:, 1] = x[:, 0] + float(kind) * x[:, 1]
    return x


KINDS = ["duplicate", "opposite", "sum", "zero row", "all zero", "all equal"]
KINDS += ["1e-3", "1e-5", "1e-7", "1e-9", "1e-12"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ALL)
def test_degenerate_data(loss, kind, dtype):
    """Values and gradients are finite and not huge; a span is worth as much as its directions."""
    for p, t in (
        (degenerate(kind, OUT, 1), rows(N, 2)),
        (rows(OUT, 1), degenerate(kind, N, 2)),
        (degenerate(kind, OUT, 1), degenerate(kind, N, 1)),
    ):
        p, t = p.to(dtype).requires_grad_(), t.to(dtype).requires_grad_()
        value = loss(p, t)
        assert torch.isfinite(value) and value.dtype == dtype
        slopes = torch.autograd.grad(value, (p, t), allow_unused=True)
        bound = 1e4 if dtype == torch.float32 else 1e7
        for slope in slopes:
            assert slope is None or torch.all(slope.abs() < bound), slope.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dependent_functions_add_nothing(dtype):
    p, t = rows(4, 1).to(dtype), rows(N, 2).to(dtype)
    more = torch.cat([p, p[:, :1], torch.zeros_like(p[:, :1]), p[:, 1:2] - p[:, 2:3]], dim=1)
    for loss in (*COMPARED, ritz):
        rel = 1e-5 if dtype == torch.float32 else 1e-8
        torch.testing.assert_close(loss(more, t), loss(p, t), rtol=rel, atol=0)
    # Not enough directions must never look like modes without energy.
    assert ritz(torch.cat([p[:, :1]] * 4, dim=1)) >= ritz(
        p[:, :1].expand(-1, 1, -1).repeat(1, 3, 1)
    )
    assert ritz(torch.cat([p[:, :2], p[:, :1]], dim=1)) > ritz(p)


def test_single_precision_is_good_enough():
    p, t = rows(OUT, 1), rows(N, 2)
    for loss in ALL:
        torch.testing.assert_close(
            loss(p.float(), t.float()).double(), loss(p, t), rtol=1e-4, atol=0
        )


def test_inner_product_that_is_not_quite_symmetric_or_positive():
    """As rounding in single precision may leave it: a larger shift, not an error."""
    noise = rows(SIZE, 20).float() * 1e-3
    p, t = rows(1, 1).repeat(1, OUT, 1).float(), rows(N, 2).float()
    gram = p.double() @ (p + p @ noise).double().transpose(1, 2)
    assert torch.linalg.eigvalsh(gram + gram.transpose(1, 2)).min() < 0
    p.requires_grad_()
    value = losses.energy(p, t, inner=lambda y: y + y @ noise)
    value.backward()
    assert torch.all(torch.isfinite(p.grad))
    torch.testing.assert_close(value, losses.energy(p, t, inner=None), rtol=0.05, atol=0)


def test_not_finite_in_not_finite_out():
    p, t = rows(OUT, 1), rows(N, 2)
    p[0, 0, 0] = torch.nan
    for loss in (losses.basis_l2, *COMPARED):
        assert torch.isnan(loss(p, t))


def test_generator_decides():
    p, t = rows(OUT, 1), rows(N, 2)
    generator = torch.Generator().manual_seed(1)
    first = losses.sal_pr(p, t, weight=1.0, generator=generator)
    second = losses.sal_pr(p, t, weight=1.0, generator=generator)
    again = losses.sal_pr(p, t, weight=1.0, generator=torch.Generator().manual_seed(1))
    assert first == again and first != second


def test_training_finds_the_span():
    """Gradient descent on each span loss from a random start."""
    t = rows(N, 2)
    for loss in SPANS:
        p = rows(OUT, 1).requires_grad_()
        optimizer = torch.optim.Adam([p], lr=0.1)
        start = loss(p, t).item()
        for _ in range(80):
            optimizer.zero_grad()
            loss(p, t).backward()
            optimizer.step()
        assert loss(p, t).item() < 0.01 * start


def test_refuses():
    p, t = rows(OUT, 1), rows(N, 2)
    for loss in (losses.basis_l2, *COMPARED):
        for wrong in (t[:, :, :-1], t[:2], t[0], t[:, :0]):
            with pytest.raises(ValueError, match=r"expected \(B, N_out, n\) and \(B, N, n\)"):
                loss(p, wrong)
    with pytest.raises(ValueError, match="3 modes"):
        losses.basis_l2(p[:, :2], t)
    with pytest.raises(ValueError, match=r"weight must be .*, got -1"):
        losses.sal_pr(p, t, weight=-1.0, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"num_modes must be from 1 to N_out .*, got 6"):
        losses.rayleigh(p, apply_a=apply(A), apply_s=apply(S), num_modes=6)
    for wrong, match in ((torch.ones(B, N + 1), "shape"), (torch.zeros(B, N), "positive")):
        with pytest.raises(ValueError, match=match):
            losses.rayleigh(p, apply_a=apply(A), apply_s=apply(S), num_modes=N, exact=wrong)
