"""The budget: what may still be spent. Pure: no files, no clock; the store keeps its numbers on disk.

Spending is two-phase. Before an attempt its worst case is *reserved*; afterwards it is *settled* (what the server says
was used), *released* (known not to be billed) or *written off* (fate unknown: charged at its worst case). At all times

    spent + reserved <= caps

holds for every reservation that was granted, as long as no server bills more than the worst case; a larger bill is
recorded as it is and stops the asking. "Labels" counts billed questions, abstentions included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from rlaif_ray.config import BudgetConfig
from rlaif_ray.errors import BudgetExhausted

__all__ = ["Account", "Amount", "Caps", "Schedule", "share_at"]

Schedule = Literal["none", "uniform", "front-loaded", "hyperbolic"]

# Sums of many small float prices may differ in their last digits from the cap they exactly fill.
ROUNDING_USD = 1e-9
# How many times faster a hyperbolic schedule spends at its beginning than at its end.
_HYPERBOLIC = 9.0


@dataclass(frozen=True)
class Amount:
    """So much money, labels and tokens."""

    usd: float = 0.0
    labels: int = 0
    tokens: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.usd + other.usd, self.labels + other.labels, self.tokens + other.tokens)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.usd - other.usd, self.labels - other.labels, self.tokens - other.tokens)


@dataclass(frozen=True)
class Caps:
    """What is never exceeded by everything that shares a store; None: no cap."""

    usd: float | None = None
    labels: int | None = None
    tokens: int | None = None
    run: Caps | None = None  # what one run by itself never exceeds; None: no cap but the store's

    @staticmethod
    def of(config: BudgetConfig) -> Caps:
        run = Caps(usd=config.run_usd, labels=config.run_labels, tokens=config.run_tokens)
        return Caps(usd=config.usd, labels=config.labels, tokens=config.tokens, run=None if run == Caps() else run)

    def at(self, share: float) -> Caps:
        """The part of each cap that may be spent so far; ``share`` in [0, 1]."""
        if share >= 1.0:
            return self
        whole = (None if cap is None else math.floor(share * cap + 1e-9) for cap in (self.labels, self.tokens))
        labels, tokens = whole
        usd = None if self.usd is None else share * self.usd
        return replace(
            self, usd=usd, labels=labels, tokens=tokens, run=None if self.run is None else self.run.at(share)
        )


def share_at(schedule: Schedule, progress: float) -> float:
    """Share of the budget that may be spent by ``progress`` p in [0, 1] of the asking, itself in [0, 1].

    ``uniform``: p. ``front-loaded``: 2p - p^2, the rate falls linearly to nothing. ``hyperbolic``:
    log(1 + 9p) / log(10), the rate falls as 1 / (1 + 9p): labels early, when each teaches most, and a tenth of the
    rate kept to the end, when the policy has moved on (the decay of Christiano et al. 2017, section 2.2.4).
    ``none``: all of it at any time.
    """
    p = min(1.0, max(0.0, progress))
    if schedule == "uniform":
        return p
    if schedule == "front-loaded":
        return p * (2.0 - p)
    if schedule == "hyperbolic":
        return math.log1p(_HYPERBOLIC * p) / math.log1p(_HYPERBOLIC)
    return 1.0


@dataclass(frozen=True)
class Account:
    """What was spent, what is reserved and the caps. Each method returns the account after it."""

    caps: Caps = field(default_factory=Caps)
    spent: Amount = field(default_factory=Amount)  # settled and written off
    reserved: Amount = field(default_factory=Amount)  # worst cases of what is in flight
    prefix: str = ""  # of a cap's name in messages: "run_" for an account of one run

    def reserve(self, worst: Amount) -> Account:
        """Set the worst case of one attempt aside. Raises BudgetExhausted, naming the cap that is in the way."""
        after = self.spent + self.reserved + worst
        for name, slack in (("usd", ROUNDING_USD), ("labels", 0), ("tokens", 0)):
            cap = getattr(self.caps, name)
            if cap is not None and getattr(after, name) > cap + slack:
                raise BudgetExhausted(
                    f"budget.{self.prefix}{name}: {getattr(self.spent, name):g} of {cap:g} spent and "
                    f"{getattr(self.reserved, name):g} reserved, no room for {getattr(worst, name):g} more"
                )
        return replace(self, reserved=self.reserved + worst)

    def settle(self, worst: Amount, used: Amount) -> Account:
        """Replace a reservation by what was used (nothing, where it is known that nothing was billed)."""
        return replace(self, spent=self.spent + used, reserved=self.reserved - worst)

    def write_off(self, worst: Amount) -> Account:
        """Nobody knows what became of it: charge the worst case."""
        return self.settle(worst, worst)

    @property
    def labels_left(self) -> int | None:
        """Labels that may still be reserved; None: no cap."""
        if self.caps.labels is None:
            return None
        return max(0, self.caps.labels - self.spent.labels - self.reserved.labels)

    @property
    def empty(self) -> bool:
        """A cap is reached by what was spent alone: nothing that is still in flight can make room again."""
        pairs = (
            (self.caps.usd, self.spent.usd),
            (self.caps.labels, self.spent.labels),
            (self.caps.tokens, self.spent.tokens),
        )
        return any(cap is not None and spent >= cap for cap, spent in pairs)
