"""Labels in, versions of a reward model out: add, fit when due, grade on held-out labels, publish or keep the old one.

A plain class, with no Ray and no clock of its own. Every fit starts from scratch: with the labels at hand it takes a
second or less, and what comes out then depends on the seed and the labels alone, not on the order in which they came,
on earlier fits or on a restart in between.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import CheckpointError
from rlaif_ray.reward_model.ensemble import estimated_flips, fit_members
from rlaif_ray.reward_model.examining import Examined, examine
from rlaif_ray.reward_model.grading import Decision, Grade, decide, grade
from rlaif_ray.reward_model.labelled import Labelled, Labels, final_beliefs, final_logits, mark, scale_over, targets
from rlaif_ray.reward_model.losses import Confusion, fit_temperature
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
    report: RewardModelReport  # of the version in service; of the refused candidate where there is none


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
        if self.flips is not None:
            found |= {"flip_bad_as_good": self.flips.bad_as_good, "flip_good_as_bad": self.flips.good_as_bad}
        return found


class RewardModelTrainer:
    """Holds labelled episodes and the version in service.

    ``obs_shape`` is (H, W, C) or (D,).
    """

    def __init__(
        self, config: RewardModelConfig, obs_shape: Sequence[int], seed: int, **options: Unpack[Options]
    ) -> None:
        self.config, self.obs_shape, self.seed = config, tuple(obs_shape), seed
        self.device = options.get("device", "cpu")
        self.served: RewardModel | None = None
        self.labels = Labels(self.obs_shape, config.holdout, options.get("audit_share"))
        self._considered = 0  # labels that the last fit knew
        self._version = 0  # the highest number that was given to a version
        RewardModel.create(config, self.obs_shape, seed)  # an impossible shape is an error now, not at the first fit

    def __len__(self) -> int:
        """Distinct labelled episodes."""
        return len(self.labels)

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
            return Published(None, self._report(decision, None, None, len(train), started))
        fit = self._fitted(train, held)
        asked, served = self._comparable(held)
        candidate, new = fit.model, examine(fit.model, asked)
        old = None if served is None else examine(served, asked)
        decision = decide(
            candidate=new.exam,
            on_training=self._on_training(candidate, train, new.exam),
            incumbent=None if old is None else old.exam,
            gate_accuracy=self.config.gate_accuracy,
        )
        if decision.publish:
            self._version += 1
            candidate.version, self.served = self._version, candidate
            candidate.scale = scale_over(candidate, [*train, *held])  # nothing is learned from the held-out ones here
        shown = old if old is not None and decision.shown is old.exam else new
        report = self._report(decision, shown, fit, len(train), started)
        in_service = new if decision.publish or old is None else old  # also where its gate shut just now
        report = replace(report, drift_p=in_service.drift_p, drift_alarm=in_service.drift_alarm)
        return Published(candidate.state() if decision.publish else None, report)

    def _comparable(self, held: Sequence[Labelled]) -> tuple[Sequence[Labelled], RewardModel | None]:
        """Labels that neither a new version nor the one in service has learned from, and that one; all and None where
        too few are left.

        Which labels are held out can change: an audit asks about what was learned from. By what it knows from learning,
        a version in service would look better than it is.
        """
        if self.served is None:
            return held, None
        unseen = [one for one in held if mark(one.key) not in self.served.trained_on]
        return (unseen, self.served) if len(unseen) >= FEWEST_HELD_OUT else (held, None)

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
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``, without labels: those added so far are forgotten, the caller adds the stored ones
        again. Raises CheckpointError for anything else or for another observation shape."""
        try:
            if state["format"] != FORMAT:
                raise CheckpointError(f"reward model trainer: got format {state['format']!r}, this one reads {FORMAT}")
            version, considered = int(state["version"]), int(state["considered"])
            served = None if state["served"] is None else RewardModel.from_state(state["served"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not a reward model trainer's state: {type(error).__name__}: {error}") from error
        if served is not None and served.obs_shape != self.obs_shape:
            raise CheckpointError(
                f"reward model: got one for observations {served.obs_shape}, expected {self.obs_shape}"
            )
        self._version, self._considered, self.served = version, considered, served
        self.labels = Labels(self.obs_shape, self.config.holdout, self.labels.audit_share)

    def _fitted(self, train: Sequence[Labelled], held: Sequence[Labelled]) -> _Fit:
        """A calibrated candidate."""
        seed = (self.seed, len(self))
        flips = estimated_flips(self.config, train, seed, device=self.device) if self.config.noise != "none" else None
        model, loss = fit_members(self.config, train, seed, device=self.device, flips=flips)
        model.temperature = fit_temperature(final_logits(model, held), targets(held))
        model.trained_on = frozenset(mark(one.key) for one in train)
        model.calibrated_on = frozenset(mark(one.key) for one in held)
        return _Fit(model, loss, len(train), flips)

    def _report(
        self, decision: Decision, examined: Examined | None, fit: _Fit | None, train_n: int, started: float
    ) -> RewardModelReport:
        """On the version in service where one stays or comes in; on the refused candidate else."""
        shown = Grade.none() if examined is None else examined.pooled
        extra = {"temperature": math.nan} if fit is None else fit.figures()
        extra |= {} if examined is None else examined.figures()
        if decision.candidate is not None:
            extra["candidate_accuracy"] = decision.candidate.accuracy
        return RewardModelReport(
            version=0 if self.served is None else self.served.version,
            gate_open=decision.gate_open,
            heldout_accuracy=shown.accuracy,
            heldout_n=shown.n,
            heldout_low=shown.interval[0],
            balanced_accuracy=shown.balanced,
            train_n=train_n,
            loss=math.nan if fit is None else fit.loss,
            fit_s=time.perf_counter() - started,
            reason=decision.reason,
            extra=extra,
            **({} if examined is None else examined.detail()),
        )


def _too_little(train: Sequence[Labelled], held: Sequence[Labelled]) -> str:
    """Why a fit would be for nothing; empty: it isn't."""
    if len(held) < FEWEST_HELD_OUT:
        return f"{len(held)} held-out labels, at least {FEWEST_HELD_OUT} are needed"
    target = targets(train)
    table = Confusion.of(target, target)
    if not table.good or not table.bad:
        return f"labels to learn from: {table.good} good, {table.bad} bad; at least one of each is needed"
    return ""
