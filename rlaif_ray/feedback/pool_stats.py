"""Where asking stands, as the pool tells it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PoolStats", "last_line", "least"]


@dataclass(frozen=True)
class PoolStats:
    """Where asking stands."""

    labels: int  # billed questions of this run, abstentions included
    abstained: int
    replayed: int
    spend_usd: float  # of this run
    reserved_usd: float
    cap_usd: float | None
    labels_left: int | None  # of the store's cap or the run's own, whichever is less; None: no cap
    latency_s: float  # mean of recent answers; 0 before the first
    exhausted: bool  # the budget has no room for another question
    failed: int = 0  # questions that could not be put at all, or whose process died again and again
    both_orders: int = 0  # preferences that were put in both orders
    inconsistent: int = 0  # of those, that turned with the order
    asked_again: int = 0  # questions put a second time because a process died with them


def least(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None


def last_line(error: BaseException) -> str:
    """The line of an error that says what happened: Ray puts its stack before it."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
