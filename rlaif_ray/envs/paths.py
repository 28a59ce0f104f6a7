"""Shortest paths in grid worlds: fewest steps to the goal, what harm they do, and what going round costs.

All by value iteration to the fixed point, over every start at once: exact figures, not samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from rlaif_ray.envs.gridworld import GridWorld
from rlaif_ray.envs.starts import Starts, start_table
from rlaif_ray.types import Array

__all__ = ["UNREACHABLE", "PathFacts", "path_facts", "shortest_at", "steps_to_goal"]

UNREACHABLE: Final = 10_000
"""Steps to the end from where there is no way; larger than any real length."""


@dataclass(frozen=True)
class PathFacts:
    """Of M starts and of all of them, weighted by how often each occurs."""

    weight: Array  # (M,) sums to 1
    steps: Array  # (M,) int64, fewest steps to the end
    harm: Array  # (M,) probability that a shortest path, each best action as likely as another, does harm
    harmless_steps: Array  # (M,) int64, fewest steps to the end without harm; UNREACHABLE where it can't be avoided

    @property
    def length(self) -> float:
        """Mean length of shortest paths."""
        return float(self.weight @ self.steps)

    @property
    def harm_rate(self) -> float:
        """Share of episodes in which a shortest-path policy does harm."""
        return float(self.weight @ self.harm)

    @property
    def detour(self) -> float:
        """What doing no harm costs, in steps, on average."""
        return float(self.weight @ (self.harmless_steps - self.steps))


@cache
def steps_to_goal(world: GridWorld, goal: int, barred: tuple[int, ...] = ()) -> Array:
    """(cells,) int64: fewest steps until the robot faces the goal, from each cell; never entering a cell ``barred``.

    The heading at the start doesn't matter: each action sets it.
    """
    free = _free(world, goal, np.array([barred], np.intp))
    found = np.where(free[0], _fewest(*_moves(world, goal, free))[0], UNREACHABLE)
    steps = np.full(world.layout.cells, UNREACHABLE)
    steps[world.layout.floor_cells] = found
    steps.setflags(write=False)
    return steps


@cache
def shortest_at(world: GridWorld, goal: int, barred: tuple[int, ...] = ()) -> Array:
    """(cells, 4) bool: whether an action lies on a shortest path; none does where there is no way."""
    free = _free(world, goal, np.array([barred], np.intp))
    lands, ends = _moves(world, goal, free)
    best = np.zeros((world.layout.cells, 4), bool)
    best[world.layout.floor_cells] = (_best(lands, ends, _fewest(lands, ends))[0] & free).T
    best.setflags(write=False)
    return best


@cache
def path_facts(world: GridWorld, starts: Starts = "all") -> PathFacts:
    """Lengths, harm and detours of shortest paths from every start."""
    table = start_table(world, starts)
    columns = {name: np.zeros(len(table)) for name in ("steps", "harm", "harmless")}
    robot = np.searchsorted(world.layout.floor_cells, table.robot)
    for goal in np.unique(table.goal).tolist():
        rows = np.flatnonzero(table.goal == goal)
        things, which = np.unique(table.things[rows], axis=0, return_inverse=True)
        which = which.reshape(-1)  # NumPy 2.0 alone gives it a second axis
        for name, found in _facts_at(world, goal, things).items():
            columns[name][rows] = found[which, robot[rows]]
    steps, harmless = (columns[name].astype(np.int64) for name in ("steps", "harmless"))
    return PathFacts(table.weight, steps, columns["harm"], harmless)


# Below, B is sets of things, F floor cells by their number among them, and Q whether one is followed: 2 where that
# can be, else 1.


def _facts_at(world: GridWorld, goal: int, things: Array) -> dict[str, Array]:
    """(B, H) cells of things -> (B, F) of each figure, for a robot that starts on a cell."""
    lands, ends = _moves(world, goal, _free(world, goal, things if world.solid else things[:, :0]))
    steps = _fewest(lands, ends)
    harms, after = _harms(world, lands, things)
    best = _best(lands, ends, steps)
    share = best / np.maximum(best.sum(axis=1, keepdims=True), 1)
    harm = np.zeros((len(things), harms.shape[1], lands.shape[2]))
    for _ in range(int(steps[steps < UNREACHABLE].max())):
        following = np.where(ends[:, None], 0.0, _following(harm, lands, after))
        harm = (share[:, None] * np.where(harms, 1.0, following)).sum(axis=2)
    return {"steps": steps, "harm": harm[:, 0], "harmless": _fewest_harmless(lands, ends, harms, after)}


def _free(world: GridWorld, goal: int, barred: Array) -> Array:
    """(B, n) barred cells -> (B, F) bool: where the robot can be."""
    free = np.broadcast_to(world.layout.walkable, (len(barred), world.layout.cells)).copy()
    free[:, goal] = False
    free[np.arange(len(barred))[:, None], barred] = False
    kept: Array = free[:, world.layout.floor_cells]
    return kept


def _moves(world: GridWorld, goal: int, free: Array) -> tuple[Array, Array]:
    """(B, 4, F): the cell an action leads to, and whether it ends the episode."""
    ahead, floor = world.layout.floor_ahead, world.layout.floor_cells
    lands = np.where(free[:, ahead], ahead, np.arange(len(floor)))
    faces = world.layout.ahead[:, floor] == goal
    ends = np.take_along_axis(np.broadcast_to(faces, lands.shape), lands, axis=2)
    return lands, ends


def _fewest(lands: Array, ends: Array) -> Array:
    """(B, F) int64 steps to the end."""
    steps = np.full((lands.shape[0], lands.shape[2]), UNREACHABLE)
    while True:
        better = np.minimum(steps, _prices(lands, ends, steps).min(axis=1))
        if np.array_equal(better, steps):
            return steps
        steps = better


def _prices(lands: Array, ends: Array, steps: Array) -> Array:
    """(B, 4, F): steps to the end if an action is taken now and the best follows."""
    following = np.take_along_axis(np.broadcast_to(steps[:, None], lands.shape), lands, axis=2)
    prices: Array = np.minimum(1 + np.where(ends, 0, following), UNREACHABLE)
    return prices


def _best(lands: Array, ends: Array, steps: Array) -> Array:
    """(B, 4, F) bool: whether an action loses no step."""
    best: Array = (_prices(lands, ends, steps) == steps[:, None]) & (steps[:, None] < UNREACHABLE)
    return best


def _harms(world: GridWorld, lands: Array, things: Array) -> tuple[Array, Array]:
    """(B, Q, 4, F) by whether one was followed before: whether landing does harm, and whether one is followed then."""
    cells = world.layout.floor_cells[lands]
    if world.harm == "entered":
        entered = (cells[..., None] == things[:, None, None]).any(axis=-1)[:, None]
        return entered, np.zeros(entered.shape, np.intp)
    near, follows = (world.layout.gap[cells, things[:, i][:, None, None]] <= 1 for i in range(2))
    after = np.stack([follows, np.ones_like(follows)], axis=1)
    return np.stack([np.zeros_like(near), near], axis=1), after.astype(np.intp)


def _following(values: Array, lands: Array, after: Array) -> Array:
    """(B, Q, F) values -> (B, Q, 4, F): the value where one lands, followed or not from then on."""
    rows = np.arange(len(values))[:, None, None, None]
    following: Array = values[rows, after, np.broadcast_to(lands[:, None], after.shape)]
    return following


def _fewest_harmless(lands: Array, ends: Array, harms: Array, after: Array) -> Array:
    """(B, F) int64 steps to the end without harm."""
    steps = np.full((lands.shape[0], harms.shape[1], lands.shape[2]), UNREACHABLE)
    while True:
        following = np.where(ends[:, None], 0, _following(steps, lands, after))
        prices = np.where(harms, UNREACHABLE, np.minimum(1 + following, UNREACHABLE))
        better = np.minimum(steps, prices.min(axis=2))
        if np.array_equal(better, steps):
            return steps[:, 0]
        steps = better
