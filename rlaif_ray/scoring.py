"""What versions of the reward model say of episodes: its belief, and how far an ensemble disagrees. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlaif_ray.config import JudgeConfig
from rlaif_ray.packed import packed_ranges, take_episodes
from rlaif_ray.partners import Scorer
from rlaif_ray.types import Array, Episode, EpisodeBatch, Units

__all__ = ["beliefs_of", "doubts_about"]


def beliefs_of(episodes: EpisodeBatch, version: Array, scorers: Mapping[int, Scorer]) -> Array:
    """(S,) belief of each episode's own version (E,); 0 where it has none. Nearly always there is one version."""
    belief = np.zeros(len(episodes.obs), np.float32)
    for one in np.unique(version[version > 0]).tolist():
        keep = np.flatnonzero(version == one)
        some = episodes if len(keep) == len(episodes) else take_episodes(episodes, keep)
        rows = packed_ranges(episodes.obs_offsets[:-1][keep], episodes.lengths[keep] + 1)
        belief[rows] = scorers[one].score(some).belief
    return belief


def doubts_about(units: Sequence[Units], scorer: Scorer | None, judge: JudgeConfig) -> list[float]:
    """Standard deviation, over an ensemble's members, of the belief in each at its end; of two the larger.

    None where the judge isn't a cascade that looks at it; 0 without a reward model, or with one of a single member.
    """
    if judge.cascade is None or "rm-disagrees" not in judge.cascade.when:
        return []
    if scorer is None:
        return [0.0] * len(units)
    about = [(one,) if isinstance(one, Episode) else one for one in units]
    scores = scorer.score(EpisodeBatch.pack([episode for pair in about for episode in pair]))
    if scores.spread is None:
        return [0.0] * len(units)
    at_end = iter(scores.spread[scores.obs_offsets[1:] - 1].tolist())
    return [max(next(at_end) for _ in pair) for pair in about]
