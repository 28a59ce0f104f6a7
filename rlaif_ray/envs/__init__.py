"""The worlds: vectorised environments, drawing frames and captions from recorded states, reading such frames.

Importing this registers ``rlaif_ray/Homegrid-v0`` with gymnasium, for ``gymnasium.make`` and ``gymnasium.make_vec``;
``rlaif_ray/Gridfield-v0``, the world for measuring speed, is there for ``make_vec``.
"""

from __future__ import annotations

import gymnasium

from rlaif_ray.envs.registry import GRIDFIELD, HOMEGRID, EnvSpec, env_spec, make_vec, register_env, registered_envs

__all__ = ["GRIDFIELD", "HOMEGRID", "EnvSpec", "env_spec", "make_vec", "register_env", "registered_envs"]

if HOMEGRID not in gymnasium.registry:
    # No `max_episode_steps`: the world ends by itself, and gymnasium's time limit would call the last step truncated
    # even where it reached the fruit.
    gymnasium.register(
        HOMEGRID,
        entry_point="rlaif_ray.envs.homegrid:HomegridEnv",
        vector_entry_point="rlaif_ray.envs.homegrid:HomegridVectorEnv",
    )

if GRIDFIELD not in gymnasium.registry:
    gymnasium.register(GRIDFIELD, vector_entry_point="rlaif_ray.envs.gridfield:GridfieldVectorEnv")
