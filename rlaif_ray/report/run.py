"""A run's folder, read: ``RunRecord.read(path)``. Nothing is written, and anything may be missing.

A run that was killed has a torn last line; one on the task reward alone has no labels; an interrupted one has no
evaluation. What isn't there reads as empty or nan, never as 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlaif_ray.config import Config, load_config
from rlaif_ray.errors import ConfigError, nearest
from rlaif_ray.feedback.quoting import printable
from rlaif_ray.report.figures import Row, number
from rlaif_ray.types import Array

__all__ = ["MediaPair", "RunRecord", "find_run", "flatten"]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"task": {"episodes": 3}}`` -> ``{"task/episodes": 3}``."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@dataclass(frozen=True)
class MediaPair:
    """The same start, played by the policy before and after feedback; one of them may be missing."""

    number: int
    before: Path | None
    after: Path | None


@dataclass(frozen=True)
class RunRecord:
    """What one run left behind."""

    path: Path
    config: Config | None  # None: written by another version, or not there
    config_text: str
    summary: Mapping[str, Any]  # {} where the run did not end
    rows: Sequence[Row]  # one flat mapping an iteration, in order

    @staticmethod
    def read(path: Path) -> RunRecord:
        """Raises ConfigError where ``path`` is no run's folder."""
        if not (path / "config.yaml").is_file() and not (path / "result.json").is_file():
            raise ConfigError(f"run {str(path)!r}: got a folder without config.yaml and result.json; expected a run's")
        return RunRecord(
            path=path,
            config=_read_config(path / "config.yaml"),
            config_text=_read_text(path / "config.yaml"),
            summary=_read_object(path / "summary.json"),
            rows=_read_rows(path / "result.json"),
        )

    @property
    def name(self) -> str:
        return printable(str(self.summary.get("name") or self.path.name))

    @property
    def status(self) -> str:
        """``done``, ``interrupted``, ``no_feedback_learned``, ``stopped_by_watch``, ``failed``; ``running`` without a
        summary."""
        return str(self.summary.get("status", "running"))

    @property
    def last(self) -> Row:
        return self.rows[-1] if self.rows else {}

    def column(self, key: str) -> Array:
        """(I,) float64: one number an iteration, nan where absent."""
        return np.array([number(row, key) for row in self.rows], np.float64)

    def has(self, key: str) -> bool:
        """Whether ``key`` was ever a number."""
        return bool(np.isfinite(self.column(key)).any())

    @property
    def feedback_from(self) -> float | None:
        """Environment steps at which the feedback phase began; None where it didn't."""
        steps = self.column("steps")
        for i, row in enumerate(self.rows):
            if row.get("phase") == "feedback":
                return float(steps[i - 1]) if i else 0.0
        return None

    def evaluations(self) -> Iterator[tuple[str, str, Row]]:
        """(phase, starts, outcome) of each evaluation in the summary; the last phase's is the run's own."""
        phases = [p for p in self.summary.get("phases") or () if isinstance(p, Mapping)]
        for phase in phases:
            for starts, outcome in _outcomes(phase.get("evaluation")):
                yield printable(str(phase.get("name", "run"))), starts, {"steps": phase.get("steps"), **outcome}
        if not any(p.get("evaluation") for p in phases):
            for starts, outcome in _outcomes(self.summary.get("evaluation")):
                yield "run", starts, {"steps": self.summary.get("steps"), **outcome}

    def alarms(self) -> list[Row]:
        """What the Goodhart watch raised, as in the summary; also alarms of a part that the run went back from."""
        watch = self.summary.get("watch")
        raised = watch.get("raised") if isinstance(watch, Mapping) else None
        return [one for one in raised if isinstance(one, Mapping)] if isinstance(raised, list) else []

    def media(self) -> list[MediaPair]:
        """Recorded episodes, before and after side by side, by their number."""
        found: dict[int, dict[str, Path]] = {}
        for gif in (self.path / "media").glob("*-*.gif"):
            when, _, index = gif.stem.rpartition("-")
            if when in ("before", "after") and index.isdigit() and not gif.is_symlink():  # it could lead anywhere
                found.setdefault(int(index), {})[when] = gif
        return [MediaPair(i, found[i].get("before"), found[i].get("after")) for i in sorted(found)]


def find_run(text: str) -> Path:
    """The folder of a run given as a path or as its name below runs/. Raises ConfigError with the nearest there is."""
    for path in (Path(text), Path("runs") / text):
        if path.is_dir():
            return path
    known = [str(p.parent) for p in Path("runs").glob("*/config.yaml")]
    guess = nearest(text, [Path(k).name for k in known]) or nearest(text, known)
    hint = f"; did you mean {guess!r}?" if guess else ""
    raise ConfigError(f"run {text!r}: no such folder, here or below runs/{hint}")


def _outcomes(evaluation: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """``{"heldout": {...}, "train": {...}}``, or one outcome that says its starts itself."""
    if not isinstance(evaluation, Mapping):
        return
    if "episodes" in evaluation or "found" in evaluation:
        options = evaluation.get("options")
        starts = options.get("starts") if isinstance(options, Mapping) else evaluation.get("starts")  # of older runs
        yield printable(str(starts or "all")), dict(evaluation)
        return
    for starts, outcome in evaluation.items():
        if isinstance(outcome, Mapping):
            yield printable(str(starts)), dict(outcome)


def _read_text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _read_config(path: Path) -> Config | None:
    if not path.is_file():
        return None
    try:
        return load_config(path)
    except ConfigError:  # a report of an older run is still worth having; its text is shown as it is
        return None


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        read = json.loads(_read_text(path) or "{}")
    except json.JSONDecodeError:
        return {}
    return read if isinstance(read, Mapping) else {}


def _read_rows(path: Path) -> tuple[Row, ...]:
    rows: list[Row] = []
    for line in _read_text(path).splitlines():
        try:
            row = flatten(json.loads(line))
        except (json.JSONDecodeError, AttributeError):  # a line torn by a kill
            continue
        # A run that went on from a checkpoint takes steps again that came after it: the later rows stand.
        while rows and number(rows[-1], "steps") >= number(row, "steps"):
            rows.pop()
        rows.append(row)
    return tuple(rows)
