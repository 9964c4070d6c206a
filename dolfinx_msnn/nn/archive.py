# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Model files of whatever origin: all that decides whether one is a model is checked before torch.

TorchScript archives have a reader of their own in torch, whose pickles are gone through first
(:mod:`~dolfinx_msnn.nn.pickles`); they may hold neither code that runs on loading nor operators
that touch files or the network. Reading a ``.pt2`` program would run pickles and evaluate
expressions; so only its weights are read, as plain numbers, into the network that the card
describes.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dolfinx_msnn._utils.files import reason
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
    """A model file in memory, its checksums and card checked.

    Attributes:
        name: Name of the file.
        data: All of it.
        entries: Its entries, named from the archive's only folder on.
        card: Its card.
        is_script: Whether it is TorchScript, or else of ``torch.export``.
    """

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
        entries = self._read()
        # One folder holds all of them.
        one = len({name.split("/")[0] for name in entries}) == 1
        self.entries = {name.partition("/")[2]: entry for name, entry in entries.items() if one}
        self.is_script = {"data.pkl", "constants.pkl"} <= self.entries.keys()
        if not self.is_script and "models/model.json" not in self.entries:
            raise ValueError(
                f"{self.name} is a zip archive but not a model, expected TorchScript or what "
                "torch.export writes."
            )
        if "extra/card.json" not in self.entries:
            raise ValueError(f"{self.name} has no card, expected a file written by save_model.")
        try:
            self.card = ModelCard.from_json(self.entries["extra/card.json"])
        except ValueError as exc:
            raise ValueError(f"{self.name} has no valid card: {reason(exc)}.") from None

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
        except Exception:
            raise ValueError(f"{self.name} is damaged or cut off: not a whole archive.") from None
        raise ValueError(f"{self.name} is not an archive that torch writes.")

    def script(self) -> torch.jit.ScriptModule:
        """Load TorchScript."""
        import torch

        if any(b"__setstate__" in code for code in self.entries.values()):
            raise ValueError(f"{self.name} holds code that runs on loading, expected none.")
        for part in ("data", "constants"):
            below = [name for name in self.entries if name.startswith(f"{part}/")]
            sizes = {name.removeprefix(f"{part}/"): len(self.entries[name]) for name in below}
            try:
                check_pickle(self.entries[f"{part}.pkl"], sizes)
            except ValueError as exc:
                raise ValueError(f"{self.name} is not a model that torch wrote: {exc}.") from None
        try:
            with quiet():
                load = cast("Callable[..., torch.jit.ScriptModule]", torch.jit.load)
                module = load(io.BytesIO(self.data), map_location="cpu")
                kinds = set(_kinds(module.inlined_graph))
        except Exception as exc:
            raise ValueError(
                f"{self.name} cannot be read as TorchScript: {_first_line(exc)}."
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
            listed = json.loads(self.entries["data/weights/model_weights_config.json"])["config"]
            state = {}
            for name, entry in listed.items():
                meta, raw = entry["tensor_meta"], self.entries[f"data/weights/{entry['path_name']}"]
                shape = [size["as_int"] for size in meta["sizes"]]
                strides = [size["as_int"] for size in meta["strides"]]
                dense = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
                if entry["use_pickle"] or strides != dense or meta["storage_offset"]["as_int"]:
                    raise ValueError("not plain numbers")
                values = np.frombuffer(raw, dtype="<f4").astype(np.float32)
                state[name] = torch.from_numpy(values.reshape(shape))
            sizes = {key: getattr(card, key) for key in ("width", "modes", "layers")}
            sizes["hidden"] = len(state["layers.0.expand.bias"])
            warp = len(state["head.bias"]) != card.n_out
            # Without memory, so that a card cannot ask for more than the archive holds.
            with torch.device("meta"):
                module = FFNO(card.dim, card.in_channels, card.n_out, **sizes, warp=warp)
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


def _first_line(exc: BaseException) -> str:
    """What torch says, without its stack trace and in one sentence."""
    lines = [line.strip() for line in str(exc).splitlines()]
    line = next((line for line in lines if line), type(exc).__name__)
    return line[:200].rstrip(". ").replace(". ", "; ")
