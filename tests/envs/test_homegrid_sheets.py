"""Sheets of tiles and small pictures say the same as the pictures they are made of."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from rlaif_ray.envs.homegrid_reader import HomegridReader
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.envs.sheets import GAP, STRIP
from rlaif_ray.feedback import framing
from rlaif_ray.feedback.prices import picture_size
from rlaif_ray.types import Array


def a_walk(squashed_from: int | None) -> Array:
    """Through the kitchen, over the cat or past it: (x, y, heading, fruit x, y, cat x, y, squashed)."""
    row = 7 if squashed_from is None else 8
    walk = [(x, row, 2, 10, 8, 4, 8, int(squashed_from is not None and x > squashed_from)) for x in range(1, 8)]
    return np.array(walk, np.int16)


@pytest.mark.parametrize("squashed_from", [None, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_a_sheet_reads_like_its_pictures(squashed_from: int | None, scale: float, count: int) -> None:
    pngs = HomegridRenderer().png(a_walk(squashed_from))[:count]
    whole = HomegridReader().read(pngs)
    sheet = framing.numbered_sheet(pngs, scale)
    assert picture_size(sheet) == framing.sheet_size(count, (round(448 * scale), round(384 * scale)))
    assert HomegridReader().read([sheet]) == whole
    small = framing.Framing(scale=scale).pictures(pngs)
    assert len(small) == count
    assert HomegridReader().read(small) == whole


def test_maker_and_reader_agree_on_the_paper() -> None:
    assert (framing.GAP, framing.STRIP) == (GAP, STRIP)


def test_what_is_no_sheet_is_refused() -> None:
    def blank(size: tuple[int, int], colour: tuple[int, int, int]) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, "PNG")
        return file.getvalue()

    with pytest.raises(ValueError, match="without a tile"):
        HomegridReader().read([blank((232 + 8, 214 + 8), framing.PAPER)])
    with pytest.raises(ValueError, match="shows nothing known"):
        HomegridReader().read([blank((224, 192), (255, 0, 255))])
    with pytest.raises(ValueError, match="expected 448 x 384"):
        HomegridReader().read([blank((225, 192), (0, 0, 0))])
