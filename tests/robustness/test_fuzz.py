# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Damaged and forged models, spaces and sets of samples: one sentence, or what is in them.

A few are tried by pytest. ``python tests/robustness/test_fuzz.py --count 2000`` tries more, in
processes of their own, so that one that crashes, hangs or runs out of memory is found; it ends with
a summary, and with a status that is not zero if there was such a file. Every file follows from its
number.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from mpi4py import MPI

import h5py
import numpy as np
import pytest
from sample import Sample, is_sentence, model_card, network

from dolfinx import mesh
from dolfinx_msnn import CoarseGrid, MultiscaleFunctionSpace
from dolfinx_msnn._utils.files import LIBVER
from dolfinx_msnn.space.file_tables import DTYPES

torch = pytest.importorskip("torch")

import dolfinx_msnn  # noqa: E402
from dolfinx_msnn.nn import dataset  # noqa: E402
from dolfinx_msnn.nn.family import Family  # noqa: E402
from dolfinx_msnn.nn.model import load_model, save_model  # noqa: E402

pytestmark = pytest.mark.serial

#: Of a single file; all of them are smaller than a megabyte.
SECONDS, MEGABYTES = 30, 400

#: What a reader of files has no business with (names of Python's audit events).
FORBIDDEN = (
    "os.exec",
    "os.fork",
    "os.kill",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.system",
    "pickle.",
    "shutil.",
    "socket.",
    "subprocess.",
)


# ---- what is damaged ----------------------------------------------------------------------------


def write_originals(folder):
    """Files, the smallest that have all parts."""
    flat = model_card(n_out=5, lattice=7, width=6, layers=2)
    deep = model_card(dim=3, n_out=4, lattice=5, width=6, layers=2)
    for name, card in (("small", flat), ("deep", deep)):
        save_model(folder / f"{name}.safetensors", network(card, 0.3), card)
    for path in sorted((Path(dolfinx_msnn.__file__).parent / "pretrained").glob("*.safetensors")):
        (folder / path.name).write_bytes(path.read_bytes())
    grid = CoarseGrid(mesh.create_unit_square(MPI.COMM_SELF, 6, 6), [2, 2])
    few = {"num_fields": 2, "num_modes": 2, "lattice": 3, "comm": MPI.COMM_SELF}
    dataset.generate(folder / "samples.h5", grid, [Family("log_normal", 1.0, ())], **few)
    p = Sample()
    for name, s in (("with.h5", p.s), ("without.h5", None)):
        with p.space(s=s) as W:
            W.save(folder / name, p.a, s=s)


class Originals:
    """The files, and what they hold."""

    def __init__(self, folder):
        self.data = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        self.sample = Sample()
        self.content = {name: self.load(Path(folder) / name, name) for name in self.data}

    def load(self, path, name):
        """All that can be had from a file."""
        if name == "samples.h5":
            groups = dataset.load(path).groups
            tables = [vars(group) for group in groups]
            return [x for table in tables for x in table.values() if isinstance(x, np.ndarray)]
        if name.endswith(".h5"):
            p = self.sample
            s = p.s if name == "with.h5" else None
            with MultiscaleFunctionSpace.load(path, p.V, p.a, s=s, bcs=p.bcs) as W:
                indptr, indices, values = W.P.getValuesCSR()
                spectra = [W.eigenvalues[v] for v in sorted(W.eigenvalues)]
                assert np.isfinite(values).all()
                return [indptr, indices, values, W.vertex, W.mode, *spectra]
        model = load_model(path)
        card = model.card
        shape = (2, card.in_channels, *(card.lattice,) * card.dim)
        out = model(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
        assert out.shape == (2, card.n_out, *(card.out_nodes(card.lattice),) * card.dim)
        return [out, np.frombuffer(card.to_json().encode(), np.uint8)]

    def same(self, found, name):
        """Whether that is what the original holds."""
        return all(
            np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
            for x, y in zip(found, self.content[name], strict=True)
        )


# ---- damage -------------------------------------------------------------------------------------

HUGE = [2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1, 0, 65535]


def truncate(data, rng, _):
    return data[: rng.integers(len(data))]


def flip(data, rng, _):
    data = bytearray(data)
    for place in rng.integers(len(data), size=rng.integers(1, 9)):
        data[place] ^= 1 << rng.integers(8)
    return bytes(data)


def span(data, rng):
    """A part of a file, of any order of magnitude."""
    length = int(len(data) ** rng.random())
    first = int(rng.integers(max(1, len(data) - length + 1)))
    return first, min(len(data), first + length)


def zeros(data, rng, _):
    first, last = span(data, rng)
    return data[:first] + bytes(last - first) + data[last:]


def noise(data, rng, _):
    first, last = span(data, rng)
    return data[:first] + rng.bytes(last - first) + data[last:]


def swap(data, rng, _):
    """Two parts of the same length change places."""
    (a, b), length = sorted(rng.integers(len(data), size=2)), int(len(data) ** rng.random())
    length = max(1, min(length, b - a, len(data) - b))
    return (
        data[:a]
        + data[b : b + length]
        + data[a + length : b]
        + data[a:b][:length]
        + data[b:][length:]
    )


def splice(data, rng, other):
    """The beginning of one file, the end of another."""
    cut = rng.random()
    return data[: int(cut * len(data))] + other[int(cut * len(other)) :]


def oversize(data, rng, _):
    """Numbers at the beginning, the end or anywhere that are too large."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        width = int(rng.choice([2, 4, 8]))
        low, high = [(0, 4096), (-4096, 0), (0, len(data))][rng.integers(3)]
        low, high = max(0, low % len(data)), high if high > 0 else len(data)
        at = int(rng.integers(low, max(low + 1, min(high, len(data)) - width)))
        value = HUGE[rng.integers(len(HUGE))] & (2 ** (8 * width) - 1)
        data[at : at + width] = value.to_bytes(width, "little")
    return bytes(data)


RAW = [truncate, flip, zeros, noise, swap, splice, oversize]


def forge_model(data, rng, _):
    """Another card, other tensors: what the format allows."""
    size = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:size]), data[size:]
    keys = [key for key in header if key != "__metadata__"]
    for _ in range(rng.integers(1, 3)):
        entry = header[keys[rng.integers(len(keys))]]
        how = rng.integers(6)
        if how == 0:
            entry["shape"] = [int(rng.choice([0, 1, 6, 2**31, 2**62]))] * int(rng.integers(4))
        elif how == 1:
            entry["dtype"] = str(rng.choice(["F64", "F16", "I32", "BOOL", "F8_E4M3", "C64", "x"]))
        elif how == 2:
            entry["data_offsets"] = [int(x) for x in rng.integers(0, 2 * len(body), 2)]
        elif how == 3:
            first, second = rng.choice(keys, 2)
            header[first], header[second] = header[second], header[first]
        elif how == 4:
            body = [flip, zeros, noise][rng.integers(3)](body, rng, b"")
        else:
            card = header["__metadata__"]["card"].encode()
            header["__metadata__"]["card"] = edit_text(card, rng, b"").decode()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def edit_text(content, rng, _):
    """Another digit, or a word twice: changes that a parser may not notice."""
    data = bytearray(content)
    digits = [k for k, c in enumerate(data) if 48 <= c < 58]
    if digits and rng.random() < 0.7:
        at = digits[rng.integers(len(digits))]
        data[at : at + 1] = str(rng.choice([0, 1, 9, -1, 10**6, 10**12, 2**63])).encode()
        return bytes(data)
    words = content.split(b" ")
    words.insert(int(rng.integers(len(words) + 1)), words[rng.integers(len(words))])
    return b" ".join(words)


def forge_space(data, rng, other):
    """Other tables and attributes, with right checksums."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "x.h5"
        path.write_bytes(data)
        with h5py.File(path, "r+", libver=LIBVER) as file:
            for _ in range(rng.integers(1, 3)):
                forge_table(file, rng)
        return path.read_bytes()


def forge_table(file, rng):
    keys = [key for key in DTYPES if key in file]
    key, second = rng.choice(keys, 2)
    how = rng.integers(9)
    if not 0 < file[key].size <= 2**20:
        # Made by an earlier change.
        return
    if how < 3:
        table = file[key][...]
        for _ in range(rng.integers(1, 4)):
            at = tuple(rng.integers(n) for n in table.shape)
            choice = [0, -1, 1, 2**31, 2**62, np.nan, np.inf, 1e300][rng.integers(8)]
            if table.dtype.kind != "f":
                choice = 0 if not np.isfinite(choice) else int(choice) % 2**62
                choice = np.array([choice]).astype(table.dtype)[0]
            table[at] = choice
        file[key][...] = table
    elif how == 3:
        names = list(file.attrs)
        if names:
            name = names[rng.integers(len(names))]
            values = [0, -1, 2**62, np.nan, "text", np.zeros(9), np.bytes_(b"\xff\n. A"), None]
            value = values[rng.integers(len(values))]
            if value is None:
                del file.attrs[name]
            else:
                file.attrs[name] = value
    elif how == 4:
        del file[key]
    elif how == 5 and key != second:
        file.move(key, "aside")
        file.move(second, key)
        file.move("aside", second)
    else:
        shape, dtype = list(file[key].shape), file[key].dtype
        table = file[key][...]
        del file[key]
        if how == 6:
            axis = rng.integers(len(shape))
            shape[axis] = [0, 1, 2 * shape[axis], 2**40][rng.integers(4)]
            chunks = tuple(min(n, 64) for n in shape)
            options = {"chunks": chunks, "fletcher32": True} if min(shape) else {}
            file.create_dataset(key, shape, dtype, **options)
        elif how == 7:
            kind = ["f4", "i2", "u8", "S8", "c16"][rng.integers(5)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                file.create_dataset(key, data=table.astype(kind))
        else:
            file.create_dataset(key, data=np.roll(table, int(rng.integers(1, 9)), axis=0))


FORGED = (forge_model, forge_space)


def damaged(originals, number):
    """A damaged file: name of what it was made of, how, and its bytes."""
    rng = np.random.default_rng([20261122, number])
    names = sorted(originals.data)
    name = names[number % len(names)]
    same_kind = [x for x in names if Path(x).suffix == Path(name).suffix and x != name]
    other = originals.data[same_kind[rng.integers(len(same_kind))]]
    data = originals.data[name]
    if rng.random() < 0.5 or name == "samples.h5":
        change = RAW[rng.integers(len(RAW))]
    else:
        change = forge_space if name.endswith(".h5") else forge_model
    return name, change, change(data, rng, other)


# ---- what must come of it -----------------------------------------------------------------------


def attempt(originals, name, path, forged):
    """Load a damaged file: "refused", "same" or (of forged ones) "other".

    Raises:
        AssertionError: If it ended in any other way.
    """
    try:
        found = originals.load(path, name)
    except ValueError as error:
        message = str(error)
        is_sentence(message)
        assert len(message) < 2000, message[:2000]
        return "refused"
    if originals.same(found, name):
        return "same"
    assert forged, "something else was read"
    return "other"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    write_originals(folder)
    return Originals(folder)


@pytest.mark.parametrize("part", range(8))
def test_damaged_files(originals, tmp_path, part):
    outcomes = Counter()
    for number in range(8 * part, 8 * part + 8):
        name, change, data = damaged(originals, number)
        (tmp_path / "file").write_bytes(data)
        outcomes[attempt(originals, name, tmp_path / "file", change in FORGED)] += 1
    assert outcomes["refused"] >= 3


# ---- many of them -------------------------------------------------------------------------------

_seen: list[str] = []


def watch(event, arguments):
    """Note what no reader should do; see ``sys.addaudithook``."""
    if event == "pickle.find_class" and arguments[0].partition(".")[0] in ("builtins", "numpy"):
        # How errors and numbers reach other ranks.
        return
    if event.startswith(FORBIDDEN):
        _seen.append(f"{event} {str(arguments)[:80]}")
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        if "fenics" not in str(arguments[0]):
            _seen.append(f"open {arguments[0]} {arguments[1]}")


def worker(folder, first, last):
    """Try the files of some numbers; a line for each."""
    torch.set_num_threads(1)
    originals = Originals(folder)
    sys.addaudithook(watch)

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "file"
        os.chdir(work)
        for number in range(first, last):
            print("begin", number, flush=True)
            name, change, data = damaged(originals, number)
            path.write_bytes(data)
            _seen.clear()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.perf_counter()
            signal.alarm(SECONDS)
            try:
                outcome, why = attempt(originals, name, path, change in FORGED), ""
                assert not _seen, _seen
                assert os.listdir(work) == ["file"], "it wrote a file"
            except BaseException as error:
                outcome, why = "WRONG", f"{type(error).__name__}: {str(error)[:300]}"
            signal.alarm(0)
            seconds = time.perf_counter() - start
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            if grown > MEGABYTES:
                outcome, why = "WRONG", f"{grown:.0f} MiB"
            print(
                "end",
                json.dumps([number, f"{name} {change.__name__}", outcome, why, seconds, grown]),
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="files to try")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--chunk", type=int, default=250, help="files a process")
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    last = options.first + options.count
    if options.worker:
        worker(options.worker, options.first, last)
        return 0
    outcomes, wrong, slowest, largest = Counter(), [], 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        write_originals(Path(folder))
        number = options.first
        while number < last:
            many = min(options.chunk, last - number)
            command = [sys.executable, __file__, "--worker", folder]
            command += ["--first", str(number), "--count", str(many)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
                )
                text, status, said = done.stdout, done.returncode, done.stderr
            except subprocess.TimeoutExpired as error:
                text = (error.stdout or b"").decode()
                status, said = "time-out", ""
            begun = None
            for line in text.splitlines():
                word, _, rest = line.partition(" ")
                if word == "begin":
                    begun = int(rest)
                elif word == "end":
                    found = json.loads(rest)
                    begun = None
                    number = found[0] + 1
                    outcomes[found[1].split()[1], found[2]] += 1
                    slowest, largest = max(slowest, found[4]), max(largest, found[5])
                    if found[2] == "WRONG":
                        wrong.append(found)
                        print(found, flush=True)
            if begun is not None:
                wrong.append([begun, "", "CRASH", f"status {status}"])
                print(wrong[-1], said[-500:], flush=True)
                outcomes["crash", "CRASH"] += 1
                number = begun + 1
            elif status != 0:
                print(f"The worker ended with {status}: {said[-2000:]}")
                return 2
    for (how, outcome), times in sorted(outcomes.items()):
        print(f"{how:15} {outcome:8} {times:6}")
    print(
        f"{sum(outcomes.values())} files, {len(wrong)} wrong; "
        f"slowest {slowest:.1f} s, most memory {largest:.0f} MiB"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
