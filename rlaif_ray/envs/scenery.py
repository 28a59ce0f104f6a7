"""The house of Homegrid as a picture: floors, walls and furniture, drawn once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np

from rlaif_ray.envs.homegrid_layout import HOME, LAYOUTS, WIDTH
from rlaif_ray.envs.sprites import TILE, Painter, colour
from rlaif_ray.types import Array

__all__ = ["PICTURE_SHAPE", "draw_wall", "house", "room_name"]

PICTURE_SHAPE: Final = (HOME.height * TILE, HOME.width * TILE)
"""(384, 448): rows and columns of pixels."""
_ROOMS: Final = {"L": "living room", "K": "kitchen", "D": "dining room"}


@cache
def house(layout: str = "home") -> Array:
    """(384, 448) uint8 palette indices, read only."""
    if layout == "mirrored":
        picture = np.ascontiguousarray(house()[:, ::-1])
        picture.setflags(write=False)
        return picture
    paint, grid = Painter(np.full(PICTURE_SHAPE, colour("void"), np.uint8)), LAYOUTS[layout].grid
    for y, row in enumerate(grid):
        for x, letter in enumerate(row):
            if letter == "W":
                draw_wall(paint.tiles(x, y), has_wall_below=y + 1 < len(grid) and grid[y + 1][x] == "W")
            elif letter != ".":
                _FLOORS[_room(x, y)](paint.tiles(x, y))
    for (x, y, wide, high), draw in _PLACED[layout]:
        draw(paint.tiles(x, y, wide, high))
    paint.canvas.setflags(write=False)
    return paint.canvas


def _room(x: int, y: int) -> str:
    """The letter of the floor in this part of the house, under furniture too."""
    if y < 6 and x > 6:
        return "L"
    return "K" if x < 8 else "D"


def room_name(cell: int, layout: str = "home") -> str:
    """Which room a cell of the house belongs to, in words."""
    x, y = HOME.xy_of(cell)
    return _ROOMS[_room(WIDTH - 1 - x if layout == "mirrored" else x, y)]


def draw_wall(paint: Painter, *, has_wall_below: bool) -> None:
    """A tile of wall."""
    paint.box("wall_light", 0, 0, TILE, TILE)
    if not has_wall_below:  # the face of the wall, seen from the south
        paint.box("wall", 0, 14, TILE, TILE)
        paint.box("wall_dark", 0, 13, TILE, 14)
        paint.box("wall_dark", 0, 29, TILE, TILE)


def _oak(paint: Painter) -> None:
    paint.box("oak", 0, 0, TILE, TILE)
    for y in (8, 16, 24, 32):
        paint.box("oak_line", 0, y - 1, TILE, y)
    for x, y in ((10, 0), (26, 8), (4, 16), (20, 24)):
        paint.box("oak_line", x, y, x + 1, y + 8)


def _kitchen_tiles(paint: Painter) -> None:
    paint.box("tile", 0, 0, TILE, TILE)
    for at in (16, 32):
        paint.box("tile_line", 0, at - 1, TILE, at)
        paint.box("tile_line", at - 1, 0, at, TILE)


def _parquet(paint: Painter) -> None:
    paint.box("parquet", 0, 0, TILE, TILE)
    for x in (8, 16, 24, 32):
        paint.box("parquet_line", x - 1, 0, x, TILE)
    for x, y in ((0, 10), (8, 26), (16, 4), (24, 20)):
        paint.box("parquet_line", x, y, x + 8, y + 1)


_FLOORS: Final[dict[str, Callable[[Painter], None]]] = dict(zip(_ROOMS, (_oak, _kitchen_tiles, _parquet), strict=True))


# --------------------------------------------------------------------------------------------- furniture


def _plant(paint: Painter) -> None:
    for x, y, rx, ry in ((9, 11, 6, 5), (23, 11, 6, 5), (16, 7, 6, 6), (16, 15, 8, 5)):
        paint.oval("leaf_dark", x, y, rx, ry)
        paint.oval("leaf", x - 0.5, y - 1, rx - 1.6, ry - 1.6)
    paint.polygon("ink", (8, 18), (24, 18), (21.5, 30.5), (10.5, 30.5))
    paint.polygon("pot", (9, 19), (23, 19), (20.7, 29.5), (11.3, 29.5))
    paint.box("wood_dark", 9, 21.5, 23, 23)


def _armchair(paint: Painter) -> None:
    paint.box("ink", 1, 3, 31, 31, 4)
    paint.box("sofa_dark", 2, 4, 30, 14, 3)
    paint.box("sofa", 2, 10, 8, 30, 2)
    paint.box("sofa", 24, 10, 30, 30, 2)
    paint.box("sofa_light", 8, 13, 24, 30, 2)


def _side_sofa(paint: Painter) -> None:
    """Two tiles high, its back to the west wall."""
    paint.box("ink", 0, 2, 29, 62, 4)
    paint.box("sofa_dark", 1, 3, 11, 61, 3)
    paint.box("sofa", 3, 3, 28, 10, 2)
    paint.box("sofa", 3, 54, 28, 61, 2)
    paint.box("sofa_light", 10, 10, 28, 31.5, 2)
    paint.box("sofa_light", 10, 32.5, 28, 54, 2)


def _coffee_table(paint: Painter) -> None:
    paint.box("ink", 2, 7, 30, 30, 3)
    paint.box("wood_dark", 3, 8, 29, 29, 2)
    paint.box("wood_light", 3, 8, 29, 26, 2)
    paint.box("wood", 6, 11, 26, 12)
    paint.box("wood", 6, 21, 26, 22)


def _cabinet(paint: Painter) -> None:
    paint.box("ink", 1, 1, 31, 31, 1.5)
    paint.box("wood", 2, 2, 30, 30)
    paint.box("wood_light", 2, 2, 30, 7)
    paint.box("wood_dark", 15.5, 8, 16.5, 30)
    for x in (12, 18):
        paint.box("steel", x, 16, x + 2, 21)


def _rug(paint: Painter) -> None:
    """Two tiles wide, thick and fringed."""
    paint.box("rug_light", 1, 3, 63, 29, 1)
    paint.box("rug", 4, 4, 60, 28, 1)
    paint.box("rug_light", 8, 8, 56, 24)
    paint.box("rug", 10, 10, 54, 22)
    for x in (20, 32, 44):
        paint.polygon("rug_light", (x - 6, 16), (x, 11), (x + 6, 16), (x, 21))


def _cupboard(paint: Painter) -> None:
    paint.box("ink", 0, 0, 32, 32)
    paint.box("white", 1, 1, 31, 15)
    paint.box("wood_light", 1, 16, 31, 31)
    paint.box("wood", 15.5, 16, 16.5, 31)
    paint.box("steel_dark", 12, 19, 14, 24)
    paint.box("steel_dark", 18, 19, 20, 24)


def _stove(paint: Painter) -> None:
    """Two tiles wide: four rings above, an oven below."""
    paint.box("ink", 0, 0, 64, 32)
    paint.box("steel_dark", 1, 1, 63, 19)
    for x in (11, 25, 39, 53):
        paint.oval("ink", x, 10, 5.5, 5.5)
        paint.oval("steel", x, 10, 4.2, 4.2)
        paint.oval("ink", x, 10, 2.6, 2.6)
    paint.box("steel", 1, 20, 63, 31)
    paint.box("ink", 16, 23, 48, 29, 1.5)
    for x in (5, 9, 53, 57):
        paint.box("ink", x, 22, x + 2, 24)


def _fridge(paint: Painter) -> None:
    paint.box("ink", 2, 0, 30, 32, 2)
    paint.box("white", 3, 1, 29, 31, 1.5)
    paint.box("steel", 3, 12, 29, 13)
    paint.box("steel_dark", 6, 5, 8, 10)
    paint.box("steel_dark", 6, 15, 8, 23)


def _counter(paint: Painter) -> None:
    """Six tiles wide, with a sink at its left."""
    paint.box("ink", 0, 2, 192, 32)
    paint.box("white", 1, 3, 191, 20)
    paint.box("wood_light", 1, 21, 191, 31)
    for x in range(32, 192, 32):
        paint.box("wood", x, 21, x + 1, 31)
    paint.box("steel_dark", 5, 6, 27, 17, 2)
    paint.box("steel", 7, 8, 25, 15, 2)
    paint.box("steel_dark", 15, 4, 17, 11)


def _dining_table(paint: Painter) -> None:
    """Two tiles high."""
    paint.box("ink", 0, 1, 32, 63, 2)
    paint.box("wood", 1, 2, 31, 62, 1)
    for x in (8, 16, 24):
        paint.box("wood_dark", x, 2, x + 1, 62)


def _chair(paint: Painter) -> None:
    """Its back to the west."""
    paint.box("ink", 3, 6, 30, 27, 2)
    paint.box("wood_light", 8, 7, 29, 26, 1.5)
    paint.box("wood_dark", 4, 7, 9, 26, 1)


def _chair_east(paint: Painter) -> None:
    _chair(Painter(paint.canvas[:, ::-1]))


def _side_sofa_east(paint: Painter) -> None:
    _side_sofa(Painter(paint.canvas[:, ::-1]))


_Placed = tuple[tuple[tuple[int, int, int, int], Callable[[Painter], None]], ...]
_AT_HOME: Final[_Placed] = (
    ((7, 1, 1, 1), _plant),
    ((8, 1, 1, 1), _armchair),
    ((9, 1, 1, 1), _coffee_table),
    ((10, 1, 1, 1), _armchair),
    ((12, 1, 1, 1), _cabinet),
    ((7, 2, 1, 2), _side_sofa),
    ((9, 3, 2, 1), _rug),
    ((1, 6, 1, 1), _cupboard),
    ((2, 6, 1, 1), _cupboard),
    ((3, 6, 2, 1), _stove),
    ((5, 6, 1, 1), _cupboard),
    ((6, 6, 1, 1), _fridge),
    ((1, 10, 6, 1), _counter),
    ((9, 8, 1, 1), _chair),
    ((9, 9, 1, 1), _chair),
    ((10, 8, 1, 2), _dining_table),
    ((11, 8, 1, 1), _chair_east),
    ((11, 9, 1, 1), _chair_east),
)
_ELSEWHERE: Final[_Placed] = (
    ((7, 1, 1, 1), _cabinet),
    ((9, 1, 1, 1), _armchair),
    ((10, 1, 1, 1), _coffee_table),
    ((11, 1, 1, 1), _armchair),
    ((12, 1, 1, 1), _plant),
    ((12, 2, 1, 2), _side_sofa_east),
    ((8, 3, 2, 1), _rug),
    ((1, 6, 6, 1), _counter),
    ((1, 10, 1, 1), _fridge),
    ((2, 10, 1, 1), _cupboard),
    ((3, 10, 2, 1), _stove),
    ((5, 10, 1, 1), _cupboard),
    ((6, 10, 1, 1), _cupboard),
    ((10, 9, 1, 1), _chair),
    ((10, 10, 1, 1), _chair),
    ((11, 9, 1, 2), _dining_table),
    ((12, 9, 1, 1), _chair_east),
    ((12, 10, 1, 1), _chair_east),
)
_PLACED: Final = {"home": _AT_HOME, "furniture": _ELSEWHERE}
"""(column, row, tiles wide, tiles high) and what stands there, by floor plan."""
