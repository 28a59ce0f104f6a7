"""Shortest paths in Homegrid as published, by cells: how many steps an episode needs at least, which actions lose none.

``paths.py`` has them for every grid world.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from rlaif_ray.envs.homegrid_layout import HOME
from rlaif_ray.envs.homegrid_world import homegrid
from rlaif_ray.envs.paths import UNREACHABLE, shortest_at, steps_to_goal
from rlaif_ray.types import Array

__all__ = ["UNREACHABLE", "shortest_actions", "steps_to_fruit"]


def steps_to_fruit(fruit: int, avoid: int | None = None) -> Array:
    """(cells,) int64: fewest steps until the robot faces the fruit, from each cell; never entering cell ``avoid``."""
    return steps_to_goal(homegrid(), fruit, () if avoid is None else (avoid,))


@cache
def shortest_actions() -> Array:
    """(cells, cells, 4) bool by (fruit's cell, robot's cell, action): whether the action lies on a shortest path."""
    best = np.zeros((HOME.cells, HOME.cells, 4), bool)
    for fruit in HOME.goal_cells:
        best[fruit] = shortest_at(homegrid(), fruit)
    best.setflags(write=False)
    return best
