"""Scoring episodes while they grow: a runner's fragments cut them anywhere, and each observation is looked at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlaif_ray.packed import packed_ranges, take_episodes
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.types import Array, EpisodeBatch, Scores

__all__ = ["Followed", "Following"]


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

    def knows(self, batch: EpisodeBatch) -> Array:
        """(E,) bool: which of these ran on when it last looked."""
        return np.array([int(episode) in self._open.row for episode in batch.episode_id], bool)

    def score(self, finished: EpisodeBatch, running: EpisodeBatch) -> tuple[Scores, Scores]:
        """Beliefs in the episodes that ended in a fragment and in those that run on, all from their beginning.

        An episode that ran on last time may be in either; one that isn't is forgotten. Raises ShapeError where the
        observations aren't of the shape that the model was made for.
        """
        ended, _ = self._logits(finished)
        going, memories = self._logits(running)
        # One that is about to begin is nobody's yet: whichever version is in service when it does may follow it.
        begun = np.flatnonzero(running.lengths)
        row = {int(running.episode_id[e]): int(e) for e in begun}
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


class Followed:
    """A runner's episodes, each followed by the version of the reward model that was in service when it began.

    An episode is paid by one version, whatever comes into service while it runs: the ones before stay until the last
    episode that they follow has ended.
    """

    def __init__(self, newest: Following, older: Sequence[Following] = ()) -> None:
        self._newest, self._older = newest, list(older)

    @classmethod
    def serving(cls, state: Mapping[str, Any] | None, now: Followed | None) -> Followed | None:
        """With the version of this state in service, instead of what is followed ``now``; None: there is none any more.

        Raises CheckpointError for anything that ``RewardModel.state`` didn't make.
        """
        if state is None:
            return None
        if now is None:
            return cls(Following(RewardModel.from_state(state)))
        if now.version == state["version"]:  # told twice, while a fragment was under way
            return now
        return cls(Following(RewardModel.from_state(state)), [*now._older, now._newest])

    @property
    def version(self) -> int:
        """Of episodes that begin now."""
        return self._newest.model.version

    def score(self, finished: EpisodeBatch, running: EpisodeBatch) -> dict[int, tuple[Scores, Scores]]:
        """By version, its scores of the episodes that ended in a fragment and of those that run on; an episode that a
        version doesn't follow has version 0 and beliefs of 0 there. Raises ShapeError, as ``Following.score``."""
        left = [np.ones(len(finished), bool), np.ones(len(running), bool)]
        found, kept = {}, []
        for one in self._older:
            theirs = [one.knows(finished), one.knows(running)]
            left = [others & ~known for others, known in zip(left, theirs, strict=True)]
            found[one.model.version] = _scores_of_some(one, (finished, running), theirs)
            if theirs[1].any():
                kept.append(one)
        self._older = kept
        found[self.version] = _scores_of_some(self._newest, (finished, running), left)
        return found


def _scores_of_some(
    by: Following, batches: tuple[EpisodeBatch, EpisodeBatch], which: Sequence[Array]
) -> tuple[Scores, Scores]:
    """Scores as long as the batches, of those episodes alone."""
    if all(some.all() for some in which):
        return by.score(*batches)
    index = [np.flatnonzero(some) for some in which]
    ended, running = by.score(take_episodes(batches[0], index[0]), take_episodes(batches[1], index[1]))
    return _spread_out(ended, batches[0], index[0]), _spread_out(running, batches[1], index[1])


def _spread_out(scores: Scores, batch: EpisodeBatch, keep: Array) -> Scores:
    rows = packed_ranges(batch.obs_offsets[:-1][keep], batch.lengths[keep] + 1)
    belief, version = np.zeros(len(batch.obs), np.float32), np.zeros(len(batch), np.int64)
    belief[rows], version[keep] = scores.belief, scores.version
    spread = None
    if scores.spread is not None:
        spread = np.zeros(len(batch.obs), np.float32)
        spread[rows] = scores.spread
    return Scores(belief, batch.obs_offsets, version, spread)
