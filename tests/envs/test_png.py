"""PNGs put together from bands, read by somebody else's decoder."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rlaif_ray.envs.png import band_of, palette_png


def decoded(png):
    """Pillow checks every chunk's checksum, zlib that of the pixels."""
    with Image.open(io.BytesIO(png)) as image:
        image.verify()
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "P"
        return np.array(image), np.array(image.convert("RGB"))


def pixels_of(png):
    at, data = 8, b""
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    return zlib.decompress(data)  # raises where the joined Adler-32 is wrong


@pytest.mark.parametrize("heights", [(1,), (3, 1, 7), (32,) * 12, (200, 300)])
@pytest.mark.parametrize("noise", [0.0, 0.02, 1.0])
def test_bands_give_the_picture_and_its_checksums(heights, noise):
    rng = np.random.default_rng(len(heights))
    palette = rng.integers(0, 256, (250, 3)).astype(np.uint8)
    picture = np.full((sum(heights), 449), 249, np.uint8)  # large values: sums that wrap
    picture[rng.random(picture.shape) < noise] = 7
    bands = [band_of(rows) for rows in np.split(picture, np.cumsum(heights)[:-1])]
    png = palette_png(bands, (449, sum(heights)), palette)
    indices, colours = decoded(png)
    assert (indices == picture).all()
    assert (colours == palette[picture]).all()
    assert pixels_of(png) == b"".join(b"\x00" + row.tobytes() for row in picture)


def test_a_band_may_stand_in_many_pictures():
    a, b = band_of(np.zeros((2, 5), np.uint8)), band_of(np.ones((2, 5), np.uint8))
    palette = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    assert decoded(palette_png([a, b], (5, 4), palette))[0].tolist() == [[0] * 5] * 2 + [[1] * 5] * 2
    assert decoded(palette_png([b, a], (5, 4), palette))[0].tolist() == [[1] * 5] * 2 + [[0] * 5] * 2
