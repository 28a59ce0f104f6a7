"""The RLlib EnvRunner that steps a vector environment into columns.

It goes in by ``config.env_runners(env_runner_cls=ColumnarEnvRunner)`` and returns ``[Rollout]`` from ``sample()``. The
environment comes from RLlib's own registry: a creator ``context -> gymnasium.vector.VectorEnv`` (same-step autoreset)
that is told ``num_envs``. Connectors, observation filters and callbacks on single steps are not met on this path.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from ray.rllib.algorithms import algorithm
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_AGENT_ID, DEFAULT_MODULE_ID
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)
from ray.tune.registry import ENV_CREATOR, _global_registry
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlaif_ray.columns import ColumnSampler, run_episodes
from rlaif_ray.config import PolicyConfig
from rlaif_ray.errors import ConfigError
from rlaif_ray.networks import spec_for
from rlaif_ray.policy import ModuleActor
from rlaif_ray.priority import SAMPLING, give_way
from rlaif_ray.types import EpisodeBatch, Rollout, Scores

__all__ = ["ColumnarEnvRunner", "runners_in"]


class _Following(Protocol):
    """Versions of the reward model that follow episodes as they grow, as who acts sees them."""

    @property
    def version(self) -> int: ...
    def score(self, finished: EpisodeBatch, running: EpisodeBatch) -> dict[int, tuple[Scores, Scores]]: ...


class ColumnarEnvRunner(EnvRunner, Checkpointable):  # type: ignore[misc]
    """Samples T x N fragments and whole episodes. One of them runs in the driver, or many as Ray actors."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        # Runners share the machine's cores: one thread each, or the driver's own setting where it acts itself.
        if self.worker_index:
            torch.set_num_threads(1)
            give_way(SAMPLING)
        self.spaces = kwargs.get("spaces", {})
        self._recreated = bool(kwargs.get("recreated_worker", False)) or _restarted()
        self._weights_seq_no = 0
        self._scorer: _Following | None = None
        self.env: Any = None
        self.module: Any = None
        if self._acts():
            self.make_env()
        self.make_module()

    def _acts(self) -> bool:
        """A driver that has remote runners keeps a local one without an environment."""
        return bool(
            self.worker_index is None
            or self.worker_index > 0
            or self.config.create_env_on_local_worker
            or self.config.num_env_runners == 0
        )

    # -------------------------------------------------------------------------------------------- RLlib's hooks

    def make_env(self) -> None:
        """Build the vector environment and begin its first episodes."""
        if self.env is not None:
            self.env.close()
        if not _global_registry.contains(ENV_CREATOR, self.config.env):
            raise ConfigError(f"env: got {self.config.env!r}, allowed are names registered by FeedbackPPOConfig")
        context = EnvContext(
            self.config.env_config | {"num_envs": self.config.num_envs_per_env_runner},
            worker_index=self.worker_index or 0,
            num_workers=self.num_workers,
        )
        self.env = _global_registry.get(ENV_CREATOR, self.config.env)(context)
        self.num_envs = self.env.num_envs
        salt = os.urandom(4).hex() if self._recreated or self.config.seed is None else ""
        # A runner that replaces a dead one must not repeat its seeds, nor its episodes' numbers.
        self._runner_seed = zlib.crc32(f"{self._seed}/{self.worker_index}/{salt}".encode())
        number = ((self.worker_index or 0) % 2**11) * 2**12 + (1 + int(salt, 16) % (2**12 - 1) if salt else 0)
        self._sampler = ColumnSampler(self.env, number)
        self._sampler.reset(self._runner_seed)

    def make_module(self) -> None:
        """Build the policy network; weights come later by ``set_state``."""
        spaces = self.get_spaces()
        env = self.env.unwrapped if self.env is not None else None
        spec = self.config.get_rl_module_spec(env=env, spaces=spaces, inference_only=False)
        self.module = spec.build()
        if self.env is not None:
            policy = PolicyConfig.model_validate(self.config.rlaif["policy"])
            probe = spec_for(_any_network(policy), self.env.single_observation_space, self.env.single_action_space)
            self._actor = ModuleActor(self.module, probe, self._runner_seed)

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
        **_: Any,
    ) -> list[Rollout]:
        """One fragment of ``rollout_fragment_length`` steps, or of ``num_timesteps`` in all, or whole episodes.

        ``num_episodes`` returns exactly that many, each environment giving its first few, and begins anew afterwards.
        """
        explore = self.config.explore if explore is None else explore
        self._actor.deterministic, self._actor.random = not explore, random_actions
        with self.metrics.log_time(SAMPLE_TIMER):
            if num_episodes is not None:
                rollouts = run_episodes(
                    self._sampler, self._actor, num_episodes, seed=None, version=self._weights_seq_no
                )
                self._sampler.reset(None, self._weights_seq_no)
            else:
                if force_reset:
                    self._sampler.reset(None, self._weights_seq_no)
                steps = num_timesteps or self.config.get_rollout_fragment_length(self.worker_index) * self.num_envs
                T = max(1, steps // self.num_envs)
                rollouts = [self._scored(self._sampler.sample(T, self._actor, self._weights_seq_no))]
        self._count(rollouts)
        return rollouts

    def score_by(self, serve: Callable[[_Following | None], _Following | None]) -> None:
        """From the next fragment on, episodes come with the scores of what this makes of whatever scored them before;
        None: without."""
        self._scorer = serve(self._scorer)

    def _scored(self, rollout: Rollout) -> Rollout:
        rollout = replace(rollout, runner=self.worker_index or 0)
        if self._scorer is None:
            return rollout
        scores = self._scorer.score(rollout.episodes, rollout.open)
        return replace(rollout, scores=scores, scored_by=self._scorer.version)

    def get_spaces(self) -> dict[str, Any]:
        if self.env is None:
            return self.spaces  # type: ignore[no-any-return]
        pair = (self.env.single_observation_space, self.env.single_action_space)
        return {"__env__": (self.env.observation_space, self.env.action_space), DEFAULT_MODULE_ID: pair,
                "__env_single__": pair}  # fmt: skip

    def get_metrics(self) -> Any:
        return self.metrics.reduce()

    def assert_healthy(self) -> None:
        assert self.module is not None

    def stop(self) -> None:
        if self.env is not None:
            self.env.close()

    # -------------------------------------------------------------------------------------------- state

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's part of the state: weights and counters. Generators are left out: RLlib copies this to every
        restarted runner, which would then repeat another's draws; ``random_state`` has them."""
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(**kwargs)
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Take weights as they come: a restored checkpoint may have an older version than the one in use."""
        if COMPONENT_RL_MODULE in state:
            weights = state[COMPONENT_RL_MODULE]
            if hasattr(weights, "hex"):  # an object reference
                import ray

                weights = ray.get(weights)
            self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
            self._weights_seq_no = state.get(WEIGHTS_SEQ_NO, 0) or self._weights_seq_no
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]

    def random_state(self) -> dict[str, Any]:
        """Generators and episode counter of this very runner, for a checkpoint."""
        if self.env is None:
            return {}
        return {
            "actor": self._actor.rng.get_state().numpy(),
            "env": [generator.bit_generator.state for generator in _generators(self.env)],
            "next_id": self._sampler.counter(),
        }

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: new episodes begin, drawn by the restored generators."""
        if self.env is None or not state:
            return
        self._actor.rng.set_state(torch.from_numpy(np.array(state["actor"])))
        self._sampler.set_counter(state["next_id"])
        for generator, stored in zip(_generators(self.env), state["env"], strict=True):
            generator.bit_generator.state = stored
        self._sampler.reset(None, self._weights_seq_no)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        return [(COMPONENT_RL_MODULE, self.module)]

    # -------------------------------------------------------------------------------------------- metrics

    def _count(self, rollouts: list[Rollout]) -> None:
        steps, episodes = sum(r.env_steps() for r in rollouts), sum(len(r.episodes) for r in rollouts)
        log = self.metrics.log_value
        log(NUM_ENV_STEPS_SAMPLED, steps, reduce="sum")
        log((NUM_AGENT_STEPS_SAMPLED, DEFAULT_AGENT_ID), steps, reduce="sum")
        log((NUM_MODULE_STEPS_SAMPLED, DEFAULT_MODULE_ID), steps, reduce="sum")
        log(NUM_EPISODES, episodes, reduce="sum")
        log(NUM_ENV_STEPS_SAMPLED_LIFETIME, steps, reduce="lifetime_sum", with_throughput=True)
        log((NUM_AGENT_STEPS_SAMPLED_LIFETIME, DEFAULT_AGENT_ID), steps, reduce="lifetime_sum")
        log((NUM_MODULE_STEPS_SAMPLED_LIFETIME, DEFAULT_MODULE_ID), steps, reduce="lifetime_sum")
        log(NUM_EPISODES_LIFETIME, episodes, reduce="lifetime_sum")
        if episodes:
            log(EPISODE_LEN_MEAN, float(np.mean(np.concatenate([r.episodes.lengths for r in rollouts]))), window=1)
            log(EPISODE_RETURN_MEAN, float(np.concatenate([r.episodes.task_return for r in rollouts]).mean()), window=1)


class _PlacedRunners(EnvRunnerGroup):  # type: ignore[misc]
    """Remote runners in a placement group; what evaluates is not among them."""

    group: Any = None

    def add_workers(self, num_workers: int, validate: bool = False) -> None:
        if self.group is not None and not self._remote_config.in_evaluation:
            self._remote_args["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self.group)
        super().add_workers(num_workers, validate)


@contextlib.contextmanager
def runners_in(group: Any) -> Iterator[None]:
    """RLlib algorithms that are built inside have their runners in a placement group; None: where Ray puts them.

    RLlib can place its runners inside Tune's trials only; elsewhere Ray fills one node before it takes the next.
    """
    ordinary = algorithm.EnvRunnerGroup
    algorithm.EnvRunnerGroup = type("PlacedRunners", (_PlacedRunners,), {"group": group})
    try:
        yield
    finally:
        algorithm.EnvRunnerGroup = ordinary


def _restarted() -> bool:
    """Whether this is an actor that Ray started again: RLlib gives it the arguments of the first start."""
    import ray

    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return bool(context.get_actor_id() and context.was_current_actor_reconstructed)


def _generators(env: Any) -> tuple[np.random.Generator, ...]:
    """The generator of a vector environment, or those of its environments."""
    found = env.unwrapped.np_random
    return found if isinstance(found, tuple) else (found,)


def _any_network(policy: PolicyConfig) -> PolicyConfig:
    """Only the spaces matter here: a user's own module has no entry among our networks."""
    return policy.model_copy(update={"network": "mlp"})
