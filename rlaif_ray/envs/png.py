"""Palette PNGs put together from bands of rows that were compressed before.

Most of a drawn frame stays as it was in the one before, and compressing is what drawing costs. Deflate streams can be
joined where each ends on a full flush (RFC 1950, 1951), and so can their checksums: what hasn't changed is not
compressed again.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from rlaif_ray.types import Array

__all__ = ["Band", "band_of", "palette_png"]

_LEVEL: Final = 1  # zlib's fastest
_ADLER: Final = 65_521
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_STREAM: Final = b"\x78\x01"
_LAST_BLOCK: Final = b"\x03\x00"


@dataclass(frozen=True)
class Band:
    """Rows of a picture, compressed: raw deflate blocks, Adler-32 and length of what they hold."""

    blocks: bytes
    adler: int
    length: int


def band_of(rows: Array) -> Band:
    """(R, W) uint8 palette indices -> those rows, each with PNG's filter byte 0 (none) before it."""
    filtered = np.zeros((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 1:] = rows
    raw = filtered.tobytes()
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return Band(packer.compress(raw) + packer.flush(zlib.Z_FULL_FLUSH), zlib.adler32(raw), len(raw))


def palette_png(bands: Sequence[Band], size: tuple[int, int], palette: Array) -> bytes:
    """Bands from the top, (width, height), (P, 3) uint8 colours -> one 8-bit palette PNG (W3C PNG, third edition)."""
    low, high = 1, 0
    for band in bands:  # Adler-32 of all from those of the parts
        high = (high + (band.adler >> 16) + band.length * (low - 1)) % _ADLER
        low = (low + (band.adler & 0xFFFF) - 1) % _ADLER
    pixels = b"".join([_STREAM, *(band.blocks for band in bands), _LAST_BLOCK, struct.pack(">HH", high, low)])
    header = struct.pack(">IIBBBBB", *size, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", pixels), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
