"""Learn to judge: nets for sequences, fitted to a judge's labels, graded on held-out ones, published in versions.

The handles import Ray, so they are imported when they are asked for: fitting and grading need none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.reward_model.trainer import Published, RewardModelTrainer

if TYPE_CHECKING:
    from rlaif_ray.reward_model.actor import LocalRewardModel, RewardModelClient, RewardModelHandle

__all__ = [
    "LocalRewardModel",
    "Published",
    "RewardModel",
    "RewardModelClient",
    "RewardModelHandle",
    "RewardModelTrainer",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("rlaif_ray.reward_model.actor"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
