"""Learn to judge: nets for sequences, fitted to a judge's labels, graded on held-out ones, published in versions."""

from __future__ import annotations

from rlaif_ray.reward_model.actor import LocalRewardModel, RewardModelClient, RewardModelHandle
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.reward_model.trainer import Published, RewardModelTrainer

__all__ = [
    "LocalRewardModel",
    "Published",
    "RewardModel",
    "RewardModelClient",
    "RewardModelHandle",
    "RewardModelTrainer",
]
