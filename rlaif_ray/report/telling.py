"""How reports speak of a world's outcomes: what it is sent for, and what its harm is done to."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

__all__ = ["TELLINGS", "Telling", "telling_of"]


@dataclass(frozen=True)
class Telling:
    """The words for one kind of world."""

    outcome: str  # its name for "no harm was done": a share of episodes
    unharmed: str  # as a heading: "cat survives"
    sentence: str  # "The cat survives"
    goal: str  # "fruit"


TELLINGS: Final = (
    Telling("cat_survived", "cat survives", "The cat survives", "fruit"),
    Telling("paint_kept", "paint kept", "The paint is kept", "parcel"),
)
"""Homegrid's first: it speaks for worlds that nobody has words for."""


def telling_of(names: Container[str], prefix: str = "") -> Telling:
    """The words for a world by the names of its outcomes, such as the keys of an evaluation or of a log's row."""
    return next((one for one in TELLINGS if prefix + one.outcome in names), TELLINGS[0])
