# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What is read of model files before a network is made of it; needs no torch but for programs."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dolfinx_msnn._utils.files import reason
from dolfinx_msnn.nn.card import ModelCard

if TYPE_CHECKING:
    import torch

#: Largest model file and largest header or card of one, in bytes.
LARGEST_FILE, _LARGEST_HEADER = 2**30, 2**20


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read the card of a model file of any format; nothing else in it is looked at.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a model file.
    """
    name = os.fspath(path)
    program = is_program(name)
    try:
        if program:
            with zipfile.ZipFile(name) as archive:
                cards = (x for x in archive.namelist() if x.endswith("/extra/card.json"))
                with archive.open(next(cards)) as entry:
                    text = entry.read(_LARGEST_HEADER)
        else:
            with open(name, "rb") as file:
                length = min(int.from_bytes(file.read(8), "little"), _LARGEST_HEADER)
                text = json.loads(file.read(length))["__metadata__"]["card"]
    except (KeyError, StopIteration):
        raise ValueError(f"{name} has no card, expected a file written by save_model.") from None
    except Exception:
        raise ValueError(f"{name} is not a model, or damaged.") from None
    try:
        return ModelCard.from_json(text)
    except ValueError as error:
        raise ValueError(f"{name} has no valid card: {reason(error)}.") from None


def is_program(name: str) -> bool:
    """Whether a file is an archive, which holds code."""
    if not os.path.exists(name):
        raise FileNotFoundError(f"There is no file {name} with a model.")
    if not os.path.isfile(name):
        raise ValueError(f"{name} is not a file, expected a model.")
    if os.path.getsize(name) > LARGEST_FILE:
        raise ValueError(f"{name} is too large for a model: more than 1 GiB.")
    try:
        with open(name, "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}.") from None


def load_program(name: str, device: torch.device) -> torch.nn.Module:
    """Load TorchScript or a program of ``torch.export``."""
    import torch

    try:
        with quiet():
            with zipfile.ZipFile(name) as archive:
                script = any(x.endswith("/constants.pkl") for x in archive.namelist())
            if script:
                module: torch.nn.Module = torch.jit.load(name, map_location=device)
                return module.eval()
            program = torch.export.load(name)
            from torch.export.passes import move_to_device_pass

            return move_to_device_pass(program, device).module()
    except Exception as error:
        raise ValueError(f"{name} cannot be read by torch: {_first_line(error)}.") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's warnings, of deprecation above all, from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: BaseException) -> str:
    """What torch says, without its stack trace and in one sentence."""
    lines = [line.strip() for line in str(error).splitlines()]
    line = next((line for line in lines if line), type(error).__name__)
    return line.partition(". ")[0][:200].rstrip(". ")
