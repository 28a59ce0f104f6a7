"""What versions of the reward model say of episodes: its belief, and how far an ensemble disagrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlaif_ray.config import JudgeConfig
from rlaif_ray.packed import packed_ranges, take_episodes
from rlaif_ray.partners import Scorer
from rlaif_ray.types import Array, EpisodeBatch, Scale, Scores, Units, episodes_of

__all__ = ["Remembering", "beliefs_of", "doubts_about"]


class Remembering:
    """A scorer that looks at a batch once in an iteration, whoever asks: choosing whom to judge, and mixing."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._known: list[tuple[EpisodeBatch, Scores]] = []  # by identity: batches are never changed

    @property
    def scale(self) -> Scale:
        return self._scorer.scale

    def score(self, batch: EpisodeBatch) -> Scores:
        scores = self.known(batch, np.arange(len(batch)))
        if scores is None:
            scores = self._scorer.score(batch)
            self._known.append((batch, scores))
        return scores

    def known(self, batch: EpisodeBatch, wanted: Array) -> Scores | None:
        """What was said since ``forget`` of this very batch, if that has the episodes ``wanted``; None: it hasn't."""
        found = (scores for one, scores in self._known if one is batch and scores.version[wanted].all())
        return next(found, None)

    def remember(self, batch: EpisodeBatch, scores: Scores) -> None:
        """What this version said elsewhere of a batch; of episodes that have version 0 there it said nothing."""
        self._known.append((batch, scores))

    def forget(self) -> None:
        """An iteration is over: let its batches go."""
        self._known.clear()


def beliefs_of(episodes: EpisodeBatch, version: Array, scorers: Mapping[int, Remembering]) -> Array:
    """(S,) belief of each episode's own version (E,); 0 where it has none. Nearly always there is one version."""
    belief = np.zeros(len(episodes.obs), np.float32)
    for one in np.unique(version[version > 0]).tolist():
        keep = np.flatnonzero(version == one)
        rows = packed_ranges(episodes.obs_offsets[:-1][keep], episodes.lengths[keep] + 1)
        whole = scorers[one].known(episodes, keep)
        if whole is None and len(keep) == len(episodes):
            whole = scorers[one].score(episodes)
        if whole is not None:
            belief[rows] = whole.belief[rows]
        else:
            belief[rows] = scorers[one].score(take_episodes(episodes, keep)).belief
    return belief


def doubts_about(units: Sequence[Units], spread: Mapping[int, float], judge: JudgeConfig) -> list[float]:
    """Standard deviation, over an ensemble's members, of the belief in each at its end; of two the larger.

    ``spread`` has it by episode: none without a reward model, or with one of a single member, which doubts nothing.
    Empty where the judge isn't a cascade that looks at it.
    """
    if judge.cascade is None or "rm-disagrees" not in judge.cascade.when:
        return []
    return [max(spread.get(episode.episode_id, 0.0) for episode in episodes_of(unit)) for unit in units]
