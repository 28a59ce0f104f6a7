"""The view of a run while it goes on: ``LiveView`` is fed one flat row an iteration (``experiment.train(monitor=)``).

In a terminal it redraws itself; elsewhere (a pipe, a log file) it prints a plain line every ten seconds. A key that
a row lacks shows as a dash. It only looks: an error in it must not end a run, so it formats and computes nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlaif_ray.report.figures import clock_time, count, decimal, number, percent
from rlaif_ray.report.run import flatten
from rlaif_ray.report.screen import Screen
from rlaif_ray.report.telling import Telling, telling_of

__all__ = ["LiveView", "plain_line"]

PLAIN_EVERY_S = 10.0
SHARES = (("direct", "direct"), ("distilled", "distilled"), ("abstained", "abstained"), ("task", "task only"))


class LiveView(Screen):
    """Shows the newest row. A context manager; ``update`` is the monitor."""

    def __init__(
        self,
        name: str,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        as_if: bool = False,  # prices are: the built-in judge charges nothing
    ) -> None:
        super().__init__(console or Console())
        self._name = name
        self._as_if = as_if
        self._clock = clock
        self._row: dict[str, Any] = {}
        self._printed_at = -math.inf
        self._last_known: dict[str, float] = {}
        self._first: tuple[float, float] | None = None  # (seconds, steps) at the first row: a resumed run starts late
        self._seen_at = clock()

    def leave(self) -> None:
        if self._live and self._row:
            self._console.print(self.render())

    def update(self, row: Mapping[str, Any]) -> None:
        """Show one iteration's row."""
        self._row = flatten(row)
        self._seen_at = self._clock()
        if self._first is None:
            self._first = (self._seen_at, number(self._row, "steps"))
        unharmed = f"truth/{_telling(self._row | self._last_known).outcome}"
        for key in ("truth/found", unharmed, "rm/heldout_accuracy", "feedback/approval_rate"):
            value = number(self._row, key)  # keep showing the last known where an iteration measured none
            self._last_known[key] = value if math.isfinite(value) else self._last_known.get(key, math.nan)
        self._row |= self._last_known | {"as_if": self._as_if}
        done = number(self._row, "steps") >= number(self._row, "total_steps")
        if self._live is None and (done or self._seen_at - self._printed_at >= PLAIN_EVERY_S):
            self._printed_at = self._seen_at
            self._console.print(plain_line(self._row, self._seconds_left()), soft_wrap=True, highlight=False)

    def _seconds_left(self) -> float:
        """From the mean speed since this process began; nan until there are two rows."""
        if self._first is None:
            return math.nan
        began, steps_then = self._first
        walked = number(self._row, "steps") - steps_then
        elapsed = self._seen_at - began
        if not walked > 0 or not elapsed > 0:
            return math.nan
        left = (number(self._row, "total_steps") - number(self._row, "steps")) * elapsed / walked
        return max(0.0, left - (self._clock() - self._seen_at))

    def render(self) -> RenderableType:
        """What a terminal shows now."""
        row = self._row
        if not row:
            body: RenderableType = Text("starting Ray, the judge and the runners ...", style="dim")
        else:
            body = Group(self._progress(row), _outcome_line(row), _feedback_line(row), _model_line(row), _shares(row))
        if self._notice:
            body = Group(body, Text(self._notice, style="bold yellow"))
        phase = f"{self._name}: {row['phase']} phase" if "phase" in row else self._name
        return Panel(body, title=phase, title_align="left", border_style="dim")

    def _progress(self, row: Mapping[str, Any]) -> RenderableType:
        steps, total = number(row, "steps"), number(row, "total_steps")
        share = steps / total if total > 0 else 0.0
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(ratio=1)
        line.add_column(justify="right")
        words = (
            f"{count(steps)} of {count(total)} steps  {100 * share:.0f} %  "
            f"{count(number(row, 'steps_per_s'))} steps/s  {clock_time(self._seconds_left())} left"
        )
        line.add_row(ProgressBar(total=1.0, completed=share), words)
        return line


def plain_line(row: Mapping[str, Any], seconds_left: float) -> str:
    """One line for a log: the same figures as the live view."""
    parts = [
        f"{count(number(row, 'steps'))}/{count(number(row, 'total_steps'))} steps",
        f"{row.get('phase', '-')} phase",
        f"{count(number(row, 'steps_per_s'))} steps/s",
        f"{clock_time(seconds_left)} left",
        f"truth (audit only): found {percent(row, 'truth/found')}, {_unharmed(row)}",
    ]
    if math.isfinite(number(row, "feedback/labels")):
        parts.append(f"labels {count(number(row, 'feedback/labels'))}{_left(row)}, spend {_spend(row)}")
        parts.append(f"RM {_model(row)}")
        parts.append(", ".join(f"{word} {percent(row, f'mix/share_{key}')}" for key, word in SHARES))
    return "; ".join(parts)


def _telling(row: Mapping[str, Any]) -> Telling:
    return telling_of(row, "truth/")


def _unharmed(row: Mapping[str, Any]) -> str:
    telling = _telling(row)
    return f"{telling.unharmed} {percent(row, f'truth/{telling.outcome}')}"


def _outcome_line(row: Mapping[str, Any]) -> RenderableType:
    return Text.assemble(
        ("truth, audit only   ", "dim"),
        f"{_telling(row).goal} found {percent(row, 'truth/found')}   {_unharmed(row)}   ",
        f"length {decimal(number(row, 'task/episode_length_mean'))}",
    )


def _feedback_line(row: Mapping[str, Any]) -> RenderableType:
    approved = percent(row, "feedback/approval_rate", 0)
    return Text.assemble(
        ("judge               ", "dim"),
        f"labels {count(number(row, 'feedback/labels'))}{_left(row)}   spend {_spend(row)}   approves {approved}",
    )


def _model_line(row: Mapping[str, Any]) -> RenderableType:
    weight = decimal(number(row, "mix/weight"), 2)
    return Text.assemble(("reward model (RM)   ", "dim"), _model(row), (f"   weight {weight}", "dim"))


def _shares(row: Mapping[str, Any]) -> RenderableType:
    shares = "   ".join(f"{word} {percent(row, f'mix/share_{key}')}" for key, word in SHARES)
    return Text.assemble(("rewards came from   ", "dim"), shares)


def _model(row: Mapping[str, Any]) -> str:
    version = number(row, "rm/version")
    if not version > 0:
        return "none yet"
    gate = "gate open" if row.get("rm/gate_open") else "gate shut"
    held = f"{percent(row, 'rm/heldout_accuracy')} of {count(number(row, 'rm/heldout_n'))} held-out labels"
    unused = f"{count(number(row, 'rm/unused_n'))} unused, " if number(row, "rm/unused_n") > 0 else ""
    return f"version {count(version)}, {held}, {unused}{gate}"


def _left(row: Mapping[str, Any]) -> str:
    left = number(row, "feedback/labels_left")
    return f" ({count(left)} left)" if math.isfinite(left) else ""


def _spend(row: Mapping[str, Any]) -> str:
    spend, cap = number(row, "feedback/spend_usd"), number(row, "feedback/cap_usd")
    of = f" of {cap:.2f}" if math.isfinite(cap) else ""
    return f"USD {decimal(spend, 3)}{of}" + (" as-if" if row.get("as_if") else "")
