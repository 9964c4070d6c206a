# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Model files: the weights of a network and the card that says what it is for.

The package's own models are safetensors files: the weights of an
:class:`~dolfinx_msnn.nn.ffno.FFNO`, and the card as the metadata ``card``. Nothing in them is run.

Networks of other origin are TorchScript (``.pt``) or what ``torch.export`` writes (``.pt2``), with
the card as the extra file ``card.json``. They are programs, and loaded only where they are trusted.

Importing this module and :func:`read_card` need neither torch nor safetensors.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.files import reason, write_file
from dolfinx_msnn._version import __version__
from dolfinx_msnn.nn.card import ModelCard, check_lattice
from dolfinx_msnn.nn.model_file import LARGEST_FILE, is_program, load_program, quiet, read_card

if TYPE_CHECKING:
    import torch

__all__ = [
    "Model",
    "ModelCard",
    "export_model",
    "load_model",
    "read_card",
    "save_model",
    "weights_hash",
]

_SIZES = ("width", "modes", "layers", "constant", "steps")
_SUFFIXES = (".safetensors", ".pt", ".pt2")


class Model:
    """A network with its card; made by :func:`load_model`.

    Attributes:
        card: The card.
        device: Where the network is.
        network: The module.
    """

    def __init__(self, module: torch.nn.Module, card: ModelCard, device: torch.device) -> None:
        self.card, self.device, self.network = card, device, module

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
        expected = (shape[0], self.card.n_out, *map(self.card.out_nodes, lattice))
        if not shape[0]:
            return np.zeros(expected, dtype=np.float32)
        with torch.inference_mode():
            out = self.network(torch.tensor(inputs, device=self.device))
        if not isinstance(out, torch.Tensor) or out.dtype != torch.float32:
            raise RuntimeError("The network does not give a float32 tensor, as it should.")
        if tuple(out.shape) != expected:
            raise RuntimeError(
                f"The network gives shape {tuple(out.shape)}, the card says {expected}."
            )
        return np.array(out.cpu().numpy(), order="C")


def weights_hash(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the tensors of a state dict: names, dtypes, shapes and bytes in order of names.

    It does not depend on the format of a file.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def save_model(path: str | os.PathLike[str], module: torch.nn.Module, card: ModelCard) -> ModelCard:
    """Write a model file; an existing one is replaced once the new one is complete.

    Args:
        path: Name of the file, which says its format: ``.safetensors`` for the weights of an FFNO,
            ``.pt`` for TorchScript or ``.pt2`` for a program of ``torch.export`` of any network.
        module: Network with float32 weights; it is copied to the CPU and not changed.
        card: Its card. Hash and versions are filled in.

    Returns:
        The card as written.

    Raises:
        ValueError: If the network and the card do not fit.
    """
    import torch

    from dolfinx_msnn.nn.ffno import FFNO

    name = os.fspath(path)
    suffix = _suffix(name, _SUFFIXES)
    module = copy.deepcopy(module).cpu().eval()
    state = module.state_dict()
    _check_weights(state, "The network")
    if suffix == ".safetensors":
        if not isinstance(module, FFNO):
            kind = type(module).__name__
            raise ValueError(f"The network is a {kind}, a .safetensors file needs an FFNO.")
        _ffno(state, card, "The network")
    card = replace(
        card,
        sha256=weights_hash(state),
        torch_version=str(torch.__version__),
        package_version=__version__,
    )
    _try_out(Model(module, card, torch.device("cpu")), "The network")
    extra = {"card.json": card.to_json()}
    # In memory: torch may end the process where a disk is full.
    file = io.BytesIO()
    with quiet():
        if suffix == ".safetensors":
            from safetensors.torch import save

            file.write(save(state, {"card": card.to_json()}))
        elif suffix == ".pt2":
            shape = (2, card.in_channels, *(card.lattice,) * card.dim)
            batch = {0: torch.export.Dim("batch")}
            program = torch.export.export(module, (torch.zeros(shape),), dynamic_shapes=(batch,))
            torch.export.save(program, file, extra_files=extra)
        else:
            scripted = isinstance(module, torch.jit.ScriptModule)
            script = module if scripted else torch.jit.script(module)
            torch.jit.save(script, file, _extra_files=extra)
    write_file(name, file.getvalue())
    return card


def export_model(model: str | os.PathLike[str], path: str | os.PathLike[str]) -> ModelCard:
    """Write a model of this package as a program, for use without the package.

    Args:
        model: Its ``.safetensors`` file.
        path: File to write, ``.pt`` (TorchScript) or ``.pt2`` (``torch.export``).

    Returns:
        The card as written.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it is not a model of this package.
    """
    _suffix(os.fspath(path), _SUFFIXES[1:])
    if is_program(os.fspath(model)):
        raise ValueError(f"{os.fspath(model)} is a program already, expected a safetensors file.")
    return save_model(path, *_read(os.fspath(model)))


def load_model(path: str | os.PathLike[str], *, device: str = "cpu", trust: bool = False) -> Model:
    """Load a model file and check it: card, weights and their hash, and two evaluations.

    Args:
        path: Name of the file.
        device: torch's name of the device to put it on.
        trust: Load a file that is a program (``.pt``, ``.pt2``), too. It can do whatever you can:
            only for files from people whom you would let run a program on your machine.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a model, is damaged, or does not do what its card says; if it is a
            program that is not trusted; or if the device is not available.
    """
    import torch

    name = os.fspath(path)
    try:
        where = torch.device(device)
        torch.zeros(1, device=where).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError):
        raise ValueError(f"device is {device!r}, expected one that torch has here.") from None
    if is_program(name) and trust:
        card = read_card(name)
        module = load_program(name, where)
        state = module.state_dict()
        _check_weights(state, name)
        _check_hash(state, card, name)
    else:
        module, card = _read(name)
        module = module.to(where)
        # TorchScript needs a Python that torch supports it on.
        if sys.version_info < (3, 14):
            with quiet():
                module = torch.jit.script(module)
    model = Model(module, card, where)
    with quiet():
        _try_out(model, name)
    return model


def _suffix(name: str, allowed: tuple[str, ...]) -> str:
    """The suffix of a model file to write."""
    suffix = os.path.splitext(name)[1]
    if suffix not in allowed:
        raise ValueError(f"The model file {name} must end in {' or '.join(allowed)}.")
    return suffix


def _read(name: str) -> tuple[torch.nn.Module, ModelCard]:
    """Network and card of a file of this package."""
    from safetensors.torch import load

    if is_program(name):
        raise ValueError(
            f"{name} is a program, which can do whatever you can; load it with trust=True (msnn: "
            "--trust) only if you would let run any program of whoever made it."
        )
    card = read_card(name)
    try:
        with open(name, "rb") as file:
            # Read once: what is checked is what is used. Sizes are checked against the file's.
            state = load(file.read(LARGEST_FILE))
    except Exception as error:
        raise ValueError(f"{name} is damaged: {reason(error)[:200]}.") from None
    network = _ffno(state, card, name)
    _check_weights(state, name)
    _check_hash(state, card, name)
    return network, card


def _ffno(state: Mapping[str, torch.Tensor], card: ModelCard, name: str) -> torch.nn.Module:
    """The network of a card, with these weights."""
    import torch

    from dolfinx_msnn.nn.ffno import FFNO

    try:
        # Two sizes are not on the card.
        hidden = len(state["layers.0.expand.bias"])
        warp = len(state["head.bias"]) != card.n_out - card.constant + card.steps
        sizes = {key: getattr(card, key) for key in _SIZES}
        check_lattice(card.dim, card.lattice, max(hidden, card.width))
        layer = card.dim * card.modes * card.width**2 + 2 * card.width * hidden
        size = card.layers * layer + card.width * (card.in_channels + card.n_out)
        # A card must not ask for more memory than the file takes.
        if size > sum(value.numel() for value in state.values()):
            raise ValueError
        with torch.random.fork_rng(devices=[]):
            network = FFNO(
                card.dim,
                card.in_channels,
                card.n_out,
                hidden=hidden,
                warp=warp,
                samples=card.samples * card.fine,
                **sizes,
            )
        network.load_state_dict(dict(state), assign=True)
    except Exception:
        raise ValueError(
            f"{name} does not hold the weights of the network that its card describes."
        ) from None
    return network.eval()


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


def _check_hash(state: Mapping[str, torch.Tensor], card: ModelCard, name: str) -> None:
    if weights_hash(state) != card.sha256:
        raise ValueError(f"{name} has other weights than its card says: the hash differs.")


def _try_out(model: Model, name: str) -> None:
    """Evaluate a model for two batches and refuse it if that is not what its card says."""
    card = model.card
    shape = (card.in_channels, *(card.lattice,) * card.dim)
    for batch in (1, 2):
        try:
            finite = np.isfinite(model(np.zeros((batch, *shape), dtype=np.float32))).all()
            why = "" if finite else "it gives numbers that are not finite"
        except Exception as error:
            # What torch raises has many lines; ours has one.
            told = str(error).splitlines()
            why = told[0].rstrip(".") if len(told) == 1 else "it fails"
        if why:
            raise ValueError(
                f"{name} does not do what its card says for {card.in_channels} channels on a "
                f"lattice of {card.lattice} nodes in {card.dim} dimensions: {why}."
            )
