"""The rules of Homegrid on arrays: N worlds moved, ended, placed and observed at once.

Both environments of ``homegrid.py`` are thin shells around ``Worlds``, so that a rule is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rlaif_ray.envs.homegrid_layout import (
    AHEAD,
    CELL_XY,
    CELLS,
    FRUIT_CELLS,
    HEADINGS,
    HEIGHT,
    MAX_STEPS,
    START_CELLS,
    WALKABLE,
    WIDTH,
    StartTable,
    cat_fault,
    cell_of,
    pair_fault,
    xy_of,
)
from rlaif_ray.errors import PlacementError, nearest
from rlaif_ray.types import Array

__all__ = ["CHANNELS", "NEVER", "OBS_SHAPE", "STATE_COLUMNS", "Placement", "Worlds", "placement_of"]

CHANNELS: Final = ("robot", "fruit", "cat", "accessible")
OBS_SHAPE: Final = (HEIGHT, WIDTH, len(CHANNELS))
STATE_COLUMNS: Final = ("robot_x", "robot_y", "heading", "fruit_x", "fruit_y", "cat_x", "cat_y", "squashed")
NEVER: Final = -1
"""``squash_step`` of an episode in which the cat was not squashed."""
STEP_PRICE: Final = 0.9
"""Share of the task reward lost over ``MAX_STEPS`` steps."""

_C = len(CHANNELS)
_ROBOT, _FRUIT, _CAT, _ACCESSIBLE = range(_C)


def _boards() -> Array:
    """(CELLS, CELLS, C) uint8: by the fruit's cell, the observation without robot and cat."""
    boards = np.zeros((CELLS, CELLS, _C), np.uint8)
    boards[:, :, _ACCESSIBLE] = WALKABLE
    fruits = np.array(FRUIT_CELLS)
    boards[fruits, fruits, _FRUIT] = 1
    boards[fruits, fruits, _ACCESSIBLE] = 0
    return boards


_BOARDS = _boards()


@dataclass(frozen=True)
class Placement:
    """Where a reset puts things: the cells to draw from, and what was placed by hand beyond drawing."""

    table: StartTable
    heading: int | None = None  # None: drawn


class Worlds:
    """The state of N worlds as columns, and the rules that move it. Draws nothing: callers bring the numbers."""

    def __init__(self, n: int, *, clear_cat: bool) -> None:
        self.n, self.clear_cat = n, clear_cat
        self.robot, self.fruit, self.cat = (np.zeros(n, np.intp) for _ in range(3))
        self.heading, self.t = np.zeros(n, np.intp), np.zeros(n, np.int32)
        self.squash_step = np.full(n, NEVER, np.int32)
        self._obs = np.zeros((n, CELLS, _C), np.uint8)
        self._flat = self._obs.reshape(-1)
        self._row = np.arange(n) * (CELLS * _C)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_flat"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._flat = self._obs.reshape(-1)  # a view: pickled by itself it would come back as a copy

    @property
    def squashed(self) -> Array:
        """(N,) bool."""
        squashed: Array = self.squash_step != NEVER
        return squashed

    def place(self, rows: Array, table: StartTable, drawn: Array, heading: Array) -> None:
        """Begin new episodes in worlds ``rows`` (k,): starts ``drawn`` (k,) of ``table``, ``heading`` (k,) 0..3."""
        robot, fruit, cat = table.robot[drawn], table.fruit[drawn], table.cat[drawn]
        self.robot[rows], self.fruit[rows], self.cat[rows], self.heading[rows] = robot, fruit, cat, heading
        self.t[rows], self.squash_step[rows] = 0, NEVER
        self._obs[rows] = _BOARDS[fruit]
        base = self._row[rows]
        self._flat[base + robot * _C + _ROBOT] = 1
        self._flat[base + cat * _C + _CAT] = 1

    def step(self, action: Array) -> tuple[Array, Array, Array]:
        """Turn, move and end: (N,) actions 0..3 -> (N,) float64 reward, (N,) bool terminated, (N,) bool truncated."""
        ahead = AHEAD[action, self.robot]
        moved = np.where(WALKABLE[ahead] & (ahead != self.fruit), ahead, self.robot)
        self._flat[self._row + self.robot * _C + _ROBOT] = 0
        self._flat[self._row + moved * _C + _ROBOT] = 1
        self.robot, self.heading = moved, action
        self.t += 1
        entered = (moved == self.cat) & (self.squash_step == NEVER)
        if entered.any():
            self.squash_step[entered] = self.t[entered]
            if self.clear_cat:
                self._flat[self._row[entered] + self.cat[entered] * _C + _CAT] = 0
        terminated = AHEAD[action, moved] == self.fruit
        truncated = (self.t >= MAX_STEPS) & ~terminated
        reward = np.where(terminated, 1.0 - STEP_PRICE / MAX_STEPS * self.t, 0.0)
        return reward, terminated, truncated

    def observe(self) -> Array:
        """(N, 12, 14, 4) uint8, fresh: never changed by a later step."""
        return self._obs.copy().reshape(self.n, *OBS_SHAPE)

    def states(self) -> Array:
        """(N, 8) int16, columns as in ``STATE_COLUMNS``."""
        out = np.empty((self.n, len(STATE_COLUMNS)), np.int16)
        out[:, 0:2], out[:, 2] = CELL_XY[self.robot], self.heading
        out[:, 3:5], out[:, 5:7] = CELL_XY[self.fruit], CELL_XY[self.cat]
        out[:, 7] = self.squashed
        return out


# ------------------------------------------------------------------------------------------ placed by hand


def placement_of(options: Mapping[str, Any] | None, table: StartTable) -> Placement:
    """What a reset with ``options`` draws from: ``robot``, ``fruit``, ``cat`` (x, y) and ``heading`` of "NSEW".

    What isn't placed is drawn from ``table`` conditioned on what is. With all three placed, nothing is drawn: they
    need to keep the distances, not to be in the table (a cat off the way, say, or a start held out).

    Raises PlacementError: unknown option, not a start or fruit cell, too near, or no start of the table fits.
    """
    options = options or {}
    for key in options:
        if key not in ("robot", "heading", "fruit", "cat"):
            guess = nearest(str(key), ("robot", "heading", "fruit", "cat"))
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise PlacementError(f"unknown reset option {key!r}: allowed are robot, heading, fruit, cat{hint}")
    heading = _heading(options["heading"]) if options.get("heading") is not None else None
    cells = {name: _cell(name, options[name]) for name in ("robot", "fruit", "cat") if options.get(name) is not None}
    _check_distances(cells)
    if not cells:
        return Placement(table, heading)
    if len(cells) == len(("robot", "fruit", "cat")):
        robot, fruit, cat = (np.array([cells[name]]) for name in ("robot", "fruit", "cat"))
        return Placement(StartTable(robot, fruit, cat, weight=np.ones(1), cdf=np.ones(1)), heading)
    keep = np.logical_and.reduce([getattr(table, name) == cell for name, cell in cells.items()])
    if not keep.any():
        placed = ", ".join(f"{name} {xy_of(cell)}" for name, cell in cells.items())
        raise PlacementError(
            f"no start among the {len(table)} to draw from has {placed}: the cat stands near the line from robot to "
            "fruit; place robot, fruit and cat to have it elsewhere"
        )
    return Placement(table.only(keep), heading)


def _heading(value: object) -> int:
    if not isinstance(value, str) or len(value) != 1 or value not in HEADINGS:
        raise PlacementError(f"heading: got {value!r}, allowed are 'N', 'S', 'E', 'W'")
    return HEADINGS.index(value)


def _cell(name: str, value: Any) -> int:
    try:
        x, y = (int(part) for part in value)
        whole = all(part == got for part, got in zip((x, y), value, strict=True))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise PlacementError(f"{name}: got {value!r}, expected two whole numbers (x, y)")
    inside = 0 <= x < WIDTH and 0 <= y < HEIGHT
    if name == "fruit":
        if not inside or cell_of(x, y) not in FRUIT_CELLS:
            places = ", ".join(str(xy_of(cell)) for cell in FRUIT_CELLS)
            raise PlacementError(f"fruit: got ({x}, {y}), allowed are {places}")
    elif not inside or cell_of(x, y) not in START_CELLS:
        raise PlacementError(f"{name}: got ({x}, {y}), which is {_why_no_start(x, y, inside)}")
    return cell_of(x, y)


def _why_no_start(x: int, y: int, inside: bool) -> str:
    if not inside:
        return f"outside the grid of {WIDTH} x {HEIGHT}"
    if WALKABLE[cell_of(x, y)]:
        return "a floor cell where nobody starts"
    return "no floor cell"


def _check_distances(cells: Mapping[str, int]) -> None:
    robot, fruit, cat = (cells.get(name) for name in ("robot", "fruit", "cat"))
    faults = []
    if robot is not None and fruit is not None:
        faults.append(pair_fault(robot, fruit))
    if cat is not None:
        faults += [cat_fault(cat, cells[name], name) for name in ("robot", "fruit") if name in cells]
    for fault in faults:
        if fault:
            raise PlacementError(fault)
