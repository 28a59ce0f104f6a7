"""Policies as RLlib's learner and runners know them: one RLModule around ``networks.ActorCritic``."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from rlaif_ray.columns import Acted
from rlaif_ray.config import PolicyConfig
from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.networks import TRUNKS, ActorCritic, NetworkSpec, choose, spec_for, to_world
from rlaif_ray.trunks import FEATURES
from rlaif_ray.types import Array

__all__ = ["BELIEF", "ActorCriticModule", "ModuleActor", "module_spec"]

BELIEF = "critic_belief"  # column (B,) of a batch: Phi about the episode so far, for critics that take it


def module_spec(policy: PolicyConfig) -> RLModuleSpec:
    """RLlib's spec of the network named in the config, or of the user's own RLModule class.

    Raises UnknownNameError, ConfigError.
    """
    if ":" not in policy.network:
        if policy.network not in TRUNKS:
            raise UnknownNameError("policy.network", policy.network, TRUNKS)
        return RLModuleSpec(module_class=ActorCriticModule, model_config={"policy": policy.model_dump(mode="json")})
    return RLModuleSpec(module_class=_user_module(policy.network), model_config={"policy": policy.model_dump()})


def _user_module(path: str) -> type[RLModule]:
    name, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"policy.network: got {path!r}, which can't be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, TorchRLModule) and issubclass(found, ValueFunctionAPI)):
        raise ConfigError(f"policy.network: got {path!r}, allowed are TorchRLModules that implement ValueFunctionAPI")
    return found


class ActorCriticModule(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """One trunk for actor and critic; every forward pass gives both, so nothing runs the trunk twice."""

    def setup(self) -> None:
        # With a seed RLlib asks for deterministic kernels, with which PyTorch also fills all new memory in case a
        # program reads what it hasn't written; ours doesn't, and that is a tenth of a minibatch's time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        policy = PolicyConfig.model_validate(self.model_config["policy"])
        self.network = ActorCritic(spec_for(policy, self.observation_space, self.action_space))

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        logits, value, embedding = self.network(batch[Columns.OBS], batch.get(BELIEF))
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.VF_PREDS: value, Columns.EMBEDDINGS: embedding}

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Action inputs alone: PPO's loss asks for values by themselves, from the embeddings."""
        network = self.network
        embedding = network.embed(batch) if FEATURES in batch else network.trunk(batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: network.actor(embedding), Columns.EMBEDDINGS: embedding}

    def digest(self, obs: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """What ``forward_train`` takes in place of these observations, until the next digest; None: nothing."""
        return self.network.digest(obs)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Any:
        if embeddings is None:
            return self.network(batch[Columns.OBS], batch.get(BELIEF))[1]
        return self.network.value(embeddings, batch.get(BELIEF))


class ModuleActor:
    """Acts with any RLModule that has values; ``ColumnSampler`` knows it as an ``Actor``.

    Args:
        deterministic: take the likeliest action (or the mean).
    """

    def __init__(self, module: Any, spec: NetworkSpec, seed: int, device: str = "cpu") -> None:
        self.module, self.spec, self.device = module, spec, device
        self.deterministic = False
        self.random = False
        self.rng = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def act(self, obs: Array) -> Acted:
        batch = {Columns.OBS: torch.as_tensor(obs, device=self.device)}
        out = self.module.forward_inference(batch) if self.deterministic else self.module.forward_exploration(batch)
        logits = out[Columns.ACTION_DIST_INPUTS].float().cpu()
        if self.random:
            logits = torch.zeros_like(logits)
        value = out.get(Columns.VF_PREDS)
        if value is None:
            value = self.module.compute_values(batch, embeddings=out.get(Columns.EMBEDDINGS))
        action, logp = choose(self.spec, logits, self.rng, self.deterministic)
        world = to_world(self.spec, action).numpy()
        return Acted(action.numpy(), world, logp.numpy(), logits.numpy(), value.float().cpu().numpy())

    @torch.no_grad()
    def values(self, obs: Array) -> Array:
        batch = {Columns.OBS: torch.as_tensor(np.ascontiguousarray(obs), device=self.device)}
        out: Array = self.module.compute_values(batch).float().cpu().numpy()
        return out
