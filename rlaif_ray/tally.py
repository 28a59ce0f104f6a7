"""What happened in the feedback half of an iteration, and the figures made of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlaif_ray.mixing import PROVENANCE
from rlaif_ray.types import Array, Label, RewardModelReport

__all__ = ["Tally", "Timed"]

_POOL_FIGURES = (
    "labels", "abstained", "replayed", "spend_usd", "reserved_usd", "cap_usd", "labels_left", "latency_s",
)  # fmt: skip


@dataclass
class Tally:
    """Counts since the last report. Figures are nan where nothing happened to make them of."""

    asked: int = 0
    turned_away: int = 0  # questions not put because too many waited for an answer
    verdicts: list[float] = field(default_factory=list)  # on one episode each
    weights: list[float] = field(default_factory=list)  # of the verdicts: how many episodes each stands for
    compared: int = 0  # verdicts on two episodes: which comes first is no approval
    abstained: int = 0
    ages: list[int] = field(default_factory=list)  # iterations between an episode's end and its answer
    audited: dict[int, float] = field(default_factory=dict)  # episode -> verdict, of those asked about at random
    proxies: list[float] = field(default_factory=list)  # the reward model's belief at the ends of episodes
    origins: list[Array] = field(default_factory=list)
    dropped_steps: int = 0
    waited: list[int] = field(default_factory=list)  # iterations that parts kept back have waited
    stands_for: list[float] = field(default_factory=list)  # 1 / pi of verdicts that paid for others too (`reweight`)

    def hear(self, label: Label, *, compares: bool = False) -> None:
        """A verdict has come; on one episode, or on two that it ``compares``."""
        value = label.value
        if value is None:
            return
        if compares:
            self.compared += 1
            return
        self.verdicts.append(value)
        self.weights.append(0.0 if label.draw == "known" else 1.0 / label.inclusion_probability)
        if label.draw == "audit":
            self.audited[label.episode_id] = value

    def mix_figures(self, weight: float, clip: float = math.inf) -> dict[str, float]:
        """Shares of the completed episodes by provenance, how old the answers were, and for how many episodes verdicts
        stood (`mix.unjudged: reweight`); ``reweight_lost`` is the share of that which ``clip`` cut off."""
        origin = np.concatenate(self.origins) if self.origins else np.zeros(0, np.int8)
        share = np.bincount(origin, minlength=len(PROVENANCE)) / max(1, len(origin))
        return {
            "weight": weight,
            **{f"share_{name}": float(share[i]) for i, name in enumerate(PROVENANCE)},
            "staleness": _mean(self.ages),
            "deferred": float(len(self.waited)),
            "deferred_iterations": _mean(self.waited),
            "dropped_steps": float(self.dropped_steps),
            "reweight_mean": _mean(self.stands_for),
            "reweight_lost": 1.0 - _mean([min(clip, one) for one in self.stands_for]) / _mean(self.stands_for),
        }

    def feedback_figures(self, stats: Any, in_flight: int) -> dict[str, float]:
        """``stats``: the pool's account; amounts that have no cap are nan. ``approval_rate`` is estimated for all
        episodes, whoever was asked about: each verdict counts for as many as it stands for, ``stands_for`` in all. A
        comparison of two is no approval of either and stands for none."""
        return {name: _number(getattr(stats, name)) for name in _POOL_FIGURES} | {
            "asked": float(self.asked),
            "turned_away": float(self.turned_away),
            "in_flight": float(in_flight),
            "verdicts": float(len(self.verdicts) + self.compared),
            "approval_rate": self._approval(),
            "stands_for": sum(self.weights),
            "audit_verdicts": float(len(self.audited)),
            "audit_approval": _mean(list(self.audited.values())),
        }

    def _approval(self) -> float:
        standing = sum(self.weights)
        return float(np.dot(self.verdicts, self.weights)) / standing if standing else math.nan

    def rm_figures(self, report: RewardModelReport | None, version: int) -> dict[str, float]:
        """``version``: the one in use; 0: none."""
        return {
            "version": float(version),
            "heldout_accuracy": report.heldout_accuracy if report else math.nan,
            "balanced_accuracy": report.balanced_accuracy if report else math.nan,
            "heldout_n": float(report.heldout_n) if report else 0.0,
            "on_policy_accuracy": report.on_policy_accuracy if report else math.nan,  # nan: not measurable
            "drift_p": report.drift_p if report else math.nan,
            "drift_alarm": float(report.drift_alarm) if report else 0.0,
            "calibration_error": report.extra.get("calibration_error", math.nan) if report else math.nan,
            "train_n": float(report.train_n) if report else 0.0,
            "unused_n": report.extra.get("unused_n", 0.0) if report else 0.0,  # pairs neither trained on nor held out
            "gate_open": float(version > 0),
            "score_mean": _mean(self.proxies),
        }


class Timed:
    """Adds the seconds spent inside to a named entry."""

    def __init__(self, clock: dict[str, float], name: str) -> None:
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.clock[self.name] = self.clock.get(self.name, 0.0) + time.perf_counter() - self.began


def _mean(values: list[float] | list[int]) -> float:
    return float(np.mean(values)) if values else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
