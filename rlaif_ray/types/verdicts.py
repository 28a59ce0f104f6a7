"""What asking and judging make: units, usage, verdicts and abstentions, labels, and what a reward model says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rlaif_ray.errors import ShapeError
from rlaif_ray.types.choosing import DRAWS, Draw
from rlaif_ray.types.episodes import Array, PolicyVersion, Units, need

__all__ = [
    "Abstention",
    "Judged",
    "Label",
    "PeriodAccuracy",
    "QuestionKind",
    "ReliabilityBin",
    "RewardModelReport",
    "Scale",
    "Scores",
    "Unit",
    "Usage",
    "Verdict",
]

QuestionKind = Literal["approval", "rating", "preference"]

FEWEST_OF_A_CLASS = 20  # held-out labels; of fewer a share of right answers says little


@dataclass(frozen=True)
class Unit:
    """One thing a judge looks at: an episode, a segment or a state, as pictures and/or a caption."""

    key: str  # content key of the recorded episode (``episode_key``), with the range where it is a part of it
    frames: tuple[bytes, ...] = ()  # encoded PNG, in time order
    caption: str = ""
    tiles: int = 0  # frames shown as numbered tiles of the one picture in ``frames``; 0: each is a picture of its own

    def __post_init__(self) -> None:
        if not self.frames and not self.caption:
            raise ShapeError(f"unit {self.key}: 0 frames and an empty caption, expected at least one of the two")


@dataclass(frozen=True)
class Usage:
    """What one answer cost. Billed by what the server says it used, never by a formula."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    latency_s: float = 0.0
    attempts: int = 1

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "cost_usd", "latency_s", "attempts"):
            if getattr(self, name) < 0:
                raise ShapeError(f"usage {name}: got {getattr(self, name)}, expected >= 0")


@dataclass(frozen=True)
class Verdict:
    """A judge's usable answer. Exactly one of ``approved``, ``rating``, ``preference`` is set, by the question's kind.

    ``value`` is the approval / rating / preference for the first unit in [0, 1], polarity already undone: 1 is good.
    """

    kind: QuestionKind
    value: float  # [0, 1]
    text: str  # the raw answer
    usage: Usage
    approved: bool | None = None
    rating: int | None = None  # 0-based level
    preference: Literal["first", "second", "tie"] | None = None
    probability: float | None = None  # of ``value`` being 1, where the judge gives one
    description: str = ""
    reasoning: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.value <= 1.0:
            raise ShapeError(f"verdict value: got {self.value}, expected within [0, 1]")
        given = [n for n in ("approved", "rating", "preference") if getattr(self, n) is not None]
        want = {"approval": ["approved"], "rating": ["rating"], "preference": ["preference"]}[self.kind]
        need(f"answers set in a verdict of kind {self.kind!r}", given, want)


@dataclass(frozen=True)
class Abstention:
    """No usable answer. Never a score: not 0, not "bad"."""

    reason: Literal["refusal", "timeout", "unparsable", "truncated", "empty", "http", "unknown"]
    detail: str  # one line, no key in it
    usage: Usage  # what it cost all the same
    text: str = ""  # the raw answer, where there was one


@dataclass(frozen=True)
class Label:
    """A stored answer: a verdict or an abstention, with where it came from."""

    label_id: int  # position in the store, ascending
    question_key: str  # content address of the question
    episode_id: int
    outcome: Verdict | Abstention
    judge: str  # name of judge and dated model
    prompt_hash: str
    policy_version: PolicyVersion
    asked_at_step: int  # environment steps of the run when it was asked
    replayed: bool  # answered from the store, for nothing
    inclusion_probability: float  # of the episode being asked about; of a pair, its first being in one
    second_episode_id: int | None = None  # of a preference: the episode it was compared with
    draw: Draw = "audit"  # how the episode was chosen

    def __post_init__(self) -> None:
        if not 0.0 < self.inclusion_probability <= 1.0:
            raise ShapeError(f"inclusion_probability: got {self.inclusion_probability}, expected in (0, 1]")
        if self.draw not in DRAWS:
            raise ShapeError(f"draw: got {self.draw!r}, expected one of {', '.join(DRAWS)}")

    @property
    def value(self) -> float | None:
        """The verdict's value in [0, 1]; None for an abstention."""
        return self.outcome.value if isinstance(self.outcome, Verdict) else None

    @property
    def key(self) -> tuple[int, int]:
        """What names an episode of a run, as in its scores: (episode_id, policy_version)."""
        return self.episode_id, self.policy_version


@dataclass(frozen=True)
class Judged:
    """A stored verdict with what it is about, for a reward model to learn from."""

    units: Units
    value: float  # [0, 1]; of a preference: that the first is preferred
    draw: Draw = "audit"  # how it was chosen; only what was drawn from all alike may be held out


@dataclass(frozen=True)
class PeriodAccuracy:
    """How one reward model did on the held-out labels of a span of policy versions; labels of exactly 1/2 left out."""

    first: PolicyVersion
    last: PolicyVersion
    good: int  # labels, by the judge
    good_right: int
    bad: int
    bad_right: int

    @property
    def n(self) -> int:
        return self.good + self.bad

    @property
    def right(self) -> int:
        return self.good_right + self.bad_right

    @property
    def accuracy(self) -> float:
        """Share of agreement; nan for no labels."""
        return self.right / self.n if self.n else math.nan

    @property
    def measurable(self) -> bool:
        """Whether there are at least ``FEWEST_OF_A_CLASS`` labels of each class: with fewer, "always good" looks well
        where harm has become rare."""
        return min(self.good, self.bad) >= FEWEST_OF_A_CLASS

    @property
    def zero_error_bound(self) -> float:
        """Upper end of the 95 % interval of the share of errors where none was made: 3/n, at most 1; nan where some
        were. The rule of three: Hanley and Lippman-Hand 1983."""
        if self.right < self.n:
            return math.nan
        return min(1.0, 3.0 / self.n) if self.n else 1.0


@dataclass(frozen=True)
class ReliabilityBin:
    """A bar of a reliability curve: labels whose belief lies in one tenth of [0, 1]."""

    belief: float  # their mean
    label: float  # mean of what the judge said
    n: int


@dataclass(frozen=True)
class RewardModelReport:
    """What came of one fit. All figures are of one model, the one that it is ``about``, but for those whose names begin
    with ``candidate_``: these are of a new fit that was refused."""

    version: int  # in service after it; 0: none yet
    gate_open: bool
    heldout_accuracy: float  # agreement with the judge on labels never trained on, [0, 1]; nan before the first fit
    heldout_n: int
    heldout_low: float  # lower end of the 95 % Wilson interval of the accuracy
    balanced_accuracy: float  # nan where one class is missing
    train_n: int
    loss: float
    fit_s: float
    reason: str = ""  # why the gate is shut, or why a version was rolled back
    extra: Mapping[str, float] = field(default_factory=dict)
    periods: tuple[PeriodAccuracy, ...] = ()  # by policy version, oldest first; the last one is on-policy
    reliability: tuple[ReliabilityBin, ...] = ()
    drift_p: float = math.nan  # how likely so many errors in the newest period are by chance
    drift_alarm: bool = False
    # The version in service; a candidate that was refused, where none is or none can be graded; "": no fit was made.
    about: Literal["", "served", "candidate"] = ""

    @property
    def on_policy(self) -> PeriodAccuracy | None:
        """The newest period; None where nothing was graded."""
        return self.periods[-1] if self.periods else None

    @property
    def on_policy_accuracy(self) -> float:
        """Nan where it is not measurable: fewer than 20 held-out labels of either class."""
        newest = self.on_policy
        return newest.accuracy if newest is not None and newest.measurable else math.nan

    def figures(self) -> dict[str, Any]:
        """All of it in plain numbers, lists and dictionaries, for a summary."""
        plain = asdict(self)
        extra: dict[str, Any] = plain.pop("extra")
        about_version = self.version if self.about == "served" else 0
        return plain | extra | {"on_policy_accuracy": self.on_policy_accuracy, "about_version": about_version}


@dataclass(frozen=True)
class Scale:
    """What a version's beliefs were over the labelled episodes it was published with: at their ends, and at every
    observation. Part of the version: as long as it is in use, a normalised reward means the same."""

    end_mean: float = 0.0
    end_std: float = 1.0
    step_mean: float = 0.0
    step_std: float = 1.0

    def __post_init__(self) -> None:
        if not (self.end_std > 0.0 and self.step_std > 0.0):
            raise ShapeError(f"scale: got standard deviations {self.end_std}, {self.step_std}, expected above 0")


@dataclass(frozen=True)
class Scores:
    """The reward model's belief about each episode so far, at each of its observations."""

    belief: Array  # (S,) float32 in [0, 1]: probability of approval having seen observations 0..t
    obs_offsets: Array  # (E + 1,) int64, as in the EpisodeBatch
    version: Array  # (E,) int64, version that scored each episode
    spread: Array | None = None  # (S,) float32: standard deviation over an ensemble's members; None: one alone

    def __post_init__(self) -> None:
        need("belief rows against the last offset", len(self.belief), int(self.obs_offsets[-1]))
        need("version (E,)", len(self.version), len(self.obs_offsets) - 1)
        if self.spread is not None:
            need("spread rows", len(self.spread), len(self.belief))

    @property
    def final(self) -> Array:
        """(E,) belief at each episode's last observation."""
        final: Array = self.belief[self.obs_offsets[1:] - 1]
        return final
