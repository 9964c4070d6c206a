# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Model files: what is written is read, and everything else is refused in one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import sample
from sample import is_sentence, model_card

torch = pytest.importorskip("torch")

from dolfinx_msnn.nn.model import (  # noqa: E402
    load_model,
    read_card,
    save_model,
    weights_hash,
)
from dolfinx_msnn.nn.pickles import check_pickle  # noqa: E402

pytestmark = pytest.mark.serial

CARD = model_card(
    n_out=5,
    classes=("full", "half"),
    lattice=7,
    num_fields=10,
    training_time_s=1.5,
    hardware="one core",
    width=6,
    layers=2,
    validation={"energy": 0.1},
)


def network(**changed):
    return sample.network(dataclasses.replace(CARD, **changed), 0.3)


def inputs(batch=3, channels=8, shape=(7, 7)):
    return np.random.default_rng(0).standard_normal((batch, channels, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Bytes of a model file in both formats."""
    folder = tmp_path_factory.mktemp("models")
    files = {}
    for pt2, name in ((False, "model.pt"), (True, "model.pt2")):
        save_model(folder / name, network(), CARD, pt2=pt2)
        files[name] = (folder / name).read_bytes()
    assert sorted(os.listdir(folder)) == ["model.pt", "model.pt2"]
    return files


FORMATS = ["model.pt", "model.pt2"]


def refused(path, match, load=load_model, kind=ValueError):
    with pytest.raises(kind, match=match) as error:
        load(path)
    is_sentence(str(error.value))
    assert str(path) in str(error.value)


def rewrite(data, change):
    """The same archive with other entries; ``change`` maps a name to its bytes, or to None."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            short = entry.filename.split("/", 1)[1]
            content = change(short, content)
            if content is not None:
                new.writestr(entry.filename, content)
    return out.getvalue()


def with_card(data, **changed):
    """The same model with another card; None takes an entry away."""

    def change(name, content):
        if name != "extra/card.json":
            return content
        card = json.loads(content) | changed
        return json.dumps({k: v for k, v in card.items() if v is not None}).encode()

    return rewrite(data, change)


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(tmp_path, written, name):
    path = tmp_path / name
    path.write_bytes(written[name])
    net, x = network().eval(), inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(path)
        y = model(x)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert y.dtype == np.float32 and y.flags.c_contiguous and y.flags.writeable
    # The same result each time, and without a trace of the batch.
    np.testing.assert_array_equal(model(x), y)
    np.testing.assert_allclose(model(x[1:2]), y[1:2], atol=1e-5)
    assert model(x[:0]).shape == (0, 5, 7, 7)
    assert model.card == read_card(path)
    versions = {"sha256": weights_hash(net.state_dict()), "torch_version": torch.__version__}
    assert model.card == dataclasses.replace(CARD, **versions)
    y[:] = 0
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


def test_saving_is_quiet_and_keeps_the_network(tmp_path):
    net = network().train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pt2 in (False, True):
            save_model(tmp_path / "m", net, CARD, pt2=pt2)
            load_model(tmp_path / "m")
    assert net.training
    assert os.listdir(tmp_path) == ["m"]


def test_any_network_can_be_torchscript(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 5, 3, padding=1), torch.nn.GELU())
    save_model(tmp_path / "m", net, CARD)
    x = inputs()
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(load_model(tmp_path / "m")(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="is a Sequential"):
        save_model(tmp_path / "m2", net, CARD, pt2=True)
    assert os.listdir(tmp_path) == ["m"]


def test_network_of_a_script(tmp_path):
    script = f"""
import torch
from dolfinx_msnn.nn.model import ModelCard, load_model, save_model

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(8, {CARD.n_out}, 1)

    def forward(self, x):
        return self.inner(x)

save_model("mine.pt", Mine(), ModelCard(**{dataclasses.asdict(CARD)!r}))
print(load_model("mine.pt").card.n_out)
"""
    # TorchScript reads the source of the class.
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert done.stdout.strip() == str(CARD.n_out), done.stderr


def test_hash_is_of_the_weights():
    state = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor([3], dtype=torch.int64)}
    expected = hashlib.sha256(
        b"a <i8 (1,)\n" + np.array([3], "<i8").tobytes()
        + b"b <f4 (1, 2)\n" + np.array([1, 2], "<f4").tobytes()
    )  # fmt: skip
    assert weights_hash(state) == expected.hexdigest()


def test_three_dimensions(tmp_path):
    card = dataclasses.replace(CARD, dim=3, lattice=5, n_out=4)
    net = network(dim=3, n_out=4)
    for pt2 in (False, True):
        save_model(tmp_path / "m", net, card, pt2=pt2)
        assert load_model(tmp_path / "m")(inputs(2, 14, (5, 5, 5))).shape == (2, 4, 5, 5, 5)


def test_card_without_torch(tmp_path, written):
    (tmp_path / "m").write_bytes(written["model.pt"])
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from dolfinx_msnn.nn.model import read_card\n"
        f"print(read_card({str(tmp_path / 'm')!r}).pde)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "diffusion", done.stderr


@pytest.mark.parametrize("name", FORMATS)
def test_cut_off(tmp_path, written, name):
    data = written[name]
    path = tmp_path / name
    for length in [0, 1, 4, 30, *np.linspace(50, len(data) - 1, 25).astype(int).tolist()]:
        path.write_bytes(data[:length])
        refused(path, "zip archive|damaged")


@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bytes(tmp_path, written, name):
    """A damaged byte is found, or it is one that says nothing (padding, dates)."""
    data, x = written[name], inputs()
    path = tmp_path / name
    path.write_bytes(data)
    good = load_model(path)
    rng, found = np.random.default_rng(0), 0
    places = rng.choice(len(data), 150, replace=False)
    for place in places:
        broken = bytearray(data)
        broken[place] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        try:
            model = load_model(path)
        except ValueError as error:
            found += 1
            is_sentence(str(error))
            continue
        np.testing.assert_array_equal(model(x), good(x))
        assert model.card == good.card
    assert found > 100


def test_is_not_a_model(tmp_path):
    path = tmp_path / "m"
    refused(path, "There is no file", kind=FileNotFoundError)
    refused(path, "There is no file", load=read_card, kind=FileNotFoundError)
    for data in (b"", b"hello", np.random.default_rng(0).bytes(4096), b"PK\x03\x04" + bytes(999)):
        path.write_bytes(data)
        refused(path, "not a model|damaged")
        refused(path, "not a model|damaged", load=read_card)
    refused(tmp_path, "cannot be read")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    refused(path, "not a model")
    torch.save(network().state_dict(), path)
    refused(path, "not a model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network()), path)
    refused(path, "has no card")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(2**26))
    refused(path, "not an archive that torch writes")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a/data.pkl", b"1")
        archive.writestr("a/data.pkl", b"2")
    refused(path, "not an archive that torch writes")


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", FORMATS)
def test_pickles_are_not_run(tmp_path, written, name):
    path, sprung = tmp_path / "m", tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap)
    assert sprung.exists()
    sprung.unlink()
    path.write_bytes(trap)
    refused(path, "not a model")
    torch.save(Trap(sprung), path)
    refused(path, "not a model")
    # In place of an entry that torch reads, one by one.
    with zipfile.ZipFile(io.BytesIO(written[name])) as archive:
        entries = [entry.split("/", 1)[1] for entry in archive.namelist()]
    for entry in entries:
        path.write_bytes(rewrite(written[name], lambda n, c, e=entry: trap if n == e else c))
        try:
            load_model(path)
        except ValueError as error:
            is_sentence(str(error))
        assert not sprung.exists(), entry

    def pickled(entry, content):
        if entry.endswith("weights_config.json"):
            content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return trap if "weights/weight_" in entry else content

    path.write_bytes(rewrite(written["model.pt2"], pickled))
    refused(path, "does not hold the weights")
    assert not sprung.exists()


def test_numbers_that_are_not_there(tmp_path, written):
    """Entries with fewer or more numbers than the pickle says: torch would read what is behind."""
    path = tmp_path / "m"
    lengths = (lambda n: 0, lambda n: n // 2, lambda n: n - 1, lambda n: n + 4)
    for key in (0, 2):
        for length in lengths:
            data = rewrite(
                written["model.pt"],
                lambda name, content, key=key, length=length: (
                    (content + bytes(4))[: length(len(content))]
                    if name == f"data/{key}"
                    else content
                ),
            )
            path.write_bytes(data)
            refused(path, f"takes .* numbers from the entry '{key}', which has others")


def integer(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def storage(num=6, key="0", kind="FloatStorage"):
    named = f"ctorch\n{kind}\n".encode()
    return b"(" + text("storage") + named + text(key) + text("cpu") + integer(num) + b"tQ"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, of=None):
    """A tensor as torch pickles it."""
    shape, strides = (b"(" + b"".join(map(integer, x)) + b"t" for x in (shape, strides))
    rest = integer(offset) + shape + strides + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (of or storage()) + rest + b"tR"


@pytest.mark.parametrize(
    "code",
    [
        tensor(),
        tensor((6,), (1,)),
        tensor((3, 2), (1, 3)),
        tensor((2,), (2,), 3),
        tensor((), (), 5),
        tensor((0, 9), (9, 1)),
        tensor((0,), (1,), of=storage(0, "none")),
        b"]" + tensor() + b"a",
        b"}(" + text("a") + tensor() + b"u",
        b"](" + integer(1) + b"q\x00h\x00e",
    ],
)
def test_pickles_that_torch_may_write(code):
    check_pickle(b"\x80\x02" + code + b".", {"0": 24, "none": 0})


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (tensor((2, 3), (3, 2)), "larger than its numbers"),
        (tensor((7,), (1,)), "larger than its numbers"),
        (tensor((6,), (1,), 1), "larger than its numbers"),
        (tensor((), (), 6), "larger than its numbers"),
        (tensor((2**30, 2**30), (0, 0)), "larger than its numbers"),
        (tensor((2, 3), (-3, 1)), "not as torch writes it"),
        (tensor((2, 3), (3, 1), -1), "not as torch writes it"),
        (tensor((-2, -3), (3, 1)), "not as torch writes it"),
        (tensor((2, 3), (3,)), "not as torch writes it"),
        (tensor(of=storage(7)), "takes 7 numbers from the entry '0'"),
        (tensor(of=storage(-6)), "takes -6 numbers from the entry '0'"),
        (tensor(of=storage(6, "1")), "not as torch writes it"),
        (tensor(of=storage(6, kind="DoubleStorage")), "takes 6 numbers from the entry '0'"),
        (tensor(of=storage(6, kind="QInt8Storage")), "names 'torch QInt8Storage'"),
        (tensor(of=integer(6)), "not as torch writes it"),
        (b"cposix\nsystem\n" + text("true") + b"\x85R", "names 'posix system'"),
        (b"c__torch__.a\nA\n" + integer(1) + b"R", "not as torch writes it"),
        (b"]" * 2 + b"a" + b"]" * 2 + b"aa0", "has the operation POP"),
        (b"]q\x00h\x00a", "not as torch writes it"),
        (b"]q\x00]h\x00ah\x00Na", "not as torch writes it"),
        (b"N" + b"\x85" * 1000, "nested too deep"),
        (b"]" * 1000 + b"a" * 999, "nested too deep"),
        (b"N" + b"r" + (2**31).to_bytes(4, "little"), "not as torch writes it"),
        (b"]" + text("L" * 1000) + b"\x86", None),
        (b"ctorch.jit._pickle\nrestore_type_tag\n(]" + text("L" * 1000) + b"tR", "too long"),
        (b"Na", "not as torch writes it"),
        (b"(N(a", "not as torch writes it"),
        (b"h\x05", "not as torch writes it"),
        (b"N.N", "more than one pickle"),
        (b"\xff", "not as torch writes it"),
        (b"X\xff\xff\xff\xff", "not as torch writes it"),
    ],
)
def test_pickles_that_torch_does_not_write(code, match):
    code = b"\x80\x02" + code + b"."
    if match is None:
        check_pickle(code, {"0": 24})
        return
    with pytest.raises(ValueError, match=match):
        check_pickle(code, {"0": 24})


class Saves(torch.nn.Module):
    """A network that writes a file when it is called."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 1000:
            torch.save(x, "sprung")
        return self.inner(x)


class Restores(torch.nn.Module):
    """A network that runs code when it is loaded."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(8, 5, 3, padding=1)

    @torch.jit.export
    def __getstate__(self):
        return self.training

    @torch.jit.export
    def __setstate__(self, state: bool):
        self.training = state
        self.inner = self.inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_code_that_reaches_out_is_refused(tmp_path):
    card = {"card.json": dataclasses.replace(CARD, sha256="0" * 64).to_json()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for net, match in ((Saves(), "aten::save"), (Restores(), "runs on loading")):
            torch.jit.save(torch.jit.script(net), tmp_path / "m", _extra_files=card)
            refused(tmp_path / "m", match)


@pytest.mark.parametrize("name", FORMATS)
def test_other_weights_than_the_card_says(tmp_path, written, name):
    path = tmp_path / "m"
    path.write_bytes(with_card(written[name], sha256="0" * 64))
    refused(path, "hash differs")
    path.write_bytes(with_card(written[name], sha256=""))
    refused(path, "hash differs")

    def negate(entry, content):
        last = "data/weights/weight_0" if name == "model.pt2" else "data/0"
        return (
            bytes(content[:3]) + bytes([content[3] ^ 128]) + content[4:]
            if entry == last
            else content
        )

    path.write_bytes(rewrite(written[name], negate))
    refused(path, "hash differs")


@pytest.mark.parametrize("name", FORMATS)
def test_weights_that_are_not_finite(tmp_path, written, name):
    def poison(entry, content):
        last = "data/weights/weight_0" if name == "model.pt2" else "data/0"
        return np.float32(np.nan).tobytes() + content[4:] if entry == last else content

    (tmp_path / "m").write_bytes(rewrite(written[name], poison))
    refused(tmp_path / "m", "not finite")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"dim": 3}, "what its card says for 14 channels|weights of the network"),
        ({"samples": 4}, "what its card says for 20 channels|weights of the network"),
        ({"n_out": 6}, "shape .1, 5, 7, 7., the card says .1, 6, 7, 7.|weights of the network"),
        ({"lattice": 2}, "what its card says .* lattice of 2 nodes"),
        ({"lattice": "7"}, "lattice must be an integer from 2 to 257, got '7'"),
        ({"lattice": 10**9}, "lattice must be an integer from 2 to 257, got '1000000000'"),
        ({"lattice": 257, "dim": 3}, "make inputs of more than"),
        ({"num_fields": 10**400}, "num_fields"),
        ({"training_time_s": 10**400}, "training_time_s"),
        ({"dim": True}, "dim must be an integer from 2 to 3, got 'True'"),
        ({"dim": 4}, "dim must be an integer from 2 to 3, got '4'"),
        ({"format_version": 2}, "format_version"),
        ({"classes": "full"}, "classes must be strings, got 'full'"),
        ({"classes": [1]}, "classes"),
        ({"validation": {"a": "b"}}, "validation"),
        ({"validation": {"a": float("nan")}}, "validation"),
        ({"pde": 3}, "pde must be a string, got '3'"),
        ({"pde": None}, "lacks the entry 'pde'"),
        ({"surprise": 1}, "unknown entry 'surprise'"),
        ({"input_convention": "raw"}, "input_convention must be .*, got 'raw'"),
        ({"sha256": "xyz"}, "sha256 must be 64 hexadecimal digits, got 'xyz'"),
        ({"log_kappa_range": -1.0}, "log_kappa_range"),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_cards_that_do_not_fit(tmp_path, written, name, changed, match):
    (tmp_path / "m").write_bytes(with_card(written[name], **changed))
    refused(tmp_path / "m", match)


@pytest.mark.parametrize("changed", [{"width": 8}, {"modes": 5}, {"layers": 3}])
def test_pt2_is_built_from_its_card(tmp_path, written, changed):
    (tmp_path / "m").write_bytes(with_card(written["model.pt2"], **changed))
    refused(tmp_path / "m", "weights of the network that its card describes")
    with pytest.raises(ValueError, match="the card says"):
        save_model(tmp_path / "n", network(), dataclasses.replace(CARD, **changed), pt2=True)


def test_cards_that_are_no_cards(tmp_path, written):
    for text in (b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100000, b"null", b"{}", b'"a"'):
        data = rewrite(
            written["model.pt"], lambda n, c, text=text: text if n == "extra/card.json" else c
        )
        (tmp_path / "m").write_bytes(data)
        refused(tmp_path / "m", "has no valid card")
        refused(tmp_path / "m", "has no valid card", load=read_card)


def test_missing_entries(tmp_path, written):
    """Each entry left out in turn: an error in one sentence, or a model that does without it."""
    for name in FORMATS:
        with zipfile.ZipFile(io.BytesIO(written[name])) as archive:
            entries = [entry.split("/", 1)[1] for entry in archive.namelist()]
        for entry in entries:
            data = rewrite(written[name], lambda n, c, e=entry: None if n == e else c)
            (tmp_path / "m").write_bytes(data)
            try:
                load_model(tmp_path / "m")(inputs())
            except ValueError as error:
                is_sentence(str(error))


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (lambda: network(samples=3), "what its card says for 8 channels"),
        (lambda: network(n_out=6), "the card says"),
        (lambda: network(dim=3), "what its card says"),
        (lambda: network().double(), "float64, expected float32"),
        (lambda: torch.nn.GELU(), "no weights"),
    ],
)
def test_saving_refuses_what_loading_would(tmp_path, net, match):
    with pytest.raises(ValueError, match=match) as error:
        save_model(tmp_path / "m", net(), CARD)
    is_sentence(str(error.value))
    assert not os.listdir(tmp_path)


def test_saving_refuses_nan(tmp_path):
    net = network()
    with torch.no_grad():
        net.head.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"'head.bias' that are not finite"):
        save_model(tmp_path / "m", net, CARD)


def test_inputs_and_devices(tmp_path, written):
    (tmp_path / "m").write_bytes(written["model.pt"])
    model = load_model(tmp_path / "m")
    for wrong in (inputs(channels=7), inputs(shape=(7, 6)), inputs()[0], inputs().astype(float)):
        with pytest.raises(ValueError, match="The input has shape") as error:
            model(wrong)
        is_sentence(str(error.value))
    for device in ("nowhere", "meta", "cuda:99"):
        with pytest.raises(ValueError, match="device is") as error:
            load_model(tmp_path / "m", device=device)
        is_sentence(str(error.value))
