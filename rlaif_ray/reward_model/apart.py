"""Which labels are kept apart from those that are learned from, so that no episode stands on both sides. Pure.

A label about one episode is kept apart by a draw that its content sets: u(episode) < share. Labels about two share
episodes, in a tournament each with many others; kept apart by a draw for the pair, nearly all of a held-out pair's
episodes would be known from others, and who has learned them by heart would be graded as if it could judge. So each
episode has its draw, and of a pair::

    u(a), u(b) < sqrt(share)                          kept apart: the share of all pairs that is wanted
    neither stands in a pair that is kept apart       learned from
    else                                              neither

Where every episode stands in one pair none is lost, and a content that recurs costs pairs of its own alone. Since u
knows nothing of the other labels, one that is kept apart is never learned from, whatever comes later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

__all__ = ["Marks", "apart", "episodes_in", "is_chosen", "mark"]


def episodes_in(key: str) -> tuple[str, ...]:
    """Contents of the episodes that a label's key is of: one, or two."""
    return tuple(key.split("|"))


def is_chosen(content: str, purpose: str, share: float) -> bool:
    """Whether a content is one of a share: the same in every run and after a restart."""
    digest = hashlib.sha256(f"{purpose}:{content}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def apart(keys: Sequence[str], purpose: str, shares: Sequence[float], usual: float = 1.0) -> list[bool | None]:
    """Of each distinct key whether its label is kept apart; None: it is neither kept apart nor learned from.

    ``shares``: of labels like this one, those that are to be kept apart. Where a share is above ``usual`` (few labels
    may be kept apart, so that more of them are), an episode that recurs is drawn at the usual one all the same: else
    each of its pairs would be lost for one that is kept apart.
    """
    standing = Counter(episode for key in keys for episode in episodes_in(key))
    drawn, kept = [], []
    for key, share in zip(keys, shares, strict=True):
        both = episodes_in(key)
        drawn.append(all(is_chosen(one, purpose, share ** (1 / len(both))) for one in both))
        again = [one for one in both if standing[one] > 1]
        kept.append(drawn[-1] and all(is_chosen(one, purpose, usual ** (1 / len(both))) for one in again))
    graded_on = {one for key, is_kept in zip(keys, kept, strict=True) if is_kept for one in episodes_in(key)}
    return [
        True if is_kept else None if was_drawn or not graded_on.isdisjoint(episodes_in(key)) else False
        for key, was_drawn, is_kept in zip(keys, drawn, kept, strict=True)
    ]


def mark(key: str) -> str:
    """A label's short name, by which a model remembers what it learned from; of a pair with those of its episodes."""
    both = episodes_in(key)
    return ":".join(hashlib.sha256(one.encode()).hexdigest()[:16] for one in ([key, *both] if len(both) > 1 else both))


class Marks(frozenset[str]):
    """Marks of labels; a label is one of them too where it shares an episode with one."""

    def __contains__(self, one: object) -> bool:
        return isinstance(one, str) and not self._parts.isdisjoint(one.split(":"))

    @cached_property
    def _parts(self) -> frozenset[str]:
        return frozenset(part for one in self for part in one.split(":"))
