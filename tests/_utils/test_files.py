# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Files that are whole or not there, and HDF5 files that are readable or refused."""

import os
import signal
import subprocess
import sys

import h5py
import pytest
from sample import COMM, HERE, expect_error, is_sentence

from dolfinx_msnn._utils.files import UnfitFile, draft_of, open_hdf5, reason, replacing, writing

serial = pytest.mark.serial


@pytest.fixture
def folder(tmp_path):
    """A folder that all ranks share."""
    return COMM.bcast(str(tmp_path), root=0)


def listing(folder):
    COMM.barrier()
    return COMM.bcast(sorted(os.listdir(folder)), root=0)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read()


@serial
def test_replaces(tmp_path):
    """The old file is there until the body is through."""
    path = tmp_path / "file"
    for text in ("one", "two"):
        before = sorted(os.listdir(tmp_path))
        with replacing(path) as draft:
            write(draft, text)
            assert os.path.dirname(draft) == str(tmp_path)
            assert sorted(os.listdir(tmp_path)) == [os.path.basename(draft), *before]
            assert not before or read(path) == "one"
        assert read(path) == text and os.listdir(tmp_path) == ["file"]


@serial
@pytest.mark.parametrize("error", [OSError("full"), MemoryError(), KeyboardInterrupt()])
def test_failed_body(tmp_path, error):
    """The draft goes, the old file stays, and the error is the body's own."""
    path = tmp_path / "file"
    write(path, "old")
    with pytest.raises(type(error)) as info, replacing(path) as draft:
        write(draft, "half")
        raise error
    assert info.value is error
    assert os.listdir(tmp_path) == ["file"] and read(path) == "old"


@serial
def test_body_that_writes_nothing(tmp_path):
    with pytest.raises(OSError, match=r"Cannot write .*file: .*No such file") as info:
        with replacing(tmp_path / "file"):
            pass
    is_sentence(str(info.value))
    assert os.listdir(tmp_path) == []


@serial
def test_killed(tmp_path):
    """A process that is killed while it writes leaves the old file, and a draft at most."""
    path = tmp_path / "file"
    write(path, "old")
    program = (
        "import os, signal, sys\n"
        "from dolfinx_msnn._utils.files import replacing\n"
        "with replacing(sys.argv[1]) as draft:\n"
        "    with open(draft, 'w') as file:\n"
        "        file.write('half')\n"
        "        file.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert read(path) == "old"
    left = [name for name in os.listdir(tmp_path) if name != "file"]
    assert len(left) == 1 and left[0].startswith(".file.") and left[0].endswith(".tmp")
    with replacing(path) as draft:
        write(draft, "new")
    assert read(path) == "new"


@serial
def test_links(tmp_path):
    """Links stay links, also to another folder and to a file that is not there yet."""
    (tmp_path / "real").mkdir()
    for name in ("there", "not yet"):
        target, link = tmp_path / "real" / name, tmp_path / f"link to {name}"
        if name == "there":
            write(target, "old")
        link.symlink_to(target)
        assert os.path.dirname(draft_of(link)[0]) == str(tmp_path / "real")
        with replacing(link) as draft:
            write(draft, "new")
        assert link.is_symlink() and not target.is_symlink() and read(target) == "new"
    assert len(os.listdir(tmp_path / "real")) == 2


def test_ranks_write_one_file(folder):
    path = f"{folder}/file"
    with replacing(path, COMM) as draft:
        assert len(set(COMM.allgather(draft))) == 1
        for rank in range(COMM.size):
            COMM.barrier()
            if rank == COMM.rank:
                with open(draft, "a") as file:
                    file.write(str(rank))
        COMM.barrier()
    assert read(path) == "".join(map(str, range(COMM.size)))
    assert listing(folder) == ["file"]


def test_ranks_fail(folder):
    """All ranks fail in the body, or the first one cannot give the file its name."""
    path = f"{folder}/dir"
    with expect_error(RuntimeError, "nothing to write"), replacing(path, COMM) as draft:
        if COMM.rank == 0:
            write(draft, "half")
        COMM.barrier()
        raise RuntimeError("There is nothing to write.")
    assert listing(folder) == []
    if COMM.rank == 0:
        os.mkdir(path)
    COMM.barrier()
    with expect_error(OSError, f"Cannot write {path}: .*"), replacing(path, COMM) as draft:
        if COMM.rank == 0:
            write(draft, "text")
    assert listing(folder) == ["dir"]


@serial
def test_sentences(tmp_path):
    for error, text in (
        (KeyError("name"), "name"),
        (ValueError("It  is\nbroken."), "It is broken"),
        (MemoryError(), "MemoryError"),
    ):
        assert reason(error) == text
    with pytest.raises(OSError, match=r"^Cannot write x: \[Errno 28\] full\.$"), writing("x"):
        raise OSError(28, "full")
    # What is not the file's fault stays as it is.
    with pytest.raises(ValueError, match=r"^mine$"), writing("x"):
        raise ValueError("mine")


@serial
def test_hdf5(tmp_path):
    good, text = str(tmp_path / "good.h5"), str(tmp_path / "text")
    with h5py.File(good, "w") as file:
        file["numbers"] = [1, 2, 3]
    write(text, "This is a text.")
    with open_hdf5(good, "numbers") as file:
        assert file["numbers"][:].tolist() == [1, 2, 3]
    for name in ("nothing", "."):
        missing = str(tmp_path / name)
        with expect_error(FileNotFoundError, "There is no file .* with numbers"):
            with open_hdf5(missing, "numbers"):
                pass
    refused = r"is not a readable HDF5 file with numbers: .+\.$"
    for path in (text, "/dev/null"):
        match = "There is no file" if path == "/dev/null" else refused
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            with open_hdf5(path, "numbers"):
                pass
    with expect_error(ValueError, refused), open_hdf5(good, "numbers") as file:
        file["letters"]
    with pytest.raises(ValueError, match=r"^It holds other numbers\.$") as info:
        with open_hdf5(good, "numbers"):
            raise UnfitFile("It holds other numbers.")
    assert type(info.value) is ValueError


def test_hdf5_that_one_rank_cannot_read(folder, monkeypatch):
    """Not collective: the ranks agree where the caller says so."""
    path = f"{folder}/good.h5"
    if COMM.rank == 0:
        with h5py.File(path, "w") as file:
            file["numbers"] = [1]
    COMM.barrier()

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        if HERE:
            patch.setattr(h5py, "File", refuse)
            with pytest.raises(ValueError, match="Permission denied"), open_hdf5(path, "numbers"):
                pass
        else:
            with open_hdf5(path, "numbers") as file:
                assert file["numbers"][0] == 1
