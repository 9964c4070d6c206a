# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Tell whether the Python that runs this can carry the development environment.

Prints one line of four fields, separated by tabs, each "-" where there is nothing to say: the path
of the interpreter; "unsupported" if it is too old, too new or not the usual CPython; the version of
the DOLFINx that it can import (together with petsc4py and slepc4py); what it lacks, of "venv", "cc"
and "headers". Used by setup, which runs it on every interpreter that it finds, so also on old ones.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile


def supported():
    """Say whether the wheels of requirements.lock exist for this Python."""
    return (
        sys.implementation.name == "cpython"
        and (3, 12) <= sys.version_info[:2] <= (3, 14)
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
    )


def dolfinx_version():
    """Return the version of DOLFINx, or None if it cannot be used."""
    # In a process of its own, since an MPI that cannot start ends the process.
    modules = "mpi4py.MPI, dolfinx, petsc4py.PETSc, slepc4py.SLEPc"
    program = f"import {modules}; print(dolfinx.__version__)"
    if importlib.util.find_spec("dolfinx") is None:
        return None
    result = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return result.stdout.split()[-1] if result.returncode == 0 else None


def lacking():
    """Return what is missing to compile forms and to make a virtual environment."""
    # As setuptools chooses it when FFCx compiles a form.
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        yield "cc"
    elif not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        yield "headers"
    else:
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "probe.c")
            with open(source, "w") as file:
                file.write("#include <Python.h>\n#include <math.h>\n")
            command = [
                *compiler,
                "-shared",
                "-fPIC",
                "-I" + sysconfig.get_path("include"),
                source,
                "-o",
                source + ".so",
            ]
            if subprocess.run(command, capture_output=True, check=False).returncode != 0:
                yield "cc"
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        yield "venv"


if __name__ == "__main__":
    if supported():
        fields = [sys.executable, "-", dolfinx_version() or "-", ",".join(lacking()) or "-"]
    else:
        fields = [sys.executable, "unsupported", "-", "-"]
    print("\t".join(fields))
