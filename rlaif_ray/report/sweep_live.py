"""The view of a sweep while it goes on: ``SweepView`` is told what happens to each trial.

In a terminal a table redraws itself; elsewhere it prints a line where a trial begins or ends, and one of progress now
and then. It only looks: a figure that a row lacks shows as a dash.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlaif_ray.report.figures import clock_time, count, decimal, number, percent
from rlaif_ray.report.run import flatten
from rlaif_ray.report.screen import Screen

__all__ = ["SweepView"]

PLAIN_EVERY_S = 30.0
MOST_ROWS = 24  # of a terminal's height; trials that run come first, then those to come
_ORDER = {"running": 0, "failed": 1, "waiting": 2, "stopped": 3, "done": 4}
_STYLE = {"running": "bold", "failed": "red", "done": "green", "stopped": "yellow", "waiting": "dim"}


@dataclass
class _Line:
    """What is known of a trial."""

    state: str = "waiting"
    row: Mapping[str, Any] = field(default_factory=dict)


class SweepView(Screen):
    """A context manager; ``update`` is the monitor."""

    def __init__(
        self,
        name: str,
        trials: Sequence[str],
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console or Console())
        self._name = name
        self._lines = {trial: _Line() for trial in trials}
        self._clock = clock
        self._began = self._printed_at = clock()

    def leave(self) -> None:
        if self._live:
            self._console.print(self.render())

    def update(self, trial: str, state: str, row: Mapping[str, Any]) -> None:
        """Something happened to a trial; ``row`` is its newest result, empty where there is no new one."""
        line = self._lines.setdefault(trial, _Line())
        changed = line.state != state
        line.state = state
        if row:
            line.row = flatten({key: value for key, value in row.items() if key != "config"})
        if self._live is None:
            self._print(trial, line, changed)

    def _print(self, trial: str, line: _Line, changed: bool) -> None:
        now = self._clock()
        if changed and line.state == "running":
            said = f"{trial}: begun"
        elif changed:
            said = f"{trial}: {line.state}; {_figures(line.row)}"
        elif now - self._printed_at >= PLAIN_EVERY_S:
            said = f"{trial}: {_figures(line.row)}"
        else:
            return
        self._printed_at = now
        self._console.print(
            f"{clock_time(now - self._began):>7}  {self._counts()}  {said}", soft_wrap=True, highlight=False
        )

    def _counts(self) -> str:
        states = Counter(line.state for line in self._lines.values())
        ended = sum(states[state] for state in ("done", "stopped", "failed"))
        return f"[{ended}/{len(self._lines)}]"

    def render(self) -> RenderableType:
        """What a terminal shows now."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("trial", no_wrap=True)
        table.add_column("state", no_wrap=True)
        for name in ("steps", "task\nreturn", "judge\napproves", "labels", "weight", "truth, audit only\nvalue / task"):
            table.add_column(name, justify="right", no_wrap=True)
        ordered = sorted(self._lines.items(), key=lambda one: _ORDER.get(one[1].state, 9))
        for trial, line in ordered[:MOST_ROWS]:
            table.add_row(trial, line.state, *_cells(line.row), style=_STYLE.get(line.state, ""))
        states = Counter(line.state for line in self._lines.values())
        counts = ", ".join(f"{n} {state}" for state, n in sorted(states.items(), key=lambda one: _ORDER.get(one[0], 9)))
        head = Text(f"sweep {self._name}: {counts}; {clock_time(self._clock() - self._began)}", style="bold")
        hidden = len(ordered) - MOST_ROWS
        parts: list[RenderableType] = [head, table]
        if hidden > 0:
            parts.append(Text(f"... and {hidden} more", style="dim"))
        if self._notice:
            parts.append(Text(self._notice, style="bold yellow"))
        return Group(*parts)


def _cells(row: Mapping[str, Any]) -> list[str]:
    steps, total = number(row, "steps"), number(row, "total_steps")
    progress = f"{100 * steps / total:.0f} %" if total > 0 else "-"
    return [
        progress,
        decimal(number(row, "audit/task_return"), 2),
        percent(row, "audit/approval", 0),
        count(number(row, "feedback/labels")),
        decimal(number(row, "mix/weight"), 2),
        " / ".join(_truths(row)) or "-",
    ]


def _truths(row: Mapping[str, Any]) -> list[str]:
    """The world's outcomes of training episodes, the value first."""
    names = [key for key in row if key.startswith("truth/")]
    return [percent(row, key, 0) for key in reversed(names) if math.isfinite(number(row, key))]


def _figures(row: Mapping[str, Any]) -> str:
    if not row:
        return "-"
    progress, task_return, approval, labels, _, truth = _cells(row)
    return (
        f"{progress} of its steps, task return {task_return}, judge approves {approval}, labels {labels}, "
        f"truth (audit only) {truth}"
    )
