"""Scoring episodes while they grow: a runner's fragments cut them anywhere, and each observation is looked at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlaif_ray.packed import packed_ranges
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.types import Array, EpisodeBatch, Scores

__all__ = ["Following"]


@dataclass(frozen=True)
class _Open:
    """What is known of N episodes that still ran when last looked at."""

    row: dict[int, int]  # by episode id
    obs_offsets: Array  # (N + 1,) int64
    logits: Array  # (K, S) of every observation so far
    memories: list[torch.Tensor]  # (N, M) of each member


class Following:
    """A version of the reward model that follows a runner's episodes from fragment to fragment.

    Scoring every open episode from its beginning again would cost an episode of a thousand steps, cut every 32, some
    sixteen times its length; this costs it its length. Beliefs are those of ``RewardModel.score``, to rounding.
    """

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self._open = _Open({}, np.zeros(1, np.int64), np.zeros((len(model.members), 0), np.float32), self._blank(0))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Following:
        """Of a model's state. Raises CheckpointError for anything that ``RewardModel.state`` didn't make."""
        return cls(RewardModel.from_state(state))

    def score(self, finished: EpisodeBatch, running: EpisodeBatch) -> tuple[Scores, Scores]:
        """Beliefs in the episodes that ended in a fragment and in those that run on, all from their beginning.

        An episode that ran on last time may be in either; one that isn't is forgotten. Raises ShapeError where the
        observations aren't of the shape that the model was made for.
        """
        ended, _ = self._logits(finished)
        going, memories = self._logits(running)
        row = {int(episode): e for e, episode in enumerate(running.episode_id)}
        self._open = _Open(row, running.obs_offsets, going, memories)
        return self.model.scores_of(ended, finished), self.model.scores_of(going, running)

    def _logits(self, batch: EpisodeBatch) -> tuple[Array, list[torch.Tensor]]:
        """(K, S) logits at every observation, those of earlier ones as they were found then; each member's memory."""
        before, offsets = self._open, batch.obs_offsets
        row = np.array([before.row.get(int(episode), -1) for episode in batch.episode_id], np.int64)
        known = row >= 0
        seen = np.where(known, np.diff(before.obs_offsets)[row], 0) if known.any() else np.zeros(len(batch), np.int64)
        # An episode that goes on begins with the last observation that was seen: what changes, changes from there.
        lengths = np.diff(offsets) - seen + known
        new = packed_ranges(offsets[1:] - lengths, lengths)
        cut = np.concatenate([[0], np.cumsum(lengths)])
        memories = self._blank(len(batch))
        for memory, kept in zip(memories, before.memories, strict=True):
            memory[known] = kept[row[known]]
        found, memories = self.model.going_on(batch.obs[new], cut, known, memories)
        logits = np.empty((len(found), len(batch.obs)), np.float32)
        logits[:, new] = found
        then = packed_ranges(before.obs_offsets[:-1][row[known]], seen[known])
        logits[:, packed_ranges(offsets[:-1][known], seen[known])] = before.logits[:, then]
        return logits, memories

    def _blank(self, episodes: int) -> list[torch.Tensor]:
        return [torch.zeros(episodes, net.remembers) for net in self.model.members]
