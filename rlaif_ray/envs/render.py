"""Draws Homegrid's recorded states: as palette pictures, as PNG files, as captions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final

import numpy as np

from rlaif_ray.envs.homegrid_captions import WORDINGS, caption_of
from rlaif_ray.envs.homegrid_layout import ACTIONS, GRID, HEIGHT, WIDTH, cell_of, xy_of
from rlaif_ray.envs.homegrid_world import STATE_COLUMNS
from rlaif_ray.envs.png import Band, band_of, palette_png
from rlaif_ray.envs.scenery import PICTURE_SHAPE, house
from rlaif_ray.envs.sprites import CLEAR, PALETTE, TILE, cat, fruit, robot, stain
from rlaif_ray.errors import ShapeError
from rlaif_ray.types import Array

__all__ = ["HomegridRenderer", "place_name", "tile_picture"]

_SIZE: Final = (WIDTH * TILE, HEIGHT * TILE)
_MOST_BANDS: Final = 20_000  # in memory, about half a kilobyte each
_FURNITURE = {
    "n": "plant", "h": "armchair", "i": "sofa", "l": "coffee table", "m": "cabinet", "j": "rug", "k": "rug",
    "a": "cupboard", "b": "stove", "c": "fridge", "d": "counter", "e": "chair", "f": "chair", "g": "dining table",
}  # fmt: skip


@cache
def tile_picture(x: int, y: int, thing: str, heading: int) -> Array:
    """(32, 32) uint8: the tile in column x, row y with ``thing`` ("", "fruit", "cat", "stain") and, where ``heading``
    is 0..3 and not -1, the robot upon it."""
    picture = house()[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE].copy()
    layers = [{"fruit": fruit, "cat": cat, "stain": stain}[thing]()] if thing else []
    layers += [robot(heading)] if heading >= 0 else []
    for sprite in layers:
        solid = sprite != CLEAR
        picture[solid] = sprite[solid]
    picture.setflags(write=False)
    return picture


class HomegridRenderer:
    """Draws (T+1, 8) int16 states (``STATE_COLUMNS``) as pictures of 384 x 448 pixels. Has no state; picklable."""

    palette: Array = PALETTE  # (P, 3) uint8, of the indices that ``frames`` returns
    wordings: tuple[str, ...] = WORDINGS

    def frames(self, states: Array) -> Array:
        """(T+1, 8) -> (T+1, 384, 448) uint8 palette indices. Raises ShapeError."""
        rows = _checked(states)
        pictures = np.empty((len(rows), *PICTURE_SHAPE), np.uint8)
        pictures[:] = house()
        for picture, state in zip(pictures, rows, strict=True):
            _draw(picture, state)
        return pictures

    def png(self, states: Array) -> tuple[bytes, ...]:
        """(T+1, 8) -> T+1 palette PNGs; frames that look alike are encoded once. Raises ShapeError."""
        files: dict[tuple[int, ...], bytes] = {}
        for state in (rows := _checked(states)):
            if tuple(state) not in files:
                files[tuple(state)] = palette_png(_bands(state), _SIZE, PALETTE)
        return tuple(files[tuple(state)] for state in rows)

    def captions(self, states: Array) -> tuple[str, ...]:
        """(T+1, 8) -> a sentence for each, with columns and rows from the top left. Raises ShapeError."""
        return tuple(_caption(state) for state in _checked(states))

    def caption(self, states: Array, wording: str) -> str:
        """(T+1, 8) -> the whole in a few sentences (``homegrid_captions``). Raises ShapeError, UnknownNameError."""
        return caption_of(_checked(states), wording)


def _checked(states: Array) -> list[list[int]]:
    if states.ndim != 2 or states.shape[1] != len(STATE_COLUMNS):
        raise ShapeError(f"states: got shape {states.shape}, expected (T+1, {len(STATE_COLUMNS)})")
    rows: list[list[int]] = states.tolist()
    for x, y, heading, *others in rows:
        xs, ys = (x, *others[0:4:2]), (y, *others[1:4:2])
        if not (all(0 <= v < WIDTH for v in xs) and all(0 <= v < HEIGHT for v in ys) and 0 <= heading < len(ACTIONS)):
            raise ShapeError(f"states: got {[x, y, heading, *others]}, expected places within {WIDTH} x {HEIGHT}")
    return rows


def _things(state: Sequence[int]) -> list[tuple[int, int, str, int]]:
    """Column, row, thing and heading of every tile that differs from the empty house; later ones cover earlier ones."""
    robot_x, robot_y, heading, fruit_x, fruit_y, cat_x, cat_y, squashed = state
    pet = "stain" if squashed else "cat"
    below = pet if (robot_x, robot_y) == (cat_x, cat_y) else ""
    return [(fruit_x, fruit_y, "fruit", -1), (cat_x, cat_y, pet, -1), (robot_x, robot_y, below, heading)]


def _draw(picture: Array, state: Sequence[int]) -> None:
    for x, y, thing, heading in _things(state):
        picture[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] = tile_picture(x, y, thing, heading)


def _bands(state: Sequence[int]) -> list[Band]:
    things = _things(state)
    return [
        _band(y, tuple((x, thing, heading) for x, row, thing, heading in things if row == y)) for y in range(HEIGHT)
    ]


@lru_cache(_MOST_BANDS)
def _band(y: int, things: tuple[tuple[int, str, int], ...]) -> Band:
    """A row of tiles with these things in it."""
    picture = house()[y * TILE : (y + 1) * TILE].copy()
    for x, thing, heading in things:
        picture[:, x * TILE : (x + 1) * TILE] = tile_picture(x, y, thing, heading)
    return band_of(picture)


def place_name(cell: int) -> str:
    """Where a fruit on a cell lies, in words."""
    x, y = xy_of(cell)
    seat = _FURNITURE.get(GRID[y][x])
    return f"on the {seat}" if seat else "on the floor"


def _caption(state: Sequence[int]) -> str:
    robot_x, robot_y, heading, fruit_x, fruit_y, cat_x, cat_y, squashed = state
    pet = "a red stain is" if squashed else "the cat sits"
    return (
        f"The robot is at column {robot_x}, row {robot_y}, facing {ACTIONS[heading]}; the fruit lies "
        f"{place_name(cell_of(fruit_x, fruit_y))} at column {fruit_x}, row {fruit_y}; "
        f"{pet} at column {cat_x}, row {cat_y}."
    )
