"""Stable-Baselines3's PPO on Homegrid, given the vectorised world with as little in between as it allows."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import CLIP, ENTROPY, GAMMA, GRAD_CLIP, GRID, LAMBDA, LR, SIZES, VALUE, convolutions, plain_network
from gymnasium import spaces
from paid import Gated, PaidBuffer, Paths
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from rlaif_ray.config import Config, PolicyConfig, load_config
from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.networks import TRUNKS, spec_for


class World(VecEnv):  # type: ignore[misc]
    """Our vector environment as SB3 wants one; nothing is copied or built that it doesn't ask for.

    ``paths``: keeps what a reward model has to see. ``gated``: pays at an episode's end, by the reward model.
    """

    def __init__(self, count: int, paths: Paths | None = None, gated: Gated | None = None) -> None:
        self.world = HomegridVectorEnv(count, starts="train")
        super().__init__(count, self.world.single_observation_space, self.world.single_action_space)
        self._actions = np.zeros(count, np.int64)
        self.paths, self.gated = paths, gated

    def reset(self) -> Any:
        obs = np.array(self.world.reset(seed=0)[0])
        if self.paths is not None:
            self.paths.begin(obs)
        return obs

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
        obs = np.array(obs)
        if self.paths is not None:
            ended = self.paths.step(obs, infos.get("final_obs"), terminated, done)
            if self.gated is not None:
                reward = self.gated.reward(ended, self.num_envs)
                self.paths.forget_ended()
        return obs, np.asarray(reward, np.float32), done, said

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
    """The plain network of that name, or ours of the same shapes; ``hidden`` holds for ours."""

    def __init__(self, space: spaces.Box, network: str, ours: bool, hidden: tuple[int, ...] = (256, 256)) -> None:
        super().__init__(space, features_dim=hidden[-1])
        self.ours = ours
        self.layers = TRUNKS[network](_Shapes(hidden, GRID)) if ours else plain_network(network)

    def forward(self, obs: Tensor) -> Tensor:
        out: Tensor = self.layers(obs.to(torch.uint8) if self.ours else obs)
        return out


@dataclass(frozen=True)
class _Shapes:
    hidden: tuple[int, ...]
    obs_shape: tuple[int, ...]


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

    def __init__(self, network: str, envs: int = 0, ours: bool = False, sizes: dict[str, int] | None = None) -> None:
        size = SIZES | (sizes or {})
        envs = min(envs or size["envs"], size["batch"])
        self.batch = size["batch"]
        policy = {
            "features_extractor_class": Trunk,
            "features_extractor_kwargs": {"network": network, "ours": ours},
            "net_arch": [],
        }
        self.model = PPO(
            "MlpPolicy", World(envs), policy_kwargs=policy, device="cpu", seed=0, learning_rate=LR,
            n_steps=self.batch // envs, batch_size=size["minibatch"], n_epochs=size["epochs"], gamma=GAMMA,
            gae_lambda=LAMBDA, clip_range=CLIP, ent_coef=ENTROPY, vf_coef=VALUE, max_grad_norm=GRAD_CLIP,
        )  # fmt: skip

    def block(self) -> dict[str, Any]:
        self.model.learn(self.batch, reset_num_timesteps=False)
        return {"steps": self.batch}

    def policy(self) -> Any:
        return acting(self.model)

    def close(self) -> None:
        self.model.env.close()


class Published(StableBaselines):
    """4 environments and SB3's own defaults, as the published study ran it.

    ``given``: a reward model (``given_rm``), paid in the study's own form; from scratch, which spares it the study's
    round on the task reward alone.
    """

    def __init__(self, given: str = "", seed: int = 0, sizes: dict[str, int] | None = None) -> None:
        paths, gated = (Paths(4), Gated(given)) if given else (None, None)
        small = {"n_steps": sizes["batch"] // 4} if sizes else {}
        policy = {"features_extractor_class": PublishedTrunk}
        world = World(4, paths, gated)
        self.model = PPO("MlpPolicy", world, policy_kwargs=policy, device="cpu", seed=seed, **small)
        self.batch = self.model.n_steps * 4


class Preset(StableBaselines):
    """The preset's network, hyperparameters, schedules and reward in SB3: what differs is who trains."""

    def __init__(
        self, given: str, preset: str = "homegrid", seed: int = 0, sizes: dict[str, int] | None = None, **sections: Any
    ) -> None:
        dotted = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
        self.config: Config = load_config(preset, dotted)
        ppo = self.config.ppo
        envs = (sizes or {}).get("envs", self.config.env.num_envs)
        self.batch, self.steps = (sizes or {}).get("batch", ppo.train_batch_size), 0
        paths = Paths(envs)
        policy = {
            "features_extractor_class": Trunk,
            "features_extractor_kwargs": {
                "network": self.config.policy.network,
                "ours": True,
                "hidden": self.config.policy.hidden,
            },
            "net_arch": [],
        }
        self.model = PPO(
            "MlpPolicy", World(envs, paths), policy_kwargs=policy, device="cpu", seed=seed,
            learning_rate=lambda _: self._now(ppo.lr, ppo.lr_final), n_steps=self.batch // envs,
            batch_size=(sizes or {}).get("minibatch", ppo.minibatch_size), n_epochs=ppo.num_epochs, gamma=ppo.gamma,
            gae_lambda=ppo.lambda_, clip_range=ppo.clip_param, ent_coef=ppo.entropy_coeff, vf_coef=ppo.vf_loss_coeff,
            max_grad_norm=ppo.grad_clip, rollout_buffer_class=PaidBuffer,
            rollout_buffer_kwargs={"paths": paths, "given": given, "config": self.config},
        )  # fmt: skip

    def block(self) -> dict[str, Any]:
        ppo = self.config.ppo
        self.model.ent_coef = self._now(ppo.entropy_coeff, ppo.entropy_coeff_final)
        self.steps += self.batch
        return super().block()

    def _now(self, first: float, last: float) -> float:
        """A schedule that is linear over the run's steps."""
        return first + (last - first) * min(1.0, self.steps / self.config.run.total_steps)


def acting(model: PPO) -> Any:
    """An SB3 policy as ``evaluation`` acts with one."""
    space = HomegridVectorEnv(1)
    spec = spec_for(PolicyConfig(network="mlp"), space.single_observation_space, space.single_action_space)

    def network(obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = model.policy.get_distribution(obs).distribution.logits
        return logits, torch.zeros(len(obs)), logits

    return SimpleNamespace(network=network, spec=spec)
