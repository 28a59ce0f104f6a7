"""Which of the finished episodes are asked about: pure functions of a generator and counts."""

from __future__ import annotations

import numpy as np

from rlaif_ray.types import Array

__all__ = ["choose"]


def choose(rng: np.random.Generator, num_episodes: int, fraction: float, limit: int = 0) -> tuple[Array, float]:
    """Choose uniformly without replacement; ``limit`` 0 means none.

    The expected number chosen is ``min(fraction * E, limit)`` exactly: a fractional part is settled by one draw, so
    that a small fraction of a few episodes is neither always none nor always one.

    Returns:
        indices (k,) int64 ascending, and the inclusion probability of each episode in [0, 1].
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction: got {fraction}, expected within [0, 1]")
    if num_episodes < 0 or limit < 0:
        raise ValueError(f"num_episodes and limit: got {num_episodes} and {limit}, expected >= 0")
    expected = fraction * num_episodes
    if limit:
        expected = min(expected, float(limit))
    if expected <= 0.0:
        return np.zeros(0, np.int64), 0.0
    whole = int(expected)
    count = min(whole + int(rng.random() < expected - whole), num_episodes)
    chosen = np.sort(rng.choice(num_episodes, size=count, replace=False)).astype(np.int64)
    return chosen, expected / num_episodes
