# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Losses that compare a predicted subspace with the modes, or with nothing but the pencil.

With P the predicted functions R̃ (rows), T the modes R (rows), (·,·) = xᵀMy and M = I by default:

    basis_l2   mean over k of min over ± of ‖P_k ∓ T_k‖ / ‖T_k‖
    sal        N - ‖Q_Rᵀ Q_R̃‖_F²             = Σ sin²θ_k, θ_k the principal angles, M = I
    sal_pr     sal + λ E‖(P_R - P_R̃) v‖²      v = Σ c_k ψ_k, c ~ N(0, I)
    energy     ‖Q_R - P_R̃ Q_R‖_M² / N         = mean sin²θ_k, the angles those of M = A + S
    rayleigh   Σ θ_k / Σ λ_k                 θ_k the N smallest Ritz values, λ_k the eigenvalues

    solutions  Σ w_s E_s min_v ‖χ(u_s - v)‖²_M   v in the span of R̃, M = A, E_s = 1/‖χ u_s‖²_M

Q is an orthonormal basis and P_R a projector in the inner product named. The first three are from
A. Rudikov et al., Locally subspace-informed neural operators for efficient multiscale PDE solving,
ICLR 2026 (arXiv:2505.16030), there called RBFL2, SAL and SAL-PR; the energy norm is ours, because
at high contrast a small Euclidean error may hold a large energy; the trace of Ritz values is
A. H. Sameh, J. A. Wisniewski, A trace minimization algorithm for the generalized eigenvalue
problem, SIAM J. Numer. Anal. 19, 1982.

More functions may be predicted than there are modes: the modes must then lie in their span.

Projections use small Gram matrices in double precision, scaled to a unit diagonal so that lengths
do not matter. Their Cholesky factors take a shift ε (1e-6, or 1e-12 for double data), and the
error is that of the function so found, t - Σ x_k p_k, in place of 1 - cos²θ: so the shift enters
by ε², and directions dependent up to √ε are ignored smoothly, with bounded gradients. What rounding
leaves has either sign: 1e-15 in ``sal``, and in ``energy`` the relative error of ``inner``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dolfinx_msnn._utils.checks import require

#: Applies a symmetric positive semidefinite matrix per sample: (B, k, n) -> (B, k, n).
type Apply = Callable[[Tensor], Tensor]


def basis_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Relative l2 error mode by mode, each with its better sign.

    Invariant under signs only: mode k must be predicted by function k.

    Args:
        prediction: Shape ``(B, N_out, n)``, of which the first N functions are compared.
        target: Modes, shape ``(B, N, n)``. A zero mode counts with its absolute error.

    Returns:
        Mean over modes and samples, scalar.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check(prediction, target)
    num, modes = prediction.shape[1], target.shape[1]
    require(num >= modes, "prediction", num, f"as many functions as the {modes} modes, at least")
    p = prediction[:, : target.shape[1]]
    # vector_norm has the subgradient zero where the difference vanishes.
    error = torch.minimum(
        torch.linalg.vector_norm(p - target, dim=-1), torch.linalg.vector_norm(p + target, dim=-1)
    )
    length = torch.linalg.vector_norm(target, dim=-1)
    return (error / torch.where(length > 0, length, torch.ones_like(length))).mean()


def sal(prediction: Tensor, target: Tensor) -> Tensor:
    """Subspace alignment loss: the sum of sin² of the Euclidean principal angles.

    A function of the two spans: zero if the modes lie in that of the prediction, N at most.

    Args:
        prediction: Shape ``(B, N_out, n)``.
        target: Modes, shape ``(B, N, n)``.

    Returns:
        Mean over samples, scalar.

    Raises:
        ValueError: If the shapes do not fit.
    """
    residual, gram, shift = _residual(prediction, target, None)
    return _trace(residual, gram, shift).mean().to(prediction.dtype)


def sal_pr(
    prediction: Tensor, target: Tensor, *, weight: float, generator: torch.Generator
) -> Tensor:
    """Subspace alignment loss with projection regularisation.

    ψ_k are the modes, of unit length; one v is drawn for each sample and call. It lies in the span
    of the modes, so P_R v = v. The modes' signs and lengths do not matter; unlike their span,
    a basis of it that is not orthogonal weighs the directions in which its functions agree.

    Args:
        prediction: Shape ``(B, N_out, n)``.
        target: Modes, shape ``(B, N, n)``.
        weight: Factor λ of the second term, not negative.
        generator: Draws c, on the CPU whatever the device of the data, so that results do not
            depend on the device.

    Returns:
        Mean over samples, scalar.

    Raises:
        ValueError: If the shapes do not fit or ``weight`` is negative.
    """
    require(weight >= 0, "weight", weight, "a number that is not negative")
    residual, gram, shift = _residual(prediction, target, None)
    c = torch.randn(residual.shape[:2], generator=generator, dtype=torch.float64)
    c = c.to(residual.device)
    drawn = (c.unsqueeze(1) @ residual @ c.unsqueeze(2)).reshape(-1)
    return (_trace(residual, gram, shift) + weight * drawn).mean().to(prediction.dtype)


def energy(prediction: Tensor, target: Tensor, *, inner: Apply | None) -> Tensor:
    """Relative projection error of the modes in an inner product, squared.

    A function of the two spans, between 0 and 1. With eigenvectors of the pencil (A, S), which
    M = A + S keeps orthogonal, it is the mean over the modes of ‖t - P_R̃ t‖_M² / ‖t‖_M².

    Args:
        prediction: Shape ``(B, N_out, n)``.
        target: Modes, shape ``(B, N, n)``.
        inner: Applies M; ``None`` for M = I.

    Returns:
        Mean over samples, scalar.

    Raises:
        ValueError: If the shapes do not fit.
    """
    residual, gram, shift = _residual(prediction, target, inner)
    return _trace(residual, gram, shift).mean().to(prediction.dtype) / target.shape[1]


def solutions(prediction: Tensor, target: Tensor, weight: Tensor, *, inner: Apply) -> Tensor:
    """What the predicted span misses of each solution, squared and relative, after χ.

    Args:
        prediction: Shape ``(B, N_out, n)``.
        target: Solutions, shape ``(B, num_solutions, n)``.
        weight: χ, zero at Dirichlet dofs, shape ``(B, n)``: functions and solutions are multiplied
            by it.
        inner: Applies A.

    Returns:
        ‖χ(u - v)‖²_A / ‖χ u‖²_A for the best v, shape ``(B, num_solutions)``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    chi = weight.unsqueeze(1)
    residual, _, _ = _residual(prediction * chi, target * chi, inner)
    return residual.diagonal(dim1=1, dim2=2).to(prediction.dtype)


def rayleigh(
    prediction: Tensor,
    *,
    apply_a: Apply,
    apply_s: Apply,
    num_modes: int,
    exact: Tensor | None = None,
) -> Tensor:
    """Sum of the smallest Ritz values of the pencil (A, S) on the predicted span.

    Needs no modes, and without ``exact`` no eigenvalues: the sum is bounded from below by that of
    the smallest eigenvalues, and attains it on their modes. Its gradient holds the Ritz vectors
    fixed (Hellmann-Feynman), which is exact unless Ritz values ``num_modes`` and ``num_modes + 1``
    coincide. Directions that are dependent up to √ε have no Ritz value; if fewer than ``num_modes``
    are left, each missing one counts as the sum of all that are there.

    Args:
        prediction: Shape ``(B, N_out, n)``.
        apply_a: Applies A.
        apply_s: Applies S.
        num_modes: Number of Ritz values, at most N_out.
        exact: Smallest eigenvalues, shape ``(B, num_modes)``; the loss is then relative to their
            sum, and at least 1.

    Returns:
        Mean over samples, scalar.

    Raises:
        ValueError: If the shapes do not fit or the sum of a sample's ``exact`` is not positive.
    """
    count = prediction.shape[1] if prediction.dim() == 3 else 0
    expected = f"from 1 to N_out for a prediction of shape {tuple(prediction.shape)}"
    require(1 <= num_modes <= count, "num_modes", num_modes, expected)
    gram_a = _symmetric(_products(prediction, apply_a(prediction)))
    gram_s = _symmetric(_products(prediction, apply_s(prediction)))
    sums: Tensor = _RitzSum.apply(gram_a, gram_s, num_modes, _shift(prediction))
    if exact is not None:
        shape, wanted = tuple(exact.shape), (prediction.shape[0], num_modes)
        require(shape == wanted, "exact", shape, f"of shape {wanted}")
        bound = exact.to(sums.dtype).sum(dim=1)
        require(bool(torch.all(bound > 0)), "exact", float(bound.min()), "of positive sums")
        sums = sums / bound
    return sums.mean().to(prediction.dtype)


class _RitzSum(torch.autograd.Function):
    """Sum of the smallest Ritz values of pairs of Gram matrices, one for each sample."""

    @staticmethod
    def forward(ctx: Any, gram_a: Tensor, gram_s: Tensor, num: int, shift: float) -> Tensor:
        """Reduce to a standard problem by the eigenvectors of S and solve it, shape ``(B,)``."""
        scale = _inverse_lengths(gram_s)
        values, vectors = torch.linalg.eigh(_scaled(gram_s, scale, scale))
        kept = values > shift * values[:, -1:].clamp(min=torch.finfo(values.dtype).tiny)
        inverse = torch.where(kept, torch.where(kept, values, 1.0).rsqrt(), 0.0)
        reduce = scale.unsqueeze(2) * vectors * inverse.unsqueeze(1)
        small = _symmetric(reduce.transpose(1, 2) @ gram_a @ reduce)
        # What was dropped must come last: it would otherwise look like a mode without energy.
        top = small.diagonal(dim1=1, dim2=2).sum(dim=1, keepdim=True).abs()
        theta, rotation = torch.linalg.eigh(small + torch.diag_embed(torch.where(kept, 0.0, top)))
        theta, z = theta[:, :num], reduce @ rotation[:, :, :num]
        ctx.save_for_backward(theta, z)
        total: Tensor = theta.sum(dim=1)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Σ dθ = Σ zᵀ(dA - θ dS)z, with zᵀSz = 1."""
        theta, z = ctx.saved_tensors
        weighted = grads[0].reshape(-1, 1, 1) * z
        by_s = -(weighted * theta.unsqueeze(1)) @ z.transpose(1, 2)
        return weighted @ z.transpose(1, 2), by_s, None, None


def _check(prediction: Tensor, target: Tensor) -> None:
    """Refuse arrays that are not (B, N_out, n) and (B, N, n)."""
    p, t = tuple(prediction.shape), tuple(target.shape)
    if len(p) != 3 or len(t) != 3 or (p[0], p[2]) != (t[0], t[2]) or 0 in p or 0 in t:
        raise ValueError(
            f"Got a prediction of shape {p} and a target of shape {t}, expected (B, N_out, n) and "
            "(B, N, n)."
        )


def _shift(data: Tensor) -> float:
    """Shift of Gram matrices of unit diagonal: above the square root of the data's precision."""
    return 1e-12 if data.dtype == torch.float64 else 1e-6


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of rows, in double precision, shape ``(B, rows of x, rows of y)``."""
    return x.double() @ y.double().transpose(1, 2)


def _symmetric(a: Tensor) -> Tensor:
    """Without what rounding in ``inner`` made of its symmetry."""
    return 0.5 * (a + a.transpose(1, 2))


def _inverse_lengths(gram: Tensor) -> Tensor:
    """One over the rows' lengths, and zero (with gradient zero) for rows without length."""
    square = gram.diagonal(dim1=1, dim2=2)
    return torch.where(square > 0, torch.where(square > 0, square, 1.0).rsqrt(), 0.0)


def _scaled(a: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Products of rows of unit length."""
    return left.unsqueeze(2) * a * right.unsqueeze(1)


def _factor(gram: Tensor, shift: float) -> Tensor:
    """Cholesky factors of shifted Gram matrices, NaN where the data is not finite.

    An inner product in single precision may leave negative eigenvalues: the samples that need it
    get a larger shift.
    """
    eye = torch.eye(gram.shape[1], device=gram.device, dtype=gram.dtype)
    shifts = torch.full_like(gram[:, :1, :1], shift)
    factor: Tensor
    for _ in range(4):
        factor, failed = torch.linalg.cholesky_ex(gram + shifts * eye)
        bad = (failed > 0).reshape(-1, 1, 1)
        if not bool(bad.any()):
            return factor
        shifts = torch.where(bad, 100 * shifts, shifts)
    return torch.where(bad, torch.nan, factor)


def _residual(
    prediction: Tensor, target: Tensor, inner: Apply | None
) -> tuple[Tensor, Tensor, float]:
    """What the predicted span misses of the modes, scaled to unit length.

    Returns:
        Gram matrices of t_k - P_R̃ t_k and of t_k, both ``(B, N, N)`` in double precision, and the
        shift for them.
    """
    _check(prediction, target)
    applied = prediction if inner is None else inner(prediction)
    gram = _symmetric(_products(prediction, applied))
    modes = _symmetric(_products(target, target if inner is None else inner(target)))
    lengths, mode_lengths = _inverse_lengths(gram), _inverse_lengths(modes)
    gram, modes = _scaled(gram, lengths, lengths), _scaled(modes, mode_lengths, mode_lengths)
    cross = _scaled(_products(target, applied), mode_lengths, lengths)
    shift = _shift(prediction)
    x = torch.cholesky_solve(cross.transpose(1, 2), _factor(gram, shift)).transpose(1, 2)
    mixed = x @ cross.transpose(1, 2)
    residual = modes - mixed - mixed.transpose(1, 2) + x @ gram @ x.transpose(1, 2)
    return residual, modes, shift


def _trace(residual: Tensor, gram: Tensor, shift: float) -> Tensor:
    """‖Q_R - P_R̃ Q_R‖² from the Gram matrices of the modes, shape ``(B,)``."""
    solved = torch.cholesky_solve(residual, _factor(gram, shift))
    total: Tensor = solved.diagonal(dim1=1, dim2=2).sum(dim=1)
    return total
