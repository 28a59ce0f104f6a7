"""A floor plan seen from above: its grid, and the tables of moves and distances that follow from it.

Cells are numbered row by row, ``cell = y * width + x`` (x right, y down, origin top-left); tables are indexed by cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from rlaif_ray.types import Array

__all__ = ["ACTIONS", "HEADINGS", "Layout"]

HEADINGS: Final = "NSEW"
ACTIONS: Final = ("north", "south", "east", "west")
STEP_XY: Final = ((0, -1), (0, 1), (1, 0), (-1, 0))


@dataclass(frozen=True, eq=False)
class Layout:
    """Rows of letters, which of them are floor, where the goal may lie (on furniture too) and where nobody starts.

    The border must not be floor: nobody ever stands on it. Distances are Chebyshev's, in tiles.
    """

    grid: tuple[str, ...]
    floor: str
    goals: tuple[tuple[int, int], ...]
    not_starts: tuple[tuple[int, int], ...] = ()
    goal_clearance: int = 4  # robot to goal: three tiles between them
    thing_clearance: int = 2  # what is in the way, to robot and to goal: never unavoidable at once

    @property
    def height(self) -> int:
        return len(self.grid)

    @property
    def width(self) -> int:
        return len(self.grid[0])

    @property
    def cells(self) -> int:
        return self.height * self.width

    def cell_of(self, x: int, y: int) -> int:
        """Number of the cell in column x, row y."""
        return y * self.width + x

    def xy_of(self, cell: int) -> tuple[int, int]:
        """(x, y) of a cell."""
        return cell % self.width, cell // self.width

    def inside(self, x: int, y: int) -> bool:
        """Whether there is such a cell."""
        return 0 <= x < self.width and 0 <= y < self.height

    @cached_property
    def xy(self) -> Array:
        """(cells, 2) int16: x, y."""
        cells = np.arange(self.cells)
        return _fixed(np.stack([cells % self.width, cells // self.width], axis=1).astype(np.int16))

    @cached_property
    def ahead(self) -> Array:
        """(4, cells): the cell ahead of one who stands on a cell and faces N, S, E, W."""
        moved = np.clip(
            self.xy.astype(np.intp) + np.array(STEP_XY)[:, None, :], 0, (self.width - 1, self.height - 1)
        )  # nobody stands on the border, so clipping there is never observed
        return _fixed(moved[..., 1] * self.width + moved[..., 0])

    @cached_property
    def walkable(self) -> Array:
        """(cells,) bool: the floor."""
        return _fixed(np.array([letter in self.floor for row in self.grid for letter in row]))

    @cached_property
    def floor_cells(self) -> Array:
        """(F,): the floor's cells, ascending."""
        return _fixed(np.flatnonzero(self.walkable))

    @cached_property
    def floor_ahead(self) -> Array:
        """(4, F): as ``ahead``, among floor cells by their number there; one's own where no floor is ahead."""
        number = np.full(self.cells, -1)
        number[self.floor_cells] = np.arange(len(self.floor_cells))
        found = number[self.ahead[:, self.floor_cells]]
        return _fixed(np.where(found >= 0, found, np.arange(len(self.floor_cells))))

    @cached_property
    def gap(self) -> Array:
        """(cells, cells) int16: Chebyshev distance, in tiles."""
        return _fixed(np.abs(self.xy[:, None] - self.xy[None]).max(axis=-1))

    @cached_property
    def goal_cells(self) -> tuple[int, ...]:
        return tuple(self.cell_of(x, y) for x, y in self.goals)

    @cached_property
    def start_cells(self) -> tuple[int, ...]:
        """Floor cells where robot and things may start, ascending."""
        return tuple(int(c) for c in np.flatnonzero(self.walkable) if self.xy_of(int(c)) not in self.not_starts)

    def legal_pairs(self) -> list[tuple[int, int]]:
        """Legal (robot, goal) pairs of cells, by goal, then robot."""
        return [(r, g) for g in self.goal_cells for r in self.start_cells if self.gap[r, g] >= self.goal_clearance]

    def pair_fault(self, robot: int, goal: int, name: str) -> str:
        """Why robot and the goal called ``name`` can't start like this; empty where they can."""
        return self._fault("robot", robot, name, goal, self.goal_clearance)

    def thing_fault(self, thing: int, name: str, other: int, other_name: str) -> str:
        """Why a thing can't start beside the robot or goal called ``other_name``; empty where it can."""
        return self._fault(name, thing, other_name, other, self.thing_clearance)

    def _fault(self, name: str, cell: int, other_name: str, other: int, least: int) -> str:
        if self.gap[cell, other] >= least:
            return ""
        return (
            f"{name} {self.xy_of(cell)} is {self.gap[cell, other]} tiles from {other_name} {self.xy_of(other)} "
            f"(Chebyshev), allowed are {least} or more"
        )

    def clear_cells(self, robot: int, goal: int) -> Array:
        """Start cells, ascending, where a thing may be given robot and goal."""
        cells = np.array(self.start_cells)
        far = (self.gap[cells, robot] >= self.thing_clearance) & (self.gap[cells, goal] >= self.thing_clearance)
        clear: Array = cells[far]
        return clear

    def shares_along(self, robot: int, goal: int, cells: Array) -> dict[int, float]:
        """Exact probability of each of ``cells`` (ascending) to be the nearest to a random point between two others.

        The thing stands on the cell nearest to p(u) = robot + u (goal - robot), u uniform in [0, 1), ties by y, then x.
        The squared distance of cell c to p(u) is a line in u, |robot - c|^2 + 2 u (robot - c).(goal - robot), plus a
        term that all cells share: so the nearest cells are the lower envelope of lines, and a cell's probability is the
        length of its interval of u. Numerators and denominators are small integers and division rounds correctly, so
        equal crossings compare equal. Without cells: no shares.
        """
        if not len(cells):
            return {}
        away = self.xy[robot].astype(np.int64) - self.xy[cells]
        height = (away**2).sum(axis=1)
        slope = 2 * away @ (self.xy[goal].astype(np.int64) - self.xy[robot])
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


def _fixed(table: Array) -> Array:
    table.setflags(write=False)
    return table
