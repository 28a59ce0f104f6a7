"""How far beliefs can be taken at their word. Pure.

A temperature that was fitted to the labels it is graded on looks better than it is. So each label is graded with a
temperature that doesn't know it: the model's own where it was set without these labels, else one of five, each fitted
to the other four fifths. Likewise with a slope and an offset (Platt).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlaif_ray.reward_model import losses
from rlaif_ray.types import Array, ReliabilityBin

__all__ = ["FOLDS", "Calibrate", "Graded", "cross_fitted", "fitted", "folds_of", "graded", "reliability"]

Calibrate = Literal["temperature", "platt"]
FOLDS = 5
BINS = 10


@dataclass(frozen=True)
class Graded:
    """(M,) beliefs that may be held against (M,) labels; ``how`` says what they owe."""

    belief: Array
    target: Array
    how: str


def folds_of(target_E: Array, folds: int = FOLDS) -> Array:
    """(E,) int64 in [0, folds): each class dealt out in turn, in the order given."""
    fold = np.zeros(len(target_E), np.int64)
    for side in (target_E > 0.5, target_E <= 0.5):
        fold[side] = np.arange(int(side.sum())) % folds
    return fold


def fitted(logit_KE: Array, target_E: Array, how: Calibrate = "temperature") -> tuple[float, float]:
    """Temperature and offset that (E,) labels ask for, of (K, E) logits; with ``temperature`` the offset is 0."""
    if how == "platt":
        return losses.fit_platt(logit_KE, target_E)
    return losses.fit_temperature(logit_KE, target_E), 0.0


def cross_fitted(logit_KE: Array, target_E: Array, how: Calibrate = "temperature") -> Array:
    """(K, E) logits -> (E,) beliefs, each under the temperature and offset that the other folds' labels ask for."""
    fold, belief = folds_of(target_E), np.empty(len(target_E), np.float32)
    for k in np.unique(fold).tolist():
        inside = fold == k
        temperature, offset = fitted(logit_KE[:, ~inside], target_E[~inside], how)
        belief[inside] = losses.mean_belief(logit_KE[:, inside], temperature, offset)
    return belief


def graded(
    logit_KE: Array,
    target_E: Array,
    temperature: float,
    unknown_E: Array,
    offset: float = 0.0,
    how: Calibrate = "temperature",
) -> Graded:
    """What to grade calibration by. ``unknown_E``: labels that had no say in ``temperature`` and ``offset``."""
    what = "temperature" if how == "temperature" else "slope and offset"
    if int(unknown_E.sum()) >= losses.TEMPERATURE_NEEDS:
        belief = losses.mean_belief(logit_KE[:, unknown_E], temperature, offset)
        return Graded(belief, target_E[unknown_E], f"its own {what}, on labels that had no say in it")
    return Graded(cross_fitted(logit_KE, target_E, how), target_E, f"cross-fitted {what}")


def reliability(belief_E: Array, target_E: Array) -> tuple[ReliabilityBin, ...]:
    """The reliability curve: mean belief against mean label in each tenth of [0, 1] that has labels (DeGroot and
    Fienberg 1983)."""
    bin_E = losses.bin_of(belief_E, BINS)
    return tuple(
        ReliabilityBin(float(belief_E[bin_E == b].mean()), float(target_E[bin_E == b].mean()), int((bin_E == b).sum()))
        for b in np.unique(bin_E).tolist()
    )
