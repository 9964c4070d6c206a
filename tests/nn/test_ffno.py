# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The network: its transform, its tensor cosines, its gradients, its resolutions, its exports."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.fft

torch = pytest.importorskip("torch")

from dolfinx_msnn.nn.ffno import (  # noqa: E402
    FFNO,
    cosine_transform,
    cosines,
    lowest_frequencies,
)

pytestmark = pytest.mark.serial


def network(dim=2, channels=3, out=5, *, seed=0, **options):
    """A small network in double precision whose head is not zero."""
    torch.manual_seed(seed)
    net = FFNO(dim, channels, out, **({"width": 6, "modes": 4, "layers": 2} | options)).double()
    torch.nn.init.normal_(net.head.weight, std=0.3)
    return net.eval()


def smooth(shape, channels=3, batch=2):
    """A smooth function, not periodic, sampled on a lattice of the unit box."""
    axes = np.meshgrid(*[np.linspace(0.0, 1.0, n) for n in shape], indexing="ij")
    fields = [
        np.exp(sum((0.3 + 0.2 * c - 0.1 * b + 0.2 * j) * x for j, x in enumerate(axes)))
        + np.sin((1.0 + c + b) * axes[0])
        for b in range(batch)
        for c in range(channels)
    ]
    return torch.from_numpy(np.stack(fields).reshape(batch, channels, *shape))


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_transform_is_scipys_dct1(n):
    f = np.random.default_rng(n).standard_normal(n)
    like = torch.zeros(1, dtype=torch.float64)
    expected = scipy.fft.dct(f, type=1) / (n - 1)
    expected[0] /= 2
    expected[-1] /= 2
    for modes in range(1, n + 1):
        c = cosine_transform(n, modes, like).numpy() @ f
        np.testing.assert_allclose(c, expected[:modes], atol=1e-13)
    np.testing.assert_allclose(cosines(n, n, like).numpy() @ c, f, atol=1e-13)


def test_transform_approximates_integrals():
    """The coefficients of exp tend to the exact ones, quadratically in the spacing."""
    k = np.arange(5)
    exact = 2 * (np.e * (-1.0) ** k - 1) / (1 + (np.pi * k) ** 2)
    exact[0] /= 2
    errors = []
    for n in (11, 21, 41):
        x = np.linspace(0, 1, n)
        c = cosine_transform(n, 5, torch.zeros(1, dtype=torch.float64)).numpy() @ np.exp(x)
        errors.append(np.abs(c - exact).max())
    rates = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(rates - 2) < 0.1), rates


@pytest.mark.parametrize(("dim", "count"), [(1, 7), (2, 1), (2, 16), (2, 24), (3, 24), (3, 9)])
def test_lowest_frequencies(dim, count):
    every = np.stack(np.meshgrid(*[np.arange(30)] * dim, indexing="ij"), -1).reshape(-1, dim)
    norms = np.sort((every**2).sum(1))[:count]
    chosen = np.array(lowest_frequencies(dim, count))
    assert len({tuple(a) for a in chosen}) == count
    np.testing.assert_array_equal((chosen**2).sum(1), norms)
    assert chosen[0].sum() == 0


@pytest.mark.parametrize("warp", [True, False])
@pytest.mark.parametrize("shape", [(9,), (7, 8), (5, 6, 9)])
def test_untrained_predicts_tensor_cosines(shape, warp):
    dim = len(shape)
    net = FFNO(dim, 2, 8, width=4, modes=5, layers=1, warp=warp)
    y = net(torch.randn(3, 2, *shape))
    assert y.shape == (3, 8, *shape) and y.is_contiguous() and y.dtype == torch.float32
    axes = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    for k, a in enumerate(lowest_frequencies(dim, 8)):
        expected = np.prod([np.cos(np.pi * q * x) for q, x in zip(a, axes, strict=True)], axis=0)
        for sample in y.detach().numpy():
            np.testing.assert_allclose(sample[k], expected, atol=1e-6)


@pytest.mark.parametrize("warp", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)])
def test_against_the_formula(shape, warp):
    """The mixing, written out with one einsum per dimension, and the displaced cosines."""
    dim, out = len(shape), 11
    net = network(dim, out=out, warp=warp)
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    y = net.lift(x.movedim(1, -1))
    letters = "pqr"[:dim]
    for layer in net.layers:
        z = y
        for j in range(dim):
            m, here = min(4, shape[j]), letters[j]
            forth, back = cosine_transform(shape[j], m, x), cosines(shape[j], m, x)
            lattice = f"b{letters}"
            spec = f"xm,mwv,m{here},{lattice}w->{lattice.replace(here, 'x')}v"
            z = z + torch.einsum(spec, back, layer.spectral[j, :m], forth, y)
        y = y + layer.contract(torch.nn.functional.gelu(layer.expand(z)))
    y = net.head(y).movedim(-1, 1)
    axes = torch.meshgrid(
        *[torch.linspace(0, 1, n, dtype=torch.float64) for n in shape], indexing="ij"
    )
    f, g = (y[:, :dim], y[:, dim:]) if warp else (torch.zeros(2, dim, *shape), y)
    waves = [
        torch.stack([torch.cos(np.pi * k * (axes[j] + f[:, j])) for j, k in enumerate(a)]).prod(0)
        for a in lowest_frequencies(dim, out)
    ]
    torch.testing.assert_close(net(x), g + torch.stack(waves, 1), rtol=1e-12, atol=1e-12)


def test_gradients():
    net = network(width=3, layers=1, out=2, channels=1)
    x = torch.randn(2, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in net.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *net.parameters()))


@pytest.mark.parametrize("dim", [2, 3])
def test_every_parameter_is_used(dim):
    net = network(dim)
    net(torch.randn(2, 3, *[6] * dim, dtype=torch.float64)).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and torch.all(p.grad != 0), name


@pytest.mark.parametrize("shape", [(11, 9), (7, 9, 8)])
def test_one_set_of_weights_on_all_resolutions(shape):
    """Lattices of 1x, 2x - 1 and 4x - 3 nodes: the difference at common nodes falls as h²."""
    net = network(len(shape))
    with torch.no_grad():
        fields = []
        for step in (1, 2, 4):
            y = net(smooth([step * (n - 1) + 1 for n in shape]))
            fields.append(y[(slice(None), slice(None), *[slice(None, None, step)] * len(shape))])
    coarse, fine = ((fields[i] - fields[i + 1]).abs().max().item() for i in range(2))
    assert coarse < 0.05 * fields[0].abs().max().item(), coarse
    assert 3.5 < coarse / fine < 4.5, (coarse, fine)


def test_samples_do_not_mix():
    net, x = network(), torch.randn(5, 3, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(
        net(x), torch.cat([net(x[b : b + 1]) for b in range(5)]), rtol=1e-12, atol=1e-12
    )


def test_double_and_single_precision_agree():
    net, x = network(width=32, modes=12, layers=4), smooth((21, 21))
    exact = net(x)
    torch.testing.assert_close(net.float()(x.float()).double(), exact, rtol=0, atol=2e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_script(tmp_path):
    """Scripted once, it serves every lattice and batch."""
    for dim, shapes in ((2, [(6, 5), (9, 4), (21, 21)]), (3, [(4, 5, 6), (5, 5, 5)])):
        net = network(dim)
        torch.jit.save(torch.jit.script(net), tmp_path / "net.pt")
        scripted = torch.jit.load(tmp_path / "net.pt")
        for batch, shape in zip((1, 4, 2), shapes, strict=False):
            x = torch.randn(batch, 3, *shape, dtype=torch.float64)
            torch.testing.assert_close(scripted(x), net(x), rtol=1e-12, atol=1e-12)


def test_export(tmp_path):
    """Exported with a batch of two, it serves any batch."""
    net = network()
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (x,), dynamic_shapes=(batch,))
        torch.export.save(program, tmp_path / "net.pt2")
        exported = torch.export.load(tmp_path / "net.pt2").module()
    for count in (1, 2, 7):
        x = torch.randn(count, 3, 6, 5, dtype=torch.float64)
        torch.testing.assert_close(exported(x), net(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrong", [{"dim": 4}, {"width": 0}, {"out_channels": 0}, {"modes": -1}])
def test_refuses_sizes(wrong):
    sizes = {"dim": 2, "in_channels": 3, "out_channels": 2} | wrong
    dim, given, out = (sizes.pop(k) for k in ("dim", "in_channels", "out_channels"))
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FFNO(dim, given, out, **sizes)


def test_refuses_inputs():
    net = network(out=16)
    with pytest.raises(ValueError, match="3 channels"):
        net(torch.zeros(1, 2, 6, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match="2 dimensions"):
        net(torch.zeros(1, 3, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match="4 nodes in direction 1, expected at least 5"):
        net(torch.zeros(1, 3, 6, 4, dtype=torch.float64))
