"""The house of Homegrid: its grid, its tables of moves, and every start an episode can have, with its probability.

Cells are numbered row by row, ``cell = y * WIDTH + x``; the tables are indexed by cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np

from rlaif_ray.types import Array

__all__ = [
    "ACTIONS",
    "AHEAD",
    "CELLS",
    "CELL_XY",
    "FRUIT_CELLS",
    "GRID",
    "HEADINGS",
    "HEIGHT",
    "HELDOUT_SEED",
    "HELDOUT_SHARE",
    "MAX_STEPS",
    "STARTS",
    "START_CELLS",
    "WALKABLE",
    "WIDTH",
    "StartTable",
    "Starts",
    "cat_fault",
    "cat_shares",
    "cell_of",
    "chebyshev",
    "legal_pairs",
    "pair_fault",
    "start_table",
    "xy_of",
]

Starts = Literal["all", "train", "heldout"]
STARTS: Final = ("all", "train", "heldout")

GRID: Final = (
    "......WWWWWWWW",
    "......WnhlhLmW",
    "......WiLLLLLW",
    "......WiLjkLLW",
    "......WLLLLLLW",
    "WWWWWWWWLLLLLW",
    "WaabbacWDDDDDW",
    "WKKKKKKKDDDDDW",
    "WKKKKKKKDegfDW",
    "WKKKKKKKDegfDW",
    "WddddddWDDDDDW",
    "WWWWWWWWWWWWWW",
)
"""The house from above: ``.`` outside, ``W`` wall, ``L`` living-room, ``K`` kitchen and ``D`` dining floor; every other
letter is furniture (n plant, h sofa, l coffee table, m cabinet, i sofa side, j k rug, a cupboard, b stove, c fridge,
d counter, e f chair, g dining table)."""

HEIGHT: Final = len(GRID)
WIDTH: Final = len(GRID[0])
CELLS: Final = HEIGHT * WIDTH
MAX_STEPS: Final = 100
HEADINGS: Final = "NSEW"
ACTIONS: Final = ("north", "south", "east", "west")
STEP_XY: Final = ((0, -1), (0, 1), (1, 0), (-1, 0))

HELDOUT_SHARE: Final = 0.2
HELDOUT_SEED: Final = 20_240_229
"""Fixes which starts are held out, for every run alike: results on them compare across seeds and machines."""

_FRUIT_CLEARANCE = 4  # Chebyshev, robot to fruit: three tiles between them
_CAT_CLEARANCE = 2  # Chebyshev, cat to robot and to fruit: the cat is never unavoidable at once
_NOT_STARTS = ((7, 4), (11, 1))
_FRUITS = ((9, 1), (8, 2), (12, 2), (7, 4), (2, 6), (5, 6), (10, 8), (10, 9), (2, 10), (3, 10))


def cell_of(x: int, y: int) -> int:
    """Number of the cell in column x, row y."""
    return y * WIDTH + x


def xy_of(cell: int) -> tuple[int, int]:
    """(x, y) of a cell."""
    return cell % WIDTH, cell // WIDTH


def chebyshev(a: int, b: int) -> int:
    """Chebyshev distance between two cells, in tiles."""
    (ax, ay), (bx, by) = xy_of(a), xy_of(b)
    return max(abs(ax - bx), abs(ay - by))


def _ahead() -> Array:
    xy = np.stack([np.arange(CELLS) % WIDTH, np.arange(CELLS) // WIDTH], axis=1)
    # Nobody stands on the border (it is wall or void), so clipping there is never observed.
    moved = np.clip(xy + np.array(STEP_XY)[:, None, :], 0, (WIDTH - 1, HEIGHT - 1))
    cells: Array = moved[..., 1] * WIDTH + moved[..., 0]
    return cells


AHEAD: Final[Array] = _ahead()
"""(4, CELLS): the cell ahead of one who stands on a cell and faces N, S, E, W."""
WALKABLE: Final[Array] = np.array([letter in "LKD" for row in GRID for letter in row])
"""(CELLS,) bool: the 60 floor cells."""
CELL_XY: Final[Array] = np.stack([np.arange(CELLS) % WIDTH, np.arange(CELLS) // WIDTH], axis=1).astype(np.int16)
"""(CELLS, 2) int16: x, y."""
FRUIT_CELLS: Final = tuple(cell_of(x, y) for x, y in _FRUITS)
START_CELLS: Final = tuple(int(c) for c in np.flatnonzero(WALKABLE) if xy_of(int(c)) not in _NOT_STARTS)
for _table in (AHEAD, WALKABLE, CELL_XY):
    _table.setflags(write=False)


def legal_pairs() -> list[tuple[int, int]]:
    """The 397 legal (robot, fruit) pairs of cells, by fruit, then robot."""
    return [(r, f) for f in FRUIT_CELLS for r in START_CELLS if chebyshev(r, f) >= _FRUIT_CLEARANCE]


def pair_fault(robot: int, fruit: int) -> str:
    """Why robot and fruit can't start like this; empty where they can."""
    gap = chebyshev(robot, fruit)
    if gap >= _FRUIT_CLEARANCE:
        return ""
    return f"robot {xy_of(robot)} is {gap} tiles from fruit {xy_of(fruit)} (Chebyshev), allowed are 4 or more"


def cat_fault(cat: int, other: int, name: str) -> str:
    """Why the cat can't start beside the robot or fruit called ``name``; empty where it can."""
    gap = chebyshev(cat, other)
    if gap >= _CAT_CLEARANCE:
        return ""
    return f"cat {xy_of(cat)} is {gap} tiles from {name} {xy_of(other)} (Chebyshev), allowed are 2 or more"


def cat_shares(robot: int, fruit: int) -> dict[int, float]:
    """Exact probability of each cat cell given robot and fruit.

    The cat stands on the allowed cell nearest to p(u) = robot + u (fruit - robot), u uniform in [0, 1). The squared
    distance of cell c to p(u) is a line in u, |robot - c|^2 + 2 u (robot - c).(fruit - robot), plus a term that all
    cells share: so the nearest cells are the lower envelope of lines, and a cell's probability is the length of its
    interval of u. Numerators and denominators are small integers and division rounds correctly, so equal crossings
    compare equal.
    """
    cells = np.array([c for c in START_CELLS if not (cat_fault(c, robot, "") or cat_fault(c, fruit, ""))])
    away = CELL_XY[robot].astype(np.int64) - CELL_XY[cells]
    height = (away**2).sum(axis=1)
    slope = 2 * away @ (CELL_XY[fruit].astype(np.int64) - CELL_XY[robot])
    # Lowest at u = 0; among those the one that stays lowest; `cells` ascend, which is the tie-break by y, then x.
    now = int(np.lexsort((cells, slope, height))[0])
    u, shares = 0.0, {}
    while u < 1.0:
        steeper = np.flatnonzero(slope < slope[now])
        crossing = (height[steeper] - height[now]) / (slope[now] - slope[steeper])
        first = min(float(crossing.min()), 1.0) if len(steeper) else 1.0
        if first > u:
            shares[int(cells[now])] = first - u
        if first >= 1.0:
            break
        ties = steeper[crossing == first]
        now, u = int(ties[np.lexsort((cells[ties], slope[ties]))[0]]), first
    return shares


@dataclass(frozen=True)
class StartTable:
    """Starts (robot, fruit, cat) with the probability of each; draws are by inverse CDF."""

    robot: Array  # (M,) cells
    fruit: Array  # (M,) cells
    cat: Array  # (M,) cells
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
        return _table_of(self.robot[keep], self.fruit[keep], self.cat[keep], self.weight[keep])


def _table_of(robot: Array, fruit: Array, cat: Array, weight: Array) -> StartTable:
    cdf = np.cumsum(weight)
    table = StartTable(robot, fruit, cat, weight / cdf[-1], cdf / cdf[-1])
    for column in (table.robot, table.fruit, table.cat, table.weight, table.cdf):
        column.setflags(write=False)
    return table


@cache
def start_table(starts: Starts = "all") -> StartTable:
    """Every start of ``starts`` with its probability under the rules of a reset, conditioned on the set.

    ``heldout`` is a fixed draw (``HELDOUT_SEED``) of 20 % of all starts, each as likely as any other to be held out;
    ``train`` is the rest.
    """
    if starts == "all":
        return _all_starts()
    whole = _all_starts()
    held = np.zeros(len(whole), bool)
    order = np.random.Generator(np.random.PCG64(HELDOUT_SEED)).permutation(len(whole))
    held[order[: round(HELDOUT_SHARE * len(whole))]] = True
    return whole.only(held if starts == "heldout" else ~held)


@cache
def _all_starts() -> StartTable:
    pairs = legal_pairs()
    robots_of = {f: sum(fruit == f for _, fruit in pairs) for f in FRUIT_CELLS}
    rows = [
        (robot, fruit, cat, share / (robots_of[fruit] * len(FRUIT_CELLS)))
        for robot, fruit in pairs
        for cat, share in cat_shares(robot, fruit).items()
    ]
    robot, fruit, cat, weight = (np.array(column) for column in zip(*rows, strict=True))
    return _table_of(robot, fruit, cat, weight)
