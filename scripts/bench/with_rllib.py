"""Stock RLlib PPO on Homegrid: its own runner, connectors and learner, on the same vectorised world."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
import torch
from common import CLIP, ENTROPY, GAMMA, GRAD_CLIP, LAMBDA, LR, SIZES, VALUE, plain_network
from gymnasium.vector import AutoresetMode, VectorEnv
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.tune.registry import register_env
from torch import nn

from rlaif_ray.envs.homegrid import HomegridEnv, HomegridVectorEnv

WORLD = "stock/Homegrid-v0"


class NextStep(VectorEnv[Any, Any, Any]):
    """Our world with the autoreset that RLlib's runner expects: the step after an end only resets.

    It does step our world, which can't leave one environment out: the same work, and a first step that nobody chose.
    """

    def __init__(self, count: int) -> None:
        self.world = HomegridVectorEnv(count, starts="train")
        self.num_envs = count
        self.single_observation_space = self.world.single_observation_space
        self.single_action_space = self.world.single_action_space
        self.observation_space, self.action_space = self.world.observation_space, self.world.action_space
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.spec = None
        self.ended = np.zeros(count, bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.array(self.world.reset(seed=seed)[0]), {}

    def step(self, actions: Any) -> Any:
        obs, reward, terminated, truncated, infos = self.world.step(np.asarray(actions))
        obs, reward = np.array(obs), np.where(self.ended, 0.0, reward)
        terminated, truncated = terminated & ~self.ended, truncated & ~self.ended
        now = terminated | truncated
        if now.any():
            obs[now] = infos["final_obs"][now]
        self.ended = now
        return obs, reward, terminated, truncated, {}

    def close(self, **_: Any) -> None:
        self.world.close()


class Module(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """Actor and critic on the plain trunk; the trunk's output is shared, so that nothing runs it twice."""

    def setup(self) -> None:
        self.trunk = plain_network(self.model_config["network"])
        self.actor, self.critic = nn.Linear(256, 4), nn.Linear(256, 1)

    def _forward(self, batch: Any, **_: Any) -> Any:
        embedding = self.trunk(batch[Columns.OBS].float())
        return {Columns.ACTION_DIST_INPUTS: self.actor(embedding), Columns.EMBEDDINGS: embedding}

    def compute_values(self, batch: Any, embeddings: Any = None) -> Any:
        if embeddings is None:
            embeddings = self.trunk(batch[Columns.OBS].float())
        return self.critic(embeddings).squeeze(-1)


def _world(context: Any) -> Any:
    """One, or as many as RLlib says; Ray's registry takes it to remote runners, gymnasium's would not."""
    return NextStep(context["num_envs"]) if "num_envs" in context else HomegridEnv(starts="train")


class StockRLlib:
    def __init__(self, network: str, threads: int, runners: int = 0, sizes: dict[str, int] | None = None) -> None:
        size = SIZES | (sizes or {})
        self._own_ray = not ray.is_initialized()
        if self._own_ray:
            ray.init(num_cpus=4, include_dashboard=False, object_store_memory=400 * 2**20, log_to_driver=False)
        register_env(WORLD, _world)
        config = (
            PPOConfig()
            .environment(WORLD)
            .env_runners(
                num_env_runners=runners, num_envs_per_env_runner=size["envs"] // max(1, runners),
                gym_env_vectorize_mode="vector_entry_point", rollout_fragment_length="auto",
            )
            .rl_module(rl_module_spec=RLModuleSpec(module_class=Module, model_config={"network": network}))
            .training(
                train_batch_size_per_learner=size["batch"], minibatch_size=size["minibatch"], num_epochs=size["epochs"],
                lr=LR, gamma=GAMMA,
                lambda_=LAMBDA, clip_param=CLIP, entropy_coeff=ENTROPY, vf_loss_coeff=VALUE, grad_clip=GRAD_CLIP,
                use_kl_loss=False,
            )
            .debugging(seed=0, log_level="ERROR")
        )  # fmt: skip
        self.algorithm = config.build_algo()
        torch.set_num_threads(threads)

    def block(self) -> dict[str, Any]:
        row = self.algorithm.train()
        return {"steps": row["env_runners"]["num_env_steps_sampled"]}

    def close(self) -> None:
        self.algorithm.stop()
        if self._own_ray:
            ray.shutdown()
