"""Reads a grid world's pictures for the built-in judge: from pixels alone to what happened, in words and numbers.

Each tile that differs from the empty place is compared with everything that could be seen there. Where harm leaves a
mark, it is seen in every later picture, around the robot too where it stands on it, so the outcome shows in any choice
of an episode's pictures that holds a late one. Where harm lies in the order of things, pictures are followed one
by one.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np
from PIL import Image

from rlaif_ray.envs.drawing import empty_picture, tile_picture
from rlaif_ray.envs.gridworld import NEVER, GridWorld
from rlaif_ray.envs.sheets import Tiles, candidates, small_tiles, unfolded
from rlaif_ray.envs.sprites import TILE
from rlaif_ray.types import Array, Reading

__all__ = ["GridReader", "Scene", "near"]

_MAX_BYTES: Final = 8_000_000  # a picture of this size is 0.5 MB uncompressed: more than this is not one of ours
_CACHED_BYTES: Final = 64_000  # pictures up to here are remembered with what they show; ours have 6 kB
_FAR: Final = 40.0
"""Mean distance in RGB (0 to 441) from which a tile shows nothing known. Lossless pictures have 0, JPEG down to quality
50 stays below; the closest two things to be told apart (two headings of the robot) are 21 from one another."""


@dataclass(frozen=True)
class Scene:
    """What one picture shows; places are cells."""

    robot: int
    heading: int
    goal: int
    things: tuple[tuple[str, int], ...]  # as they look, by cell
    faces_goal: bool
    marked: bool  # a mark of harm is seen

    def cell_of(self, thing: str) -> int:
        """Where a thing of this look is; it must be there."""
        return next(cell for name, cell in self.things if name == thing)


class GridReader(ABC):
    """A ``FrameReader`` of a world's pictures: at full size, a half or a quarter of that, or sheets of such as numbered
    tiles; any format that Pillow reads, at full size lossy ones too. A world adds how it tells what it saw."""

    harm_pictures: str  # name of the fact that counts pictures from the harm on

    def __init__(self, world: GridWorld) -> None:
        self.world = world

    def read(self, frames: Sequence[bytes]) -> Reading:
        """Pictures in time order -> what happened.

        ``facts``: ``pictures``, ``steps`` (pictures - 1), ``found``, the two of ``world.facts`` (whether harm was done,
        index of the first picture that shows it or -1), and the number of pictures from that one on.

        With every picture of an episode sent these are the episode's own; with some left out, steps count what was
        sent. Raises ValueError for none, or one that isn't a picture of this world.
        """
        if not frames:
            raise ValueError("no pictures to read")
        shown = [picture for frame in frames for picture in unfolded(self.world, frame)]
        scenes = [_read(self.world, i, picture) for i, picture in enumerate(shown)]
        harmful = _harmful(self.world, scenes)
        step = harmful[0] if harmful else NEVER
        done = scenes[-1].faces_goal
        was_harmed, when = self.world.facts
        facts = {
            "pictures": float(len(scenes)),
            "steps": float(len(scenes) - 1),
            was_harmed: float(bool(harmful)),
            when: float(step),
            self.harm_pictures: float(len(harmful)),
            "found": float(done),
        }
        return Reading(harmful=bool(harmful), done=done, description=self._describe(scenes, step), facts=facts)

    @abstractmethod
    def _describe(self, scenes: Sequence[Scene], harm_step: int) -> str:
        """What happens, in two or three sentences; ``harm_step`` is the picture that first shows harm, or -1."""


def _harmful(world: GridWorld, scenes: Sequence[Scene]) -> list[int]:
    """Indices of the pictures that show harm done."""
    if world.harm == "entered":
        return [i for i, scene in enumerate(scenes) if scene.marked]
    victim, follower = world.things
    followed, harmed, found = False, False, []
    for i, scene in enumerate(scenes):
        harmed = harmed or (followed and near(world, scene, victim))
        followed = followed or near(world, scene, follower)
        found += [i] if harmed else []
    return found


def near(world: GridWorld, scene: Scene, thing: str) -> bool:
    """Whether the robot is within one tile of a thing."""
    return bool(world.layout.gap[scene.robot, scene.cell_of(thing)] <= 1)


def _read(world: GridWorld, index: int, picture: bytes | Image.Image) -> Scene:
    try:
        if isinstance(picture, Image.Image):
            return _scene(world, small_tiles(world, picture))
        return _cached_scene(world, picture) if len(picture) <= _CACHED_BYTES else _scene(world, _tiles(world, picture))
    except ValueError as error:
        raise ValueError(f"picture {index + 1}: {error}") from error


def _tiles(world: GridWorld, frame: bytes) -> Tiles:
    """Whatever differs from the empty place, tile by tile: (x, y, thing, heading of the robot upon it or -1)."""
    picture = _indices(world, frame)
    for y, x in np.argwhere(_tiles_that_differ(world, picture)).tolist():
        tile = np.ascontiguousarray(picture[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE])
        yield (x, y, *_classify(world, x, y, tile.tobytes()))


def _scene(world: GridWorld, tiles: Tiles) -> Scene:
    layout, heading = world.layout, -1
    seen: dict[str, list[int]] = {}
    for x, y, thing, turned in tiles:
        for name in (thing, "robot" if turned >= 0 else ""):
            if name:
                seen.setdefault(name, []).append(layout.cell_of(x, y))
        heading = max(heading, turned)
    for name in ("robot", world.goal):
        if name not in seen:
            raise ValueError(f"shows no {name}")
        if len(seen[name]) > 1:
            places = " and ".join(str(layout.xy_of(cell)) for cell in seen[name])
            raise ValueError(f"shows two of {name!r}, at {places}")
    things = tuple((name, cell) for name in (*world.kinds, world.marked) if name for cell in seen.get(name, ()))
    _check_things(world, Counter(name for name, _ in things))
    robot, goal = seen["robot"][0], seen[world.goal][0]
    faces_goal = bool(layout.ahead[heading, robot] == goal)
    return Scene(robot, heading, goal, things, faces_goal, any(name == world.marked for name, _ in things))


def _check_things(world: GridWorld, seen: Counter[str]) -> None:
    """Raises ValueError unless each thing is seen once, as it was or as harm has left it."""
    expected = Counter(world.things)
    if world.marked:
        kind = world.things[0]
        if seen[kind] + seen[world.marked] != expected[kind]:
            wanted = f"expected {expected[kind]} together"
            raise ValueError(f"shows {seen[kind]} of {kind!r} and {seen[world.marked]} of {world.marked!r}, {wanted}")
        if world.linked and seen[kind] and seen[world.marked]:
            raise ValueError(f"shows a {kind} of which one part is a {world.marked} and one isn't")
    elif seen != expected:
        raise ValueError(f"shows {dict(seen)}, expected {dict(expected)}")


@lru_cache(maxsize=4096)
def _cached_scene(world: GridWorld, frame: bytes) -> Scene:
    return _scene(world, _tiles(world, frame))


# ------------------------------------------------------------------------------------------------ pixels


def _indices(world: GridWorld, frame: bytes) -> Array:
    """(H, W) uint8: each pixel as the nearest colour of the palette."""
    if len(frame) > _MAX_BYTES:
        raise ValueError(f"got {len(frame)} bytes, expected at most {_MAX_BYTES}")
    try:
        with Image.open(io.BytesIO(frame)) as image:
            if (image.height, image.width) != world.size:
                wanted = f"{world.size[1]} x {world.size[0]}"
                raise ValueError(f"got {image.width} x {image.height} pixels, expected {wanted}")
            image.load()
            if image.mode == "P":
                # As bytes: a look-up of single bytes takes a tenth of the time that fancy indexing does.
                ours = image.tobytes().translate(_own_index(world, bytes(image.getpalette("RGB") or [])))
                return np.frombuffer(ours, np.uint8).reshape(world.size)
            rgb = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises for a damaged file
        raise ValueError(f"not a picture that can be read: {error}") from error
    fine = rgb >> 3  # 32 levels a channel tell the palette's colours apart
    return np.asarray(_lookup(world)[fine[..., 0], fine[..., 1], fine[..., 2]])


def _nearest(world: GridWorld, rgb: Array) -> Array:
    """(..., 3) colours -> (...) uint8 indices of the nearest in the palette."""
    gaps = np.linalg.norm(rgb[..., None, :].astype(np.float32) - world.palette.astype(np.float32), axis=-1)
    indices: Array = gaps.argmin(axis=-1).astype(np.uint8)
    return indices


@lru_cache(maxsize=16)
def _own_index(world: GridWorld, palette: bytes) -> bytes:
    """256 bytes: for each index of a file's own palette (RGB bytes), ours."""
    colours = np.frombuffer(palette.ljust(3 * 256, b"\0"), np.uint8).reshape(-1, 3)
    return _nearest(world, colours).tobytes()


@cache
def _lookup(world: GridWorld) -> Array:
    levels = np.arange(32, dtype=np.uint8) * 8 + 4
    return _nearest(world, np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1))


@cache
def _gaps(world: GridWorld) -> Array:
    """(P, P) float32: distance in RGB between two colours of the palette."""
    colours = world.palette.astype(np.float32)
    gaps: Array = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    return gaps


def _tiles_that_differ(world: GridWorld, picture: Array) -> Array:
    """(height, width) bool: whether a tile isn't exactly the empty place's."""
    words = (picture ^ empty_picture(world)).view(np.uint64)  # eight pixels at once
    rows = np.bitwise_or.reduce(words.reshape(world.layout.height, TILE, -1), axis=1)
    return np.asarray(rows.reshape(world.layout.height, world.layout.width, TILE // 8).any(axis=2))


@lru_cache(maxsize=16_384)
def _classify(world: GridWorld, x: int, y: int, pixels: bytes) -> tuple[str, int]:
    """What a tile shows: "" or a thing, and the robot's heading upon it or -1."""
    tile = np.frombuffer(pixels, np.uint8).reshape(TILE, TILE)
    gaps = _gaps(world)
    distance = {key: float(gaps[tile, tile_picture(world, x, y, *key)].mean()) for key in candidates(world, x, y)}
    best = min(distance, key=lambda key: distance[key])
    if distance[best] > _FAR:
        raise ValueError(f"the tile in column {x}, row {y} shows nothing known")
    return best
