"""Rounds of a suite as they are measured, a line each: what was measured outlives whoever stops the rest.

A suite that is begun again with ``--resume`` takes up its rounds where it stopped. Processes are started and warmed up
anew; pairs stay pairs, since a round is written down only when every contender has had its turn in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Journal"]

Row = dict[str, Any]


class Journal:
    """One suite's file. ``settings`` are what its figures depend on: a file of other settings is not gone on with."""

    def __init__(self, path: Path, settings: Row, *, resume: bool = False) -> None:
        self.path = path
        self._parts: dict[str, list[Row]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.loads(line) for line in _whole_lines(path)] if resume else []
        if lines and lines[0] != settings:
            raise SystemExit(
                f"--resume: {path} was measured with {lines[0]}, now it is {settings}; run it without --resume"
            )
        for line in lines[1:]:
            self._parts.setdefault(line["part"], []).append(line["rows"])
        # Written anew: a line that was torn by a kill must not be gone on from.
        path.write_text("".join(json.dumps(line) + "\n" for line in (lines or [settings])))

    def rounds(self, part: str) -> list[Row]:
        """What each round of a part came to, oldest first: by contender, or what was put down."""
        return list(self._parts.get(part, []))

    def add(self, part: str, rows: Row) -> None:
        """Put down a round; it is on disk when this returns."""
        plain: Row = json.loads(json.dumps(rows, default=float))
        self._parts.setdefault(part, []).append(plain)
        with open(self.path, "a") as file:
            file.write(json.dumps({"part": part, "rows": plain}) + "\n")


def _whole_lines(path: Path) -> list[str]:
    """A kill may have torn the last one."""
    return (
        [] if not path.exists() else [line for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
    )
