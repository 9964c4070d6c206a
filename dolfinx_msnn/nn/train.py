# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Training: the network's lattice functions, seen through the filter, against the true modes.

A step takes neighbourhoods of any shapes. The network sees them all at once, since its lattice is
the same for all; then, shape by shape, its outputs are interpolated to the dofs, filtered with
the true local matrices, and compared with the labels.

All that is random follows from the configuration's seed and the number of the step, so training
that was interrupted ends with the very weights it would have had.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dolfinx_msnn.bases.filtered import default_threads
from dolfinx_msnn.nn import dataset, losses
from dolfinx_msnn.nn.config import Config, Training
from dolfinx_msnn.nn.dataset import Dataset, Group
from dolfinx_msnn.nn.ffno import FFNO
from dolfinx_msnn.nn.filter import Pencils
from dolfinx_msnn.nn.lattice import num_channels
from dolfinx_msnn.nn.model import ModelCard, save_model

CHECKPOINT = "checkpoint.pt"

#: Keys that may change when training is resumed: they do not change what a step does.
_FREE = ("steps", "max_minutes", "patience", "checkpoint_seconds", "threads", "device")

#: What a checkpoint keeps of a run besides network, optimiser and random numbers.
_PROGRESS = (
    "average",
    "step",
    "elapsed",
    "best",
    "best_state",
    "best_validation",
    "stale",
    "bad",
    "recent",
    "history",
)

#: Steps on end with a loss that is not finite before training gives up.
_MAX_BAD = 20


@dataclass(frozen=True)
class Result:
    """What training ended with.

    Attributes:
        model: Path of the model file, or ``None`` if there was no validation yet.
        steps: Steps done, those before a resumption included.
        validation: Mean energy defect of the best weights, over all and by class.
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

    Writes ``<name>.pt`` (the weights of the best validation), ``checkpoint.pt``, ``curves.csv``
    and, if matplotlib is installed, ``curves.png``. SIGINT and SIGTERM end training after the
    current step, with a checkpoint.

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
    run = _Run(config, os.fspath(output), resume)
    with _signals() as received:
        return run.go(progress, lambda step: bool(received) or (stop is not None and stop(step)))


def learning_rate(training: Training, step: int, total: int) -> float:
    """Learning rate of a step, by its number and that of all steps alone."""
    if training.schedule == "one_cycle":
        rise, start = max(1, round(0.3 * total)), 0.04
    else:
        rise, start = min(training.warmup, max(1, total // 10)), 0.0
    if step < rise:
        share = start + (1 - start) * (step + 1) / rise
    else:
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total - rise))))
    return training.learning_rate * max(share, 1e-3)


class Shape:
    """Samples of one shape as tensors on the training device."""

    def __init__(self, group: Group, p: int, q: int, device: torch.device) -> None:
        self.group = group
        weights = group.lattice.tocsr()
        self._forth = _csr(weights).to(device)
        self._back = _csr(weights.T.tocsr()).to(device)
        tables = dataset.symmetries(group.class_name, group.sides, p, q)
        self.channels, self.nodes, self.inverse = (torch.from_numpy(t).to(device) for t in tables)

    def interpolate(self, functions: Tensor) -> Tensor:
        """Lattice functions, ``(B, N, p**d)``, at the dofs, ``(B, N, n)``."""
        return torch.as_tensor(_Interpolation.apply(functions, self._forth, self._back))

    def pencils(self, members: np.ndarray[Any, Any], device: torch.device) -> Pencils:
        """The local matrices of some samples."""
        group = self.group
        matrices = group.A[members], group.S[members]
        return Pencils(group.indptr, group.indices, *matrices).to(device)


class _Interpolation(torch.autograd.Function):
    """Product with a sparse matrix along the last axis; the gradient is one with its transpose."""

    @staticmethod
    def forward(ctx: Any, functions: Tensor, forth: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return _along_last(forth, functions)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _along_last(ctx.back, gradient), None, None


def _along_last(matrix: Tensor, y: Tensor) -> Tensor:
    flat = y.reshape(-1, y.shape[-1])
    return (matrix @ flat.T.contiguous()).T.reshape(*y.shape[:-1], -1).contiguous()


def _csr(matrix: Any) -> Tensor:
    indptr, indices = (
        torch.from_numpy(a.astype(np.int64)) for a in (matrix.indptr, matrix.indices)
    )
    values = torch.from_numpy(matrix.data.astype(np.float32))
    with warnings.catch_warnings():
        # "Sparse CSR tensor support is in beta state": a product is all that is asked of it.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(indptr, indices, values, matrix.shape, check_invariants=True)


def move(fields: Tensor, index: Tensor) -> Tensor:
    """Take the last axis of each sample by its own index, ``(B, C, n)`` and ``(B, n)``."""
    return torch.gather(fields, 2, index[:, None, :].expand(-1, fields.shape[1], -1))


class _Run:
    """One training: samples, network, optimiser, and where it stands."""

    def __init__(self, config: Config, output: str, resume: bool) -> None:
        self.config, self.output = config, output
        options = config.training
        torch.set_num_threads(default_threads(options.threads or None))
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("training.device is cuda, but torch finds no such device.")
        self.device = torch.device(options.device)
        path = os.path.join(output, CHECKPOINT)
        if resume and not os.path.isfile(path):
            raise FileNotFoundError(f"There is no checkpoint {path} to resume from.")
        if not resume and os.path.exists(path):
            raise ValueError(f"{path} is there already; resume it or choose another output folder.")
        self.train_set = self._load("train")
        self.check_set = self._load("validation")
        os.makedirs(output, exist_ok=True)

        self.dim = self.train_set.dim
        self.p, self.q = config.data.lattice, config.data.samples
        torch.manual_seed(config.seed)
        self.network = _network(config).to(self.device)
        self.average = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
        )
        self.shapes = [Shape(g, self.p, self.q, self.device) for g in self.train_set.groups]
        # (shape, sample in it) of all samples.
        self.members = np.concatenate(
            [
                np.stack([np.full(len(group), k), np.arange(len(group))], 1)
                for k, group in enumerate(self.train_set.groups)
            ]
        )
        self.step = 0
        self.total = options.steps or 10**9
        self.elapsed = 0.0
        self.best = math.inf
        self.best_state: dict[str, Tensor] | None = None
        self.best_validation: dict[str, float] = {}
        self.stale = self.bad = 0
        self.recent: list[float] = []
        self.history: list[dict[str, float]] = []
        if resume:
            self._restore(path)

    def _load(self, split: str) -> Dataset:
        data = self.config.data
        found = dataset.load(data.path, split=split, validation=data.validation, test=data.test)
        wanted = {
            "dim": self.config.problem.dim,
            "lattice": data.lattice,
            "samples": data.samples,
            "seed": self.config.seed,
        }
        for key, value in wanted.items():
            if found.provenance[key] != value:
                raise ValueError(
                    f"{data.path} was made with {key}={found.provenance[key]}, the configuration "
                    f"has {value}."
                )
        if self.config.network.outputs < found.provenance["num_modes"]:
            raise ValueError(
                f"network.outputs must be at least the {found.provenance['num_modes']} modes in "
                f"{data.path}, got {self.config.network.outputs}."
            )
        return found

    # ---- the loop ----

    def go(self, progress: bool, stop: Callable[[int], bool]) -> Result:
        """Train until something ends it."""
        options = self.config.training
        limit = 60.0 * options.max_minutes or math.inf
        per_epoch = -(-len(self.members) // options.batch_size)
        bar = _bar(progress, None if self.total == 10**9 else self.total, self.step)
        begun, before, saved = time.monotonic(), self.elapsed, time.monotonic()
        started = self.step
        reason, interrupted = "all steps are done", False
        order, epoch = np.empty(0, dtype=np.int64), -1
        while self.step < self.total:
            if self.step // per_epoch != epoch:
                epoch = self.step // per_epoch
                order = np.random.default_rng([self.config.seed, 2, epoch]).permutation(
                    len(self.members)
                )
            first = self.step % per_epoch * options.batch_size
            self.recent.append(self._step(self.members[order[first : first + options.batch_size]]))
            self.step += 1
            self.elapsed = before + time.monotonic() - begun
            at_validation = self.step % options.validate_every == 0 or self.step == self.total
            if at_validation:
                self._validate(epoch)
                self.elapsed = before + time.monotonic() - begun
            if not options.steps and (at_validation or self.step in (20, 100)):
                # The schedule ends when the time does, at the pace so far.
                pace = self.elapsed / self.step
                self.total = self.step + max(1, int((limit - self.elapsed) / pace))
                if at_validation and self.elapsed + options.validate_every * pace / 2 > limit:
                    self.total = self.step
            bar.show(self, self.step - started, options.batch_size)
            patient = not options.patience or self.stale < options.patience
            if stop(self.step):
                reason, interrupted = "interrupted", True
            elif not patient:
                reason = f"no progress in {self.stale} validations"
            elif self.elapsed > limit:
                reason = f"{options.max_minutes:g} minutes are over"
            else:
                if time.monotonic() - saved > options.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
                continue
            break
        bar.close()
        self._save()
        model = None if self.best_state is None else self._export()
        return Result(model, self.step, dict(self.best_validation), interrupted, reason)

    def _step(self, members: np.ndarray[Any, Any]) -> float:
        """One step of the optimiser; the mean loss of its samples."""
        options = self.config.training
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(options, self.step, self.total)
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        rng = np.random.default_rng([self.config.seed, 3, self.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss = torch.zeros((), device=self.device)
        for share, shape, part, output in self._predict(self.shapes, members, rng):
            loss = loss + share * self._loss(shape, part, output, generator)
        value = float(loss.detach())
        if not math.isfinite(value):
            # Rounding may spoil a sample; what is wrong for good shows in every step.
            self.bad += 1
            if self.bad > _MAX_BAD:
                raise ValueError(
                    f"The loss is {value} in {self.bad} steps on end, up to step {self.step}; "
                    "expected a finite one, try a smaller training.learning_rate."
                )
            return value
        self.bad = 0
        torch.autograd.backward(loss)
        if options.clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), options.clip)
        self.optimiser.step()
        if options.ema:
            # Short memory at first, or the average would remember the start.
            decay = min(options.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for key, value_now in self.network.state_dict().items():
                    if value_now.dtype.is_floating_point:
                        self.average[key].lerp_(value_now, 1 - decay)
        return value

    def _predict(
        self, shapes: list[Shape], members: np.ndarray[Any, Any], rng: np.random.Generator | None
    ) -> Iterator[tuple[float, Shape, np.ndarray[Any, Any], Tensor]]:
        """Predictions at the dofs, shape by shape, with each one's share of the batch."""
        members = members[np.argsort(members[:, 0], kind="stable")]
        used, starts = np.unique(members[:, 0], return_index=True)
        parts = [part[:, 1] for part in np.split(members, starts[1:])]
        nodes = self.p**self.dim
        inputs, inverse = [], []
        for k, part in zip(used, parts, strict=True):
            shape = shapes[k]
            x = torch.from_numpy(shape.group.inputs[part]).to(self.device).flatten(2)
            g = torch.zeros(len(part), dtype=torch.long)
            if rng is not None and self.config.training.augment:
                g = torch.from_numpy(rng.integers(len(shape.nodes), size=len(part)))
            g = g.to(self.device)
            channels = shape.channels[g][:, :, None].expand(-1, -1, nodes)
            x = x.clone()
            last = self.q**self.dim
            # Coordinates and proportions belong to the lattice, not to what lies on it.
            x[:, :last] = move(x.gather(1, channels)[:, :last], shape.nodes[g])
            inputs.append(x)
            inverse.append(shape.inverse[g])
        x = torch.cat(inputs)
        x = x.reshape(*x.shape[:2], *(self.p,) * self.dim)
        y = move(self.network(x).flatten(2), torch.cat(inverse))
        outputs = torch.split(y, [len(part) for part in parts])
        for k, part, output in zip(used, parts, outputs, strict=True):
            yield len(part) / len(members), shapes[k], part, shapes[k].interpolate(output)

    def _loss(
        self, shape: Shape, part: np.ndarray[Any, Any], y: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The configured loss of predictions of one shape."""
        options = self.config.training
        target = torch.from_numpy(shape.group.modes[part]).to(self.device)
        pencils = shape.pencils(part, self.device)
        y = pencils.filter(y, options.sweeps)
        if options.loss == "basis_l2":
            return losses.basis_l2(y, target)
        if options.loss == "sal":
            return losses.sal(y, target)
        if options.loss == "sal_pr":
            return losses.sal_pr(y, target, weight=options.sal_weight, generator=generator)
        values = shape.group.eigenvalues[part]
        if options.loss == "rayleigh":
            return losses.rayleigh(
                y,
                apply_a=pencils.apply_a,
                apply_s=pencils.apply_s,
                num_modes=target.shape[1],
                exact=torch.from_numpy(values.astype(np.float32)).to(self.device),
            )
        return losses.energy(y, target, inner=_inner(pencils, values, self.device))

    # ---- validation ----

    def _validate(self, epoch: int) -> None:
        """Energy defect of the modes after the filter, by class; keeps the best weights."""
        options = self.config.training
        current = {k: v.clone() for k, v in self.network.state_dict().items()}
        weights = self.average if options.ema else current
        self.network.load_state_dict(weights)
        found = self._defects()
        self.network.load_state_dict(current)
        finite = [loss for loss in self.recent if math.isfinite(loss)]
        row = {
            "step": self.step,
            "epoch": epoch,
            "elapsed_s": round(self.elapsed, 1),
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "loss": math.fsum(finite) / len(finite) if finite else math.nan,
            **found,
        }
        self.recent = []
        self.history.append(row)
        self.stale += 1
        if found["all"] < self.best:
            self.best, self.stale = found["all"], 0
            self.best_validation = found
            self.best_state = {k: v.clone() for k, v in weights.items()}
        self._write_curves()

    def _defects(self) -> dict[str, float]:
        """Mean energy defect over the validation's samples and by class."""
        options = self.config.training
        sums: dict[str, list[float]] = {}
        total = len(self.check_set)
        share = min(1.0, (options.validation_samples or total) / total)
        self.network.eval()
        with torch.no_grad():
            for group in self.check_set.groups:
                shape = [Shape(group, self.p, self.q, self.device)]
                size = max(1, round(share * len(group)))
                for first in range(0, size, options.batch_size):
                    rows = np.arange(first, min(first + options.batch_size, size))
                    members = np.stack([np.zeros_like(rows), rows], axis=1)
                    for _, only, part, output in self._predict(shape, members, None):
                        pencils = only.pencils(part, self.device)
                        y = pencils.filter(output, options.sweeps)
                        target = torch.from_numpy(group.modes[part]).to(self.device)
                        inner = _inner(pencils, group.eigenvalues[part], self.device)
                        value = float(losses.energy(y, target, inner=inner))
                        for name in ("all", group.class_name):
                            entry = sums.setdefault(name, [0.0, 0.0])
                            entry[0] += value * len(part)
                            entry[1] += len(part)
        return {name: value / count for name, (value, count) in sums.items()}

    # ---- files ----

    def _write_curves(self) -> None:
        names = list(dict.fromkeys(key for row in self.history for key in row))
        with _replacing(os.path.join(self.output, "curves.csv")) as draft:
            with open(draft, "w", newline="") as stream:
                writer = csv.DictWriter(stream, names)
                writer.writeheader()
                writer.writerows(self.history)
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            return
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for name in names[4:]:
            # A logarithmic axis has no place for zeros, nor for what is not finite.
            points = [(row["step"], row[name]) for row in self.history if row.get(name, 0) > 0]
            if not points:
                continue
            label = {"loss": "training loss", "all": "validation"}.get(name, f"validation, {name}")
            axes.semilogy(*zip(*points, strict=True), label=label, lw=2 if name == "all" else 1)
        axes.set(xlabel="step", ylabel="loss, energy defect", title=self.config.name)
        if axes.lines:
            axes.legend()
        axes.grid(alpha=0.3, which="both")
        with _replacing(os.path.join(self.output, "curves.png")) as draft:
            figure.savefig(draft, format="png", dpi=120)

    def _save(self) -> None:
        """Write the checkpoint."""
        state = {
            "config": self.config.as_dict(),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "total": self.total,
            **{key: getattr(self, key) for key in _PROGRESS},
        }
        with _replacing(os.path.join(self.output, CHECKPOINT)) as draft:
            torch.save(state, draft)

    def _restore(self, path: str) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            mine, theirs = _fixed(self.config.as_dict()), _fixed(state["config"])
            different = [key for key in mine if mine[key] != theirs.get(key)]
            if not different:
                self.network.load_state_dict(state["network"])
                self.optimiser.load_state_dict(state["optimiser"])
                torch.set_rng_state(state["rng"].cpu())
                for key in _PROGRESS:
                    setattr(self, key, state[key])
                if not self.config.training.steps:
                    self.total = state["total"]
        except Exception as exc:
            reason = " ".join(str(exc).split()).rstrip(".")[:200]
            raise ValueError(f"{path} is not a readable checkpoint: {reason}.") from exc
        if different:
            raise ValueError(
                f"{path} was made with another {different[0]} ({theirs.get(different[0])!r} there, "
                f"{mine[different[0]]!r} here); expected the same configuration."
            )

    def _export(self) -> str:
        """Write the model with the weights of the best validation, and its card."""
        config, network = self.config, self.config.network
        kappas = [
            g.inputs[:, : self.q**self.dim].reshape(len(g), -1) for g in self.train_set.groups
        ]
        contrast = max(float(np.ptp(k, axis=1).max()) for k in kappas) / 0.25
        card = ModelCard(
            pde="diffusion",
            dim=self.dim,
            n_out=network.outputs,
            classes=tuple(sorted({g.class_name for g in self.train_set.groups})),
            lattice=self.p,
            samples=self.q,
            log_kappa_range=contrast,
            family=", ".join(dict.fromkeys(f.name for f in config.families)),
            num_fields=len(self.train_set.descriptions),
            loss=f"{config.training.loss}, {config.training.sweeps} sweeps",
            validation=dict(self.best_validation),
            training_time_s=round(self.elapsed, 1),
            hardware=_hardware(self.device),
            licence="MIT",
            width=network.width,
            modes=network.modes,
            layers=network.layers,
        )
        assert self.best_state is not None
        best = _network(config)
        best.load_state_dict({k: v.cpu() for k, v in self.best_state.items()})
        path = os.path.join(self.output, f"{config.name}.pt")
        save_model(path, best, card)
        return path


def _network(config: Config) -> FFNO:
    """The untrained network of a configuration."""
    dim, network = config.problem.dim, config.network
    return FFNO(
        dim,
        num_channels(dim, config.data.samples),
        network.outputs,
        width=network.width,
        modes=network.modes,
        layers=network.layers,
        warp=network.warp,
    )


class _Bar:
    """A progress bar on a terminal, or nothing."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._start = time.monotonic()

    def show(self, run: _Run, done: int, batch_size: int) -> None:
        """Show loss, validation and pace."""
        if self._bar is None:
            return
        if run.total != self._bar.total and run.total < 10**9:
            self._bar.total = run.total
        pace = done * batch_size / max(1e-9, time.monotonic() - self._start)
        last = run.history[-1] if run.history else {}
        shown = {k: f"{last[n]:.3g}" for k, n in (("loss", "loss"), ("val", "all")) if n in last}
        self._bar.set_postfix({**shown, "samples/s": f"{pace:.3g}"}, refresh=False)
        self._bar.update(run.step - self._bar.n)

    def close(self) -> None:
        """Leave the last state on the terminal."""
        if self._bar is not None:
            self._bar.close()


def _bar(progress: bool, total: int | None, initial: int) -> _Bar:
    if not progress or not sys.stderr.isatty():
        return _Bar(None)
    from tqdm import tqdm

    return _Bar(tqdm(total=total, initial=initial, unit="step", dynamic_ncols=True))


def _inner(
    pencils: Pencils, eigenvalues: np.ndarray[Any, Any], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Apply A + λ S with λ the largest wanted eigenvalue of each sample."""
    top = torch.from_numpy(eigenvalues[:, -1].astype(np.float32)).to(device)[:, None, None]
    return lambda y: pencils.apply_a(y) + top * pencils.apply_s(y)


def _fixed(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a configuration that must not change, with dots."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if not isinstance(value, Mapping):
            flat[key] = value
            continue
        for inner, entry in value.items():
            if (key, inner) != ("data", "path") and not (key == "training" and inner in _FREE):
                flat[f"{key}.{inner}"] = list(entry) if isinstance(entry, tuple) else entry
    return flat


@contextmanager
def _replacing(path: str) -> Iterator[str]:
    """A name to write to, in the same folder, that becomes ``path`` when the body is through."""
    folder, base = os.path.split(path)
    draft = os.path.join(folder, f".{os.getpid()}.{base}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        if os.path.exists(draft):
            os.unlink(draft)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them; a second one kills."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hardware(device: torch.device) -> str:
    """What was trained on, without the machine's name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
