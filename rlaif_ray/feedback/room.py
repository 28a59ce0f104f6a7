"""How many more questions a budget pays for, as a pool knows it between two looks at the store. Pure.

Questions are drawn with known chances, so how many can be put must be known beforehand, and must not depend on what
they are about: whoever is turned away once drawn would be one whose episode is long, since that is what costs. So a
question is reckoned at the dearest of late, and those in flight too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from rlaif_ray.feedback.budget import ROUNDING_USD, Account, Amount, Caps

__all__ = ["RECENT", "Room"]

# Questions. A policy that learns needs shorter episodes: its first ones would keep most of the money waiting.
RECENT = 200


@dataclass
class Room:
    """``parts``: billed questions of one label, at most; amounts are of single ones."""

    caps: Caps
    parts: int
    spent: Amount = field(default_factory=Amount)  # by all that share the store
    own: Amount = field(default_factory=Amount)  # by the run, as if it stood alone
    worst: deque[Amount] = field(default_factory=lambda: deque(maxlen=RECENT))  # what was reserved for each of late

    def look(self, account: Account, own: Account) -> None:
        """Begin anew with what the store says."""
        self.spent, self.own = account.spent, own.spent

    def hear(self, used: Amount, *, billed: bool) -> None:
        """An answer has come since; ``billed``: it is not one that had been paid for before."""
        self.own += used
        if billed:
            self.spent += used

    def labels(self, share: float = 1.0) -> int | None:
        """That may yet come, those in flight included, with this share of the caps open; None: any number."""
        return min(self._each(self.caps.at(share)), default=None)

    def _each(self, caps: Caps) -> Iterator[int]:
        usd = self.parts * max((one.usd for one in self.worst), default=0.0)
        tokens = self.parts * max((one.tokens for one in self.worst), default=0)
        for cap, spent in ((caps, self.spent), (caps.run or Caps(), self.own)):
            if cap.labels is not None:
                yield max(0, cap.labels - spent.labels) // self.parts
            if cap.usd is not None and usd > 0.0:
                yield max(0, math.floor((cap.usd - spent.usd + ROUNDING_USD) / usd))
            if cap.tokens is not None and tokens > 0:
                yield max(0, cap.tokens - spent.tokens) // tokens
