"""Every start that an episode of a grid world can have, with its probability; a fifth of them held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, NamedTuple

import numpy as np

from rlaif_ray.envs.gridworld import GridWorld
from rlaif_ray.types import Array

__all__ = ["HELDOUT_SEED", "HELDOUT_SHARE", "HELD_OUT", "STARTS", "HeldOut", "StartTable", "Starts", "start_table"]

Starts = Literal["all", "train", "heldout"]
STARTS: Final = ("all", "train", "heldout")
HELDOUT_SHARE: Final = 0.2
HELDOUT_SEED: Final = 20_240_229
"""Fixes which starts are held out, for every run alike: results on them compare across seeds and machines."""


class HeldOut(NamedTuple):
    """Which starts are held out."""

    share: float = HELDOUT_SHARE
    fold: int = 0  # which one of the shares that there are: 0 .. folds - 1

    @property
    def folds(self) -> int:
        return int(1.0 / self.share + 1e-9)


HELD_OUT: Final = HeldOut()


@dataclass(frozen=True)
class StartTable:
    """Starts with the probability of each; draws are by inverse CDF."""

    robot: Array  # (M,) cells
    goal: Array  # (M,) cells
    things: Array  # (M, H) cells
    weight: Array  # (M,) float64, sums to 1
    cdf: Array  # (M,) float64, the last is 1

    def __len__(self) -> int:
        return len(self.robot)

    def draw(self, u: Array) -> Array:
        """Rows for uniform numbers u in [0, 1), any shape."""
        rows: Array = np.searchsorted(self.cdf, u, side="right")
        return rows

    def only(self, keep: Array) -> StartTable:
        """The table conditioned on ``keep`` (M,) bool, which must hold somewhere."""
        return _table_of(self.robot[keep], self.goal[keep], self.things[keep], self.weight[keep])

    @staticmethod
    def of_one(robot: int, goal: int, things: tuple[int, ...]) -> StartTable:
        """The table of a single start."""
        return _table_of(np.array([robot]), np.array([goal]), np.array([things]), np.ones(1))


def _table_of(robot: Array, goal: Array, things: Array, weight: Array) -> StartTable:
    cdf = np.cumsum(weight)
    table = StartTable(robot, goal, things, weight / cdf[-1], cdf / cdf[-1])
    for column in (table.robot, table.goal, table.things, table.weight, table.cdf):
        column.setflags(write=False)
    return table


@cache
def start_table(world: GridWorld, starts: Starts = "all", held_out: HeldOut = HELD_OUT) -> StartTable:
    """Every start of ``starts`` with its probability under the rules of a reset, conditioned on the set.

    The goal is uniform over its cells, the robot over the start cells far enough from it, things stand as ``GridWorld``
    says; starts from which harm can't be avoided don't occur (where one may be followed: neither by keeping away from
    the follower nor from its victim). ``heldout`` is a fixed draw (``HELDOUT_SEED``) of a share of all starts, each as
    likely as any other to be held out; ``train`` is the rest. A larger share holds out what a smaller one does, and
    more; folds hold out no start twice. Two alike things that change places make the same start.
    """
    if starts == "all":
        return _all_starts(world)
    whole = _all_starts(world)
    held = np.zeros(len(whole), bool)
    order = np.random.Generator(np.random.PCG64(HELDOUT_SEED)).permutation(len(whole))
    first, end = (round(fold * held_out.share * len(whole)) for fold in (held_out.fold, held_out.fold + 1))
    held[order[first:end]] = True
    return whole.only(held if starts == "heldout" else ~held)


@cache
def _all_starts(world: GridWorld) -> StartTable:
    layout = world.layout
    pairs = layout.legal_pairs()
    robots_of = {goal: sum(g == goal for _, g in pairs) for goal in layout.goal_cells}
    weights: dict[tuple[int, int, tuple[int, ...]], float] = {}
    for robot, goal in pairs:
        for first, share in layout.shares_along(robot, goal, layout.clear_cells(robot, goal)).items():
            base = share / (robots_of[goal] * len(layout.goal_cells))
            for things, part in _seconds(world, robot, goal, first):
                start = (robot, goal, things)
                weights[start] = weights.get(start, 0.0) + base * part
    robots, goals, things_of = (np.array(column) for column in zip(*weights, strict=True))
    table = _table_of(robots, goals, things_of, np.array(list(weights.values())))
    safe = _has_safe_way(world, table)
    return table if safe.all() else table.only(safe)


def _seconds(world: GridWorld, robot: int, goal: int, first: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """The cells of all things given the first's, with their probabilities; none where the second has no place."""
    if len(world.things) == 1:
        yield (first,), 1.0
        return
    layout, cells = world.layout, world.layout.clear_cells(robot, goal)
    if world.second == "along":
        shares = layout.shares_along(robot, goal, cells[layout.gap[cells, first] >= world.apart])
    else:
        beside = [c for c in layout.ahead[:, first].tolist() if c in cells]
        shares = {c: 1.0 / len(beside) for c in beside}
    alike = len(world.kinds) == 1
    for second, share in shares.items():
        yield (tuple(sorted((first, second))) if alike else (first, second)), share


def _has_safe_way(world: GridWorld, table: StartTable) -> Array:
    """(M,) bool: whether there is a way that surely does no harm."""
    layout, rows = world.layout, np.arange(len(table))
    free = np.broadcast_to(layout.walkable, (len(table), layout.cells)).copy()
    free[rows, table.goal] = False
    free[rows[:, None], table.things] = False
    if not world.solid:
        return _has_way(world, table, free)
    return np.logical_or(
        *(_has_way(world, table, free & (layout.gap[table.things[:, i]] > 1)) for i in range(len(world.things)))
    )


def _has_way(world: GridWorld, table: StartTable, free: Array) -> Array:
    """(M,) bool: whether the goal can be faced through ``free`` (M, cells) alone. By flooding all at once."""
    layout, rows = world.layout, np.arange(len(table))
    reached = np.zeros_like(free)
    reached[rows, table.robot] = True
    before = 0
    while (count := int(reached.sum())) != before:
        before = count
        for ahead in layout.ahead:  # who can step onto a cell can be followed back from it: steps are symmetric
            np.logical_or(reached, reached[:, ahead] & free, out=reached)
    around = layout.ahead[:, table.goal].T  # (M, 4): cells from which the goal is faced
    return np.asarray(reached[rows[:, None], around].any(axis=1))
