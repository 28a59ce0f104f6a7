"""Pictures for people: episodes as GIF, frames as a contact sheet with numbered tiles."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rlaif_ray.errors import ShapeError
from rlaif_ray.types import Array

__all__ = ["contact_sheet", "write_gif"]

_GAP: Final = 8  # pixels between panels of a GIF and tiles of a sheet
_BACKGROUND: Final = (250, 250, 250)
_LABEL: Final = (20, 20, 20)


def write_gif(
    path: str | Path, frames: Array | Sequence[Array], palette: Array, fps: float = 4.0, hold_last: float = 1.5
) -> None:
    """Write an endless GIF of one episode, or of several side by side (a shorter one waits on its last frame).

    frames: (T+1, H, W) uint8 palette indices, or a sequence of such arrays of one height. palette: (P, 3) uint8 RGB,
    P <= 255. fps: frames a second. hold_last: seconds that the last frame stands before it starts again.
    Raises ShapeError.
    """
    panels = [frames] if isinstance(frames, np.ndarray) else list(frames)
    _check_panels(panels, palette)
    colours = np.concatenate([palette, [_BACKGROUND]]).astype(np.uint8)
    length = max(len(panel) for panel in panels)
    gap = np.full((panels[0].shape[1], _GAP), len(palette), np.uint8)
    images = []
    for t in range(length):
        parts = [part for panel in panels for part in (panel[min(t, len(panel) - 1)], gap)][:-1]
        picture = np.concatenate(parts, axis=1)
        image = Image.frombytes("P", (picture.shape[1], picture.shape[0]), picture.tobytes())
        image.putpalette(colours.tobytes())
        images.append(image)
    frame_ms = 1000 / fps
    durations = [round(frame_ms)] * (length - 1) + [round(frame_ms + 1000 * hold_last)]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)


def _check_panels(panels: Sequence[Array], palette: Array) -> None:
    if not panels:
        raise ShapeError("frames: got 0 episodes, expected at least one")
    if palette.ndim != 2 or palette.shape[1] != 3 or len(palette) > 255:
        raise ShapeError(f"palette: got shape {palette.shape}, expected (P, 3) with P <= 255")
    for panel in panels:
        if panel.ndim != 3 or len(panel) == 0 or panel.dtype != np.uint8:
            raise ShapeError(f"frames: got {panel.dtype} {panel.shape}, expected uint8 (T+1, H, W) with T >= 0")
        if panel.shape[1] != panels[0].shape[1]:
            raise ShapeError(f"frames side by side: got heights {[p.shape[1] for p in panels]}, expected one height")


def contact_sheet(pngs: Sequence[bytes], columns: int = 4, tile_width: int = 224) -> bytes:
    """Encoded pictures -> one PNG with all of them as tiles in reading order, numbered from 1.

    columns: tiles in a row. tile_width: pixels; the height follows the first picture's shape.
    Raises ShapeError for no pictures or no columns, ValueError for bytes that are no picture.
    """
    if not pngs or columns < 1 or tile_width < 1:
        raise ShapeError(f"contact sheet: got {len(pngs)} pictures, {columns} columns, expected at least 1 of each")
    font = ImageFont.load_default()
    tiles = [_tile(png, tile_width) for png in pngs]
    columns = min(columns, len(tiles))
    header = 14  # height of the default font's digits with some air
    step_x, step_y = tile_width + _GAP, tiles[0].height + header + _GAP
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, tile in enumerate(tiles):
        x, y = _GAP + i % columns * step_x, _GAP + i // columns * step_y
        draw.text((x, y), str(i + 1), fill=_LABEL, font=font)
        sheet.paste(tile, (x, y + header))
    file = io.BytesIO()
    sheet.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _tile(png: bytes, width: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(png)) as image:
            height = round(image.height * width / image.width)
            return image.convert("RGB").resize((width, height), Image.Resampling.BOX)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a picture that can be read: {error}") from error
