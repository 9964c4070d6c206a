# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Archives of model files, gone through before torch sees them.

No Python pickle is ever run: TorchScript archives have a reader of their own, whose pickles are
gone through first (:mod:`~dolfinx_msnn.nn.pickles`), and may hold neither code that runs on loading
nor operators that touch files or the network. Of a ``.pt2`` program only the weights are read, as
plain numbers, into the network that the card describes.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dolfinx_msnn.nn.card import ModelCard
from dolfinx_msnn.nn.pickles import check_pickle

if TYPE_CHECKING:
    import torch


_LARGEST_ARCHIVE = 2**31


#: TorchScript operators that reach beyond the module, or hide what they call.
_REFUSED = re.compile(
    r"aten::(save|from_file)|prim::(rpc_.*|.*PythonOp|CallMethod|CallFunction|fork|awaitable.*)"
    r"|(?!aten::|prim::).*"
)


class Archive:
    """A model file in memory, its checksums and card checked."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        try:
            # Read once: what is checked is what is loaded.
            with open(self.name, "rb") as file:
                self.data = file.read(_LARGEST_ARCHIVE + 1)
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {self.name} with a model.") from None
        except OSError as exc:
            raise ValueError(f"{self.name} cannot be read: {exc.strerror}.") from None
        self.entries = self._read()
        roots = {entry.split("/")[0] for entry in self.entries}
        self.root = roots.pop() if len(roots) == 1 else ""
        self.is_script = {"data.pkl", "constants.pkl"} <= self._below("")
        if not self.is_script and "models/model.json" not in self._below(""):
            raise ValueError(
                f"{self.name} is a zip archive but not a model, expected TorchScript or what "
                "torch.export writes."
            )
        if "extra/card.json" not in self._below(""):
            raise ValueError(f"{self.name} has no card, expected a file written by save_model.")
        try:
            self.card = ModelCard.from_json(self["extra/card.json"])
        except ValueError as exc:
            reason = str(exc).rstrip(".")
            raise ValueError(f"{self.name} has no valid card: {reason}.") from None

    def __getitem__(self, entry: str) -> bytes:
        return self.entries[f"{self.root}/{entry}"]

    def _below(self, folder: str) -> set[str]:
        """Names of the entries in a folder of the archive."""
        prefix = f"{self.root}/{folder}"
        return {entry.removeprefix(prefix) for entry in self.entries if entry.startswith(prefix)}

    def _sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the entries in a folder of the archive."""
        return {name: len(self[f"{folder}/{name}"]) for name in self._below(f"{folder}/")}

    def _read(self) -> dict[str, bytes]:
        """All entries; reading them compares their checksums."""
        if len(self.data) > _LARGEST_ARCHIVE:
            raise ValueError(f"{self.name} is too large for a model: more than 2 GiB.")
        if not self.data.startswith(b"PK\x03\x04"):
            raise ValueError(f"{self.name} is not a model, expected a zip archive of torch.")
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                listed = archive.infolist()
                # Torch compresses nothing but its code: more is a trap.
                large = sum(entry.file_size for entry in listed) > 2**24 + 4 * len(self.data)
                double = len({entry.filename for entry in listed}) < len(listed)
                if not large and not double:
                    return {entry.filename: archive.read(entry) for entry in listed}
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError):
            raise ValueError(f"{self.name} is damaged or cut off: not a whole archive.") from None
        except (NotImplementedError, OverflowError, LookupError, MemoryError, TypeError):
            raise ValueError(f"{self.name} is damaged: not an archive that torch writes.") from None
        raise ValueError(f"{self.name} is not an archive that torch writes.")

    def script(self) -> torch.jit.ScriptModule:
        """Load TorchScript."""
        import torch

        if any(b"__setstate__" in code for code in self.entries.values()):
            raise ValueError(f"{self.name} holds code that runs on loading, expected none.")
        for part in ("data", "constants"):
            try:
                check_pickle(self[f"{part}.pkl"], self._sizes(part))
            except ValueError as exc:
                raise ValueError(f"{self.name} is not a model that torch wrote: {exc}.") from None
        try:
            with quiet():
                load = cast("Callable[..., torch.jit.ScriptModule]", torch.jit.load)
                module = load(io.BytesIO(self.data), map_location="cpu")
                kinds = set(_kinds(module.inlined_graph))
        except Exception as exc:
            raise ValueError(
                f"{self.name} cannot be read as TorchScript: {first_line(exc)}."
            ) from None
        refused = sorted(kind for kind in kinds if _REFUSED.fullmatch(kind))
        if refused:
            raise ValueError(f"{self.name} uses the operator {refused[0]}, which is not allowed.")
        return module

    def ffno(self) -> torch.nn.Module:
        """Build the network of the card and fill in the weights of a ``torch.export`` archive."""
        import torch

        from dolfinx_msnn.nn.ffno import FFNO

        card = self.card
        try:
            listed = json.loads(self["data/weights/model_weights_config.json"])["config"]
            state = {}
            for name, entry in listed.items():
                meta, raw = entry["tensor_meta"], self[f"data/weights/{entry['path_name']}"]
                shape = [size["as_int"] for size in meta["sizes"]]
                strides = [size["as_int"] for size in meta["strides"]]
                dense = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
                if entry["use_pickle"] or strides != dense or meta["storage_offset"]["as_int"]:
                    raise ValueError("not plain numbers")
                values = np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)
                state[name] = torch.from_numpy(values)
            hidden = len(state["layers.0.expand.bias"])
            # Without memory, so that a card cannot ask for more than the archive holds.
            with torch.device("meta"):
                module = FFNO(
                    card.dim,
                    card.in_channels,
                    card.n_out,
                    width=card.width,
                    modes=card.modes,
                    layers=card.layers,
                    hidden=hidden,
                    warp=len(state["head.bias"]) != card.n_out,
                )
            module.load_state_dict(state, assign=True)
        except Exception:
            raise ValueError(
                f"{self.name} does not hold the weights of the network that its card describes."
            ) from None
        return module.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's warnings, of deprecation above all, from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _kinds(block: Any) -> Iterator[str]:
    """Operators of a TorchScript graph, those of its loops and branches included."""
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)


def first_line(exc: BaseException) -> str:
    """What torch says, without its stack trace and in one sentence."""
    lines = [line.strip() for line in str(exc).splitlines()]
    line = next((line for line in lines if line), type(exc).__name__)
    return line[:200].rstrip(". ").replace(". ", "; ")


def check_ffno(module: torch.nn.Module, card: ModelCard) -> None:
    """Refuse what cannot be built again from the card alone."""
    from dolfinx_msnn.nn.ffno import FFNO

    if not isinstance(module, FFNO):
        raise ValueError(f"The network is a {type(module).__name__}, a .pt2 file needs an FFNO.")
    spectral = module.state_dict()["layers.0.spectral"]
    shape = (len(module.layers), *spectral.shape[:3])
    if shape != (card.layers, card.dim, card.modes, card.width):
        raise ValueError(
            f"The network has {shape} layers, dimensions, modes and channels, the card says "
            f"{(card.layers, card.dim, card.modes, card.width)}."
        )
