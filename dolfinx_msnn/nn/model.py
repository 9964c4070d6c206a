# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Model files: a network and the card that says what it is for, in one file.

A model file is a zip archive as torch writes it, with the card as the extra file ``card.json``:
either TorchScript, which may hold any network, or what ``torch.export`` writes (``.pt2``), which
must hold an :class:`~dolfinx_msnn.nn.ffno.FFNO`.

A file is not trusted. All that decides whether it is a model (archive, checksums, card) is checked
before torch sees it, and no Python pickle is ever run: TorchScript archives have a reader of their
own, whose pickles are gone through first (:mod:`~dolfinx_msnn.nn.pickles`), and may hold neither
code that runs on loading nor operators that touch files or the network.
Reading a ``.pt2`` program would run pickles and evaluate expressions; so only its weights are read,
as plain numbers, into the network that the card describes.

Importing this module and :func:`read_card` need no torch.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import re
import sys
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._version import __version__
from dolfinx_msnn.nn.pickles import check_pickle

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1

#: What the network's input holds; see :func:`dolfinx_msnn.nn.lattice.network_input`.
CONVENTION = "log-centred-0.25"

#: Bounds of a card's integers: a wrong one must not exhaust the memory.
_BOUNDS = {
    "format_version": (1, FORMAT_VERSION),
    "dim": (2, 3),
    "n_out": (1, 1024),
    "lattice": (2, 257),
    "samples": (1, 16),
    "num_fields": (0, 2**53),
    "width": (1, 4096),
    "modes": (1, 257),
    "layers": (1, 256),
}
_LARGEST_INPUT = 2**26
_LARGEST_ARCHIVE = 2**31

#: TorchScript operators that reach beyond the module, or hide what they call.
_REFUSED = re.compile(
    r"aten::(save|from_file)|prim::(rpc_.*|.*PythonOp|CallMethod|CallFunction|fork|awaitable.*)"
    r"|(?!aten::|prim::).*"
)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model is for, how it was made and how good it was.

    Attributes:
        pde: Name of the problem, such as ``"diffusion"``.
        dim: Dimension of space, 2 or 3.
        n_out: Lattice functions that the network predicts.
        classes: Classes of neighbourhoods it was trained on.
        lattice: Lattice nodes p in each direction.
        samples: Sub-boxes q in each direction around a node, of which the input holds log κ.
        log_kappa_range: Largest log(max κ / min κ) of a neighbourhood in training.
        family: Coefficient fields of the training set.
        num_fields: Number of fields in it.
        loss: Loss function.
        validation: Figures on fields that were not trained on.
        training_time_s: Seconds of training.
        hardware: What it was trained on.
        licence: Licence of the weights.
        width: Channels of the network.
        modes: Cosine modes per dimension.
        layers: Number of layers.
        input_convention: How the input is made; :data:`CONVENTION` is the only one.
        sha256: :func:`weights_hash`, in hexadecimal; set by :func:`save_model`, as the versions.
        package_version: Version of this package.
        torch_version: Version of torch.
        format_version: Version of the card.
    """

    pde: str
    dim: int
    n_out: int
    classes: tuple[str, ...]
    lattice: int
    samples: int
    log_kappa_range: float
    family: str
    num_fields: int
    loss: str
    training_time_s: float
    hardware: str
    licence: str
    width: int
    modes: int
    layers: int
    validation: Mapping[str, float] = field(default_factory=dict)
    input_convention: str = CONVENTION
    sha256: str = ""
    package_version: str = __version__
    torch_version: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Check types and bounds.

        Raises:
            ValueError: If an entry has another type than stated, or is out of bounds.
        """
        for entry in fields(self):
            _check_entry(entry.name, str(entry.type), getattr(self, entry.name))
        if self.input_convention != CONVENTION:
            raise ValueError(
                f"input_convention is {self.input_convention!r}, expected {CONVENTION!r}."
            )
        if not re.fullmatch(r"[0-9a-f]{64}|", self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r}, expected 64 hexadecimal digits.")
        if self.in_channels * self.lattice**self.dim > _LARGEST_INPUT:
            raise ValueError(
                f"samples {self.samples} and lattice {self.lattice} make inputs of more than "
                f"{_LARGEST_INPUT} numbers, expected fewer."
            )

    @property
    def in_channels(self) -> int:
        """Channels of the network's input."""
        return int(self.samples**self.dim + 2 * self.dim)

    def to_json(self) -> str:
        """The card as a JSON object, one entry for each attribute."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: If it is not a card: one sentence.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("The card is not valid JSON.") from None
        if not isinstance(data, dict):
            raise ValueError(f"The card is a {type(data).__name__}, expected a JSON object.")
        names = {entry.name for entry in fields(cls)}
        for what, keys in (("lacks", names - data.keys()), ("has", data.keys() - names)):
            if keys:
                entry = "the entry" if what == "lacks" else "the unknown entry"
                raise ValueError(f"The card {what} {entry} {min(keys)!r}.")
        if isinstance(data["classes"], list):
            data["classes"] = tuple(data["classes"])
        return cls(**data)


class Model:
    """A network with its card; made by :func:`load_model`.

    Attributes:
        card: The card.
        device: Where the network is.
    """

    def __init__(self, module: torch.nn.Module, card: ModelCard, device: torch.device) -> None:
        self.card, self.device, self._module = card, device, module

    def __call__(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Predict lattice functions.

        Args:
            inputs: Shape ``(B, C, *lattice)``, float32, with C of the card. The lattice may be
                finer than the card's, if the network can be evaluated there (an F-FNO can).

        Returns:
            Shape ``(B, n_out, *lattice)``, float32, not shared with torch. Not checked for NaN.

        Raises:
            ValueError: If shape or dtype of ``inputs`` do not fit the card.
            RuntimeError: If the network does not give what the card says.
        """
        import torch

        shape, dtype = np.shape(inputs), np.asarray(inputs).dtype
        lattice = shape[2:]
        if (
            shape[1:2] != (self.card.in_channels,)
            or len(lattice) != self.card.dim
            or min(lattice) < self.card.lattice
            or dtype != np.float32
        ):
            least = (self.card.lattice,) * self.card.dim
            raise ValueError(
                f"The input has shape {shape} and dtype {dtype}, expected "
                f"{('B', self.card.in_channels, *least)} (or a finer lattice) and float32."
            )
        expected = (shape[0], self.card.n_out, *lattice)
        if not shape[0]:
            return np.zeros(expected, dtype=np.float32)
        with torch.inference_mode():
            out = self._module(torch.tensor(inputs, device=self.device))
        if not isinstance(out, torch.Tensor) or out.dtype != torch.float32:
            raise RuntimeError("The network does not give a float32 tensor, as it should.")
        if tuple(out.shape) != expected:
            raise RuntimeError(
                f"The network gives shape {tuple(out.shape)}, the card says {expected}."
            )
        return np.array(out.cpu().numpy(), order="C")


def weights_hash(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the tensors of a state dict: names, dtypes, shapes and bytes in order of names.

    It depends neither on the archive nor on its format.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def save_model(
    path: str | os.PathLike[str], module: torch.nn.Module, card: ModelCard, *, pt2: bool = False
) -> ModelCard:
    """Write a model file; an existing one is replaced once the new one is complete.

    Args:
        path: Name of the file.
        module: Network with float32 weights, scripted or not; it is copied to the CPU and not
            changed.
        card: Its card. Hash and versions are filled in.
        pt2: Write a ``torch.export`` archive (of an FFNO) in place of TorchScript.

    Returns:
        The card as written.

    Raises:
        ValueError: If the network and the card do not fit.
    """
    import torch

    name = os.fspath(path)
    module = copy.deepcopy(module).cpu().eval()
    state = module.state_dict()
    _check_weights(state, "The network")
    card = replace(
        card,
        sha256=weights_hash(state),
        torch_version=str(torch.__version__),
        package_version=__version__,
    )
    _try_out(Model(module, card, torch.device("cpu")), "The network")
    extra = {"card.json": card.to_json()}
    # In the same folder, so that the last step cannot fail half-way.
    partial = f"{name}.{uuid.uuid4().hex}.part"
    try:
        with open(partial, "wb") as file, _quiet():
            if pt2:
                _check_ffno(module, card)
                shape = (2, card.in_channels, *(card.lattice,) * card.dim)
                batch = {0: torch.export.Dim("batch")}
                program = torch.export.export(
                    module, (torch.zeros(shape),), dynamic_shapes=(batch,)
                )
                torch.export.save(program, file, extra_files=extra)
            else:
                script = (
                    module
                    if isinstance(module, torch.jit.ScriptModule)
                    else torch.jit.script(module)
                )
                torch.jit.save(script, file, _extra_files=extra)
        os.replace(partial, name)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    return card


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read the card of a model file, without torch.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a model file.
    """
    return _Archive(path).card


def load_model(path: str | os.PathLike[str], *, device: str = "cpu") -> Model:
    """Load a model file and check it: archive, card, weights and their hash, and one evaluation.

    Args:
        path: Name of the file.
        device: torch's name of the device to put it on.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a model, is damaged, or does not do what its card says; or if the
            device is not available.
    """
    import torch

    archive = _Archive(path)
    try:
        where = torch.device(device)
        torch.zeros(1, device=where).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError):
        raise ValueError(f"device is {device!r}, expected one that torch has here.") from None
    module = archive.script() if archive.is_script else archive.ffno()
    state = module.state_dict()
    _check_weights(state, archive.name)
    if weights_hash(state) != archive.card.sha256:
        raise ValueError(f"{archive.name} has other weights than its card says: the hash differs.")
    with _quiet():
        model = Model(module.to(where).eval(), archive.card, where)
        _try_out(model, archive.name)
    return model


class _Archive:
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
            with _quiet():
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
def _quiet() -> Iterator[None]:
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


def _check_entry(name: str, kind: str, value: object) -> None:
    """Refuse an entry of a card that is of another type, not finite or out of bounds."""

    def number(x: object) -> bool:
        # Compared, because math.isfinite overflows with integers that JSON may hold.
        return (
            isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= sys.float_info.max
        )

    if kind == "str":
        good, expected = isinstance(value, str), "a string"
    elif kind == "int":
        low, high = _BOUNDS[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        good = whole and low <= value <= high  # type: ignore[operator]  # an int, by the line above
        expected = f"an integer from {low} to {high}"
    elif kind == "float":
        good, expected = number(value) and value >= 0, "a number >= 0"  # type: ignore[operator]  # as above
    elif kind.startswith("tuple"):
        good = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        expected = "strings"
    else:
        good = isinstance(value, Mapping) and all(
            isinstance(key, str) and number(item) for key, item in value.items()
        )
        expected = "names with finite numbers"
    if not good:
        raise ValueError(f"{name} is {str(value)[:80]!r}, expected {expected}.")


def _check_weights(state: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuse weights that are not finite numbers, and networks without any."""
    import torch

    if not state:
        raise ValueError(f"{name} has no weights.")
    for key, value in state.items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise ValueError(f"{name} has weights {key!r} of {value.dtype}, expected float32.")
        if not bool(torch.all(torch.isfinite(value))):
            raise ValueError(f"{name} has weights {key!r} that are not finite.")


def _check_ffno(module: torch.nn.Module, card: ModelCard) -> None:
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


def _try_out(model: Model, name: str) -> None:
    """Evaluate a model for two batches and refuse it if that is not what its card says."""
    card = model.card
    shape = (card.in_channels, *(card.lattice,) * card.dim)
    for batch in (1, 2):
        try:
            out = model(np.zeros((batch, *shape), dtype=np.float32))
        except RuntimeError as exc:
            # What torch raises has many lines; ours has one.
            told = str(exc).splitlines()
            reason = told[0].rstrip(".") if len(told) == 1 else "it fails"
        except Exception:
            reason = "it fails"
        else:
            if np.all(np.isfinite(out)):
                continue
            reason = "it gives numbers that are not finite"
        raise ValueError(
            f"{name} does not do what its card says for {card.in_channels} channels on a lattice "
            f"of {card.lattice} nodes in {card.dim} dimensions: {reason}."
        )
