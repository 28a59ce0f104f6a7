"""Episodes to estimate by, before there is a policy: a random walk, and how long a trained policy's are said to be."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from rlaif_ray import envs
from rlaif_ray.columns import Acted, ColumnSampler, run_episodes
from rlaif_ray.config import Config
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.prices import picture_size
from rlaif_ray.report.published import PUBLISHED
from rlaif_ray.types import Array, Episode, EpisodeRenderer

__all__ = ["NUM_ENVS", "RandomActor", "Sample", "picture_px", "renderer_of", "sample_episodes"]

NUM_ENVS = 32
EPISODES = 160


@dataclass(frozen=True)
class Sample:
    """Episodes of a random walk."""

    episodes: tuple[Episode, ...]
    typical_length: int  # steps of a trained policy's episodes where published, of the random walk's median one else
    is_published: bool

    @property
    def lengths(self) -> list[int]:
        return [len(episode) for episode in self.episodes]

    @property
    def typical(self) -> Episode:
        """The episode whose length is nearest to the typical one; one that reached its goal, if any did."""
        done = [episode for episode in self.episodes if episode.terminated] or list(self.episodes)
        return min(done, key=lambda episode: abs(len(episode) - self.typical_length))

    @property
    def longest(self) -> Episode:
        return max(self.episodes, key=len)


class RandomActor:
    """Acts at random, as the column sampler's actor."""

    def __init__(self, space: gym.Space[Array]) -> None:
        self._space = space

    def act(self, obs: Array) -> Acted:
        action, zero = self._space.sample(), np.zeros(len(obs), np.float32)
        return Acted(action, action, zero, np.zeros((len(obs), 1), np.float32), zero)

    def values(self, obs: Array) -> Array:
        return np.zeros(len(obs), np.float32)


def sample_episodes(config: Config) -> Sample:
    """Play the run's world at random (about a second); the same config gives the same episodes."""
    env = envs.make_vec(config.env.id, NUM_ENVS, config.env.options)
    try:
        env.action_space.seed(config.run.seed)
        rollouts = run_episodes(ColumnSampler(env), RandomActor(env.action_space), EPISODES, seed=config.run.seed)
    finally:
        env.close()
    episodes = tuple(episode for rollout in rollouts for episode in rollout.episodes)
    published = PUBLISHED.get(config.env.id)
    if published:
        return Sample(episodes, round(published[0].mean_length), True)
    return Sample(episodes, int(np.median([len(episode) for episode in episodes])), False)


def renderer_of(config: Config) -> EpisodeRenderer:
    """Who draws the world's episodes. Raises ConfigError: nobody can."""
    renderer = envs.env_spec(config.env.id).renderer
    if renderer is None:
        raise ConfigError(f"env.id: got {config.env.id!r}, which can't draw its episodes: nothing to ask about")
    return renderer(dict(config.env.options))


def picture_px(config: Config, episode: Episode) -> tuple[int, int]:
    """(width, height) of a frame as the world's renderer draws it. Raises ConfigError: it can't draw this one."""
    if episode.states is None:
        raise ConfigError(f"env.id: got {config.env.id!r}, which records no states to draw from")
    return picture_size(renderer_of(config).png(episode.states[:1])[0])
