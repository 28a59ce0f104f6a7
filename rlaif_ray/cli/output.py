"""Standard output of a command that ends in figures: one JSON object and nothing else, whatever libraries print."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

__all__ = ["only_json", "print_json", "text_console"]


def text_console(*, stderr: bool = False) -> Console:
    """A console that takes text for what it is: it holds names, paths and what servers said, and no markup of ours."""
    return Console(markup=False, emoji=False, stderr=stderr)


@contextlib.contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """While it lasts, what anyone writes to standard output goes to standard error (file descriptors, so children too).

    ``print_json`` after it writes to the real one.
    """
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def print_json(figures: Mapping[str, Any]) -> None:
    """One line of strict JSON: nan and infinity, which JSON lacks, are null."""
    print(json.dumps(_strict(figures), allow_nan=False), flush=True)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
