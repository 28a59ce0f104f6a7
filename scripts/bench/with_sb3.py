"""Stable-Baselines3's PPO on Homegrid, given the vectorised world with as little in between as it allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import (
    BATCH,
    CLIP,
    ENTROPY,
    ENVS,
    EPOCHS,
    GAMMA,
    GRAD_CLIP,
    GRID,
    LAMBDA,
    LR,
    MINIBATCH,
    VALUE,
    convolutions,
    plain_network,
)
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.trunks import TRUNKS


class World(VecEnv):  # type: ignore[misc]
    """Our vector environment as SB3 wants one; nothing is copied or built that it doesn't ask for."""

    def __init__(self, count: int) -> None:
        self.world = HomegridVectorEnv(count, starts="train")
        super().__init__(count, self.world.single_observation_space, self.world.single_action_space)
        self._actions = np.zeros(count, np.int64)

    def reset(self) -> Any:
        return np.array(self.world.reset(seed=0)[0])

    def step_async(self, actions: Any) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        obs, reward, terminated, truncated, infos = self.world.step(self._actions)
        done = terminated | truncated
        said: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(done).tolist():
            said[i] = {
                "terminal_observation": infos["final_obs"][i],
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
            }
        return np.array(obs), np.asarray(reward, np.float32), done, said

    def close(self) -> None:
        self.world.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> Any:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
        return [False] * self.num_envs


class Trunk(BaseFeaturesExtractor):  # type: ignore[misc]
    """The plain network of that name, or ours of the same shapes."""

    def __init__(self, space: spaces.Box, network: str, ours: bool) -> None:
        super().__init__(space, features_dim=256)
        self.ours = ours
        self.layers = TRUNKS[network](_Shapes()) if ours else plain_network(network)

    def forward(self, obs: Tensor) -> Tensor:
        out: Tensor = self.layers(obs.to(torch.uint8) if self.ours else obs)
        return out


class _Shapes:
    hidden, obs_shape = (256, 256), GRID


class PublishedTrunk(BaseFeaturesExtractor):  # type: ignore[misc]
    """The published study's kind of network: 2x2 convolutions, 128 features, then SB3's own two layers of 64."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, features_dim=128)
        self.layers = nn.Sequential(*convolutions(), nn.Linear(64 * 9 * 11, 128), nn.ReLU())

    def forward(self, obs: Tensor) -> Tensor:
        out: Tensor = self.layers(obs)
        return out


class StableBaselines:
    """``ours``: with our trunk inside, which tells what is due to the network and what to the rest."""

    def __init__(self, network: str, envs: int = ENVS, ours: bool = False) -> None:
        policy = {
            "features_extractor_class": Trunk,
            "features_extractor_kwargs": {"network": network, "ours": ours},
            "net_arch": [],
        }
        self.model = PPO(
            "MlpPolicy", World(envs), policy_kwargs=policy, device="cpu", seed=0, learning_rate=LR,
            n_steps=BATCH // envs, batch_size=MINIBATCH, n_epochs=EPOCHS, gamma=GAMMA, gae_lambda=LAMBDA,
            clip_range=CLIP, ent_coef=ENTROPY, vf_coef=VALUE, max_grad_norm=GRAD_CLIP,
        )  # fmt: skip

    def block(self) -> dict[str, Any]:
        self.model.learn(BATCH, reset_num_timesteps=False)
        return {"steps": BATCH}

    def close(self) -> None:
        self.model.env.close()


class Published(StableBaselines):
    """4 environments and SB3's own defaults, as the published study ran it."""

    def __init__(self) -> None:
        policy = {"features_extractor_class": PublishedTrunk}
        self.model = PPO("MlpPolicy", World(4), policy_kwargs=policy, device="cpu", seed=0)
