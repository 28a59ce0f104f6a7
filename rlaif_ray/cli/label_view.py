"""The view of ``rlaif-ray label`` while it goes on: a bar in a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlaif_ray.feedback.offline import Progress
from rlaif_ray.report.figures import clock_time, count
from rlaif_ray.report.screen import Screen

__all__ = ["LabelView", "told"]

PLAIN_EVERY_S = 10.0


class LabelView(Screen):
    """Shows the newest progress. A context manager."""

    def __init__(self, console: Console, cap_usd: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self._cap_usd, self._clock = cap_usd, clock
        self._newest: Progress | None = None
        self._printed_at = -math.inf

    def leave(self) -> None:
        if self._newest:
            self._console.print(told(self._newest, self._cap_usd), soft_wrap=True, highlight=False)

    def update(self, progress: Progress) -> None:
        """Show where labelling stands."""
        self._newest = progress
        if self._live is None and self._clock() - self._printed_at >= PLAIN_EVERY_S:
            self._printed_at = self._clock()
            self._console.print(told(progress, self._cap_usd), soft_wrap=True, highlight=False)

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
