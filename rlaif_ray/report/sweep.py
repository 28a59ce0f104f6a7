"""A sweep's folder, read: ``SweepRecord.read(path)``. What was planned and not run is there as well, as not run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlaif_ray.config.running import FINISHED
from rlaif_ray.report.figures import number
from rlaif_ray.report.run import RunRecord
from rlaif_ray.sweep.place import Place
from rlaif_ray.types import Array

__all__ = ["Arm", "SweepRecord", "Trial", "outcome_names"]

_NO_OUTCOME = ("episodes", "mean_length", "task_return", "deterministic", "seed")
# What a sweep's report looks at, of rows that hold some hundred figures: many trials are read at once.
_COLUMNS = ("steps", "truth/", "audit/", "mix/", "task/", "feedback/", "rm/")
STATES = {
    "done": "done",
    "no_feedback_learned": "done, but no feedback was learned from",
    "stopped_by_watch": "stopped: the reward model was being gamed",
    "stopped": "ended early by the schedule",
    "failed": "failed",
    "interrupted": "interrupted",
    "running": "not finished",
    "not_run": "not run",
}


@dataclass(frozen=True)
class Trial:
    """One run of an arm with one seed."""

    name: str
    arm: str
    seed: int
    point: Mapping[str, Any]  # config keys that were set for it
    history: Sequence[Mapping[str, Any]]  # of the point, where a population changed it: {"steps", "set"}
    record: RunRecord | None  # None: not run

    @property
    def state(self) -> str:
        return "not_run" if self.record is None else self.record.status

    @property
    def ended(self) -> bool:
        return self.state in FINISHED

    @property
    def summary(self) -> Mapping[str, Any]:
        return self.record.summary if self.record is not None else {}

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The headline evaluation: on the first of the config's sets of options."""
        for outcome in (self.summary.get("evaluation") or {}).values() if self.ended else ():
            if isinstance(outcome, Mapping):
                return outcome
        return {}

    def cost(self, unit: str) -> float:
        """Stand-alone ``usd`` or ``labels``: all that it used, whoever paid."""
        return number(self.summary.get("stand_alone") or {}, unit)

    def mean_of(self, key: str) -> float:
        """Mean of a column over the iterations in which it was known."""
        if self.record is None or not self.record.has(key):
            return math.nan
        return float(np.nanmean(self.record.column(key)))

    def last_of(self, key: str) -> float:
        """The last known value of a column."""
        if self.record is None:
            return math.nan
        column = self.record.column(key)
        known = column[np.isfinite(column)]
        return float(known[-1]) if len(known) else math.nan

    def share(self, source: str) -> float:
        """Of its episodes, those learned from by that provenance."""
        return number(self.summary.get("provenance") or {}, source)


@dataclass(frozen=True)
class Arm:
    """What is compared: the trials of one setting, by seed."""

    name: str
    point: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def run(self) -> bool:
        return any(trial.record is not None for trial in self.trials)

    @property
    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.ended]

    def outcomes(self, name: str) -> Array:
        """(S,) in percent by seed; nan where there is no final evaluation."""
        return np.array([100 * number(trial.evaluation, name) for trial in self.trials], np.float64)

    def costs(self, unit: str) -> Array:
        """(S,) stand-alone cost by seed; nan where the trial has not ended."""
        return np.array([trial.cost(unit) if trial.ended else math.nan for trial in self.trials], np.float64)

    def mean(self, values: Sequence[float]) -> float:
        known = [value for value in values if math.isfinite(value)]
        return float(np.mean(known)) if known else math.nan


@dataclass(frozen=True)
class SweepRecord:
    """What a sweep left behind."""

    place: Place
    summary: Mapping[str, Any]  # {} where it did not end
    trials: tuple[Trial, ...]
    strangers: tuple[str, ...]  # folders among the trials that are of another kind: smoke in a study, or the reverse

    @staticmethod
    def read(folder: Path) -> SweepRecord:
        """Raises ConfigError where it is no sweep's folder."""
        place = Place.read(folder)
        found: dict[str, Trial] = {}
        strangers = []
        for path in sorted((place.folder / "trials").glob("*")):
            trial = _read_trial(path)
            if trial is None:
                continue
            facts, one = trial
            if bool(facts.get("smoke")) != place.smoke:
                strangers.append(one.name)
                continue
            found[one.name] = one
        planned = [
            found.pop(cell.name, Trial(cell.name, cell.arm, cell.seed, cell.set, (), None)) for cell in place.cells
        ]
        return SweepRecord(place, _json(place.folder / "summary.json"), (*planned, *found.values()), tuple(strangers))

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """In the order of the plan; each arm's trials by seed."""
        by_name: dict[str, list[Trial]] = {}
        for trial in self.trials:
            by_name.setdefault(trial.arm, []).append(trial)
        return tuple(
            Arm(name, trials[0].point, tuple(sorted(trials, key=lambda trial: trial.seed)))
            for name, trials in by_name.items()
        )

    @cached_property
    def outcome_names(self) -> tuple[str, ...]:
        """As the world names them; the last one is the value that the task reward says nothing of."""
        for trial in self.trials:
            if trial.evaluation:
                return outcome_names(trial.evaluation)
        return ()

    @property
    def value(self) -> str:
        """The outcome that feedback is bought for."""
        return self.outcome_names[-1] if self.outcome_names else ""

    @cached_property
    def priced(self) -> bool:
        """Whether labels cost anything here, be it as-if."""
        return any(trial.cost("usd") > 0 for trial in self.trials)

    @property
    def as_if(self) -> bool:
        return self.place.base.judge.as_if

    def counts(self) -> dict[str, int]:
        """Trials by state, as a reader would say it."""
        return {
            words: n for state, words in STATES.items() if (n := sum(trial.state == state for trial in self.trials))
        }


def outcome_names(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """The outcomes among an evaluation's entries: shares of episodes."""
    return tuple(
        name
        for name, value in evaluation.items()
        if name not in _NO_OUTCOME and isinstance(value, float) and 0.0 <= value <= 1.0
    )


def _read_trial(path: Path) -> tuple[Mapping[str, Any], Trial] | None:
    """None: its process had not begun to write."""
    facts = _json(path / "trial.json")
    if not facts:
        return None
    record = RunRecord.read(path)
    record = replace(record, rows=[{k: v for k, v in row.items() if k.startswith(_COLUMNS)} for row in record.rows])
    trial = Trial(
        name=str(facts["name"]),
        arm=str(facts["arm"]),
        seed=int(facts["seed"]),
        point=facts["set"],
        history=facts["history"],
        record=record,
    )
    return facts, trial


def _json(path: Path) -> Mapping[str, Any]:
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, Mapping) else {}
