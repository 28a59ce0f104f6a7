"""rlaif_ray: reinforcement learning from an LLM's feedback, online and at scale, on Ray.

>>> from rlaif_ray import FeedbackPPOConfig, load_policy  # doctest: +SKIP

Importing the package registers ``rlaif_ray/Homegrid-v0`` with Gymnasium. The heavy parts (Ray, PyTorch, HTTP clients)
are imported when they are first asked for: the command line answers at once, and ``load_policy`` needs no Ray.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Threads of a parallel region that wait by spinning starve whatever shares their cores (runner, judge, reward model):
# a minibatch took 500 ms instead of 20 ms on two busy cores. OpenMP reads this once, when PyTorch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rlaif_ray import envs as _envs  # noqa: F401 - registers the worlds

if TYPE_CHECKING:
    from rlaif_ray.config import (
        BudgetConfig,
        Config,
        EnvConfig,
        FeedbackConfig,
        JudgeConfig,
        MixConfig,
        PolicyConfig,
        PPOConfig,
        ResourcesConfig,
        RewardModelConfig,
        RunConfig,
        WatchConfig,
        load_config,
    )
    from rlaif_ray.envs import register_env
    from rlaif_ray.feedback.alone import ask_about
    from rlaif_ray.feedback.judge import Judge
    from rlaif_ray.feedback.store import LabelStore
    from rlaif_ray.networks import load_policy
    from rlaif_ray.ppo import FeedbackPPO
    from rlaif_ray.ppo_config import FeedbackPPOConfig
    from rlaif_ray.reward_model.model import RewardModel
    from rlaif_ray.types import Unit, Verdict

__version__ = "0.1.0"
__all__ = [
    "BudgetConfig",
    "Config",
    "EnvConfig",
    "FeedbackConfig",
    "FeedbackPPO",
    "FeedbackPPOConfig",
    "Judge",
    "JudgeConfig",
    "LabelStore",
    "MixConfig",
    "PPOConfig",
    "PolicyConfig",
    "ResourcesConfig",
    "RewardModel",
    "RewardModelConfig",
    "RunConfig",
    "Unit",
    "Verdict",
    "WatchConfig",
    "ask_about",
    "load_config",
    "load_policy",
    "register_env",
]

_HOMES = {
    "FeedbackPPO": "rlaif_ray.ppo",
    "FeedbackPPOConfig": "rlaif_ray.ppo_config",
    "Judge": "rlaif_ray.feedback.judge",
    "LabelStore": "rlaif_ray.feedback.store",
    "RewardModel": "rlaif_ray.reward_model.model",
    "Unit": "rlaif_ray.types",
    "Verdict": "rlaif_ray.types",
    "ask_about": "rlaif_ray.feedback.alone",
    "load_policy": "rlaif_ray.networks",
    "register_env": "rlaif_ray.envs",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rlaif_ray' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "rlaif_ray.config")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
