"""What is put to a judge of the episodes that were chosen: two by two, where it is to choose between them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlaif_ray.types import Episode, Units

__all__ = ["paired"]


def paired(episodes: Sequence[Episode], rng: np.random.Generator) -> list[Units]:
    """Two by two, as the generator draws them; one may be left over."""
    order = rng.permutation(len(episodes)).tolist()
    return [(episodes[i], episodes[j]) for i, j in zip(order[::2], order[1::2], strict=False)]
