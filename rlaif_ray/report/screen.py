"""What every view of something that goes on shares: in a terminal it redraws itself, elsewhere it prints lines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

__all__ = ["Screen"]


class Screen(ABC):
    """A context manager; what stands in it is the subclass's ``render``, what is left at the end its ``leave``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._notice = ""

    @abstractmethod
    def render(self) -> RenderableType:
        """What a terminal shows now."""

    @abstractmethod
    def leave(self) -> None:
        """Print what is to stay when the view has gone."""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            # What libraries say on standard error has its own place (the run's log): not here, between two redraws.
            self._live = Live(
                get_renderable=self.render,
                console=self._console,
                refresh_per_second=2,
                transient=True,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        self.leave()

    def say(self, notice: str) -> None:
        """A line that stays in view (in a terminal) or is printed once (elsewhere)."""
        self._notice = notice
        if self._live is None:
            self._console.print(notice, soft_wrap=True, highlight=False)
