# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The network: its transform, its tensor cosines, its gradients, its resolutions, its exports."""

from __future__ import annotations

import functools
import itertools
import warnings

import numpy as np
import pytest
import scipy.fft
import scipy.interpolate

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


def packed(boxes, p, q):
    """Channels of the sub-boxes around the nodes of a lattice, outermost ones repeated."""
    dim = boxes.ndim
    padded_boxes = np.pad(boxes, q // 2, mode="edge")
    out = np.empty((q,) * dim + (p,) * dim)
    for node in np.ndindex(*(p,) * dim):
        cut = tuple(slice(q * i, q * i + q) for i in node)
        out[(..., *node)] = padded_boxes[cut]
    return out.reshape(q**dim, *(p,) * dim)


@pytest.mark.parametrize(("dim", "q"), [(2, 2), (2, 4), (3, 2)])
def test_learned_steps_are_those_of_the_finite_difference_matrix(dim, q):
    p, rng = 4, np.random.default_rng(dim)
    num = q * (p - 1)
    log_kappa = rng.standard_normal((num,) * dim)
    sides = np.array([0.5, 1.0, 0.25])[:dim]
    # Edges along axis j: half of each box beside, over the square of the axis' length.
    n = num + 1
    A = np.zeros((n**dim,) * 2)
    for j in range(dim):
        for box in np.ndindex(*(num,) * dim):
            across = itertools.product(*[(0,) if k == j else (0, 1) for k in range(dim)])
            for corner in across:
                ends = [np.array(box) + corner + step for step in (0, np.eye(dim, dtype=int)[j])]
                a, b = (np.ravel_multi_index(tuple(e), (n,) * dim) for e in ends)
                weight = np.exp(log_kappa[box]) / 2 ** (dim - 1) / (sides[j] / sides.max()) ** 2
                A[[a, b], [a, b]] += weight
                A[[a, b], [b, a]] -= weight
    fixed = np.zeros((p,) * dim)
    fixed[0] = 1
    x = np.concatenate(
        [
            packed(0.25 * log_kappa, p, q),
            rng.standard_normal((1, *(p,) * dim)),
            fixed[None],
            rng.standard_normal((dim, *(p,) * dim)),
            np.broadcast_to(
                np.log2(sides / sides.max()).reshape(dim, *[1] * dim), (dim, *(p,) * dim)
            ),
        ]
    )
    network = FFNO(dim, len(x), 4, width=4, modes=3, samples=q, constant=True, steps=3).double()
    with torch.no_grad():
        out = network(torch.from_numpy(x)[None])[0].numpy().reshape(4, -1)
    np.testing.assert_array_equal(out[0], 1.0)
    line = np.linspace(0, 1, n)
    free = np.ones((n,) * dim)
    free[0] = 0
    steps = network.lengths.detach().numpy()
    for found, a in zip(out[1:], lowest_frequencies(dim, 4)[1:], strict=True):
        v = functools.reduce(np.multiply.outer, [np.cos(np.pi * k * line) for k in a])
        v = (v * free).reshape(-1)
        for step in steps:
            v = v - step * free.reshape(-1) * (A @ v) / A.diagonal()
        np.testing.assert_allclose(found, v, atol=1e-12)


def test_what_the_head_gives_is_interpolated_and_sub_boxes_are_added():
    p, q, rng = 5, 2, np.random.default_rng(0)
    boxes = rng.standard_normal((8, 8))
    x = np.concatenate([packed(boxes, p, q), rng.standard_normal((6, p, p))])[None]
    network = FFNO(2, 10, 3, width=4, modes=3, layers=1, warp=False, samples=q).double()
    coarse = FFNO(2, 10, 3, width=4, modes=3, layers=1, warp=False).double()
    for part in network.parameters():
        torch.nn.init.normal_(part, std=0.3)
    coarse.load_state_dict({k: v for k, v in network.state_dict().items() if "local" not in k})
    with torch.no_grad():
        found, rough = (net(torch.from_numpy(x))[0].numpy() for net in (network, coarse))
    nodes, fine = np.linspace(0, 1, p), np.linspace(0, 1, 9)
    around = np.stack(
        [np.pad(boxes, 1, mode="edge")[i : i + 9, j : j + 9] for i in (0, 1) for j in (0, 1)]
    )
    for k, a in enumerate(lowest_frequencies(2, 3)):
        wave = [np.multiply.outer(*[np.cos(np.pi * b * t) for b in a]) for t in (nodes, fine)]
        g = scipy.interpolate.RegularGridInterpolator((nodes, nodes), rough[k] - wave[0])
        wanted = g(np.stack(np.meshgrid(fine, fine, indexing="ij"), axis=-1)) + wave[1]
        wanted += np.tensordot(network.local.weight[k].detach().numpy(), around, 1)
        np.testing.assert_allclose(found[k], wanted, atol=1e-12)
