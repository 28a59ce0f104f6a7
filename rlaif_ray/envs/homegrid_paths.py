"""Shortest paths in Homegrid: how many steps an episode needs at least, and which actions lose none."""

from __future__ import annotations

from functools import cache

import numpy as np

from rlaif_ray.envs.homegrid_layout import AHEAD, CELLS, FRUIT_CELLS, WALKABLE
from rlaif_ray.types import Array

__all__ = ["UNREACHABLE", "shortest_actions", "steps_to_fruit"]

UNREACHABLE = 10_000
"""Steps to the end from where there is no way; larger than any real length."""


def _outcomes(fruit: int, avoid: int | None) -> tuple[Array, Array, Array]:
    """(4, CELLS) of the cell an action leads to, whether it ends the episode, and whether it may be taken."""
    free = WALKABLE.copy()
    free[fruit] = False
    lands = np.where(free[AHEAD], AHEAD, np.arange(CELLS))
    ends = np.take_along_axis(AHEAD, lands, axis=1) == fruit
    allowed = np.broadcast_to(free, lands.shape) & (lands != (-1 if avoid is None else avoid))
    return lands, ends, allowed


def _prices(steps: Array, fruit: int, avoid: int | None) -> Array:
    """(4, CELLS): steps to the end if an action is taken now and the best follows."""
    lands, ends, allowed = _outcomes(fruit, avoid)
    prices: Array = np.where(allowed, 1 + np.where(ends, 0, steps[lands]), UNREACHABLE)
    return prices


@cache
def steps_to_fruit(fruit: int, avoid: int | None = None) -> Array:
    """(CELLS,) int64: fewest steps until the robot faces the fruit, from each cell; never entering cell ``avoid``.

    The heading at the start doesn't matter: each action sets it. By value iteration to the fixed point.
    """
    steps = np.full(CELLS, UNREACHABLE)
    while True:
        better = np.minimum(steps, _prices(steps, fruit, avoid).min(axis=0))
        if np.array_equal(better, steps):
            steps.setflags(write=False)
            return steps
        steps = better


@cache
def shortest_actions() -> Array:
    """(CELLS, CELLS, 4) bool by (fruit's cell, robot's cell, action): whether the action lies on a shortest path."""
    best = np.zeros((CELLS, CELLS, 4), bool)
    for fruit in FRUIT_CELLS:
        prices = _prices(steps_to_fruit(fruit), fruit, None)
        best[fruit] = ((prices == prices.min(axis=0)) & (prices < UNREACHABLE)).T
    best.setflags(write=False)
    return best
