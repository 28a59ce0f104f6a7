"""What is put to a judge of the episodes that were chosen: two by two, where it is to choose between them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlaif_ray.types import Array, Episode, Units

__all__ = ["paired"]


def paired(episodes: Sequence[Episode], audit: Array, rng: np.random.Generator) -> list[Units]:
    """Two by two, as the generator draws them, in random order; a random one may be left over.

    Those that (E,) ``audit`` says were drawn from all alike meet each other, but for one of them where their number is
    odd: a pair is audit where both are, and few would be if they were scattered.
    """
    order = rng.permutation(len(episodes))
    order = order[: len(order) // 2 * 2]
    pairs = order[np.argsort(~audit[order], kind="stable")].reshape(-1, 2)
    if not audit.all():
        pairs = rng.permutation(pairs)
    return [(episodes[i], episodes[j]) for i, j in pairs.tolist()]
