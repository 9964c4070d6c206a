# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Training: the network's lattice functions, seen through the filter, against the true modes.

All that is random follows from the configuration's seed and the number of the step, so training
that was interrupted ends with the very weights it would have had. What a step does is in
:mod:`~dolfinx_msnn.nn.steps`. Nothing here needs DOLFINx, MPI or PETSc: a set of samples that was
made elsewhere is trained on by ``python -m dolfinx_msnn.nn.train config.toml``.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import torch
from tqdm import tqdm

from dolfinx_msnn._utils.checks import default_threads
from dolfinx_msnn.nn import dataset
from dolfinx_msnn.nn.card import CONVENTIONS, LOG_SCALE
from dolfinx_msnn.nn.checkpoint import (
    State,
    clone,
    create_network,
    create_state,
    load_checkpoint,
    save_checkpoint,
)
from dolfinx_msnn.nn.config import Config
from dolfinx_msnn.nn.dataset import Dataset
from dolfinx_msnn.nn.model import ModelCard, save_model
from dolfinx_msnn.nn.record import show, write_curves
from dolfinx_msnn.nn.steps import Shape, batches, step, validate

#: Name of the file in the output folder that training goes on from.
CHECKPOINT = "checkpoint.pt"

_ON_CARD = ("width", "modes", "layers", "fine", "constant", "steps")


@dataclass(frozen=True)
class Result:
    """What training ended with.

    Attributes:
        model: Path of the model file, or ``None`` if there was no validation yet.
        steps: Steps done, those before a resumption included.
        validation: Figures of the best weights, over all and by class, see
            :func:`~dolfinx_msnn.nn.steps.validate`.
        interrupted: Whether a signal or ``stop`` ended it.
        reason: Why it ended, in words.
    """

    model: str | None
    steps: int
    validation: dict[str, float]
    interrupted: bool
    reason: str


def train(
    config: Config,
    *,
    output: str | os.PathLike[str],
    resume: bool = False,
    progress: bool = True,
    stop: Callable[[int], bool] | None = None,
) -> Result:
    """Train a network and write model, checkpoint and learning curves to a folder.

    Writes ``<name>.safetensors`` (the weights of the best validation), ``checkpoint.pt``,
    ``curves.csv`` and, if matplotlib is installed, ``curves.png``. SIGINT and SIGTERM end training
    after the current step, with a checkpoint.

    Args:
        config: Configuration; its set of samples must be there.
        output: Folder, made if need be.
        resume: Go on from the folder's checkpoint.
        progress: Show a progress bar if standard error is a terminal.
        stop: Called with the number of steps done after each; training is interrupted if true.

    Raises:
        ValueError: If the samples, the configuration and the checkpoint do not fit together, if
            there is a checkpoint but ``resume`` is not given, or if the loss is not finite.
        FileNotFoundError: If there are no samples, or nothing to resume.
    """
    folder, options = os.fspath(output), config.training
    torch.set_num_threads(default_threads(options.threads or None))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("training.device is cuda, but torch finds no such device.")
    device = torch.device(options.device)
    checkpoint = os.path.join(folder, CHECKPOINT)
    if resume and not os.path.isfile(checkpoint):
        raise FileNotFoundError(f"There is no checkpoint {checkpoint} to resume from.")
    if not resume and os.path.exists(checkpoint):
        raise ValueError(
            f"{checkpoint} is there already; resume it or choose another output folder."
        )
    samples = load_samples(config, "train")
    shapes, unseen = (
        [Shape(group, device, config.data, config.network.fine) for group in part.groups]
        for part in (samples, load_samples(config, "validation"))
    )
    os.makedirs(folder, exist_ok=True)
    state = create_state(config, device)
    if resume:
        load_checkpoint(checkpoint, state, config)

    limit = 60.0 * options.max_minutes or math.inf
    saved = time.monotonic()
    begun = saved - state.elapsed
    why = "all steps are done"
    steps = batches(shapes, options.batch_size, config.seed, state.step)
    # Without a terminal there is no bar.
    bar = tqdm(
        initial=state.step, unit="step", dynamic_ncols=True, disable=None if progress else True
    )
    with _signals() as received, bar:
        while state.step < state.total:
            epoch, batch = next(steps)
            state.recent.append(step(state, config, shapes, batch))
            state.step += 1
            state.elapsed = time.monotonic() - begun
            validated = state.step % options.validate_every == 0 or state.step == state.total
            if validated:
                _validate(state, config, unseen, epoch)
                write_curves(folder, state.history, config.name)
                state.elapsed = time.monotonic() - begun
            if not options.steps and (validated or state.step in (20, 100)):
                # The schedule ends when the time does, at the pace so far.
                pace = state.elapsed / state.step
                state.total = state.step + max(1, int((limit - state.elapsed) / pace))
                if validated and state.elapsed + options.validate_every * pace / 2 > limit:
                    state.total = state.step
            show(bar, state)
            if received or (stop is not None and stop(state.step)):
                why = "interrupted"
            elif options.patience and state.stale >= options.patience:
                why = f"no progress in {state.stale} validations"
            elif state.elapsed > limit:
                why = f"{options.max_minutes:g} minutes are over"
            else:
                if time.monotonic() - saved > options.checkpoint_seconds:
                    save_checkpoint(checkpoint, state, config)
                    saved = time.monotonic()
                continue
            break
        save_checkpoint(checkpoint, state, config)
        model = None if state.best_state is None else _export(state, config, samples, folder)
    return Result(model, state.step, dict(state.best_validation), why == "interrupted", why)


def load_samples(config: Config, split: str) -> Dataset:
    """The samples of a split, if they are those of the configuration."""
    data = config.data
    found = dataset.load(data.path, split=split, validation=data.validation, test=data.test)
    wanted = {
        "dim": config.problem.dim,
        "lattice": data.lattice,
        "samples": data.samples,
        "seed": config.seed,
        "solutions": data.solutions,
        "kinds": list(data.kinds) if data.solutions else [],
    }
    for key, value in wanted.items():
        if found.provenance[key] != value:
            raise ValueError(
                f"{data.path} was made with {key}={found.provenance[key]}, the configuration has "
                f"{value}."
            )
    if config.network.outputs < found.provenance["num_modes"]:
        raise ValueError(
            f"network.outputs must be at least the {found.provenance['num_modes']} modes in "
            f"{data.path}, got {config.network.outputs}."
        )
    return found


def _validate(state: State, config: Config, unseen: Sequence[Shape], epoch: int) -> None:
    """Energy defect of the modes after the filter, by class; keeps the best weights."""
    current = clone(state.network.state_dict())
    weights = state.average if config.training.ema else current
    state.network.load_state_dict(weights)
    found = validate(state.network, unseen, config.training)
    state.network.load_state_dict(current)
    finite = [loss for loss in state.recent if math.isfinite(loss)]
    row = {
        "step": state.step,
        "epoch": epoch,
        "elapsed_s": round(state.elapsed, 1),
        "learning_rate": state.optimisers[0].param_groups[0]["lr"],
        "loss": math.fsum(finite) / len(finite) if finite else math.nan,
        **found,
    }
    state.recent = []
    state.history.append(row)
    state.stale += 1
    if found["all"] < state.best:
        state.best, state.stale = found["all"], 0
        state.best_validation, state.best_state = found, clone(weights)


def _export(state: State, config: Config, samples: Dataset, folder: str) -> str:
    """Write the model with the weights of the best validation, and its card."""
    network, data, training = config.network, config.data, config.training
    num_boxes = data.samples**samples.dim
    kappas = [g.inputs[:, :num_boxes].reshape(len(g), -1) for g in samples.groups]
    card = ModelCard(
        pde="diffusion",
        dim=samples.dim,
        n_out=network.outputs,
        classes=tuple(sorted({g.class_name for g in samples.groups})),
        lattice=data.lattice,
        samples=data.samples,
        log_kappa_range=max(float(np.ptp(k, axis=1).max()) for k in kappas) / LOG_SCALE,
        family=", ".join(dict.fromkeys(family.name for family in config.families)),
        num_fields=len(samples.descriptions),
        loss=f"{training.loss}, {training.sweeps} sweeps",
        validation=dict(state.best_validation),
        training_time_s=round(state.elapsed, 1),
        hardware=_hardware(training.device),
        licence="MIT",
        loads=data.kinds if data.solutions else (),
        input_convention=CONVENTIONS[data.solutions > 0],
        **{key: getattr(network, key) for key in _ON_CARD},
    )
    best = create_network(config)
    assert state.best_state is not None
    best.load_state_dict({name: weight.cpu() for name, weight in state.best_state.items()})
    path = os.path.join(folder, f"{config.name}.safetensors")
    save_model(path, best, card)
    return path


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them; a second one kills."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    # Python hands signals to the main thread only.
    main = threading.current_thread() is threading.main_thread()
    caught = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.signal(number, note) for number in caught}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hardware(device: str) -> str:
    """What was trained on, without the machine's name."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def main() -> None:
    """Train on a machine without DOLFINx, from a set of samples made elsewhere."""
    parser = argparse.ArgumentParser(prog="python -m dolfinx_msnn.nn.train", description=__doc__)
    parser.add_argument("config", help="configuration, a TOML file")
    parser.add_argument("-o", "--output", help="folder for the results; default runs/NAME")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    options = parser.parse_args()
    config = Config.read(options.config)
    folder = options.output or os.path.join("runs", config.name)
    print(train(config, output=folder, resume=options.resume))


if __name__ == "__main__":
    main()
