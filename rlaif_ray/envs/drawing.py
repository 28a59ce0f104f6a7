"""Draws the recorded states of grid worlds: as palette pictures, as PNG files, as captions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np

from rlaif_ray.envs.gridworld import GridWorld
from rlaif_ray.envs.layout import ACTIONS
from rlaif_ray.envs.png import Band, band_of, palette_png
from rlaif_ray.envs.sprites import CLEAR, TILE
from rlaif_ray.errors import ShapeError
from rlaif_ray.types import Array

__all__ = ["GridRenderer", "Shown", "empty_picture", "frames_of", "shown_in", "tile_picture"]

_MOST_BANDS: Final = 20_000  # in memory, about half a kilobyte each
_PLACES_AT: Final = 5  # columns of a state before those of things


@dataclass(frozen=True)
class Shown:
    """What a recorded state shows; places are (x, y)."""

    robot: tuple[int, int]
    heading: int
    goal: tuple[int, int]
    things: tuple[tuple[str, tuple[int, int]], ...]  # as they look: a marked one under the mark's name


def shown_in(world: GridWorld, state: Sequence[int]) -> Shown:
    """(K,) numbers, columns as ``world.state_columns`` -> what they show."""
    width = 3 if world.marked else 2
    things = []
    for i, name in enumerate(world.things):
        x, y, *mark = state[_PLACES_AT + i * width : _PLACES_AT + (i + 1) * width]
        things.append((world.marked if mark and mark[0] else name, (x, y)))
    return Shown((state[0], state[1]), state[2], (state[3], state[4]), tuple(things))


@cache
def empty_picture(world: GridWorld) -> Array:
    """(H, W) uint8 palette indices, read only: the place without anybody."""
    picture = world.empty()
    picture.setflags(write=False)
    return picture


@cache
def tile_picture(world: GridWorld, x: int, y: int, thing: str, heading: int) -> Array:
    """(32, 32) uint8: the tile in column x, row y with ``thing`` ("" for none) and, where ``heading`` is 0..3 and not
    -1, the robot upon it."""
    picture = empty_picture(world)[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE].copy()
    layers = [world.sprites(thing)] if thing else []
    layers += [world.robot(heading)] if heading >= 0 else []
    for sprite in layers:
        solid = sprite != CLEAR
        picture[solid] = sprite[solid]
    picture.setflags(write=False)
    return picture


def frames_of(world: GridWorld, states: Array) -> Array:
    """(T+1, K) -> (T+1, H, W) uint8 palette indices. Raises ShapeError."""
    rows = _checked(world, states)
    pictures = np.empty((len(rows), *world.size), np.uint8)
    pictures[:] = empty_picture(world)
    for picture, state in zip(pictures, rows, strict=True):
        for x, y, thing, heading in _tiles(world, state):
            picture[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] = tile_picture(world, x, y, thing, heading)
    return pictures


class GridRenderer(ABC):
    """Draws (T+1, K) int16 states (``world.state_columns``). Has no state; picklable. A world adds its captions."""

    def __init__(self, world: GridWorld) -> None:
        self.world = world

    @property
    def palette(self) -> Array:
        """(P, 3) uint8, of the indices that ``frames`` returns."""
        return self.world.palette

    def frames(self, states: Array) -> Array:
        """(T+1, K) -> (T+1, H, W) uint8 palette indices. Raises ShapeError."""
        return frames_of(self.world, states)

    def png(self, states: Array) -> tuple[bytes, ...]:
        """(T+1, K) -> T+1 palette PNGs; frames that look alike are encoded once. Raises ShapeError."""
        files: dict[tuple[int, ...], bytes] = {}
        size = (self.world.size[1], self.world.size[0])
        for state in (rows := _checked(self.world, states)):
            if tuple(state) not in files:
                files[tuple(state)] = palette_png(_bands(self.world, state), size, self.world.palette)
        return tuple(files[tuple(state)] for state in rows)

    def captions(self, states: Array) -> tuple[str, ...]:
        """(T+1, K) -> a sentence for each, with columns and rows from the top left. Raises ShapeError."""
        return tuple(self._caption(shown_in(self.world, state)) for state in _checked(self.world, states))

    @abstractmethod
    def _caption(self, shown: Shown) -> str:
        """What a picture shows, in one neutral sentence."""

    def _rows(self, states: Array) -> list[list[int]]:
        """States as lists. Raises ShapeError."""
        return _checked(self.world, states)


def _checked(world: GridWorld, states: Array) -> list[list[int]]:
    columns = len(world.state_columns)
    if states.ndim != 2 or states.shape[1] != columns:
        raise ShapeError(f"states: got shape {states.shape}, expected (T+1, {columns})")
    rows: list[list[int]] = states.tolist()
    for row in rows:
        shown = shown_in(world, row)
        places = (shown.robot, shown.goal, *(place for _, place in shown.things))
        if not (all(world.layout.inside(x, y) for x, y in places) and 0 <= shown.heading < len(ACTIONS)):
            size = f"{world.layout.width} x {world.layout.height}"
            raise ShapeError(f"states: got {row}, expected places within {size}")
    return rows


def _tiles(world: GridWorld, state: Sequence[int]) -> list[tuple[int, int, str, int]]:
    """Column, row, thing and heading of every tile that differs from the empty place; later ones cover earlier ones."""
    shown = shown_in(world, state)
    below = next((name for name, place in shown.things if place == shown.robot), "")
    things = [(*place, name, -1) for name, place in shown.things]
    return [(*shown.goal, world.goal, -1), *things, (*shown.robot, below, shown.heading)]


def _bands(world: GridWorld, state: Sequence[int]) -> list[Band]:
    tiles = _tiles(world, state)
    return [
        _band(world, y, tuple((x, thing, heading) for x, row, thing, heading in tiles if row == y))
        for y in range(world.layout.height)
    ]


@lru_cache(_MOST_BANDS)
def _band(world: GridWorld, y: int, things: tuple[tuple[int, str, int], ...]) -> Band:
    """A row of tiles with these things in it."""
    picture = empty_picture(world)[y * TILE : (y + 1) * TILE].copy()
    for x, thing, heading in things:
        picture[:, x * TILE : (x + 1) * TILE] = tile_picture(world, x, y, thing, heading)
    return band_of(picture)
