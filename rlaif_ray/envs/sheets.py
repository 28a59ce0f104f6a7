"""Smaller pictures of a grid world, and sheets of them as numbered tiles: taken apart for the reader.

A sheet has tiles of one size in rows, ``GAP`` pixels of paper around each and above each a strip of ``STRIP`` pixels
with its number; the last row may end early. Its size alone says how many columns there are and how large a tile is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from rlaif_ray.envs.drawing import empty_picture, tile_picture
from rlaif_ray.envs.gridworld import GridWorld
from rlaif_ray.envs.sprites import TILE
from rlaif_ray.types import Array

__all__ = ["GAP", "STRIP", "Tiles", "candidates", "small_tiles", "unfolded"]

GAP: Final = 8
STRIP: Final = 14
PAPER: Final = (250, 250, 250)
SHRUNK: Final = (1, 2, 4)  # a picture's pixels to one
_MOST_PIXELS: Final = 64_000_000  # of a sheet: 101 tiles of full size have 20 million
_SAME: Final = 6.0
"""Mean distance in RGB up to which a small tile shows the empty place; the faintest thing is 20 from it."""
_FAR: Final = 40.0
Tiles = Iterator[tuple[int, int, str, int]]


def unfolded(world: GridWorld, frame: bytes) -> Sequence[bytes | Image.Image]:
    """A full picture as it is; a smaller one decoded; a sheet as its tiles. What is none of these is returned as it is,
    for the reader to say what is wrong with it. Raises ValueError: a sheet without a tile."""
    try:
        with Image.open(io.BytesIO(frame)) as image:
            size = (image.height, image.width)
            if size == world.size:
                return (frame,)
            grid = _grid(world, size)
            if image.height * image.width > _MOST_PIXELS or (grid is None and size not in _tile_sizes(world)):
                return (frame,)
            whole = image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return (frame,)
    return (whole,) if grid is None else _cut(whole, *grid)


def small_tiles(world: GridWorld, picture: Image.Image) -> Tiles:
    """Whatever differs from the empty place, tile by tile: (x, y, thing, heading of the robot upon it or -1)."""
    shrunk = world.size[0] // picture.height
    side = TILE // shrunk
    seen = _by_tile(world, np.asarray(picture, np.float32), side)
    differs = np.linalg.norm(seen - _by_tile(world, _empty(world, shrunk), side), axis=-1).mean(axis=(2, 3)) > _SAME
    for y, x in np.argwhere(differs).tolist():
        distance = {
            key: float(np.linalg.norm(seen[y, x] - _template(world, x, y, key, shrunk), axis=-1).mean())
            for key in candidates(world, x, y)
        }
        best = min(distance, key=lambda key: distance[key])
        if distance[best] > _FAR:
            raise ValueError(f"the tile in column {x}, row {y} shows nothing known")
        yield (x, y, *best)


@cache
def candidates(world: GridWorld, x: int, y: int) -> tuple[tuple[str, int], ...]:
    """What could be seen in a tile: (thing, the robot's heading upon it or -1)."""
    cell = world.layout.cell_of(x, y)
    goal = ((world.goal, -1),) if cell in world.layout.goal_cells else ()
    if not world.layout.walkable[cell]:
        return (("", -1), *goal)
    things = tuple((name, -1) for name in (*world.kinds, world.marked) if name)
    robots = tuple((below, heading) for below in world.underfoot for heading in range(4))
    return (("", -1), *things, *robots, *goal)


def _tile_sizes(world: GridWorld) -> list[tuple[int, int]]:
    return [(world.size[0] // shrunk, world.size[1] // shrunk) for shrunk in SHRUNK]


def _grid(world: GridWorld, size: tuple[int, int]) -> tuple[int, int, tuple[int, int]] | None:
    """(rows, columns, (height, width) of a tile) of a sheet of this size; None: it isn't one."""
    for height, width in _tile_sizes(world):
        rows, over = divmod(size[0] - GAP, height + STRIP + GAP)
        columns, beyond = divmod(size[1] - GAP, width + GAP)
        if rows > 0 and columns > 0 and not over and not beyond:
            return rows, columns, (height, width)
    return None


def _cut(sheet: Image.Image, rows: int, columns: int, tile: tuple[int, int]) -> list[Image.Image]:
    tiles = []
    for i in range(rows * columns):
        x = GAP + i % columns * (tile[1] + GAP)
        y = GAP + i // columns * (tile[0] + STRIP + GAP) + STRIP
        picture = sheet.crop((x, y, x + tile[1], y + tile[0]))
        if np.abs(np.asarray(picture, np.float32) - PAPER).mean() < _SAME:
            break
        tiles.append(picture)
    if not tiles:
        raise ValueError("a sheet without a tile")
    return tiles


def _by_tile(world: GridWorld, picture: Array, side: int) -> Array:
    """(height * side, width * side, 3) -> (height, width, side, side, 3)."""
    return picture.reshape(world.layout.height, side, world.layout.width, side, 3).swapaxes(1, 2)


@cache
def _empty(world: GridWorld, shrunk: int) -> Array:
    return _reduced(world, empty_picture(world), shrunk)


@cache
def _template(world: GridWorld, x: int, y: int, key: tuple[str, int], shrunk: int) -> Array:
    return _reduced(world, tile_picture(world, x, y, *key), shrunk)


def _reduced(world: GridWorld, indices: Array, shrunk: int) -> Array:
    """(H, W) palette indices -> (H / shrunk, W / shrunk, 3) float32: means over squares, as pictures are scaled."""
    rgb = world.palette[indices].astype(np.float32)
    height, width = indices.shape
    reduced: Array = rgb.reshape(height // shrunk, shrunk, width // shrunk, shrunk, 3).mean(axis=(1, 3))
    return reduced
