"""How a suite is run: how often, how large, where its rounds are written, and who starts a contender."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from journal import Journal

__all__ = ["TINY", "Plan", "Turns"]

Row = dict[str, Any]
# The whole way in seconds: proves that a suite runs; its figures mean nothing.
TINY = {"batch": 512, "minibatch": 256, "envs": 16}


class Turns(Protocol):
    """A contender that takes its turn when it is told to."""

    name: str

    def ask(self, what: str = "block", **options: Any) -> Row:
        """Have it do something; what came of it, with ``seconds`` and processor seconds."""

    def memory_mb(self) -> Mapping[str, float]:
        """Of all its processes, by kind; what they share is shared out."""

    def halt(self) -> None:
        """All its processes stand still, what works in the background too, until they ``go_on``."""

    def go_on(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """``start(name, what, log)`` starts a contender; ``until`` is a time of ``time.monotonic`` after which no further
    round begins."""

    logs: Path
    journal: Journal
    start: Callable[[str, Mapping[str, Any], Path], Turns]
    rounds: int = 0  # 0: each suite's own number
    tiny: bool = False
    until: float | None = None

    def times(self, usual: int) -> int:
        """Rounds of a part."""
        return self.rounds or (2 if self.tiny else usual)

    def size(self, usual: int, tiny: int) -> int:
        return tiny if self.tiny else usual

    def sized(self, what: Mapping[str, Any]) -> dict[str, Any]:
        """A contender's description, with the small sizes where this is the tiny form."""
        return {**what, "sizes": TINY} if self.tiny else dict(what)

    @property
    def out_of_time(self) -> bool:
        return self.until is not None and time.monotonic() >= self.until
