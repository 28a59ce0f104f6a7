"""Which frames of an episode are sent, at what size, and as how many pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import ShapeError

__all__ = ["Frames", "Framing", "numbered_sheet", "sheet_size", "subsample"]

Frames = Literal["each", "every", "spread", "sheet"]
# A sheet: tiles of one size in reading order, each below a strip with its number. Readers of sheets rely on these.
GAP: Final = 8  # pixels around tiles
STRIP: Final = 14  # pixels of the strip: the default font's digits with some air
PAPER: Final = (250, 250, 250)
_INK: Final = (20, 20, 20)
_COMPRESS_LEVEL: Final = 1  # compression is what encoding costs; pictures go over the wire once
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Framing:
    """How an episode's frames are sent."""

    frames: Frames = "each"
    k: int = 4
    scale: float = 1.0  # (0, 1]
    most: int = 101
    caption: str = ""  # wording in which the episode is told instead: nothing is drawn then

    @staticmethod
    def of(config: JudgeConfig) -> Framing:
        return Framing(config.frames, config.frames_k, config.frames_scale, config.max_images, config.caption)

    def picks(self, count: int) -> tuple[int, ...]:
        """Which of ``count`` frames are sent, in order; the last one always: an outcome shows in it."""
        if self.frames == "every":
            last = count - 1
            return subsample(tuple(sorted({*range(0, count, self.k), last})), self.most)
        if self.frames == "spread":
            return subsample(range(count), min(self.k + 2, self.most))
        return subsample(range(count), self.most)

    def pictures(self, pngs: Sequence[bytes]) -> tuple[bytes, ...]:
        """The drawn frames as they are sent. Raises ValueError: bytes that are no picture."""
        if self.frames == "sheet":
            return (numbered_sheet(pngs, self.scale),)
        return tuple(pngs) if self.scale == 1.0 else tuple(_encoded(_scaled(png, self.scale)) for png in pngs)

    def sizes(self, count: int, frame: tuple[int, int]) -> list[tuple[int, int]]:
        """(width, height) in pixels of each picture sent of an episode of ``count`` frames of size ``frame``."""
        if self.caption:
            return []
        tile = _size(frame, self.scale)
        number = len(self.picks(count))
        return [sheet_size(number, tile)] if self.frames == "sheet" else [tile] * number


def subsample(items: Sequence[_Item], most: int) -> tuple[_Item, ...]:
    """At most ``most`` of the items: the first, the last and evenly spaced ones between, in order."""
    if most < 1:
        raise ShapeError(f"subsample: got at most {most}, expected >= 1")
    if len(items) <= most:
        return tuple(items)
    if most == 1:
        return (items[-1],)
    picks = np.linspace(0, len(items) - 1, most).round().astype(int)
    return tuple(items[i] for i in picks)


def numbered_sheet(pngs: Sequence[bytes], scale: float = 1.0) -> bytes:
    """Encoded pictures -> one PNG with all of them as tiles, row by row, numbered from 1, as square as it gets.

    Raises ShapeError for no pictures, ValueError for bytes that are no picture.
    """
    if not pngs:
        raise ShapeError("contact sheet: got 0 pictures, expected at least 1")
    tiles = {png: _scaled(png, scale) for png in set(pngs)}
    tile = tiles[pngs[0]].size
    sheet = Image.new("RGB", sheet_size(len(pngs), tile), PAPER)
    draw, font, columns = ImageDraw.Draw(sheet), ImageFont.load_default(), _columns(len(pngs))
    for i, png in enumerate(pngs):
        x, y = GAP + i % columns * (tile[0] + GAP), GAP + i // columns * (tile[1] + STRIP + GAP)
        draw.text((x, y), str(i + 1), fill=_INK, font=font)
        sheet.paste(tiles[png], (x, y + STRIP))
    return _encoded(sheet)


def sheet_size(number: int, tile: tuple[int, int]) -> tuple[int, int]:
    """(width, height) in pixels of a sheet of so many tiles."""
    columns = _columns(number)
    rows = math.ceil(number / columns)
    return columns * (tile[0] + GAP) + GAP, rows * (tile[1] + STRIP + GAP) + GAP


def _columns(number: int) -> int:
    return math.ceil(math.sqrt(number))


def _size(frame: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(frame[0] * scale)), max(1, round(frame[1] * scale))


def _scaled(png: bytes, scale: float) -> Image.Image:
    try:
        with Image.open(io.BytesIO(png)) as image:
            whole = image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a picture that can be read: {error}") from error
    return whole if scale == 1.0 else whole.resize(_size(whole.size, scale), Image.Resampling.BOX)


def _encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=_COMPRESS_LEVEL)
    return file.getvalue()
