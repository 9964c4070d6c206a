# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Compiled kernels: C files built through cffi when first asked for, as forms are by FFCx.

DOLFINx needs a C compiler anyway. Kernels are compiled for the processor they run on, once, into
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
from functools import cached_property
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt

from dolfinx.jit import DOLFINX_DEFAULT_JIT_OPTIONS, get_options
from dolfinx_msnn._utils.typing import CompilerOptions

_FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared"]
_FLAGS += [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]

#: For the kernels of forms: sums in any order, NaN and infinity kept. Measured on DOLFINx's own
#: options: element matrices take a half of the time for degree 1 and a tenth for degree 2.
_FORM_FLAGS = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-march=native", "-g0"]
_FORM_FLAGS += [f"-f{name}" for name in ("associative-math", "reciprocal-math", "no-signed-zeros")]
_FORM_FLAGS += ["-fno-trapping-math", "-fno-math-errno"]


def form_options(jit_options: CompilerOptions | None) -> CompilerOptions | None:
    """Options that make the kernels of forms fast on this processor, unless the user has some.

    Args:
        jit_options: As for ``dolfinx.fem.form``. Compiler arguments in them, or in DOLFINx's files
            of options, stay.
    """
    options = get_options(jit_options)
    default = DOLFINX_DEFAULT_JIT_OPTIONS["cffi_extra_compile_args"][0]
    if os.environ.get("MSNN_NO_KERNEL") or options["cffi_extra_compile_args"] != default:
        return jit_options
    processor = hashlib.blake2b(_processor().encode(), digest_size=6).hexdigest()
    folder = Path(os.fspath(options["cache_dir"])).expanduser() / f"msnn_forms_{processor}"
    own: CompilerOptions = {"cffi_extra_compile_args": _FORM_FLAGS, "cache_dir": folder}
    return (jit_options or {}) | own


_TYPES = {"f": "float[]", "d": "double[]", "i": "int32_t[]", "l": "int64_t[]", "B": "uint8_t[]"}


class Library:
    """A C file of kernels.

    Args:
        source: The file.
        declarations: Its functions.
    """

    def __init__(self, source: Path, declarations: str) -> None:
        self._source, self._declarations = source, declarations

    @cached_property
    def module(self) -> ModuleType | None:
        """The compiled kernels, or ``None`` where they cannot be had. Not collective.

        Ranks that come here at once compile them each for itself; the last one to finish replaces
        the file of the others by an equal one.
        """
        if os.environ.get("MSNN_NO_KERNEL"):
            return None
        try:
            return self._load()
        except Exception:
            # No compiler, no headers, no room, a damaged file: NumPy does the same, more slowly.
            return None

    def call(self, name: str, *arguments: npt.NDArray[Any] | float | None) -> Any:
        """Call a function, which must be there, without holding the interpreter's lock.

        Args:
            name: The function, e.g. ``"multiply_d"``.
            arguments: C-contiguous arrays of float32, float64, int32, int64 or uint8 (``None`` for
                none), numbers.
        """
        module = self.module
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

    def _load(self) -> ModuleType:
        compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
        if compiler is None:
            raise FileNotFoundError("cc")
        source = self._source.read_text()
        key = hashlib.blake2b(digest_size=12)
        for part in (source, self._declarations, compiler, *_FLAGS, _processor()):
            key.update(part.encode() + b"\0")
        name = f"msnn_{self._source.stem}_{key.hexdigest()}"
        folder = Path(os.fspath(get_options()["cache_dir"])).expanduser()
        target = folder / f"{name}{EXTENSION_SUFFIXES[0]}"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            builder = cffi.FFI()
            builder.cdef(self._declarations)
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
