"""Whose turn it is: requests and tokens a minute and questions in flight, for everything that shares a store.

Pure: the clock is an argument. The store keeps one ``Traffic`` for each judge on disk and asks it, in the same
transaction as the budget, before each attempt. It starts from the configured limits and learns the server's own:

* ``x-ratelimit-*``: a bucket of ``limit`` that lacks ``limit - remaining`` and is full again in ``reset`` refills at
  (limit - remaining) / reset; nothing remaining pauses everybody until there is.
* ``Retry-After`` pauses everybody, not only who was told.
* a 429 halves the questions in flight, an answer makes room for 1 / window more: as TCP does (RFC 5681), which finds
  limits that a server doesn't tell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["Heard", "Pace", "Traffic", "Wait", "heard_in", "seconds_of"]

# A bucket grants what fits into it at once and the steady rate on top: a small one keeps the first minute honest.
# Requests: one second's worth. Tokens: a quarter of a minute's, as one question may be large.
_REQUEST_BURST_S = 1.0
_TOKEN_BURST_S = 15.0
# Who waits looks again this often at least: another process may have been given up, a pause may have been lengthened.
_MOST_WAIT_S = 1.0
# Looking for a question in flight to end. Only one asker of each process looks.
_FULL_WAIT_S = 0.02
# Refusals of requests that were under way together are one piece of news.
_HALVE_EVERY_S = 1.0
# A server that asks for more patience than this is not believed.
_MOST_PAUSE_S = 120.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Pace:
    """What the user allows, over everything that shares a store; None: no limit of ours."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None


@dataclass(frozen=True)
class Wait:
    """Not yet: look again after so many seconds."""

    seconds: float
    why: str
    for_budget: bool = False  # what others have in flight may yet leave room: somebody else's turn meanwhile


@dataclass(frozen=True)
class Heard:
    """What one reply said about the server's limits."""

    refused: bool = False  # 429
    pause_s: float = 0.0  # Retry-After, or nothing remaining until the reset
    requests_s: float | None = None  # requests a second that the server refills
    tokens_s: float | None = None


@dataclass(frozen=True)
class Traffic:
    """Where a judge's limits stand. Times are seconds of one clock. Each method returns the traffic after it."""

    requests_due: float = 0.0  # when the bucket of requests is full again (generic cell rate algorithm)
    tokens_due: float = 0.0
    paused_until: float = 0.0
    window: float | None = None  # learned limit of questions in flight; None: no refusal yet
    halved_at: float = 0.0
    requests_s: float | None = None  # learned refill rates
    tokens_s: float | None = None

    def turn(self, pace: Pace, tokens: int, in_flight: int, now: float) -> Traffic | Wait:
        """Let one request of at most so many tokens go now, or say how long to wait."""
        if now < self.paused_until:
            return Wait(min(_MOST_WAIT_S, self.paused_until - now), "the server asked to wait")
        room = min(math.inf if pace.concurrency is None else pace.concurrency, self.window or math.inf)
        if in_flight >= max(1, int(room) if math.isfinite(room) else in_flight + 1):
            return Wait(_FULL_WAIT_S, "as many questions are in flight as may be")
        rate = _rate(pace.requests_per_minute, self.requests_s)
        requests_due, early = _taken(self.requests_due, now, 1.0, rate, _REQUEST_BURST_S)
        rate = _rate(pace.tokens_per_minute, self.tokens_s)
        tokens_due, late = _taken(self.tokens_due, now, float(tokens), rate, _TOKEN_BURST_S)
        wait_s = max(early, late)
        if wait_s > 0.0:
            return Wait(min(_MOST_WAIT_S, wait_s), "the rate limit")
        return replace(self, requests_due=requests_due, tokens_due=tokens_due)

    def after(self, heard: Heard, pace: Pace, in_flight: int, unused_tokens: int, now: float) -> Traffic:
        """Learn from a reply; tokens that were set aside for it and not used are given back."""
        rate = _rate(pace.tokens_per_minute, self.tokens_s)
        news = replace(
            self,
            tokens_due=self.tokens_due if rate is None else self.tokens_due - max(0, unused_tokens) / rate,
            paused_until=max(self.paused_until, now + min(heard.pause_s, _MOST_PAUSE_S)) if heard.pause_s else
            self.paused_until,
            requests_s=heard.requests_s or self.requests_s,
            tokens_s=heard.tokens_s or self.tokens_s,
        )  # fmt: skip
        if heard.refused:
            if now - self.halved_at < _HALVE_EVERY_S:
                return news
            return replace(news, window=max(1.0, min(self.window or math.inf, float(in_flight)) / 2), halved_at=now)
        if self.window is None:
            return news
        grown = self.window + 1.0 / self.window
        most = math.inf if pace.concurrency is None else float(pace.concurrency)
        return replace(news, window=None if grown >= most else grown)


def _rate(per_minute: float | None, learned_s: float | None) -> float | None:
    """The stricter of what the user and what the server allows, a second."""
    rates = [rate for rate in (None if per_minute is None else per_minute / 60.0, learned_s) if rate is not None]
    return min(rates) if rates else None


def _taken(due: float, now: float, amount: float, rate: float | None, burst_s: float) -> tuple[float, float]:
    """When a leaky bucket is empty again after taking ``amount``, and how long until that may be taken.

    The bucket holds ``burst_s`` seconds of its rate, and at least one request; more than it holds waits for a full one.
    """
    if rate is None:
        return due, 0.0
    size = max(1.0, rate * burst_s)
    amount = min(amount, size)
    due = max(due, now) + amount / rate
    wait_s = due - size / rate - now
    return due, wait_s if wait_s > 1e-6 else 0.0


def heard_in(headers: Mapping[str, str], *, refused: bool = False, after_s: float | None = None) -> Heard:
    """What a reply's headers say about limits; nonsense in them is as if it weren't there."""
    rates: dict[str, float | None] = {}
    pause_s = after_s or 0.0
    for what in ("requests", "tokens"):
        limit, left = (_number(headers.get(f"x-ratelimit-{part}-{what}", "")) for part in ("limit", "remaining"))
        reset_s = seconds_of(headers.get(f"x-ratelimit-reset-{what}", ""))
        rates[what] = _refill(limit, left, reset_s)
        if left is not None and left <= 0.0 and rates[what]:
            pause_s = max(pause_s, 1.0 / (rates[what] or 1.0) if what == "requests" else reset_s or 0.0)
    return Heard(refused, pause_s, rates["requests"], rates["tokens"])


def _refill(limit: float | None, left: float | None, reset_s: float | None) -> float | None:
    """Refill a second; a server that doesn't say when it is full again is taken to count by the minute."""
    if not limit:
        return None
    if reset_s and left is not None and left < limit:
        return (limit - left) / reset_s
    return limit / 60.0 if reset_s is None else None


def seconds_of(text: str) -> float | None:
    """``"1.5"``, ``"6m0s"``, ``"120ms"`` in seconds; None: no duration."""
    number = _number(text)
    if number is not None:
        return number
    parts = _DURATION.findall(text)
    if not parts or "".join(f"{value}{unit}" for value, unit in parts) != text.strip():
        return None
    return sum(float(value) * _UNITS[unit] for value, unit in parts)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0.0 else None
