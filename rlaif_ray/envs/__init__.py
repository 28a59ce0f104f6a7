"""The worlds: vectorised environments, drawing frames and captions from recorded states, reading such frames.

Importing this registers ``rlaif_ray/Homegrid-v0`` and ``rlaif_ray/Workshop-v0``, the development world, with gymnasium,
for ``gymnasium.make`` and ``gymnasium.make_vec``; ``rlaif_ray/Gridfield-v0``, the world for measuring speed, is there
for ``make_vec``.
"""

from __future__ import annotations

import gymnasium

from rlaif_ray.envs.registry import (
    GRIDFIELD,
    HOMEGRID,
    WORKSHOP,
    EnvSpec,
    env_spec,
    make_vec,
    register_env,
    registered_envs,
)

__all__ = ["GRIDFIELD", "HOMEGRID", "WORKSHOP", "EnvSpec", "env_spec", "make_vec", "register_env", "registered_envs"]

for _id, _module, _name in ((HOMEGRID, "homegrid", "Homegrid"), (WORKSHOP, "workshop", "Workshop")):
    if _id not in gymnasium.registry:
        # No `max_episode_steps`: the world ends by itself, and gymnasium's time limit would call the last step
        # truncated even where it reached the goal.
        gymnasium.register(
            _id,
            entry_point=f"rlaif_ray.envs.{_module}:{_name}Env",
            vector_entry_point=f"rlaif_ray.envs.{_module}:{_name}VectorEnv",
        )

if GRIDFIELD not in gymnasium.registry:
    gymnasium.register(GRIDFIELD, vector_entry_point="rlaif_ray.envs.gridfield:GridfieldVectorEnv")
