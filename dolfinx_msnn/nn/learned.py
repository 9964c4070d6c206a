# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Functions predicted by a network: as they are, or filtered and compressed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.sparse as sp
import torch

from dolfinx_msnn._utils.chebyshev import smoothing_end
from dolfinx_msnn._utils.checks import (
    default_threads,
    is_integer,
    is_number,
    positive_integer,
    require,
)
from dolfinx_msnn._utils.linalg import RANK_TOLERANCE
from dolfinx_msnn.bases import kernels
from dolfinx_msnn.bases.cosines import HIGH_JUMP, cosine_end, cosines, num_start
from dolfinx_msnn.bases.filtered import (
    MAX_SWEEPS,
    FilteredBasis,
    FilterReport,
    FilterSettings,
    Unfit,
    in_threads,
)
from dolfinx_msnn.bases.kernels import Block, Matrix
from dolfinx_msnn.bases.pencil import Pencil, Precision
from dolfinx_msnn.bases.protocol import LocalBasis, LocalModes, is_local_basis, remember
from dolfinx_msnn.local.problem import LocalProblem
from dolfinx_msnn.nn.card import check_lattice
from dolfinx_msnn.nn.lattice import Pose, interpolation, largest_jump, network_input
from dolfinx_msnn.nn.model import Model, load_model
from dolfinx_msnn.pretrained import pretrained_models

#: Neighbourhoods that the network sees at a time.
BATCH = 64

_NUM_MODES = 8

#: Largest jump of the coefficient between samples, for predictions that are used as they are.
MAX_JUMP = 20.0


@dataclass(frozen=True)
class LearnedReport:
    """Where the modes of one neighbourhood came from.

    Attributes:
        vertex: Coarse vertex.
        source: ``"model"`` or ``"fallback"``.
        reason: Why the model was not used; empty if it was.
        in_range: Whether the contrast of κ is within that of the model's training.
        filtered: How the filter ended, if there was one.
    """

    vertex: int
    source: str
    reason: str
    in_range: bool
    filtered: FilterReport | None


class LearnedBasis:
    """Functions from a network's prediction, as they are or filtered and compressed.

    κ is sampled on a lattice in each neighbourhood; the network predicts lattice functions, which
    are interpolated to the fine dofs. With ``refine=None`` they are used as they are, and nobody
    looks at the local matrices; this is what models are for that were trained on solutions.
    Otherwise they are filtered (a Chebyshev polynomial of D⁻¹A_i) and compressed by Rayleigh-Ritz
    in the true pencil. So the mesh, the element degree and the shape of the
    neighbourhood may differ from those of training. Where the model has no answer (a class it was
    not trained for, a coefficient that jumps too much, a prediction that is not finite), another
    basis steps in.

    Source: Rudikov et al., "Locally subspace-informed neural operators for efficient multiscale
    PDE solving", ICLR 2026, who use the prediction as it is.

    Args:
        model: Model file, or a model that has been loaded.
        kappa: The coefficient, positive: ``Function``, ``Constant``, UFL expression or number.
        num_modes: Number of modes in each neighbourhood, at most the model's outputs. Default: 8,
            or with ``refine=None`` all outputs, which then are no fewer.
        refine: ``"filter"``, or ``None`` to use the prediction as it is. Default: what the model
            was trained for, ``None`` for solutions.
        lattice: Lattice nodes in each direction, if more than the model was trained on.
        sweeps: Degree of the first filter. Default: what takes the gain of the filter from zero to
            α to 10 times the square root of the largest jump of κ between cells, at least to 50;
            where κ jumps by more than 1e4, to that of filtered cosines. With 0 the prediction is
            compressed, and filtered only if ``max_rounds`` allows.
        cosines: Number of products of cosines, those of least energy, that join the prediction. The
            first is the constant, without which a space holds no smooth function and has no bound
            of its error. Default: as many as make the functions those of
            :class:`~dolfinx_msnn.bases.filtered.FilteredBasis`, at least 8; none if ``sweeps=0``.
        tol: Estimated energy error of a mode, relative to its energy, at which filtering stops.
        max_rounds: Rounds of filter and compression after which it stops in any case.
        precision: Of the filter, see :class:`~dolfinx_msnn.bases.filtered.FilteredBasis`.
        fallback: Basis for neighbourhoods without a prediction. Default: filtered cosines; with
            ``refine=None``, for which no local matrices are assembled, none.
        max_jump: With ``refine=None`` there is no prediction where κ jumps by a larger factor from
            one sample to the next. Default 20: from there on the functions of the networks that
            come with the package are worse than modes. As ``traces`` of a
            :class:`~dolfinx_msnn.bases.harmonic.HarmonicBasis` they are good for all jumps of the
            training, by up to 1000: give 2000 there.
        device: Where the network runs, e.g. ``"cuda"``. The filter runs on the host.
        num_threads: Threads of torch, and neighbourhoods filtered at a time; default
            ``OMP_NUM_THREADS``, or 1, so that the ranks of an MPI run do not get in each other's
            way.
        trust: Load a file that is a program, too; see :func:`~dolfinx_msnn.nn.model.load_model`.

    Attributes:
        reports: One :class:`LearnedReport` for each neighbourhood done so far on this rank.

    Raises:
        ValueError: If the file is not a model, or an argument is out of range.
        FileNotFoundError: If there is no such file.
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str],
        kappa: object,
        num_modes: int | None = None,
        *,
        refine: str | None = "trained for",
        lattice: int | None = None,
        sweeps: int | None = None,
        cosines: int | None = None,
        tol: float = 0.05,
        max_rounds: int = 4,
        precision: Precision = "auto",
        fallback: LocalBasis | None = None,
        max_jump: float = MAX_JUMP,
        device: str = "cpu",
        num_threads: int | None = None,
        trust: bool = False,
    ) -> None:
        self.num_threads = default_threads(num_threads)
        self.model = (
            model if isinstance(model, Model) else load_model(model, device=device, trust=trust)
        )
        self.coefficient = kappa
        card = self.model.card
        known = "a Function, a Constant, a UFL expression or a number"
        require(kappa is not None, "kappa", kappa, known)
        require(card.samples % 2 == 0, "The model's samples of kappa", card.samples, "even")
        if refine == "trained for":
            refine = None if card.loads else "filter"
        require(refine in (None, "filter"), "refine", refine, "'filter' or None")
        self.refine = refine
        #: What a raw basis does without, see :class:`~dolfinx_msnn.bases.BasisNeeds`.
        self.matrices = refine is not None or fallback is not None
        if num_modes is None:
            num_modes = _NUM_MODES if refine else card.n_out
        self.num_modes = positive_integer("num_modes", num_modes)
        most = f"{'at most ' * bool(refine)}{card.n_out}, the functions that the model predicts"
        fits = num_modes <= card.n_out if refine else num_modes == card.n_out
        require(fits, "num_modes", num_modes, most)
        for name, value in (("sweeps", sweeps), ("cosines", cosines)):
            ok = value is None or (is_integer(value) and value <= MAX_SWEEPS)
            require(ok, name, value, f"an integer from 0 to {MAX_SWEEPS}")
        ok = fallback is None or is_local_basis(fallback)
        require(ok, "fallback", fallback, "a local basis")
        self.lattice = card.lattice if lattice is None else positive_integer("lattice", lattice)
        least = f"at least {card.lattice}, the nodes in each direction of the training"
        require(self.lattice >= card.lattice, "lattice", lattice, least)
        check_lattice(card.dim, self.lattice, max(card.in_channels, card.n_out, card.width))
        require(is_number(max_jump) and max_jump >= 1, "max_jump", max_jump, "a number, at least 1")
        self.max_jump = max_jump
        self.sweeps, self.cosines = sweeps, cosines
        self.settings = FilterSettings(self.num_modes, tol, None, max_rounds, precision)
        self.fallback = fallback or FilteredBasis(
            self.num_modes, tol=tol, precision=precision, num_threads=self.num_threads
        )
        self.reports: list[LearnedReport] = []

    @classmethod
    def pretrained(
        cls, name: str, kappa: object, num_modes: int | None = None, **options: object
    ) -> Self:
        """With a model that comes with the package.

        Args:
            name: One of those that :func:`~dolfinx_msnn.pretrained.pretrained_models` lists.
            kappa: The coefficient.
            num_modes: Number of modes in each neighbourhood.
            options: Further arguments of the class.

        Raises:
            ValueError: If there is no such model.
        """
        known = pretrained_models()
        require(name in known, "name", name, f"one of {', '.join(known)}")
        return cls(known[name], kappa, num_modes, **options)  # type: ignore[arg-type]  # checked there

    def modes(self, problems: Sequence[LocalProblem]) -> list[LocalModes]:
        """Predicted, maybe filtered and compressed, functions of each problem.

        Not collective.

        Raises:
            ValueError: If the model is for another dimension or the problem is not scalar.
        """
        poses = [self._check(problem) for problem in problems]
        asked = [self._unfit(*pair) for pair in zip(problems, poses, strict=True)]
        reasons = {k: reason for k, reason in enumerate(asked) if reason}
        wanted = [k for k in range(len(problems)) if k not in reasons]
        results: list[LocalModes | None] = [None] * len(problems)
        reports: list[LearnedReport | None] = [None] * len(problems)
        for first in range(0, len(wanted), BATCH):
            part = wanted[first : first + BATCH]
            predictions = self._predict([problems[k] for k in part], [poses[k] for k in part])
            good = []
            for k, prediction in zip(part, predictions, strict=True):
                if np.isfinite(prediction).all():
                    good.append((problems[k], poses[k], prediction))
                else:
                    reasons[k] = "the prediction is not finite"
            done = in_threads(self._refine if self.refine else self._raw, good, self.num_threads)
            at = [k for k in part if k not in reasons]
            for k, (modes, report) in zip(at, done, strict=True):
                if modes is None:
                    reasons[k] = "the predicted functions depend on each other"
                results[k] = modes
                reports[k] = self._report(problems[k], "model", "", report)
        if reasons:
            one = min(reasons)
            if problems[one].A is None:
                raise ValueError(
                    f"There is no prediction for {problems[one].name}: {reasons[one]}; "
                    "expected a fallback=, such as FilteredBasis(8), for such neighbourhoods."
                )
            others = self.fallback.modes([problems[k] for k in sorted(reasons)])
            for k, modes in zip(sorted(reasons), others, strict=True):
                results[k] = modes
                reports[k] = self._report(problems[k], "fallback", reasons[k], None)
        remember(self.reports, [report for report in reports if report is not None])
        return [result for result in results if result is not None]

    def _check(self, problem: LocalProblem) -> Pose:
        card = self.model.card
        if problem.gdim != card.dim:
            raise ValueError(
                f"The model is for {card.dim} dimensions, {problem.name} has {problem.gdim}."
            )
        if problem.block_size != 1:
            raise ValueError(
                f"The model is for scalar problems, {problem.name} has {problem.block_size} "
                "components; use FilteredBasis or SpectralBasis."
            )
        return Pose.of(problem)

    def _unfit(self, problem: LocalProblem, pose: Pose) -> str:
        """Why the model is not asked; empty if it is."""
        card = self.model.card
        if pose.name not in card.classes:
            return f"the model knows no class {pose.name}"
        if self.refine is None:
            jump = largest_jump(problem, pose, self.lattice, card.samples)
            if jump > self.max_jump:
                return f"kappa jumps by {jump:.3g}, more than max_jump={self.max_jump:g}"
        return ""

    def _predict(self, problems: list[LocalProblem], poses: list[Pose]) -> Block:
        """Lattice functions of each neighbourhood, shape ``(B, N_out, p**d)``."""
        card = self.model.card
        inputs = np.stack(
            [
                network_input(problem, pose, self.lattice, card.samples, card.input_convention)
                for problem, pose in zip(problems, poses, strict=True)
            ]
        )
        with torch_threads(self.num_threads):
            return self.model(inputs).reshape(len(inputs), card.n_out, -1)

    def _raw(
        self, item: tuple[LocalProblem, Pose, Block]
    ) -> tuple[LocalModes, FilterReport | None]:
        """The prediction at the dofs; nothing is known of its functions' energies."""
        vectors = self._at_dofs(*item[:2], np.ascontiguousarray(item[2].T)).T.astype(np.float64)
        return LocalModes(np.zeros(len(vectors)), vectors), None

    def _at_dofs(self, problem: LocalProblem, pose: Pose, functions: Block) -> Block:
        """Lattice functions at the dofs, one a column."""
        nodes = self.model.card.out_nodes(self.lattice)
        weights = problem.geometry.once(
            ("single interpolation", pose.axes, pose.reflected, nodes),
            lambda: _single(interpolation(problem, pose, nodes)),
        )
        return kernels.multiply(weights, functions)

    def _refine(
        self, item: tuple[LocalProblem, Pose, Block]
    ) -> tuple[LocalModes | None, FilterReport | None]:
        problem, pose, prediction = item
        pencil = Pencil.create(problem, self.settings.precision)
        # Of any scale, which might be too much for single precision; zeros are no functions.
        size = np.abs(prediction).max(axis=1)
        functions = np.ascontiguousarray((prediction[size > 0] / size[size > 0, None]).T)
        predicted = functions.shape[1]
        if predicted < min(self.num_modes, problem.num_dofs) or _rank(functions) < 0.5 * predicted:
            return None, None
        start = self._at_dofs(problem, pose, functions)
        usual = num_start(self.num_modes, pencil.jump)
        num = self.cosines
        if num is None:
            # What the network misses of the low cosines costs more than they do.
            num = 0 if self.sweeps == 0 else max(kernels.COLUMNS, usual - predicted)
        if num:
            start = np.hstack([cosines(pencil, num)[0], start])
        # The prediction may hold some of the cosines.
        lower = cosine_end(pencil, min(predicted + num, max(predicted, usual)))
        if self.sweeps:
            lower = max(lower, smoothing_end(self.sweeps, pencil.upper))
        rough = pencil.jump > HIGH_JUMP
        gain = 10.0 * pencil.jump if rough else max(10.0 * np.sqrt(pencil.jump), 50.0)
        try:
            return self.settings.run(pencil, start, lower, gain, first_degree=self.sweeps)
        except Unfit:
            return None, None

    def _report(
        self, problem: LocalProblem, source: str, reason: str, report: FilterReport | None
    ) -> LearnedReport:
        assert problem.sample is not None
        kappa = problem.sample.values
        log_contrast = float(np.log(kappa.max() / kappa.min()))
        in_range = log_contrast <= self.model.card.log_kappa_range * (1 + 1e-6)
        return LearnedReport(problem.vertex, source, reason, in_range, report)

    @property
    def num_fallbacks(self) -> int:
        """Neighbourhoods of this rank whose modes did not come from the model."""
        return sum(report.source == "fallback" for report in self.reports)


def _rank(functions: Block) -> int:
    """How many columns are independent, to single precision."""
    gram = functions.astype(np.float64)
    energy = np.linalg.eigvalsh(gram.T @ gram)
    return int(np.count_nonzero(energy > RANK_TOLERANCE * energy[-1]))


def _single(matrix: sp.csr_matrix) -> Matrix:
    return Matrix(matrix.indptr, matrix.indices, matrix.data.astype(np.float32))


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Run torch with so many threads, and leave its setting as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
