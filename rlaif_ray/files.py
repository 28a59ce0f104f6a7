"""Files that are there whole or not at all: written beside their place and moved in when complete.

A reader never sees half of one, and whoever is killed while writing leaves what was there before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["write_whole", "written_whole"]


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, in the folder of ``path`` and hidden from patterns that look for it; when the block ends it
    takes the place of ``path``, and where the block raises it is removed. Raises OSError."""
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """The text as a file in UTF-8. Raises OSError."""
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")
