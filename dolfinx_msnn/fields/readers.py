# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Readers of coefficients: SPE10, arrays and image stacks."""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import cast

from mpi4py import MPI

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.checks import is_integer, is_number, require
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.typing import FloatArray
from dolfinx_msnn.fields.lattice import LatticeField

File = str | PathLike[str]
#: Of all pages of a picture together: small files may hold very many, of eight bytes each here.
MOST_PIXELS = 2**27
_SPE10_SHAPE = (60, 220, 85)
_SPE10_CELL_SIZE = (6.096, 3.048, 0.6096)  # metres; 20 ft x 10 ft x 2 ft


def _read_on_root[T](comm: MPI.Comm, path: object, read: Callable[[], T]) -> T:
    """Read on rank 0 and broadcast the result, or raise the error on every rank. Collective."""
    result: T | None = None
    with collective_errors(comm):
        try:
            result = read() if comm.rank == 0 else None
        except (FileNotFoundError, ImportError):
            raise
        except Exception as error:
            raise ValueError(f"Cannot read {path}: {error}") from error
    return cast(T, comm.bcast(result))


def _existing(path: File) -> Path:
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no file or directory {path}.")
    return Path(path)


def _spe10_block(path: Path, component: str, first_layer: int | None) -> tuple[int, FloatArray]:
    """Return the first layer and the values ``(nx, ny, num_layers)`` of one file."""
    if path.suffix != ".npz":
        data = np.fromfile(path, sep=" ")
        num = 3 * math.prod(_SPE10_SHAPE)
        require(data.size == num, "The number of values", data.size, f"3 x 60 x 220 x 85 = {num}")
        k = data.reshape(3, -1)["xyz".index(component)].reshape(_SPE10_SHAPE, order="F")
        return 1, k
    require(component != "z", "component", component, "x or y (an .npz file holds kx = ky)")
    with np.load(path) as file:
        require("k" in file, "The arrays", list(file), "'k' and possibly 'source'")
        k, source = file["k"], str(file["source"]) if "source" in file else ""
    require(k.ndim == 3, "The shape of k", k.shape, "(nx, ny, num_layers)")
    stated = re.search(r"layers (\d+)", source)
    if first_layer is None and stated is not None:
        first_layer = int(stated[1])
    if first_layer is None and k.shape[2] == _SPE10_SHAPE[2]:
        first_layer = 1
    if first_layer is None:
        raise ValueError("first_layer must be given, since the file does not tell its layers.")
    return first_layer, k


def read_spe10(
    path: File,
    layers: int | tuple[int, int],
    *,
    component: str = "x",
    first_layer: int | None = None,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> LatticeField:
    """Read the permeability of SPE10 Model 2 (Christie and Blunt, SPE 72469, 2001).

    Rank 0 reads, with its arguments, and broadcasts. Layers count from 1 (top) to 85, cells are
    6.096 m x 3.048 m x 0.6096 m, and the third axis points down.

    Args:
        path: ``spe_perm.dat`` (text: kx of all 60 x 220 x 85 cells, x fastest and layer slowest,
            then ky, then kz), or an ``.npz`` file with ``k``, kx = ky of some layers, shape
            ``(60, 220, num_layers)``, and possibly a ``source`` that contains "layers N" with the
            number of the first; or a directory with either.
        layers: One layer (a 2D field), or the first and the last of a block (3D).
        component: ``"x"``, ``"y"`` or ``"z"``.
        first_layer: Number of the first layer in an ``.npz`` file whose ``source`` does not say.
        comm: Communicator. Collective.

    Returns:
        Permeability in millidarcy; the origin of a block is at the depth of its first layer below
        the top of the model.

    Raises:
        FileNotFoundError: There is no such file. Raised on all ranks, like the next.
        ValueError: The file is truncated, malformed or lacks a layer, or a value is not positive
            and finite, or an argument is not as described.
    """

    def read() -> LatticeField:
        first, last = layers if isinstance(layers, tuple) else (layers, layers)
        ok = is_integer(first, 1) and is_integer(last, 1) and first <= last <= 85
        require(ok, "layers", layers, "one or (first, last) of 1 to 85")
        require(component in ("x", "y", "z"), "component", component, "'x', 'y' or 'z'")
        where = _existing(path)
        files = [where]
        if where.is_dir():
            files = sorted(where.glob("spe_perm.dat")) or sorted(where.glob("*.npz"))
        ok = first_layer is None or (is_integer(first_layer, 1) and len(files) == 1)
        require(ok, "first_layer", first_layer, "a positive integer, and for one file")
        found: dict[int, FloatArray] = {}
        for file in files:
            start, k = _spe10_block(file, component, first_layer)
            found |= {start + i: k[:, :, i] for i in range(k.shape[2])}
        missing = [i for i in range(first, last + 1) if i not in found]
        require(not missing, "layers", layers, f"in the file, which lacks layer {missing[:1]}")
        k = np.stack([found[i] for i in range(first, last + 1)], axis=2)
        depth = (first - 1) * _SPE10_CELL_SIZE[2]
        field = LatticeField(k, _SPE10_CELL_SIZE, (0.0, 0.0, depth))
        return field if isinstance(layers, tuple) else field[:, :, 0]

    return _read_on_root(comm, path, read)


def from_array(
    array: npt.ArrayLike,
    *,
    low: float | None = None,
    high: float | None = None,
    phases: Mapping[float, float] | None = None,
    cell_size: Sequence[float] | None = None,
    origin: Sequence[float] | None = None,
) -> LatticeField:
    """A lattice field from an array of values, or of grey values to be mapped. Not collective.

    Args:
        array: One (grey) value a cell, indexed (x, y) or (x, y, z).
        low: Coefficient of the smallest grey value; the others follow affinely up to ``high``.
        high: Coefficient of the largest grey value.
        phases: Coefficient of each grey value, in place of ``low`` and ``high``.
        cell_size: As in :class:`LatticeField`.
        origin: As in :class:`LatticeField`.

    Returns:
        The field.

    Raises:
        ValueError: A grey value without a phase, an incomplete mapping, or what
            :class:`LatticeField` refuses.
    """
    grey = np.asarray(array, dtype=np.float64)
    mapping = (low, high, phases)
    ok = [v is not None for v in mapping] in ([0, 0, 0], [1, 1, 0], [0, 0, 1])
    require(ok, "(low, high, phases)", mapping, "low and high, or phases, or none")
    numbers = [v for v in (low, high, *(phases or {}).values()) if v is not None]
    require(all(map(is_number, numbers)), "(low, high, phases)", mapping, "of real numbers")
    if phases is not None:
        levels, where = np.unique(grey, return_inverse=True)
        unknown = [v for v in levels.tolist() if v not in phases]
        require(not unknown, "Grey values", unknown[:5], f"among the phases {list(phases)}")
        grey = np.array([phases[v] for v in levels.tolist()])[where.reshape(grey.shape)]
    elif low is not None and high is not None:
        least, most = grey.min(initial=np.inf), grey.max(initial=-np.inf)
        require(least < most, "The grey values", "a single one", "at least two to be mapped")
        grey = low + (grey - least) / (most - least) * (high - low)
    return LatticeField(grey, cell_size, origin)


def _grey_images(path: Path) -> list[FloatArray]:
    """Return the images in a file as arrays indexed (x, y), with y upwards."""
    if path.suffix in (".npy", ".npz"):
        loaded = np.load(path)
        if isinstance(loaded, np.ndarray):
            return [loaded.astype(np.float64)]
        with loaded:
            require(len(loaded.files) == 1, "The arrays in the file", loaded.files, "one")
            return [loaded[loaded.files[0]].astype(np.float64)]
    try:
        from PIL import Image, ImageSequence
    except ImportError:
        raise ImportError(f"Reading the image {path} needs Pillow: pip install pillow.") from None
    grey = ("1", "L", "I", "I;16", "I;16L", "I;16B", "F")
    frames, left = [], MOST_PIXELS
    with warnings.catch_warnings():
        # Of large images Pillow warns, or refuses them, without saying what is expected.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                left -= frame.width * frame.height
                require(left >= 0, "Pixels", MOST_PIXELS - left, f"at most {MOST_PIXELS} in a file")
                f = frame if frame.mode in grey else frame.convert("L")
                frames.append(np.asarray(f, dtype=np.float64)[::-1].T)
    return frames


def read_image_stack(path: File | Sequence[File], *, comm: MPI.Comm = MPI.COMM_WORLD) -> FloatArray:
    """Read the grey values of an image or a stack of images, for :func:`from_array`.

    Rank 0 reads, and broadcasts. The rows of an image run from top to bottom, and y points up;
    the images of a stack follow each other along z.

    Args:
        path: An image (PNG, TIFF with one page or more, or another format of Pillow; colours
            become grey), a ``.npy`` or ``.npz`` file with one array indexed (x, y) or (x, y, z),
            a directory of images, which are taken in the order of their names, or a sequence of
            images.
        comm: Communicator. Collective.

    Returns:
        Grey values, shape ``(nx, ny)`` or ``(nx, ny, nz)``.

    Raises:
        FileNotFoundError: There is no such file. Raised on all ranks, like the next two.
        ImportError: The file is an image and Pillow is not installed.
        ValueError: The file is malformed, or images differ in shape.
    """

    def read() -> FloatArray:
        files = [_existing(p) for p in ([path] if isinstance(path, str | PathLike) else path)]
        if len(files) == 1 and files[0].is_dir():
            files = sorted(p for p in files[0].iterdir() if p.is_file())
        images = [image for p in files for image in _grey_images(p)]
        shapes = {image.shape for image in images}
        require(len(shapes) == 1, "The shapes of the images", sorted(shapes), "the same")
        return images[0] if len(images) == 1 else np.stack(images, axis=2)

    return _read_on_root(comm, path, read)
