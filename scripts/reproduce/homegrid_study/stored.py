"""The stored results, read back as what a sweep's report reads: one arm's runs by seed, those not run among them.

A result of a smoke run is never read where the study's are wanted, wherever it lies, nor the other way round; nor is
one that was made with other settings than its arm has today.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from homegrid_study.arms import Layout, Step, steps_of
from homegrid_study.measure import UNTUNED, WORLDS
from homegrid_study.processes import shared_by
from rlaif_ray.config import load_config
from rlaif_ray.config.sweeping import study_from
from rlaif_ray.report.run import RunRecord
from rlaif_ray.report.sweep import Arm, SweepRecord, Trial
from rlaif_ray.sweep.place import Place
from rlaif_ray.types import Array

__all__ = ["HEADLINE", "REFERENCE", "Results", "Row"]

# (file, arm) of the arms that the page begins with.
HEADLINE = (
    ("task", "task"), ("published", "published_1"), ("published", "published_2"), ("direct", "direct"),
    ("online", "online"), ("hybrid", "distilled"), ("hybrid", "distilled_terminal"), ("hybrid", "hybrid_5"),
    ("hybrid", "hybrid_10"), ("hybrid", "hybrid_25"), ("published", "published_1_structured"),
    ("published", "published_2_structured"), ("direct", "direct_structured"), ("online", "online_structured"),
    ("hybrid", "distilled_structured"), ("hybrid", "hybrid_5_structured"), ("hybrid", "hybrid_10_structured"),
    ("hybrid", "hybrid_25_structured"),
)  # fmt: skip
# Beside the arms of files that change one thing about it.
REFERENCE = ("online", "online")


@dataclass(frozen=True)
class Row:
    """One arm: its results by seed, None where there is none."""

    study: str
    arm: str
    results: tuple[Mapping[str, Any] | None, ...]

    @property
    def ended(self) -> list[Mapping[str, Any]]:
        return [one for one in self.results if one is not None and one["status"] != "failed"]

    def outcome(self, name: str, world: str = "heldout") -> Array:
        """(S,) of the final evaluations; nan where there is none."""
        return self._each(lambda one: one["summary"]["evaluation"].get(world, {}).get(name))

    def chain(self, name: str) -> Array:
        """(S,) ``labels``, ``usd``, ``steps`` or ``wall_s``, with what it began with."""
        return self._each(lambda one: one["chain"][name])

    def minutes(self) -> Array:
        """(S,) of wall time, with what it began with; nan of those that shared the machine at any time of it."""
        return self._each(lambda one: one["chain"]["wall_s"] / 60 if shared_by(one["chain"]) == 1 else None)

    def at_once(self) -> Array:
        """(S,) how many runs shared the machine, at most, at any time of it or of what it began with."""
        return self._each(lambda one: shared_by(one["chain"]))

    def share(self, source: str) -> Array:
        """(S,) of the episodes learned from, those paid by that source."""
        return self._each(lambda one: one["summary"]["provenance"].get(source))

    def feedback_episodes(self) -> Array:
        """(S,) episodes finished in the feedback phase."""
        return self._each(lambda one: one["summary"]["feedback_episodes"])

    def first(self, name: str, least: float) -> Array:
        """(S,) steps after which that figure of training episodes had once been so high; nan where it never was."""
        return self._each(lambda one: next((r["steps"] for r in one["rows"] if (r.get(name) or 0.0) >= least), None))

    def _each(self, of: Any) -> Array:
        values = [None if one is None or one["status"] == "failed" else of(one) for one in self.results]
        return np.array([math.nan if value is None else float(value) for value in values], np.float64)


@dataclass(frozen=True)
class Results:
    """Everything that was stored, beside everything that was planned."""

    layout: Layout
    steps: tuple[Step, ...]
    found: Mapping[str, Mapping[str, Any]]  # by key
    plan: Mapping[str, Any]  # {} where none was made

    @staticmethod
    def read(layout: Layout) -> Results:
        """Raises ConfigError: a study's file is wrong."""
        steps = steps_of(layout)
        found = {step.key: one for step in steps if (one := _result(step)) is not None}
        plan = _json(layout.plan)
        return Results(layout, steps, found, plan if plan.get("smoke") == layout.smoke else {})

    @cached_property
    def rows(self) -> dict[tuple[str, str], Row]:
        """By file and arm, in order."""
        names = dict.fromkeys((step.study, step.arm) for step in self.steps)
        return {
            (study, arm): Row(
                study,
                arm,
                tuple(self.found.get(step.key) for step in self.steps if (step.study, step.arm) == (study, arm)),
            )
            for study, arm in names
        }

    def trained(self, study: str = "") -> list[Row]:
        """Arms of training runs, of one file or of all."""
        kinds = {(step.study, step.arm) for step in self.steps if step.kind == "train"}
        return [row for key, row in self.rows.items() if key in kinds and study in ("", key[0])]

    @property
    def headline(self) -> list[Row]:
        return [self.rows[key] for key in HEADLINE if key in self.rows]

    def record(self, rows: Sequence[Row]) -> SweepRecord:
        """Those arms as a sweep's, for the charts of sweeps."""
        seeds = sorted({step.seed for step in self.steps})
        study = study_from({"name": "study", "arms": [{"name": row.arm} for row in rows], "seeds": seeds})
        base = load_config("tune_configs/bases/study.yaml")
        place = Place(self.layout.results, study, base, (), self.layout.smoke)
        trials = [_trial(row, one) for row in rows for one in row.results if one is not None]
        return SweepRecord(place, {}, tuple(trials), ())

    def arms(self, rows: Sequence[Row]) -> tuple[Arm, ...]:
        return self.record(rows).arms


def _trial(row: Row, one: Mapping[str, Any]) -> Trial:
    name = f"{row.arm}-s{one['seed']}"
    summary = {"status": "failed"}
    if one["status"] != "failed":
        known = one["summary"]["evaluation"]
        evaluation = {world: known[world] for world in (*WORLDS, *UNTUNED) if world in known}  # the headline first
        cost = {key: one["chain"][key] for key in ("usd", "labels")}
        summary = {**one["summary"], "evaluation": evaluation, "stand_alone": cost}
    before = one["chain"]["steps"] - one["own"]["steps"] if one["status"] != "failed" else 0
    rows = [{**known, "steps": known["steps"] + before} for known in one.get("rows", ())]
    record = RunRecord(Path(one["key"]), None, "", summary, rows)
    return Trial(name, row.arm, int(one["seed"]), one.get("set", {}), (), record)


def _result(step: Step) -> Mapping[str, Any] | None:
    found = step.made
    return found if found is not None and found.get("smoke") is step.layout.smoke else None


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}
