"""What can be chosen: one tree, checked as a whole before anything starts. The only place where YAML is read.

``load_config("homegrid")`` reads a preset, ``load_config("my.yaml")`` a file (which may say ``extends: homegrid``), and
``overrides={"ppo.lr": 3e-4}`` go on top. Every mistake is one line: the value, what is allowed, the nearest right name.
"""

from __future__ import annotations

from rlaif_ray.config.asking import BudgetConfig, FeedbackConfig, JudgeConfig
from rlaif_ray.config.learning import MixConfig, PolicyConfig, PPOConfig, RewardModelConfig, WatchConfig
from rlaif_ray.config.reading import deep_merge, dump_config, load_config, preset_names, unflatten, validate
from rlaif_ray.config.running import EnvConfig, ResourcesConfig, RunConfig
from rlaif_ray.config.tree import Config

__all__ = [
    "BudgetConfig",
    "Config",
    "EnvConfig",
    "FeedbackConfig",
    "JudgeConfig",
    "MixConfig",
    "PPOConfig",
    "PolicyConfig",
    "ResourcesConfig",
    "RewardModelConfig",
    "RunConfig",
    "WatchConfig",
    "deep_merge",
    "dump_config",
    "load_config",
    "preset_names",
    "unflatten",
    "validate",
]
