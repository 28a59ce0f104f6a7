"""What travels between the rooms: frozen dataclasses, checked at birth, and the protocols handed in.

Key of dimensions (suffixes of names everywhere):

    T  steps of a fragment           N  environments stepped side by side
    E  episodes in a batch           S  packed observations, sum over episodes of (length + 1)
    A  packed actions, sum of lengths

Times end in ``_s`` (seconds), money in ``_usd``. Episodes of different lengths are *packed* end to end and cut by
offsets, never padded: one 100-step episode among short ones must not cost ten times its share.
"""

from __future__ import annotations

from rlaif_ray.types.choosing import DRAWS, Candidates, Draw, Drawn
from rlaif_ray.types.episodes import (
    Array,
    Episode,
    EpisodeBatch,
    Fragment,
    PolicyVersion,
    Rollout,
    Truth,
    Units,
    episode_key,
    episodes_of,
)
from rlaif_ray.types.protocols import EpisodeRenderer, EpisodeTeller, FrameReader, Reading, VectorWorld
from rlaif_ray.types.verdicts import (
    Abstention,
    Judged,
    Label,
    PeriodAccuracy,
    QuestionKind,
    ReliabilityBin,
    RewardModelReport,
    Scale,
    Scores,
    Unit,
    Usage,
    Verdict,
)

__all__ = [
    "DRAWS",
    "Abstention",
    "Array",
    "Candidates",
    "Draw",
    "Drawn",
    "Episode",
    "EpisodeBatch",
    "EpisodeRenderer",
    "EpisodeTeller",
    "Fragment",
    "FrameReader",
    "Judged",
    "Label",
    "PeriodAccuracy",
    "PolicyVersion",
    "QuestionKind",
    "Reading",
    "ReliabilityBin",
    "RewardModelReport",
    "Rollout",
    "Scale",
    "Scores",
    "Truth",
    "Unit",
    "Units",
    "Usage",
    "VectorWorld",
    "Verdict",
    "episode_key",
    "episodes_of",
]
