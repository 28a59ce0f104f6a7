"""Where ``rlaif-ray label`` gets episodes from: a random walk, a checkpoint's policy, or a label store.

Chunks are seeded by their number: the same chunk holds the same episodes, however many were wanted before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlaif_ray import envs
from rlaif_ray.cli.sample import NUM_ENVS, RandomActor
from rlaif_ray.columns import ColumnSampler, run_episodes
from rlaif_ray.config import Config
from rlaif_ray.errors import CheckpointError
from rlaif_ray.types import Episode, Rollout

if TYPE_CHECKING:
    from rlaif_ray.networks import Policy

__all__ = ["PolicyEpisodes", "RandomEpisodes", "StoredEpisodes"]

_OF_EACH_ENV = 4


class RandomEpisodes:
    """A random walk in the config's world."""

    chunk_size = NUM_ENVS * _OF_EACH_ENV
    key = "random"

    def __init__(self, config: Config) -> None:
        self.says = f"a random walk in {config.env.id}"
        self._config = config

    def chunk(self, number: int) -> Sequence[Episode]:
        env, seed = envs.make_vec(self._config.env.id, NUM_ENVS, self._config.env.options), _seed(self._config, number)
        try:
            env.action_space.seed(seed)
            sampler = ColumnSampler(env)
            return _in_order(run_episodes(sampler, RandomActor(env.action_space), self.chunk_size, seed=seed))
        finally:
            env.close()


class PolicyEpisodes:
    """A checkpoint's policy in the config's world. Raises CheckpointError: it holds a network of the user's own."""

    chunk_size = NUM_ENVS * _OF_EACH_ENV

    def __init__(self, config: Config, checkpoint: Path, *, deterministic: bool) -> None:
        file = checkpoint / "policy.pt"
        if not file.is_file():
            raise CheckpointError(
                f"checkpoint {str(checkpoint)!r} holds a network of the user's own; label can't load it"
            )
        self.key = f"{hashlib.sha256(file.read_bytes()).hexdigest()} {deterministic}"
        self.says = f"the policy of {checkpoint} in {config.env.id}"
        self._config, self._checkpoint, self._deterministic = config, checkpoint, deterministic
        self._policy: Policy | None = None

    def chunk(self, number: int) -> Sequence[Episode]:
        from rlaif_ray.evaluation import PolicyActor
        from rlaif_ray.networks import load_policy

        self._policy = self._policy or load_policy(self._checkpoint)
        seed = _seed(self._config, number)
        env = envs.make_vec(self._config.env.id, NUM_ENVS, self._config.env.options)
        try:
            actor = PolicyActor(self._policy, self._deterministic, seed)
            return _in_order(run_episodes(ColumnSampler(env), actor, self.chunk_size, seed=seed))
        finally:
            env.close()


class StoredEpisodes:
    """The different episodes of a store's labels, in the order in which they were first labelled."""

    chunk_size = 128

    def __init__(self, path: Path) -> None:
        from rlaif_ray.feedback.store import LabelStore

        self.key, self.says = f"stored {path.resolve()}", f"the labelled episodes of {path}"
        self._path = path
        with LabelStore(path, readonly=True) as store, store.reading() as db:
            rows = db.execute("SELECT episode_key FROM labels GROUP BY episode_key ORDER BY min(label_id)").fetchall()
        self._keys = [str(row[0]) for row in rows]

    def chunk(self, number: int) -> Sequence[Episode]:
        from rlaif_ray.feedback.store import LabelStore

        first = number * self.chunk_size
        with LabelStore(self._path, readonly=True) as store:
            return [store.episode(key) for key in self._keys[first : first + self.chunk_size]]


def _seed(config: Config, number: int) -> int:
    return int(np.random.SeedSequence([config.run.seed, number]).generate_state(1)[0])


def _in_order(rollouts: Sequence[Rollout]) -> list[Episode]:
    """By environment, not in the order in which they ended: the first of many would else be the shortest."""
    pairs = [
        (int(cell[0]), episode)
        for rollout in rollouts
        for cell, episode in zip(rollout.episode_cells, rollout.episodes, strict=True)
    ]
    return [episode for _, episode in sorted(pairs, key=lambda pair: pair[0])]
