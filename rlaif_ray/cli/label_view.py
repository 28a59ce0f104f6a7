"""The view of ``rlaif-ray label`` while it goes on: a bar in a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlaif_ray.feedback.offline import Progress
from rlaif_ray.report.figures import clock_time, count

__all__ = ["LabelView", "told"]

PLAIN_EVERY_S = 10.0


class LabelView:
    """Shows the newest progress. A context manager."""

    def __init__(self, console: Console, cap_usd: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._cap_usd, self._clock = console, cap_usd, clock
        self._live: Live | None = None
        self._newest: Progress | None = None
        self._notice = ""
        self._printed_at = -math.inf

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self.render, console=self._console, refresh_per_second=2, transient=True,
                redirect_stderr=False,
            )  # fmt: skip
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._newest:
            self._console.print(told(self._newest, self._cap_usd), soft_wrap=True, highlight=False)

    def update(self, progress: Progress) -> None:
        """Show where labelling stands."""
        self._newest = progress
        if self._live is None and self._clock() - self._printed_at >= PLAIN_EVERY_S:
            self._printed_at = self._clock()
            self._console.print(told(progress, self._cap_usd), soft_wrap=True, highlight=False)

    def say(self, notice: str) -> None:
        """Show a notice from now on."""
        self._notice = notice
        if self._live is None:
            self._console.print(notice, soft_wrap=True, highlight=False)

    def render(self) -> RenderableType:
        if self._newest is None:
            return Text(self._notice)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(self._newest.wanted, self._newest.before + self._newest.labelled, width=60))
        notice = [Text(self._notice, style="bold")] if self._notice else []
        return Group(bar, Text(told(self._newest, self._cap_usd)), *notice)


def told(progress: Progress, cap_usd: float | None) -> str:
    """One line: counts, money, rate and time left."""
    done = progress.before + progress.labelled
    cap = "" if cap_usd is None else f" of {cap_usd:,.2f}"
    parts = [f"{count(done)} of {count(progress.wanted)} labelled"]
    beside = [(progress.before, "before"), (progress.abstained, "abstained"), (progress.replayed, "for nothing")]
    if any(number for number, _ in beside):
        parts[0] += f" ({', '.join(f'{count(number)} {what}' for number, what in beside if number)})"
    parts.append(f"USD {progress.spend_usd:,.4f}{cap}, {progress.reserved_usd:,.4f} reserved")
    if progress.in_batches:
        parts.append(f"{count(progress.in_batches)} in batches, {count(progress.answered_there)} answered there")
    elif progress.labelled and progress.elapsed_s > 0.0 and not progress.doing:
        rate = progress.labelled / progress.elapsed_s
        parts.append(f"{60.0 * rate:,.0f} a minute, {clock_time((progress.wanted - done) / rate)} left")
    if progress.doing:
        parts.append(progress.doing)
    return " | ".join(parts)
