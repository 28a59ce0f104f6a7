"""A reward model's pay for those who train with another library: the same scores, by the same functions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import given_rm
import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer

from rlaif_ray.config import Config
from rlaif_ray.mixing import credit, feedback_weight, scatter
from rlaif_ray.reward_model import RewardModel
from rlaif_ray.types import Array, Episode, EpisodeBatch

__all__ = ["Gated", "PaidBuffer", "Paths"]

LIMIT = 100  # steps until Homegrid truncates an episode
COEFFICIENT, TRUNCATED = 0.9, 0.01  # c and R_trunc of the published first round


@dataclass(frozen=True)
class Part:
    """An episode's path so far, and its part in the rows since the last ``take``."""

    column: int
    first: int
    end: int
    obs: Array  # (T+1, H, W, C) from the episode's first observation
    weight: float | None  # it began under; None: it has not been paid for yet
    terminated: bool = False
    complete: bool = True


class Paths:
    """What N environments went through: whole episodes, also those that began before the rows at hand."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._obs: list[list[Array]] = [[] for _ in range(count)]
        self._weight: list[float | None] = [None] * count
        self._first = [0] * count
        self._row = 0
        self._ended: list[Part] = []

    def begin(self, obs: Array) -> None:
        """N new episodes. Observations are kept, not copied: nobody else may write into them."""
        self.__init__(self.count)  # type: ignore[misc]
        self._obs = [[one] for one in obs]

    def step(self, obs: Array, final: Any, terminated: Array, done: Array) -> list[Part]:
        """One row more; the episodes that ended in it. ``obs``: each environment's next (kept); ``final``: its last."""
        self._row += 1
        ended = []
        for i, over in enumerate(done.tolist()):
            if not over:
                self._obs[i].append(obs[i])
                continue
            path = np.stack([*self._obs[i], final[i]])
            ended.append(Part(i, self._first[i], self._row, path, self._weight[i], bool(terminated[i])))
            self._obs[i], self._first[i], self._weight[i] = [obs[i]], self._row, None
        self._ended += ended
        return ended

    def forget_ended(self) -> None:
        """They have been paid for already."""
        self._ended = []

    def take(self, weight: float) -> list[Part]:
        """All parts of the rows since the last time, open ones last; what is open goes on under the weight it has, or
        is given now."""
        paths = [np.stack(path) for path in self._obs]
        begun = [w if w is not None or len(p) == 1 else weight for w, p in zip(self._weight, paths, strict=True)]
        parts = self._ended + [
            Part(i, self._first[i], self._row, paths[i], begun[i], complete=False) for i in range(self.count)
        ]
        self._ended, self._row, self._first, self._weight = [], 0, [0] * self.count, begun
        return parts


class Gated:
    """The published form: everything at the end, and nothing where the reward model's belief is a half or less.

    1[f > 0.5] (1 - c t/T) where found, 1[f > 0.5] R_trunc where truncated, with T = 100.
    """

    def __init__(self, given: str) -> None:
        self._model = _model(given)

    def reward(self, ended: list[Part], count: int) -> Array:
        """(N,) of the row in which these episodes ended."""
        reward = np.zeros(count, np.float32)
        if ended:
            belief = self._model.score(packed(ended)).final
            for part, f in zip(ended, belief.tolist(), strict=True):
                worth = 1.0 - COEFFICIENT * (len(part.obs) - 1) / LIMIT if part.terminated else TRUNCATED
                reward[part.column] = worth * (f > 0.5)
        return reward


class PaidBuffer(RolloutBuffer):  # type: ignore[misc]
    """SB3's rows of a rollout, to whose task reward ours is added as ``config.mix`` says, before advantages are made
    of it: each episode under the weight of its first scoring."""

    def __init__(self, *args: Any, paths: Paths, given: str, config: Config, **kwargs: Any) -> None:
        self._paths, self._model, self._config, self._steps = paths, _model(given), config, 0
        super().__init__(*args, **kwargs)

    def compute_returns_and_advantage(self, last_values: Any, dones: Any) -> None:
        self._steps += self.rewards.size
        weight = feedback_weight(self._steps, self._config.mix)
        self.rewards += feedback(self._paths.take(weight), self._model, self._config, weight, self.rewards.shape)
        super().compute_returns_and_advantage(last_values, dones)


def feedback(parts: list[Part], model: RewardModel, config: Config, weight: float, shape: tuple[int, int]) -> Array:
    """(T, N) feedback reward of a rollout's parts; those without a weight begin under this one."""
    if config.mix.combine != "add" or config.mix.normalise:
        raise SystemExit(f"mix: got {config.mix}, allowed for Stable-Baselines3 here is what is added, as it is")
    into = np.zeros(shape, np.float32)
    batch = packed(parts)
    belief = model.score(batch).belief
    weights = np.array([weight if part.weight is None else part.weight for part in parts])
    value = belief[batch.obs_offsets[1:] - 1]
    cells = np.array([(part.column, part.first, part.end) for part in parts], np.int64)
    scatter(credit(config.mix.credit, batch, belief, value, weights, config.ppo.gamma), batch, cells, into)
    return into


def packed(parts: list[Part]) -> EpisodeBatch:
    whole = EpisodeBatch.pack(
        [
            Episode(
                episode_id=i, obs=part.obs, states=None, actions=np.zeros(len(part.obs) - 1, np.int64),
                task_return=0.0, terminated=part.terminated, policy_version=0,
            )
            for i, part in enumerate(parts)
        ]
    )  # fmt: skip
    return replace(whole, complete=np.array([part.complete for part in parts], bool))


def _model(given: str) -> RewardModel:
    state = given_rm.read(given).state
    assert state is not None, "given_rm.fitted keeps only what its gate let through"
    return RewardModel.from_state(state)
