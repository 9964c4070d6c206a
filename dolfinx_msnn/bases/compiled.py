# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The compiled kernel ``sweeps.c``: built through cffi when first asked for, as forms are by FFCx.

DOLFINx needs a C compiler anyway. The kernel is compiled for the processor it runs on, once, into
DOLFINx's cache folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from contextlib import redirect_stdout
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt

from dolfinx.jit import get_options

_FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared"]
_FLAGS += [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]

_PATTERN = "int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices"
_PENCIL = f"{_PATTERN}, const double *A, const double *S"

#: Functions for each precision T, with the suffix X.
_EACH = f"""
void multiply_X({_PATTERN}, const T *data, const T *y, T *out);
int chebyshev_X({_PATTERN}, const T *data, const T *scale, int degree, double lower, double upper,
                const T *rhs, T *a, T *b);
void project_X({_PENCIL}, const T *y, double *a, double *s, double *work);
void combine_X(int64_t n, int64_t m, int64_t width, const T *y, const double *c, double *out);
"""
_DECLARATIONS = f"""
void measure(int64_t n, const int32_t *indptr, const int32_t *indices, const double *data,
             double *diagonal, double *row_sum, double *jump);
void residuals({_PENCIL}, const double *y, const double *values, const double *diagonal,
               double *errors);
void energies({_PENCIL}, const double *z, double *energy, double *size, double *mass);
""" + "".join(
    _EACH.replace("_X", f"_{suffix}").replace(" T ", f" {name} ")
    for suffix, name in (("f", "float"), ("d", "double"))
).replace("(T *", "(double *")

_TYPES = {"f": "float[]", "d": "double[]", "i": "int32_t[]"}


@cache
def library() -> ModuleType | None:
    """The compiled kernel, or ``None`` where it cannot be had. Not collective.

    Ranks that come here at once compile it each for itself; the last one to finish replaces the
    file of the others by an equal one.
    """
    if os.environ.get("MSNN_NO_KERNEL"):
        return None
    try:
        return _load()
    except Exception:
        # No compiler, no headers, no room, a damaged file: SciPy does the same, more slowly.
        return None


def call(name: str, *arguments: npt.NDArray[Any] | float | None) -> Any:
    """Call a function of the kernel, which must be there, without holding the interpreter's lock.

    Args:
        name: The function, e.g. ``"multiply_d"``.
        arguments: C-contiguous arrays of float32, float64 or int32 (``None`` for none), numbers.
    """
    module = library()
    assert module is not None
    given = [
        module.ffi.from_buffer(_TYPES[part.dtype.char], part)
        if isinstance(part, np.ndarray)
        else module.ffi.NULL
        if part is None
        else part
        for part in arguments
    ]
    return getattr(module.lib, name)(*given)


def _load() -> ModuleType:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("cc")
    source = Path(__file__).with_name("sweeps.c").read_text()
    key = hashlib.blake2b(digest_size=12)
    for part in (source, _DECLARATIONS, compiler, *_FLAGS, _processor()):
        key.update(part.encode() + b"\0")
    name = f"msnn_sweeps_{key.hexdigest()}"
    folder = Path(os.fspath(get_options()["cache_dir"])).expanduser()
    target = folder / f"{name}{EXTENSION_SUFFIXES[0]}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        builder = cffi.FFI()
        builder.cdef(_DECLARATIONS)
        builder.set_source(name, source)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / target.name
            with redirect_stdout(io.StringIO()):
                builder.emit_c_code(str(made.with_suffix(".c")))
            # Not cffi's own compile(): it has no time limit, and shows what the compiler says.
            subprocess.run(
                [compiler, *_FLAGS, "-o", str(made), str(made.with_suffix(".c"))],
                check=True,
                capture_output=True,
                timeout=120,
            )
            made.replace(target)
    spec = importlib.util.spec_from_file_location(name, target)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _processor() -> str:
    """What tells processors apart that need different code: homes are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
        return "\n".join(flags[:2])
    except OSError:
        return f"{platform.processor()} {sysconfig.get_platform()} {platform.node()}"
