"""True outcomes of a policy: complete episodes, counted without favouring short ones. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlaif_ray import envs
from rlaif_ray.columns import Acted, ColumnSampler, run_episodes
from rlaif_ray.networks import Policy, choose, to_world
from rlaif_ray.packed import join_batches
from rlaif_ray.types import Array, EpisodeBatch, Truth

__all__ = ["PolicyActor", "Stopped", "World", "evaluate_policy", "play", "write_gifs"]

NUM_ENVS = 200


@dataclass(frozen=True)
class World:
    """Which world to play in: its id and its options."""

    env_id: str
    options: Mapping[str, Any]

    def make(self, num_envs: int) -> Any:
        return envs.make_vec(self.env_id, num_envs, self.options)


class Stopped(Exception):
    """Whoever runs this wanted it to end: there is no outcome."""


class PolicyActor:
    """A loaded policy as the column sampler's actor. ``act`` raises Stopped as soon as ``stop()`` says so."""

    def __init__(self, policy: Policy, deterministic: bool, seed: int, stop: Callable[[], bool] | None = None) -> None:
        self.network, self.spec, self.deterministic = policy.network, policy.spec, deterministic
        self.stop = stop or (lambda: False)
        self.rng = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def act(self, obs: Array) -> Acted:
        if self.stop():
            raise Stopped
        logits, value, _ = self.network(torch.as_tensor(obs))
        action, logp = choose(self.spec, logits, self.rng, self.deterministic)
        return Acted(action.numpy(), to_world(self.spec, action).numpy(), logp.numpy(), logits.numpy(), value.numpy())

    @torch.no_grad()
    def values(self, obs: Array) -> Array:
        out: Array = self.network(torch.as_tensor(np.ascontiguousarray(obs)))[1].numpy()
        return out


def play(
    policy: Policy,
    world: World,
    episodes: int,
    *,
    deterministic: bool,
    seed: int,
    stop: Callable[[], bool] | None = None,
) -> tuple[EpisodeBatch, Truth]:
    """Exactly ``episodes`` complete episodes and what was true of them; the same seed gives the same starts.

    Raises Stopped where ``stop()`` became true first.
    """
    actor = PolicyActor(policy, deterministic, seed, stop)
    env = world.make(min(NUM_ENVS, episodes))
    try:
        rollouts = run_episodes(ColumnSampler(env), actor, episodes, seed=seed)
    finally:
        env.close()
    batch = join_batches([r.episodes for r in rollouts])
    with_facts = [r.truth for r in rollouts if len(r.truth.episode_id)]
    names = with_facts[0].facts if with_facts else {}
    facts = {name: np.concatenate([t.facts[name] for t in with_facts]) for name in names}
    return batch, Truth(batch.episode_id, facts)


def evaluate_policy(
    policy: Policy,
    world: World,
    episodes: int,
    *,
    deterministic: bool = False,
    seed: int = 0,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """``{"episodes", <outcomes of the world, fractions>, "mean_length", "task_return", "deterministic", "seed",
    "options"}``.

    In Homegrid the outcomes are ``found`` and ``cat_survived``; the options are those of the world.

    Raises Stopped where ``stop()`` became true first.
    """
    batch, truth = play(policy, world, episodes, deterministic=deterministic, seed=seed, stop=stop)
    outcomes = envs.env_spec(world.env_id).outcomes(truth)
    return {
        "episodes": len(batch),
        **{name: float(values.mean()) for name, values in outcomes.items()},
        "mean_length": float(batch.lengths.mean()),
        "task_return": float(batch.task_return.mean()),
        "deterministic": deterministic,
        "seed": seed,
        "options": dict(world.options),
    }


def write_gifs(policy: Policy, world: World, count: int, folder: Path, *, name: str, seed: int = 0) -> list[Path]:
    """``name-1.gif`` ... of ``count`` episodes from the starts that ``seed`` gives; none where the world can't draw."""
    from rlaif_ray.envs.media import write_gif

    spec = envs.env_spec(world.env_id)
    if spec.renderer is None:
        return []
    renderer = spec.renderer(dict(world.options))
    env = world.make(count)
    sampler = ColumnSampler(env)
    rollouts = run_episodes(sampler, PolicyActor(policy, False, seed), count, seed=seed)
    env.close()
    # One episode of each environment: in the order of environments, so that two policies' files match by start.
    found = {int(cell[0]): e for r in rollouts for e, cell in zip(r.episodes, r.episode_cells, strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for column in sorted(found):
        states = found[column].states
        if states is not None:
            paths.append(folder / f"{name}-{column + 1}.gif")
            write_gif(paths[-1], renderer.frames(states), renderer.palette)
    return paths
