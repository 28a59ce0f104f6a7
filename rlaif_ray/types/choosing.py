"""What choosing whom to ask about is handed, and what it makes: finished episodes, and those that were drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from rlaif_ray.errors import ShapeError
from rlaif_ray.types.episodes import Array, need

__all__ = ["DRAWS", "Candidates", "Draw", "Drawn"]

# How the episode of a label came to be asked about: by the part of the draw that treats all episodes alike, by the part
# that follows what is known of them, or by no draw at all: the store had its answer when nothing could be bought.
Draw = Literal["audit", "targeted", "known"]
DRAWS: tuple[str, ...] = get_args(Draw)


@dataclass(frozen=True)
class Candidates:
    """E finished episodes to choose from, and what is known of them without asking."""

    policy_version: Array  # (E,) int64, the version that acted first
    ended: Array  # (E,) int64, row of the fragment in which it ended
    terminated: Array  # (E,) bool, False: truncated
    belief: Array | None = None  # (E,) in [0, 1], the reward model's at the end; None: there is no model yet
    spread: Array | None = None  # (E,) standard deviation of it over an ensemble; None: no model, or one net alone

    def __post_init__(self) -> None:
        E = len(self.policy_version)
        for name in ("ended", "terminated", "belief", "spread"):
            column = getattr(self, name)
            if column is not None:
                need(f"{name} (E,)", column.shape, (E,))

    def __len__(self) -> int:
        return len(self.policy_version)


@dataclass(frozen=True)
class Drawn:
    """k episodes drawn from the candidates, in random order: the first of them are a random part of all."""

    index: Array  # (k,) int64, each once
    probability: Array  # (k,) in (0, 1]: of each being drawn, over the whole design
    audit: Array  # (k,) bool: drawn by the part that treats all alike

    def __post_init__(self) -> None:
        need("probability (k,)", self.probability.shape, self.index.shape)
        need("audit (k,)", self.audit.shape, self.index.shape)
        if not ((self.probability > 0.0) & (self.probability <= 1.0)).all():
            raise ShapeError(f"inclusion probabilities: got {np.sort(self.probability)}, expected within (0, 1]")

    def __len__(self) -> int:
        return len(self.index)

    @staticmethod
    def none() -> Drawn:
        return Drawn(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
