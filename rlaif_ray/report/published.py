"""Figures published for a world, put beside a run's own as context.

They were measured by others with another judge and other artwork: a yardstick, not a controlled comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlaif_ray.config import Config
from rlaif_ray.envs import env_spec

__all__ = ["PUBLISHED", "PublishedRow", "published_for"]


@dataclass(frozen=True)
class PublishedRow:
    """One column of the published table; percentages, as printed there."""

    policy: str
    cat_survived_pct: float
    found_pct: float
    mean_length: float
    labels: int  # bought so far
    steps: int  # environment steps so far; each round was warm-started from the one before


PUBLISHED: dict[str, tuple[PublishedRow, ...]] = {
    "rlaif_ray/Homegrid-v0": (
        PublishedRow("task reward only", 37.6, 99.0, 11.5, 0, 13_000_000),
        PublishedRow("+ judge feedback, round 1", 93.6, 89.9, 20.7, 10_000, 26_000_000),
        PublishedRow("+ judge feedback, round 2", 96.9, 94.1, 17.2, 10_000, 39_000_000),
    )
}


def published_for(config: Config | None) -> tuple[PublishedRow, ...]:
    """The rows for a run's world; none for a variant of a published one."""
    if config is None or config.env.id not in PUBLISHED:
        return ()
    variant = set(env_spec(config.env.id).reader_options) & set(config.env.options)
    return () if variant else PUBLISHED[config.env.id]
