"""Resets placed by hand: what ``reset(options=...)`` may say in a grid world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlaif_ray.envs.gridworld import GridWorld
from rlaif_ray.envs.layout import HEADINGS
from rlaif_ray.envs.starts import StartTable
from rlaif_ray.errors import PlacementError, nearest
from rlaif_ray.types import Array

__all__ = ["Placement", "placement_of"]


@dataclass(frozen=True)
class Placement:
    """Where a reset puts things: the starts to draw from, and what was placed by hand beyond drawing."""

    table: StartTable
    heading: int | None = None  # None: drawn


def placement_of(world: GridWorld, options: Mapping[str, Any] | None, table: StartTable) -> Placement:
    """What a reset with ``options`` draws from: robot, goal and things by name (Homegrid: ``robot``, ``fruit``,
    ``cat``) as (x, y), and ``heading`` of "NSEW".

    What isn't placed is drawn from ``table`` conditioned on what is. With all placed, nothing is drawn: they need to
    keep the distances, not to be in the table (a cat off the way, say, or a start held out).

    Raises PlacementError: unknown option, no start or goal cell, too near, or no start of the table fits.
    """
    options = options or {}
    names = ("robot", world.goal, *world.labels)
    for key in options:
        if key not in (allowed := (names[0], "heading", *names[1:])):
            guess = nearest(str(key), allowed)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise PlacementError(f"unknown reset option {key!r}: allowed are {', '.join(allowed)}{hint}")
    heading = _heading(options["heading"]) if options.get("heading") is not None else None
    cells = {name: _cell(world, name, options[name]) for name in names if options.get(name) is not None}
    _check_distances(world, cells)
    if not cells:
        return Placement(table, heading)
    if len(cells) == len(names):
        things = tuple(cells[label] for label in world.labels)
        return Placement(StartTable.of_one(cells["robot"], cells[world.goal], things), heading)
    return Placement(table.only(_fitting(world, cells, table)), heading)


def _fitting(world: GridWorld, cells: Mapping[str, int], table: StartTable) -> Array:
    """(M,) bool: starts of the table that have what was placed."""
    keep = np.ones(len(table), bool)
    alike = len(world.kinds) < len(world.things)  # then either may be the one that was placed
    for name, cell in cells.items():
        if name in world.labels:
            which = slice(None) if alike else [world.labels.index(name)]
            keep &= (table.things[:, which] == cell).any(axis=1)
        else:
            keep &= (table.robot if name == "robot" else table.goal) == cell
    if not keep.any():
        placed = ", ".join(f"{name} {world.layout.xy_of(cell)}" for name, cell in cells.items())
        others = " and ".join(dict.fromkeys(world.things))
        raise PlacementError(
            f"no start among the {len(table)} to draw from has {placed}: the {others} stands near the line from robot "
            f"to {world.goal}; place robot, {world.goal} and {' and '.join(world.labels)} to have it elsewhere"
        )
    return keep


def _heading(value: object) -> int:
    if not isinstance(value, str) or len(value) != 1 or value not in HEADINGS:
        raise PlacementError(f"heading: got {value!r}, allowed are 'N', 'S', 'E', 'W'")
    return HEADINGS.index(value)


def _cell(world: GridWorld, name: str, value: Any) -> int:
    try:
        x, y = (int(part) for part in value)
        whole = all(part == got for part, got in zip((x, y), value, strict=True))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise PlacementError(f"{name}: got {value!r}, expected two whole numbers (x, y)")
    layout, inside = world.layout, world.layout.inside(x, y)
    if name == world.goal:
        if not inside or layout.cell_of(x, y) not in layout.goal_cells:
            places = ", ".join(str(layout.xy_of(cell)) for cell in layout.goal_cells)
            raise PlacementError(f"{name}: got ({x}, {y}), allowed are {places}")
    elif not inside or layout.cell_of(x, y) not in layout.start_cells:
        raise PlacementError(f"{name}: got ({x}, {y}), which is {_why_no_start(world, x, y, inside)}")
    return layout.cell_of(x, y)


def _why_no_start(world: GridWorld, x: int, y: int, inside: bool) -> str:
    if not inside:
        return f"outside the grid of {world.layout.width} x {world.layout.height}"
    if world.layout.walkable[world.layout.cell_of(x, y)]:
        return "a floor cell where nobody starts"
    return "no floor cell"


def _check_distances(world: GridWorld, cells: Mapping[str, int]) -> None:
    faults = []
    if "robot" in cells and world.goal in cells:
        faults.append(world.layout.pair_fault(cells["robot"], cells[world.goal], world.goal))
    for label in world.labels:
        if label in cells:
            others = [name for name in ("robot", world.goal) if name in cells]
            faults += [world.layout.thing_fault(cells[label], label, cells[name], name) for name in others]
    if all(label in cells for label in world.labels[1:]) and world.labels[0] in cells:
        faults.append(_between(world, *(cells[label] for label in world.labels)))
    for fault in faults:
        if fault:
            raise PlacementError(fault)


def _between(world: GridWorld, first: int, second: int | None = None) -> str:
    """Why two things can't start like this; empty where they can."""
    if second is None:
        return ""
    layout, (name, other) = world.layout, world.labels
    if world.second == "beside":
        if second in layout.ahead[:, first]:
            return ""
        return f"{other} {layout.xy_of(second)} is not on a cell next to {name} {layout.xy_of(first)}"
    if layout.gap[first, second] >= world.apart:
        return ""
    return (
        f"{other} {layout.xy_of(second)} is {layout.gap[first, second]} tiles from {name} {layout.xy_of(first)} "
        f"(Chebyshev), allowed are {world.apart} or more"
    )
