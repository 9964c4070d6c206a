# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What a user is told when DOLFINx is missing, broken, untested or complex."""

import importlib
import subprocess
import sys
import warnings

from petsc4py import PETSc

import numpy as np
import pytest
from utils import on_ranks

import dolfinx
from dolfinx_msnn._utils import compat


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not called check_environment() yet."""
    monkeypatch.setattr(compat, "_checked", False)


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Make the import of one module raise an error."""
    original = importlib.import_module

    def import_module(wanted: str) -> object:
        if wanted == name:
            raise error
        return original(wanted)

    monkeypatch.setattr(compat.importlib, "import_module", import_module)


@pytest.mark.usefixtures("unchecked")
def test_accepts_the_tested_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("0.11.0", "0.11.0.post0", "0.11.1"):
        monkeypatch.setattr(compat, "_checked", False)
        monkeypatch.setattr(dolfinx, "__version__", version)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compat.check_environment()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["mpi4py.MPI", "dolfinx", "petsc4py.PETSc", "slepc4py.SLEPc"])
def test_names_the_missing_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    package = name.partition(".")[0]
    with pytest.raises(ImportError, match=f"and {package} is not installed") as caught:
        compat.check_environment()
    assert caught.value.name == package
    message = str(caught.value)
    for way in ("dolfinx-msnn[wheels]", "conda-forge fenics-dolfinx", "Docker"):
        assert way in message
    assert "\n" not in message


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "error",
    [
        ImportError("libmpi.so.12: cannot open shared object file"),
        ModuleNotFoundError("No module named 'basix'", name="basix"),
        RuntimeError("cannot load MPI library\nlibmpi.so: cannot open shared object file"),
    ],
)
def test_broken_is_not_missing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    refuse(monkeypatch, "dolfinx", error)
    with pytest.raises(ImportError, match="dolfinx, which is installed but does not") as caught:
        compat.check_environment()
    assert str(error).partition("\n")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_dolfinx_without_petsc(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "dolfinx", AssertionError())
    with pytest.raises(ImportError, match="built with petsc4py"):
        compat.check_environment()


@pytest.mark.usefixtures("unchecked")
def test_a_failed_check_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "slepc4py.SLEPc", None)
        for _ in range(2):
            with pytest.raises(ImportError, match="slepc4py"):
                compat.check_environment()
    compat.check_environment()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("version", ["0.10.0", "0.12.0.dev0", "1.11.0", "unknown"])
def test_other_versions_warn_once(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(dolfinx, "__version__", version)
    with pytest.warns(UserWarning) as caught:
        compat.check_environment()
        compat.check_environment()
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "0.11.x" in message
    assert version in message


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("version", ["0.9.0", "0.7.2.post1"])
def test_old_versions_are_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(dolfinx, "__version__", version)
    for _ in range(2):
        with pytest.raises(ImportError, match=f"this is DOLFINx {version}: pip install") as caught:
            compat.check_environment()
    assert "\n" not in str(caught.value)


@pytest.mark.serial
def test_a_name_may_be_used_on_one_rank_only() -> None:
    launcher, env = on_ranks(2)
    if launcher is None:
        pytest.skip("no mpiexec")
    code = """
import dolfinx_msnn as msnn
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 0:
    print(msnn.fields.Channels(2, 10.0, 0).dim)
MPI.COMM_WORLD.barrier()
"""
    done = subprocess.run(
        [*launcher, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


PUBLIC = ("bases", "estimate", "fields", "petsc", "plot", "richards")


@pytest.mark.serial
def test_public_names_come_at_their_first_use() -> None:
    code = f"""
import sys
import dolfinx_msnn as msnn
assert not {{"dolfinx", "torch", "scipy"}} & set(sys.modules), sorted(sys.modules)
assert dir(msnn) == sorted({{*msnn.__all__, "LearnedBasis", *{PUBLIC!r}}})
import dolfinx  # finds the MPI that it is linked to
for name in [*msnn.__all__, *{PUBLIC!r}]:
    assert getattr(msnn, name) is not None
assert "torch" not in sys.modules
try:
    msnn.Coarsegrid
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "module 'dolfinx_msnn' has no attribute 'Coarsegrid'\n", done.stderr


@pytest.mark.serial
@pytest.mark.parametrize("name", ["", *(f".{room}" for room in PUBLIC[:-1])])  # richards: UFL alone
def test_every_way_in_says_what_is_missing(name: str) -> None:
    code = f"import sys; sys.modules['dolfinx'] = None\nfrom dolfinx_msnn{name} import *"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stderr.splitlines()[-1].startswith(
        "ImportError: dolfinx_msnn needs DOLFINx with mpi4py, petsc4py and slepc4py, and dolfinx is"
    )


def test_real_petsc_is_accepted() -> None:
    compat.require_real()


def test_complex_petsc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PETSc, "ScalarType", np.complex128)
    with pytest.raises(RuntimeError, match="complex128") as caught:
        compat.require_real()
    assert "\n" not in str(caught.value)
