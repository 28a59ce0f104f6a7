"""The workshop as a picture: concrete and walls, racks and machines, and what moves about; drawn by this code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np

from rlaif_ray.envs.layout import Layout
from rlaif_ray.envs.scenery import draw_wall
from rlaif_ray.envs.sprites import TILE, Painter, blank, colour, done, heading_tip
from rlaif_ray.types import Array

__all__ = ["SPRITES", "cart", "paint", "parcel", "smear", "workshop"]


def workshop(layout: Layout) -> Array:
    """(352, 480) uint8 palette indices: the place without anybody."""
    grid = layout.grid
    canvas = Painter(np.full((layout.height * TILE, layout.width * TILE), colour("void"), np.uint8))
    for y, row in enumerate(grid):
        for x, letter in enumerate(row):
            if letter == "W":
                draw_wall(canvas.tiles(x, y), has_wall_below=y + 1 < len(grid) and grid[y + 1][x] == "W")
            else:
                _concrete(canvas.tiles(x, y))
    for y in (2, 8):  # a marked lane along the racks
        for x in range(2, layout.width - 2):
            if grid[y][x] == "F":
                canvas.tiles(x, y).box("lane", 6, 15, 26, 17)
    for (x, y, wide, high), draw in _PLACED:
        draw(canvas.tiles(x, y, wide, high))
    return canvas.canvas


def _concrete(paint: Painter) -> None:
    paint.box("concrete", 0, 0, TILE, TILE)
    paint.box("concrete_line", 0, 31, TILE, TILE)
    paint.box("concrete_line", 31, 0, TILE, TILE)
    for x, y in ((7, 9), (21, 5), (14, 22), (26, 26)):
        paint.box("concrete_line", x, y, x + 2, y + 1)


def _rack(paint: Painter) -> None:
    """One tile of shelf, with two cartons on it."""
    paint.box("shelf_dark", 0, 0, 32, 32)
    paint.box("shelf", 0, 1, 32, 5)
    paint.box("shelf", 0, 27, 32, 31)
    paint.box("ink", 1, 6, 31, 26)
    for left in (3, 17):
        paint.box("card_dark", left, 10, left + 12, 26)
        paint.box("card", left, 10, left + 12, 23)
        paint.box("tape", left + 5, 10, left + 7, 23)


def _bench(paint: Painter) -> None:
    """One tile of workbench, with a spanner."""
    paint.box("ink", 0, 2, 32, 32)
    paint.box("bench_light", 0, 3, 32, 22)
    paint.box("bench", 0, 23, 32, 31)
    paint.line("steel_dark", (8, 16), (22, 9), 3)
    paint.oval("steel_dark", 23, 8.5, 3.4, 3.4)
    paint.oval("bench_light", 24.4, 7.6, 1.6, 1.6)


def _machine(paint: Painter) -> None:
    """Two by two tiles: a lathe."""
    paint.box("ink", 1, 3, 63, 62, 3)
    paint.box("machine_dark", 2, 4, 62, 61, 2)
    paint.box("machine", 2, 4, 62, 46, 2)
    paint.box("machine_light", 6, 8, 26, 22, 2)
    paint.oval("ink", 46, 24, 12, 12)
    paint.oval("steel", 46, 24, 10.6, 10.6)
    paint.oval("steel_dark", 46, 24, 4, 4)
    for x, lamp in ((9, "banana"), (15, "leaf"), (21, "blood")):
        paint.oval(lamp, x, 34, 2.2, 2.2)
    paint.box("steel_dark", 6, 50, 58, 56)


def _pallet(paint: Painter) -> None:
    """Two by two tiles: a pallet with a stack under a strap."""
    paint.box("wood_dark", 1, 1, 63, 63, 1)
    for x in (3, 19, 35, 51):
        paint.box("wood_light", x, 2, x + 10, 62)
    paint.box("ink", 7, 7, 57, 57, 1)
    for x in (8, 33):
        for y in (8, 33):
            paint.box("card_dark", x, y, x + 23, y + 23)
            paint.box("card", x, y, x + 22, y + 20)
    paint.box("tape", 30, 8, 34, 56)


_PLACED: Final[tuple[tuple[tuple[int, int, int, int], Callable[[Painter], None]], ...]] = (
    *(((x, 1, 1, 1), _rack) for x in (1, 2, 3, 4)),
    *(((x, 1, 1, 1), _bench) for x in (10, 11, 12)),
    *(((1, y, 1, 1), _bench) for y in (7, 8, 9)),
    *(((x, 9, 1, 1), _rack) for x in (4, 5, 12, 13)),
    ((3, 3, 2, 2), _machine),
    ((12, 7, 2, 2), _machine),
    ((11, 4, 2, 2), _pallet),
)
"""(column, row, tiles wide, tiles high) and what stands there."""


# ------------------------------------------------------------------------------------------------ sprites


@cache
def parcel() -> Array:
    """(32, 32): a taped parcel with a label."""
    paint = blank()
    paint.polygon("card", (4, 11), (16, 6), (28, 11), (16, 16))
    paint.polygon("card_dark", (4, 11), (16, 16), (16, 29), (4, 24))
    paint.polygon("card", (28, 11), (16, 16), (16, 29), (28, 24))
    paint.polygon("tape", (8.5, 9.2), (11.8, 7.8), (23.6, 12.8), (20.4, 14.2))
    paint.polygon("white", (18.5, 20), (25.5, 17), (25.5, 21.5), (18.5, 24.5))
    paint.polygon("blood", (19.5, 22.6), (22, 21.5), (22, 22.6), (19.5, 23.7))
    paint.outline("ink")
    return done(paint)


def _blot() -> Painter:
    sprite = blank()
    sprite.box("paint_dark", 0, 0, 32, 32, 6)
    sprite.box("paint", 1, 1, 31, 31, 5.4)
    return sprite


@cache
def paint() -> Array:
    """(32, 32): fresh floor paint, wet and even."""
    sprite = _blot()
    sprite.line("paint_light", (6, 24), (22, 6), 2.2)
    sprite.line("paint_light", (12, 26), (26, 10), 1.4)
    sprite.oval("white", 8, 7, 2.4, 1.4)
    return done(sprite)


@cache
def smear() -> Array:
    """(32, 32): the same after somebody drove through: tracks out to the corners, and bare floor in them."""
    sprite = _blot()
    for (ax, ay), (bx, by) in (((-2, 6), (26, 34)), ((6, -2), (34, 26)), ((-2, 24), (24, -2)), ((8, 34), (34, 8))):
        sprite.line("paint_dark", (ax, ay), (bx, by), 6)
        sprite.line("tyre", (ax, ay), (bx, by), 3.6)
    for x, y, r in ((4, 15, 2.2), (28, 17, 2.0), (16, 3, 1.8), (15, 29, 2.2), (16, 16, 4)):
        sprite.oval("concrete", x, y, r, r)
    return done(sprite)


@cache
def cart(heading: int) -> Array:
    """(32, 32): a delivery cart on four wheels, with a triangle on the edge it heads for (0..3: N, S, E, W)."""
    sprite = blank()
    for x in (6, 21):
        for y in (5, 22):
            sprite.box("tyre", x, y, x + 5, y + 6, 1.5)
    sprite.box("cart", 8, 5, 24, 27, 3)
    sprite.box("cart_dark", 10, 12, 22, 25, 1.5)
    sprite.box("cart_light", 10, 7, 22, 10, 1)
    for y in (15, 18, 21):
        sprite.box("cart", 11, y, 21, y + 1.2)
    sprite.oval("lamp", 16, 8.5, 1.8, 1.3)
    sprite.outline("ink")
    heading_tip(sprite, heading)
    return done(sprite)


SPRITES: Final[dict[str, Callable[[], Array]]] = {"parcel": parcel, "paint": paint, "smear": smear}
