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
import resource
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
    export_model,
    load_model,
    read_card,
    save_model,
    weights_hash,
)

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
    """Bytes of a model file in all formats."""
    folder = tmp_path_factory.mktemp("models")
    for name in FORMATS:
        save_model(folder / name, network(), CARD)
    assert sorted(os.listdir(folder)) == sorted(FORMATS)
    return {name: (folder / name).read_bytes() for name in FORMATS}


OURS = "model.safetensors"
PROGRAMS = ["model.pt", "model.pt2"]
FORMATS = [OURS, *PROGRAMS]


def trusting(path):
    return load_model(path, trust=True)


def refused(path, match, load=load_model, kind=ValueError):
    with pytest.raises(kind, match=match) as error:
        load(path)
    is_sentence(str(error.value))
    assert str(path) in str(error.value)


def rewrite(data, change):
    """The same file with other parts; ``change`` maps a name to its bytes, or to None.

    Parts of a safetensors file are its header (``header``) and each tensor; of a zip archive its
    entries. The card is ``card`` in all of them.
    """
    if data[:2] != b"PK":
        size = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        meta = header.pop("__metadata__")
        card = change("card", meta["card"].encode())
        if card is not None:
            header["__metadata__"] = {"card": card.decode("latin1")}
        order = sorted(
            (key for key in header if key != "__metadata__"),
            key=lambda k: header[k]["data_offsets"],
        )
        parts, at = [], 0
        for key in order:
            first, last = header[key]["data_offsets"]
            part = change(key, body[first:last])
            if part is None:
                del header[key]
                continue
            header[key]["data_offsets"] = [at, at + len(part)]
            at += len(part)
            parts.append(part)
        text = change("header", json.dumps(header).encode())
        return len(text).to_bytes(8, "little") + text + b"".join(parts)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            short = entry.filename.split("/", 1)[1]
            content = change("card" if short == "extra/card.json" else short, content)
            if content is not None:
                new.writestr(entry.filename, content)
    return out.getvalue()


def with_card(data, **changed):
    """The same model with another card; None takes an entry away."""

    def change(name, content):
        if name != "card":
            return content
        card = json.loads(content) | changed
        return json.dumps({k: v for k, v in card.items() if v is not None}).encode()

    return rewrite(data, change)


def with_header(data, change):
    """The same file with another header of its tensors."""

    def edit(name, content):
        if name != "header":
            return content
        header = json.loads(content)
        change(header)
        return json.dumps(header).encode()

    return rewrite(data, edit)


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(tmp_path, written, name):
    path = tmp_path / name
    path.write_bytes(written[name])
    net, x = network().eval(), inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = trusting(path)
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


def test_files_of_other_libraries_and_for_them(tmp_path, written):
    """The library itself reads the file, and what it writes with a card is a model."""
    from safetensors.numpy import load_file, save_file

    (tmp_path / OURS).write_bytes(written[OURS])
    found = load_file(tmp_path / OURS)
    state = network().state_dict()
    assert found.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(found[key], value.numpy())
    card = read_card(tmp_path / OURS)
    save_file(found, tmp_path / "m.safetensors", {"card": card.to_json(), "format": "pt"})
    np.testing.assert_array_equal(
        load_model(tmp_path / "m.safetensors")(inputs()), load_model(tmp_path / OURS)(inputs())
    )


def test_loading_does_not_change_random_numbers(tmp_path, written):
    (tmp_path / OURS).write_bytes(written[OURS])
    before = torch.get_rng_state()
    load_model(tmp_path / OURS)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_need_trust(tmp_path, written, name):
    (tmp_path / "m").write_bytes(written[name])
    refused(tmp_path / "m", "is a program, which can do whatever you can; .*trust=True")
    # Its card can be read.
    assert read_card(tmp_path / "m").pde == "diffusion"


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_runs_without_trust(tmp_path, written):
    path, sprung = tmp_path / "m", tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap)
    assert sprung.exists()
    sprung.unlink()
    path.write_bytes(trap)
    refused(path, "not a model")
    torch.save(Trap(sprung), path)
    refused(path, "is a program")
    refused(path, "has no card", load=read_card)
    for name in PROGRAMS:
        path.write_bytes(rewrite(written[name], lambda n, c: c if n == "card" else trap))
        refused(path, "is a program")
        read_card(path)
    path.write_bytes(rewrite(written[OURS], lambda n, c: c if n in ("card", "header") else trap))
    refused(path, "damaged")
    assert not sprung.exists()


def test_export(tmp_path, written):
    (tmp_path / OURS).write_bytes(written[OURS])
    ours = load_model(tmp_path / OURS)
    for name in PROGRAMS:
        card = export_model(tmp_path / OURS, tmp_path / name)
        assert card.sha256 == ours.card.sha256
        theirs = trusting(tmp_path / name)
        np.testing.assert_allclose(theirs(inputs()), ours(inputs()), atol=1e-5)
        refused(tmp_path / name, "a program already", lambda p: export_model(p, tmp_path / "x.pt"))
    with pytest.raises(ValueError, match=r"must end in \.pt or \.pt2"):
        export_model(tmp_path / OURS, tmp_path / "x.safetensors")
    assert sorted(os.listdir(tmp_path)) == sorted(FORMATS)


def test_saving_is_quiet_and_keeps_the_network(tmp_path):
    net = network().train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in FORMATS:
            save_model(tmp_path / name, net, CARD)
            trusting(tmp_path / name)
    assert net.training
    with pytest.raises(ValueError, match=r"must end in \.safetensors or \.pt"):
        save_model(tmp_path / "m", net, CARD)
    assert sorted(os.listdir(tmp_path)) == sorted(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_no_space_for_the_file(tmp_path, written, name):
    """What was there before stays."""
    path = tmp_path / name
    path.write_bytes(written[name])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=f"Cannot write {path}") as error:
            save_model(path, network(), CARD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    is_sentence(str(error.value))
    assert os.listdir(tmp_path) == [name]
    assert path.read_bytes() == written[name]


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_network_can_be_a_program(tmp_path, name):
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 5, 3, padding=1), torch.nn.GELU())
    save_model(tmp_path / name, net, CARD)
    x = inputs()
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(trusting(tmp_path / name)(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="is a Sequential"):
        save_model(tmp_path / OURS, net, CARD)
    assert os.listdir(tmp_path) == [name]


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
print(load_model("mine.pt", trust=True).card.n_out)
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
    for name in FORMATS:
        save_model(tmp_path / name, net, card)
        assert trusting(tmp_path / name)(inputs(2, 14, (5, 5, 5))).shape == (2, 4, 5, 5, 5)


@pytest.mark.parametrize("name", FORMATS)
def test_card_without_torch(tmp_path, written, name):
    (tmp_path / "m").write_bytes(written[name])
    code = (
        "import sys; sys.modules['torch'] = sys.modules['safetensors'] = None\n"
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
        refused(path, "not a model|damaged", load=trusting)


def test_flipped_bytes(tmp_path, written):
    """A damaged byte is found, or the card says something else about the origin of the model."""
    data, x = written[OURS], inputs()
    path = tmp_path / OURS
    path.write_bytes(data)
    good = load_model(path)
    size = 8 + int.from_bytes(data[:8], "little")
    rng, found = np.random.default_rng(0), 0
    for place in [*range(0, size, 19), *rng.integers(size, len(data), 60)]:
        broken = bytearray(data)
        broken[place] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        try:
            model = load_model(path)
        except ValueError as error:
            found += 1
            is_sentence(str(error))
            continue
        assert place < size
        np.testing.assert_array_equal(model(x), good(x))
    assert found > 100


def test_is_not_a_model(tmp_path):
    path = tmp_path / "m"
    refused(path, "There is no file", kind=FileNotFoundError)
    refused(path, "There is no file", load=read_card, kind=FileNotFoundError)
    noise = np.random.default_rng(0).bytes(4096)
    for data in (b"", b"hello", noise, b"PK\x03\x04" + bytes(999), bytes(8), bytes(99)):
        path.write_bytes(data)
        refused(path, "not a model|damaged", load=trusting)
        refused(path, "not a model|damaged", load=read_card)
    refused(tmp_path, "is not a file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    refused(path, "has no card", load=trusting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network()), path)
    refused(path, "has no card", load=trusting)
    with open(path, "wb") as file:
        file.truncate(2**30 + 1)
    refused(path, "more than 1 GiB")


def test_headers_that_lie(tmp_path, written):
    """Shapes, dtypes, places and names of tensors that are not those of the card."""
    path = tmp_path / "m"

    def forge(match, key="head.weight", **changed):
        path.write_bytes(with_header(written[OURS], lambda header: header[key].update(changed)))
        refused(path, match)

    forge("damaged", shape=[7, 2**40])
    forge("damaged", shape=[2**62, 2**62])
    forge("damaged", data_offsets=[0, 2**40])
    forge("damaged", dtype="F64")
    forge("damaged", dtype="Q7")
    forge("damaged", shape=[-1])
    forge("does not hold the weights", shape=[6, 7])
    forge("expected float32|does not hold", dtype="I32")
    for wrong in (True, "x", [[1]], None):
        path.write_bytes(
            with_header(written[OURS], lambda header, w=wrong: header.update({"head.weight": w}))
        )
        refused(path, "damaged")
    path.write_bytes(
        with_header(written[OURS], lambda header: header.update(other=header.pop("head.bias")))
    )
    refused(path, "does not hold the weights")
    for card in (5, None, ["{}"]):
        path.write_bytes(
            with_header(written[OURS], lambda h, c=card: h.update({"__metadata__": {"card": c}}))
        )
        refused(path, "has no valid card")
    path.write_bytes((2**63).to_bytes(8, "little") + written[OURS][8:])
    refused(path, "not a model")
    for name in network().state_dict():
        path.write_bytes(rewrite(written[OURS], lambda n, c, k=name: None if n == k else c))
        refused(path, "does not hold the weights")


@pytest.mark.parametrize("name", FORMATS)
def test_other_weights_than_the_card_says(tmp_path, written, name):
    path = tmp_path / "m"
    for other in ("0" * 64, ""):
        path.write_bytes(with_card(written[name], sha256=other))
        refused(path, "hash differs", load=trusting)

    def negate(entry, content):
        return bytes(3) + bytes([content[3] ^ 128]) + content[4:] if entry in FIRST else content

    path.write_bytes(rewrite(written[name], negate))
    refused(path, "hash differs", load=trusting)


#: Where the first weights are in each format.
FIRST = ("head.bias", "data/weights/weight_0", "data/0")


@pytest.mark.parametrize("name", FORMATS)
def test_weights_that_are_not_finite(tmp_path, written, name):
    def poison(entry, content):
        return np.float32(np.nan).tobytes() + content[4:] if entry in FIRST else content

    (tmp_path / "m").write_bytes(rewrite(written[name], poison))
    refused(tmp_path / "m", "not finite", load=trusting)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"dim": 3}, "what its card says for 14 channels|weights of the network"),
        ({"samples": 4}, "what its card says for 20 channels|weights of the network"),
        ({"n_out": 6}, "shape .1, 5, 7, 7., the card says .1, 6, 7, 7.|weights of the network"),
        ({"lattice": 2}, "what its card says .* lattice of 2 nodes"),
        ({"lattice": "7"}, "lattice must be an integer from 2 to 257, got '7'"),
        ({"lattice": 10**9}, "lattice must be an integer from 2 to 257, got '1000000000'"),
        ({"lattice": 257, "dim": 3}, "at most 133 nodes in each direction for 14 channels"),
        ({"num_fields": 10**400}, "num_fields"),
        ({"training_time_s": 10**400}, "training_time_s"),
        ({"dim": True}, "dim must be an integer from 2 to 3, got 'True'"),
        ({"dim": 4}, "dim must be an integer from 2 to 3, got '4'"),
        ({"format_version": 3}, "format_version"),
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
@pytest.mark.parametrize("name", [OURS, "model.pt"])
def test_cards_that_do_not_fit(tmp_path, written, name, changed, match):
    (tmp_path / "m").write_bytes(with_card(written[name], **changed))
    refused(tmp_path / "m", match, load=trusting)


@pytest.mark.parametrize("changed", [{"width": 8}, {"modes": 5}, {"layers": 3}, {"width": 4096}])
def test_networks_are_built_from_their_card(tmp_path, written, changed):
    (tmp_path / "m").write_bytes(with_card(written[OURS], **changed))
    refused(tmp_path / "m", "weights of the network that its card describes")
    with pytest.raises(ValueError, match="weights of the network that its card describes"):
        save_model(tmp_path / OURS, network(), dataclasses.replace(CARD, **changed))


@pytest.mark.parametrize("name", [OURS, "model.pt"])
def test_cards_that_are_no_cards(tmp_path, written, name):
    for text in (b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100000, b"null", b"{}", b'"a"'):
        data = rewrite(written[name], lambda n, c, text=text: text if n == "card" else c)
        (tmp_path / "m").write_bytes(data)
        refused(tmp_path / "m", "has no valid card", load=trusting)
        refused(tmp_path / "m", "has no valid card", load=read_card)
    (tmp_path / "m").write_bytes(rewrite(written[name], lambda n, c: None if n == "card" else c))
    refused(tmp_path / "m", "has no card", load=trusting)


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
        save_model(tmp_path / "m.pt", net(), CARD)
    is_sentence(str(error.value))
    assert not os.listdir(tmp_path)


def test_saving_refuses_nan(tmp_path):
    net = network()
    with torch.no_grad():
        net.head.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"'head.bias' that are not finite"):
        save_model(tmp_path / OURS, net, CARD)


def test_inputs_and_devices(tmp_path, written):
    (tmp_path / "m").write_bytes(written[OURS])
    model = load_model(tmp_path / "m")
    for wrong in (inputs(channels=7), inputs(shape=(7, 6)), inputs()[0], inputs().astype(float)):
        with pytest.raises(ValueError, match="The input has shape") as error:
            model(wrong)
        is_sentence(str(error.value))
    for device in ("nowhere", "meta", "cuda:99"):
        with pytest.raises(ValueError, match="device is") as error:
            load_model(tmp_path / "m", device=device)
        is_sentence(str(error.value))
