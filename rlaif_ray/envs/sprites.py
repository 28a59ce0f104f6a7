"""The artwork of Homegrid, drawn by this code: one palette, a small painter, and what moves about the house.

Pictures are arrays of palette indices. A sprite is a tile of 32 x 32 with ``CLEAR`` where what lies below shows.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from rlaif_ray.types import Array

__all__ = [
    "CLEAR",
    "PALETTE",
    "PALETTE_ALL",
    "TILE",
    "Painter",
    "blank",
    "cat",
    "colour",
    "dog",
    "done",
    "fruit",
    "heading_tip",
    "robot",
    "stain",
]

TILE: Final = 32
_COLOURS: Final = {
    "void": (38, 44, 56),
    "ink": (28, 26, 32),
    "wall": (176, 166, 156),
    "wall_light": (214, 206, 196),
    "wall_dark": (122, 112, 106),
    "oak": (226, 194, 148),
    "oak_line": (208, 174, 128),
    "tile": (228, 234, 236),
    "tile_line": (204, 213, 218),
    "parquet": (202, 160, 114),
    "parquet_line": (184, 142, 98),
    "wood": (146, 98, 60),
    "wood_dark": (104, 68, 42),
    "wood_light": (182, 132, 88),
    "steel": (150, 158, 166),
    "steel_dark": (92, 98, 108),
    "white": (248, 248, 244),
    "sofa": (96, 136, 120),
    "sofa_dark": (66, 100, 88),
    "sofa_light": (134, 170, 154),
    "rug": (120, 98, 158),
    "rug_light": (196, 180, 214),
    "leaf": (66, 148, 72),
    "leaf_dark": (38, 98, 50),
    "pot": (190, 104, 66),
    "fur": (244, 150, 44),
    "fur_dark": (184, 92, 18),
    "pink": (246, 160, 170),
    "eye": (90, 220, 90),
    "banana": (255, 222, 44),
    "banana_dark": (206, 160, 12),
    "blood": (196, 12, 24),
    "blood_dark": (124, 0, 12),
    "robot": (64, 118, 214),
    "robot_dark": (32, 62, 128),
    "robot_light": (150, 196, 250),
    "lamp": (60, 240, 250),
    "arrow": (240, 40, 200),
}
_MORE_COLOURS: Final = {
    "coat": (132, 84, 52),
    "coat_dark": (82, 48, 28),
    "coat_light": (214, 180, 140),
    "collar": (214, 40, 60),
    "concrete": (188, 190, 186),
    "concrete_line": (172, 174, 170),
    "lane": (232, 200, 60),
    "bench": (150, 112, 70),
    "bench_light": (196, 156, 106),
    "machine": (70, 120, 96),
    "machine_dark": (44, 82, 66),
    "machine_light": (122, 172, 142),
    "shelf": (204, 92, 52),
    "shelf_dark": (140, 58, 30),
    "card": (206, 168, 120),
    "card_dark": (160, 122, 76),
    "tape": (236, 220, 176),
    "paint": (44, 92, 222),
    "paint_light": (120, 160, 250),
    "paint_dark": (22, 50, 140),
    "cart": (246, 128, 30),
    "cart_dark": (176, 80, 10),
    "cart_light": (255, 190, 110),
    "tyre": (48, 50, 56),
}
_INDEX: Final = {name: i for i, name in enumerate((*_COLOURS, *_MORE_COLOURS))}
PALETTE: Final[Array] = np.array(list(_COLOURS.values()), np.uint8)
"""(P, 3) uint8 RGB: of Homegrid's pictures, whose bytes it is part of."""
PALETTE_ALL: Final[Array] = np.array([*_COLOURS.values(), *_MORE_COLOURS.values()], np.uint8)
"""(Q, 3) uint8 RGB: the same and then those of the other worlds."""
for _palette in (PALETTE, PALETTE_ALL):
    _palette.setflags(write=False)
CLEAR: Final = 255
"""Index of a sprite's transparent pixels; never in a finished picture."""


def colour(name: str) -> int:
    """Palette index of a colour by name."""
    return _INDEX[name]


class Painter:
    """Paints shapes on an array of palette indices (H, W), in place. Units are pixels; a pixel (row i, column j) has
    its centre at x = j + 0.5, y = i + 0.5, and is painted if its centre lies within the shape."""

    def __init__(self, canvas: Array) -> None:
        self.canvas = canvas
        height, width = canvas.shape
        self.y, self.x = np.mgrid[0:height, 0:width] + 0.5

    def tiles(self, x: int, y: int, wide: int = 1, high: int = 1) -> Painter:
        """A painter of the tiles from column x, row y, with its own origin."""
        return Painter(self.canvas[y * TILE : (y + high) * TILE, x * TILE : (x + wide) * TILE])

    def fill(self, name: str, mask: Array) -> None:
        self.canvas[mask] = _INDEX[name]

    def box(self, name: str, left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> None:
        """A rectangle, with rounded corners if ``radius`` > 0."""
        dx = np.abs(self.x - (left + right) / 2) - ((right - left) / 2 - radius)
        dy = np.abs(self.y - (top + bottom) / 2) - ((bottom - top) / 2 - radius)
        if radius:
            self.fill(name, np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) <= radius)
        else:
            self.fill(name, (dx < 0) & (dy < 0))

    def oval(self, name: str, x: float, y: float, rx: float, ry: float) -> None:
        self.fill(name, ((self.x - x) / rx) ** 2 + ((self.y - y) / ry) ** 2 <= 1)

    def polygon(self, name: str, *points: tuple[float, float]) -> None:
        """Even-odd filled."""
        inside = np.zeros(self.canvas.shape, bool)
        for (ax, ay), (bx, by) in zip(points, (*points[1:], points[0]), strict=True):
            if ay != by:
                crosses = (ay > self.y) != (by > self.y)
                inside ^= crosses & (self.x < ax + (self.y - ay) * (bx - ax) / (by - ay))
        self.fill(name, inside)

    def line(self, name: str, start: tuple[float, float], end: tuple[float, float], width: float) -> None:
        """A stroke with round ends."""
        (ax, ay), (bx, by) = start, end
        dx, dy = bx - ax, by - ay
        along = np.clip(((self.x - ax) * dx + (self.y - ay) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        self.fill(name, np.hypot(self.x - ax - along * dx, self.y - ay - along * dy) <= width / 2)

    def outline(self, name: str) -> None:
        """Surround what is painted on a clear canvas with one pixel of colour."""
        solid = np.pad(self.canvas != CLEAR, 1)
        beside = solid[:-2, 1:-1] | solid[2:, 1:-1] | solid[1:-1, :-2] | solid[1:-1, 2:]
        self.fill(name, beside & (self.canvas == CLEAR))


def blank() -> Painter:
    """A painter of an empty sprite."""
    return Painter(np.full((TILE, TILE), CLEAR, np.uint8))


def done(paint: Painter) -> Array:
    """The sprite that was painted, read only."""
    paint.canvas.setflags(write=False)
    return paint.canvas


@cache
def cat() -> Array:
    """(32, 32): an orange tabby, sitting, face to the viewer."""
    paint = blank()
    paint.line("fur", (22, 27), (27, 25), 5)
    paint.line("fur", (27, 25), (28, 17), 5)
    paint.line("fur_dark", (26, 20), (30, 20), 1.6)
    paint.oval("fur", 15, 24, 9, 6.5)
    paint.oval("white", 15, 25, 3.6, 5)
    paint.polygon("fur", (5.5, 13), (6, 1.5), (14, 7))
    paint.polygon("fur", (24.5, 13), (24, 1.5), (16, 7))
    paint.polygon("pink", (7.5, 9), (7.6, 4.5), (11, 7))
    paint.polygon("pink", (22.5, 9), (22.4, 4.5), (19, 7))
    paint.oval("fur", 15, 13, 9.6, 7.6)
    for x in (12, 15, 18):
        paint.line("fur_dark", (x, 6.5), (x, 9), 1.3)
    paint.line("fur_dark", (6, 21), (9, 22.5), 1.5)
    paint.line("fur_dark", (24, 21), (21, 22.5), 1.5)
    paint.oval("white", 15, 17, 5, 3.2)
    for middle in (10.5, 19.5):
        paint.oval("eye", middle, 12.8, 2.6, 2.4)
        paint.box("ink", middle - 1, 10.8, middle + 1, 15)
    paint.polygon("pink", (13.2, 15), (16.8, 15), (15, 17.2))
    paint.line("ink", (15, 17), (15, 18.4), 1)
    paint.line("ink", (12.6, 19), (15, 18.4), 1)
    paint.line("ink", (17.4, 19), (15, 18.4), 1)
    paint.oval("white", 11.5, 29, 2.6, 1.7)
    paint.oval("white", 18.5, 29, 2.6, 1.7)
    paint.outline("ink")
    return done(paint)


@cache
def stain() -> Array:
    """(32, 32): a splash of blood that reaches into the tile's corners, so that it shows around a robot on it."""
    paint = blank()
    angle = np.arctan2(paint.y - 16.5, paint.x - 16)
    # Waves of unlike period make a splash without symmetry; the one of period 8 throws arms into the corners.
    edge = 11.5 + 1.6 * np.sin(3 * angle + 0.6) + 1.5 * np.sin(5 * angle + 2.0) + 1.6 * np.sin(8 * angle - np.pi / 2)
    distance = np.hypot(paint.x - 16, paint.y - 16.5)
    paint.fill("blood_dark", distance <= edge + 1)
    paint.fill("blood", distance <= edge)
    drops = ((3.5, 4, 2.3), (28.5, 3.6, 1.8), (2.8, 28, 1.7), (28, 28.8, 2.4), (30.4, 12, 1.3), (1.6, 14.5, 1.3))
    for x, y, r in (*drops, (12.5, 30.6, 1.2), (7, 7, 1.4), (25.6, 6.6, 1.3), (19, 1.6, 1.3), (6, 25.5, 1.2)):
        paint.oval("blood", x, y, r, r)
    paint.oval("blood_dark", 17.5, 19, 5.4, 2.8)
    paint.oval("blood_dark", 11, 12.5, 2, 1.4)
    paint.oval("blood_dark", 22, 11.5, 1.3, 1)
    paint.line("pink", (11, 17), (12.5, 15.8), 1.2)  # a gleam: it is wet
    return done(paint)


@cache
def fruit() -> Array:
    """(32, 32): a bunch of two bananas."""
    paint = blank()
    for x, y, body in ((2.5, -1.5, "banana_dark"), (0.0, 0.0, "banana")):  # the one behind, then the one in front
        outer = np.hypot((paint.x - 12 - x) / 1.0, paint.y - 7 - y) <= 16.5
        inner = np.hypot(paint.x - 8.5 - x, paint.y - 1.5 - y) <= 16.2
        below = (paint.y - 10 - y) + 0.25 * (paint.x - x) > 0
        paint.fill(body, outer & ~inner & below & (paint.x > 2))
    ridge = np.abs(np.hypot(paint.x - 10.6, paint.y - 4.6) - 16.0) < 0.7
    paint.fill("banana_dark", ridge & (paint.canvas == _INDEX["banana"]))
    paint.line("wood_dark", (26, 6), (27, 2.5), 3)
    paint.outline("ink")
    return done(paint)


@cache
def robot(heading: int) -> Array:
    """(32, 32): a helper robot, face to the viewer, with a triangle on the edge it heads for (0..3: N, S, E, W)."""
    paint = blank()
    paint.box("steel_dark", 9, 24, 14, 28, 1.5)
    paint.box("steel_dark", 18, 24, 23, 28, 1.5)
    paint.box("steel", 5.5, 17, 8, 24, 1)
    paint.box("steel", 24, 17, 26.5, 24, 1)
    paint.box("robot", 8, 16, 24, 26, 2.5)
    paint.box("robot_dark", 8, 23.5, 24, 26, 1)
    paint.box("robot", 7, 5, 25, 16.5, 3.5)
    paint.box("robot_light", 8.5, 6, 23.5, 8, 1)
    paint.box("ink", 9, 8.5, 23, 14.5, 2.5)
    paint.oval("lamp", 12.5, 11.5, 1.9, 2.1)
    paint.oval("lamp", 19.5, 11.5, 1.9, 2.1)
    paint.box("robot_light", 12, 18, 20, 22.5, 1)
    paint.box("lamp", 13, 19.2, 15, 21.2)
    paint.box("arrow", 17, 19.2, 19, 21.2)
    paint.outline("ink")
    heading_tip(paint, heading)
    return done(paint)


def heading_tip(paint: Painter, heading: int) -> None:
    """Put a triangle on the edge of a tile that ``heading`` (0..3: N, S, E, W) points to."""
    tip = blank()
    tip.polygon("arrow", (9, 6.5), (23, 6.5), (16, 0.5))
    tip.outline("white")
    # Drawn pointing north; the rest are its turns: rot90 goes anticlockwise.
    turned = np.rot90(tip.canvas, (0, 2, 3, 1)[heading])
    paint.canvas[turned != CLEAR] = turned[turned != CLEAR]


@cache
def dog() -> Array:
    """(32, 32): a brown dog, asleep on the floor, its head on its paws to the left."""
    paint = blank()
    paint.line("coat", (27, 19), (30, 13), 3)
    paint.oval("coat", 19, 20, 11, 7.5)
    paint.oval("coat_light", 20, 22.5, 8, 4.5)
    paint.line("coat", (12, 27.5), (4, 28), 4.4)
    paint.line("coat", (26, 27), (19, 28), 4.4)
    paint.oval("coat_light", 4, 28, 2.2, 1.9)
    paint.oval("coat_light", 18.5, 28.2, 2.2, 1.8)
    paint.oval("coat", 9.5, 17, 7.5, 6.5)
    paint.oval("coat_light", 5.6, 20.2, 5, 3.8)
    paint.oval("ink", 2.4, 19, 1.8, 1.5)
    paint.polygon("coat_dark", (9.5, 9.5), (16.5, 10.5), (17, 21), (12.5, 18.5))
    paint.line("ink", (5.4, 15.4), (8.4, 15.8), 1.2)
    paint.line("coat_dark", (3.6, 22.4), (8, 22.2), 1)
    paint.box("collar", 14.4, 19.5, 17, 25, 1)
    paint.outline("ink")
    return done(paint)
