# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Model files: a network and the card that says what it is for, in one file.

A model file is a zip archive as torch writes it, with the card as the extra file ``card.json``:
either TorchScript, which may hold any network, or what ``torch.export`` writes (``.pt2``), which
must hold an :class:`~dolfinx_msnn.nn.ffno.FFNO`.

A file is not trusted: no Python pickle is ever run, see :mod:`~dolfinx_msnn.nn.archive`. Importing
this module and :func:`read_card` need no torch.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dolfinx_msnn._utils.files import replacing
from dolfinx_msnn._version import __version__
from dolfinx_msnn.nn.archive import Archive, quiet
from dolfinx_msnn.nn.card import CONVENTION, FORMAT_VERSION, ModelCard

if TYPE_CHECKING:
    import torch

__all__ = [
    "CONVENTION",
    "FORMAT_VERSION",
    "Model",
    "ModelCard",
    "load_model",
    "read_card",
    "save_model",
    "weights_hash",
]


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
    with replacing(name) as draft, open(draft, "wb") as file, quiet():
        if pt2:
            _check_ffno(module, card)
            shape = (2, card.in_channels, *(card.lattice,) * card.dim)
            batch = {0: torch.export.Dim("batch")}
            program = torch.export.export(module, (torch.zeros(shape),), dynamic_shapes=(batch,))
            torch.export.save(program, file, extra_files=extra)
        else:
            scripted = isinstance(module, torch.jit.ScriptModule)
            script = module if scripted else torch.jit.script(module)
            torch.jit.save(script, file, _extra_files=extra)
    return card


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read the card of a model file, without torch.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a model file.
    """
    return Archive(path).card


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

    archive = Archive(path)
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
    with quiet():
        model = Model(module.to(where).eval(), archive.card, where)
        _try_out(model, archive.name)
    return model


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
