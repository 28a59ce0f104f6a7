"""Labels in, versions of a reward model out: add, fit when due, grade on held-out labels, publish or keep the old one.

A plain class, with no Ray and no clock of its own. Every fit starts from scratch: with the labels at hand it takes a
second or less, and what comes out then depends on the seed and the labels alone, not on the order in which they came,
on earlier fits or on a restart in between.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict, Unpack

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import CheckpointError
from rlaif_ray.reward_model.calibration import fitted
from rlaif_ray.reward_model.ensemble import estimated_flips, fit_members, said_good
from rlaif_ray.reward_model.examining import Examined, examine
from rlaif_ray.reward_model.grading import Decision, Grade, ceiling, decide, grade
from rlaif_ray.reward_model.labelled import (
    Labelled,
    Labels,
    final_beliefs,
    final_logits,
    how_to_calibrate,
    mark,
    scale_over,
    targets,
)
from rlaif_ray.reward_model.losses import Confusion
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.reward_model.noise import FlipRates
from rlaif_ray.types import Draw, RewardModelReport, Units

__all__ = ["Options", "Published", "RewardModelTrainer"]

FEWEST_HELD_OUT = 5  # labels; below that a share of right answers says nothing
FORMAT = 1


@dataclass(frozen=True)
class Published:
    """The outcome of one fit. ``report.gate_open`` says whether the version in service may count from now on."""

    state: dict[str, Any] | None  # ``RewardModel.state()`` of a new version; None: nothing new to load
    report: RewardModelReport  # of the version in service; of the refused candidate where that can't be graded


class Options(TypedDict, total=False):
    """What a trainer may be told besides."""

    device: str  # where nets are fitted: cpu
    audit_share: float | None  # as ``Labels`` has it: None


@dataclass(frozen=True)
class _Fit:
    """What came of fitting, before anybody has graded it."""

    model: RewardModel
    loss: float
    train_n: int
    flips: FlipRates | None

    def figures(self) -> dict[str, float]:
        found = {"temperature": self.model.temperature}
        if self.model.config.calibrate == "platt":
            found["offset"] = self.model.offset
        if self.flips is not None:
            found |= {"flip_bad_as_good": self.flips.bad_as_good, "flip_good_as_bad": self.flips.good_as_bad}
        return found

    def refused(self) -> dict[str, float]:
        """All of it under names that can't be taken for those of the version in service."""
        found = {"loss": self.loss, "train_n": float(self.train_n)} | self.figures()
        return {f"candidate_{name}": value for name, value in found.items()}

    def state(self) -> dict[str, Any]:
        """What ``of`` needs besides the model."""
        return {"loss": self.loss, "train_n": self.train_n, "flips": None if self.flips is None else asdict(self.flips)}

    @staticmethod
    def of(model: RewardModel, state: Mapping[str, Any]) -> _Fit:
        """Raises KeyError, TypeError, ValueError. An older checkpoint knows of no loss: nan."""
        flips = state.get("flips")
        return _Fit(
            model,
            loss=float(state.get("loss", math.nan)),
            train_n=int(state.get("train_n", len(model.trained_on))),
            flips=None if flips is None else FlipRates(**flips),
        )


@dataclass(frozen=True)
class _Graded:
    """A fit and what was found of it."""

    fit: _Fit
    found: Examined


class RewardModelTrainer:
    """Holds labelled episodes and the version in service.

    ``obs_shape`` is (H, W, C) or (D,).
    """

    def __init__(
        self, config: RewardModelConfig, obs_shape: Sequence[int], seed: int, **options: Unpack[Options]
    ) -> None:
        self.config, self.obs_shape, self.seed = config, tuple(obs_shape), seed
        self.device = options.get("device", "cpu")
        self._in_service: _Fit | None = None
        self.candidate: RewardModel | None = None  # what the last fit made, whether it was published or not
        self.labels = Labels(self.obs_shape, config.holdout, options.get("audit_share"))
        self._considered = 0  # labels that the last fit knew
        self._version = 0  # the highest number that was given to a version
        RewardModel.create(config, self.obs_shape, seed)  # an impossible shape is an error now, not at the first fit

    def __len__(self) -> int:
        """Distinct labelled episodes."""
        return len(self.labels)

    @property
    def served(self) -> RewardModel | None:
        """The version in service; None: no fit has been published yet."""
        return None if self._in_service is None else self._in_service.model

    def add(
        self,
        units: Sequence[Units],
        values: Sequence[float],
        weights: Sequence[float] | None = None,
        *,
        draws: Sequence[Draw] = (),
        source: str = "",
    ) -> None:
        """Take verdicts' values in [0, 1] about whole episodes (1 is good), or about two of them (1: the first one is
        preferred). ``draws`` say how each was chosen (empty: all audit) among the labels of ``source``. Raises
        ShapeError for anything else."""
        self.labels.add(units, values, weights, draws=draws, source=source)

    def check(self, units: Sequence[Units], values: Sequence[float], draws: Sequence[Draw] = ()) -> None:
        """Raises ShapeError for labels that ``add`` won't take."""
        self.labels.check(units, values, None, draws)

    def due(self) -> bool:
        """Whether a fit would know enough new labels: `min_labels` for the first, then `retrain_every` more, or
        `retrain_growth` times those that the last one knew where that is more."""
        if not self._considered:
            return len(self) >= self.config.min_labels
        wanted = max(self.config.retrain_every, self.config.retrain_growth * self._considered)
        return len(self) >= max(self.config.min_labels, self._considered + wanted)

    def learn(
        self, units: Sequence[Units], values: Sequence[float], draws: Sequence[Draw] = (), source: str = ""
    ) -> list[Published]:
        """``add``, then one ``fit`` if that made it due."""
        self.add(units, values, draws=draws, source=source)
        return self.fit_if_due()

    def fit_if_due(self) -> list[Published]:
        """One ``fit``, or none."""
        return [self.fit()] if self.due() else []

    def skip(self, version: int) -> None:
        """Versions up to this one have been published before: the next ones have numbers above it."""
        self._version = max(self._version, version)

    def fit(self) -> Published:
        """Fit on the labels at hand, grade on the held-out ones, and publish, refuse or keep the version in service."""
        started = time.perf_counter()
        self._considered = len(self)
        train, held = self.parts()
        why_not = _too_little(train, held)
        if why_not:
            decision = Decision(None, None, gate_open=False, reason=why_not)
            return Published(None, self._ungraded(decision, len(train), started))
        fit = self._fitted(train, held)
        asked, rival = self._comparable(held)
        self.candidate = candidate = fit.model
        new = _Graded(fit, examine(candidate, asked))
        old = None if rival is None else _Graded(rival, examine(rival.model, asked))
        decision = decide(
            candidate=new.found.exam,
            on_training=self._on_training(candidate, train, new.found.exam),
            incumbent=None if old is None else old.found.exam,
            gate_accuracy=self.config.gate_accuracy,
        )
        if decision.publish:
            self._version += 1
            candidate.version, self._in_service = self._version, fit
            candidate.scale = scale_over(candidate, [*train, *held])  # nothing is learned from the held-out ones here
        shown = old if old is not None and decision.shown is old.found.exam else new
        if not decision.gate_open:
            reason = decision.reason + ceiling(new.found.exam, fit.flips, said_good(held))
            decision = replace(decision, reason=reason)
        report = self._report(decision, shown, fit, started)
        return Published(candidate.state() if decision.publish else None, report)

    def _comparable(self, held: Sequence[Labelled]) -> tuple[Sequence[Labelled], _Fit | None]:
        """Labels that neither a new version nor the one in service has learned from, and that one; all and None where
        too few are left.

        Which labels are held out can change: an audit asks about what was learned from. By what it knows from learning,
        a version in service would look better than it is.
        """
        if self._in_service is None:
            return held, None
        unseen = [one for one in held if mark(one.key) not in self._in_service.model.trained_on]
        return (unseen, self._in_service) if len(unseen) >= FEWEST_HELD_OUT else (held, None)

    def _on_training(self, candidate: RewardModel, train: Sequence[Labelled], exam: Grade) -> Grade:
        """Whether it learned what it was taught. Labels that were preferred for being hard would say that it didn't, of
        a model that is right about nearly all episodes: they are asked only where the exam lacks a class."""
        fair = math.isnan(exam.balanced) or all(map(self.labels.stands_for_all, train))
        return grade(final_beliefs(candidate, train), targets(train)) if fair else Grade.none()

    def parts(self) -> tuple[list[Labelled], list[Labelled]]:
        """Labels to learn from, and those held out, each in an order that has nothing to do with when they came."""
        labels = self.labels.in_order()
        train, held = ([one for one in labels if one.held_out is side] for side in (False, True))
        return train, held

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides the labels, which the caller adds again after ``restore``."""
        return {
            "format": FORMAT,
            "version": self._version,
            "considered": self._considered,
            "served": None if self.served is None else self.served.state(),
            "served_fit": None if self._in_service is None else self._in_service.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``, without labels: those added so far are forgotten, the caller adds the stored ones
        again. Raises CheckpointError for anything else or for another observation shape."""
        try:
            if state["format"] != FORMAT:
                raise CheckpointError(f"reward model trainer: got format {state['format']!r}, this one reads {FORMAT}")
            version, considered = int(state["version"]), int(state["considered"])
            served = None if state["served"] is None else RewardModel.from_state(state["served"])
            in_service = None if served is None else _Fit.of(served, state.get("served_fit") or {})
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not a reward model trainer's state: {type(error).__name__}: {error}") from error
        if served is not None and served.obs_shape != self.obs_shape:
            raise CheckpointError(
                f"reward model: got one for observations {served.obs_shape}, expected {self.obs_shape}"
            )
        self._version, self._considered, self._in_service = version, considered, in_service
        self.labels = Labels(self.obs_shape, self.config.holdout, self.labels.audit_share)

    def _fitted(self, train: Sequence[Labelled], held: Sequence[Labelled]) -> _Fit:
        """A calibrated candidate."""
        seed = (self.seed, len(self))
        flips = estimated_flips(self.config, train, seed, device=self.device) if self.config.noise != "none" else None
        model, loss = fit_members(self.config, train, seed, device=self.device, flips=flips)
        how = how_to_calibrate(self.config, held)
        model.temperature, model.offset = fitted(final_logits(model, held), targets(held), how)
        model.trained_on = frozenset(mark(one.key) for one in train)
        model.calibrated_on = frozenset(mark(one.key) for one in held)
        return _Fit(model, loss, len(train), flips)

    def _report(self, decision: Decision, shown: _Graded, candidate: _Fit, started: float) -> RewardModelReport:
        """All figures are those of the fit that is shown, but for the ones of a ``candidate_``."""
        fit, found = shown.fit, shown.found
        extra = fit.figures() | found.figures() | self._unused()
        if decision.candidate is not None:
            extra["candidate_accuracy"] = decision.candidate.accuracy
        if fit is not candidate:
            extra |= candidate.refused()
        return RewardModelReport(
            version=0 if self.served is None else self.served.version,
            about="served" if fit is self._in_service else "candidate",
            gate_open=decision.gate_open,
            heldout_accuracy=found.pooled.accuracy,
            heldout_n=found.pooled.n,
            heldout_low=found.pooled.interval[0],
            balanced_accuracy=found.pooled.balanced,
            train_n=fit.train_n,
            loss=fit.loss,
            fit_s=time.perf_counter() - started,
            reason=decision.reason,
            extra=extra,
            **found.detail(),
        )

    def _ungraded(self, decision: Decision, train_n: int, started: float) -> RewardModelReport:
        """Where no fit was made."""
        return RewardModelReport(
            version=0 if self.served is None else self.served.version,
            gate_open=decision.gate_open,
            heldout_accuracy=math.nan,
            heldout_n=0,
            heldout_low=Grade.none().interval[0],
            balanced_accuracy=math.nan,
            train_n=train_n,
            loss=math.nan,
            fit_s=time.perf_counter() - started,
            reason=decision.reason,
            extra={"temperature": math.nan} | self._unused(),
        )

    def _unused(self) -> dict[str, float]:
        """How many labels are neither learned from nor held out, where there are such."""
        return {"unused_n": float(self.labels.unused)} if self.labels.unused else {}


def _too_little(train: Sequence[Labelled], held: Sequence[Labelled]) -> str:
    """Why a fit would be for nothing; empty: it isn't."""
    if len(held) < FEWEST_HELD_OUT:
        return f"{len(held)} held-out labels, at least {FEWEST_HELD_OUT} are needed"
    target = targets(train)
    table = Confusion.of(target, target)
    if not table.good or not table.bad:
        return f"labels to learn from: {table.good} good, {table.bad} bad; at least one of each is needed"
    return ""
