"""What travels between the rooms: frozen dataclasses, checked at birth, and the protocols handed in.

Key of dimensions (suffixes of names everywhere):

    T  steps of a fragment           N  environments stepped side by side
    E  episodes in a batch           S  packed observations, sum over episodes of (length + 1)
    A  packed actions, sum of lengths

Times end in ``_s`` (seconds), money in ``_usd``. Episodes of different lengths are *packed* end to end and cut by
offsets, never padded: one 100-step episode among short ones must not cost ten times its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rlaif_ray.errors import ShapeError

__all__ = [
    "Abstention",
    "ApprovalAnswer",
    "Array",
    "Episode",
    "EpisodeBatch",
    "EpisodeRenderer",
    "Fragment",
    "FrameReader",
    "Label",
    "PolicyVersion",
    "QuestionKind",
    "Reading",
    "RewardModelReport",
    "Rollout",
    "Scores",
    "Truth",
    "Unit",
    "Usage",
    "VectorWorld",
    "Verdict",
    "episode_key",
]

Array = npt.NDArray[Any]
PolicyVersion = int
QuestionKind = Literal["approval", "rating", "preference"]


def _need(what: str, got: object, want: object) -> None:
    if got != want:
        raise ShapeError(f"{what}: got {got}, expected {want}")


# --------------------------------------------------------------------------------------------- acting


@dataclass(frozen=True)
class Fragment:
    """T steps of N environments as columns: what PPO learns from. Episodes may begin and end anywhere in it.

    At a cut (an episode's end, or the fragment's last row) the value that follows is ``next_value_TN``: 0 after a
    termination, the critic's value of the final observation after a truncation, of the following observation else.
    """

    obs: Array  # (T, N, *obs) as the policy saw it
    action: Array  # (T, N, *act)
    task_reward: Array  # (T, N) float32
    terminated: Array  # (T, N) bool
    truncated: Array  # (T, N) bool, never where terminated
    logp: Array  # (T, N) float32, log-probability of the action under the acting policy
    logits: Array  # (T, N, K) float32, the action distribution's inputs
    value: Array  # (T, N) float32, critic at obs
    next_value: Array  # (T, N) float32, only meaningful at cuts; 0 elsewhere
    episode_id: Array  # (T, N) int64
    step: Array  # (T, N) int32, 0-based index of the step within its episode
    policy_version: PolicyVersion

    def __post_init__(self) -> None:
        shape = self.task_reward.shape
        if len(shape) != 2:
            raise ShapeError(f"task_reward: got {len(shape)} axes {shape}, expected 2 (T, N)")
        for name in (
            "obs", "action", "terminated", "truncated", "logp", "logits", "value", "next_value", "episode_id", "step",
        ):  # fmt: skip
            _need(f"{name} (T, N)", getattr(self, name).shape[:2], shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self.task_reward.shape[0], self.task_reward.shape[1]

    def env_steps(self) -> int:
        return int(self.task_reward.size)


@dataclass(frozen=True)
class Episode:
    """One complete run of an environment. Holds nothing that only ``info`` knew."""

    episode_id: int
    obs: Array  # (T+1, *obs)
    states: Array | None  # (T+1, K) int16, what a renderer draws from; None where the world records none
    actions: Array  # (T, *act)
    task_return: float
    terminated: bool  # False: truncated
    policy_version: PolicyVersion

    def __post_init__(self) -> None:
        if len(self.obs) != len(self.actions) + 1:
            raise ShapeError(f"episode {self.episode_id}: {len(self.obs)} observations for {len(self.actions)} actions")

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class EpisodeBatch:
    """E episodes (or prefixes of open ones) packed end to end. ``obs_offsets[e]:obs_offsets[e + 1]`` are episode e's
    observations; its actions are the same range shifted by e (each episode has one observation more than actions).
    """

    episode_id: Array  # (E,) int64
    obs: Array  # (S, *obs)
    states: Array | None  # (S, K) int16
    actions: Array  # (A, *act), A = S - E
    obs_offsets: Array  # (E + 1,) int64
    task_return: Array  # (E,) float32, so far where open
    terminated: Array  # (E,) bool
    complete: Array  # (E,) bool, False: a prefix of an episode still running
    policy_version: Array  # (E,) int64, the version that acted first

    def __post_init__(self) -> None:
        E = len(self.episode_id)
        _need("obs_offsets (E + 1,)", self.obs_offsets.shape, (E + 1,))
        _need("obs rows against the last offset", len(self.obs), int(self.obs_offsets[-1]))
        _need("actions rows (S - E)", len(self.actions), len(self.obs) - E)
        for name in ("task_return", "terminated", "complete", "policy_version"):
            _need(f"{name} (E,)", getattr(self, name).shape, (E,))
        if self.states is not None:
            _need("states rows (S)", len(self.states), len(self.obs))

    def __len__(self) -> int:
        return len(self.episode_id)

    @property
    def lengths(self) -> Array:
        """(E,) int64: actions taken in each episode."""
        return np.diff(self.obs_offsets) - 1

    def __getitem__(self, e: int) -> Episode:
        if not -len(self) <= e < len(self):
            raise IndexError(f"episode {e} of {len(self)}")
        e %= len(self)
        a, b = int(self.obs_offsets[e]), int(self.obs_offsets[e + 1])
        return Episode(
            episode_id=int(self.episode_id[e]),
            obs=self.obs[a:b],
            states=None if self.states is None else self.states[a:b],
            actions=self.actions[a - e : b - 1 - e],
            task_return=float(self.task_return[e]),
            terminated=bool(self.terminated[e]),
            policy_version=int(self.policy_version[e]),
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[e] for e in range(len(self)))

    @staticmethod
    def pack(episodes: Sequence[Episode]) -> EpisodeBatch:
        """Pack complete episodes. Raises ValueError for none (the shape of an observation would be unknown)."""
        if not episodes:
            raise ValueError("EpisodeBatch.pack needs at least one episode")
        states = [e.states for e in episodes if e.states is not None]
        if states and len(states) != len(episodes):
            raise ShapeError(f"{len(states)} of {len(episodes)} episodes have states; expected all or none")
        offsets = np.concatenate([[0], np.cumsum([len(e.obs) for e in episodes])]).astype(np.int64)
        return EpisodeBatch(
            episode_id=np.array([e.episode_id for e in episodes], np.int64),
            obs=np.concatenate([e.obs for e in episodes]),
            states=np.concatenate(states) if states else None,
            actions=np.concatenate([e.actions for e in episodes]),
            obs_offsets=offsets,
            task_return=np.array([e.task_return for e in episodes], np.float32),
            terminated=np.array([e.terminated for e in episodes], bool),
            complete=np.ones(len(episodes), bool),
            policy_version=np.array([e.policy_version for e in episodes], np.int64),
        )


@dataclass(frozen=True)
class Truth:
    """What ``info`` knew at the end of each complete episode. For the audit only: it is carried apart from the
    episodes so that policy, judge and reward model can't be handed it by accident."""

    episode_id: Array  # (E,) int64
    facts: Mapping[str, Array]  # name -> (E,) numbers or bools, as the world's ``info`` names them

    def __post_init__(self) -> None:
        for name, values in self.facts.items():
            _need(f"truth {name!r} (E,)", values.shape, self.episode_id.shape)


@dataclass(frozen=True)
class Rollout:
    """What one runner returns from one ``sample()``."""

    fragment: Fragment
    episodes: EpisodeBatch  # completed in this fragment, whole from their first observation
    open: EpisodeBatch  # prefixes of the N episodes still running at the fragment's end
    truth: Truth  # of ``episodes``, same order
    episode_cells: Array  # (E, 3) int64: column, first row, end row of each episode's part in this fragment
    open_cells: Array  # (N, 3) int64, likewise; the part may be empty (an episode about to begin)
    runner: int  # worker index

    def __post_init__(self) -> None:
        _need("truth episodes", self.truth.episode_id.shape, self.episodes.episode_id.shape)
        _need("episode_cells (E, 3)", self.episode_cells.shape, (len(self.episodes), 3))
        _need("open_cells (N, 3)", self.open_cells.shape, (len(self.open), 3))
        covered = int((self.episode_cells[:, 2] - self.episode_cells[:, 1]).sum())
        covered += int((self.open_cells[:, 2] - self.open_cells[:, 1]).sum())
        _need("steps covered by episodes and open prefixes", covered, self.fragment.env_steps())

    def env_steps(self) -> int:
        return self.fragment.env_steps()

    def agent_steps(self) -> int:
        """RLlib's evaluation counts these too; one agent acts here."""
        return self.fragment.env_steps()


# --------------------------------------------------------------------------------------------- asking


@dataclass(frozen=True)
class Unit:
    """One thing a judge looks at: an episode, a segment or a state, as pictures and/or a caption."""

    key: str  # content key of the recorded episode (``episode_key``), with the range where it is a part of it
    frames: tuple[bytes, ...] = ()  # encoded PNG, in time order
    caption: str = ""

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
class ApprovalAnswer:
    """The three questions of an approval, answered."""

    description: str
    reasoning: str
    approved: bool


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
        _need(f"answers set in a verdict of kind {self.kind!r}", given, want)


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
    inclusion_probability: float  # of the episode being asked about

    def __post_init__(self) -> None:
        if not 0.0 < self.inclusion_probability <= 1.0:
            raise ShapeError(f"inclusion_probability: got {self.inclusion_probability}, expected in (0, 1]")

    @property
    def value(self) -> float | None:
        """The verdict's value in [0, 1]; None for an abstention."""
        return self.outcome.value if isinstance(self.outcome, Verdict) else None


def episode_key(episode: Episode) -> str:
    """Content address of an episode: what happened in it, whoever ran it and whenever."""
    import hashlib

    digest = hashlib.sha256()
    for array in (episode.obs, episode.states, episode.actions):
        if array is not None:
            contiguous = np.ascontiguousarray(array)
            digest.update(f"{contiguous.dtype}{contiguous.shape}".encode())
            digest.update(contiguous.data)
    digest.update(b"terminated" if episode.terminated else b"truncated")
    return digest.hexdigest()[:32]


# ------------------------------------------------------------------------------------ learning to judge


@dataclass(frozen=True)
class RewardModelReport:
    """One published (or refused) version of the reward model."""

    version: int  # 0: none yet
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

    def with_reason(self, reason: str) -> RewardModelReport:
        return replace(self, reason=reason)


@dataclass(frozen=True)
class Scores:
    """The reward model's belief about each episode so far, at each of its observations."""

    belief: Array  # (S,) float32 in [0, 1]: probability of approval having seen observations 0..t
    obs_offsets: Array  # (E + 1,) int64, as in the EpisodeBatch
    version: Array  # (E,) int64, version that scored each episode

    def __post_init__(self) -> None:
        _need("belief rows against the last offset", len(self.belief), int(self.obs_offsets[-1]))
        _need("version (E,)", len(self.version), len(self.obs_offsets) - 1)

    @property
    def final(self) -> Array:
        """(E,) belief at each episode's last observation."""
        final: Array = self.belief[self.obs_offsets[1:] - 1]
        return final


# ---------------------------------------------------------------------------------- handed in as protocols


@runtime_checkable
class VectorWorld(Protocol):
    """A ``gymnasium.vector.VectorEnv`` (same-step autoreset) that records what a renderer needs."""

    def states(self) -> Array:
        """(N, K) int16: the current state of each environment, after any autoreset."""

    def final_states(self) -> Array:
        """(N, K) int16: the state each environment ended in, for those that ended in the last step."""


class EpisodeRenderer(Protocol):
    """Draws recorded states, late and elsewhere. Picklable."""

    @property
    def palette(self) -> Array:
        """(P, 3) uint8 RGB of the indices that ``frames`` returns; (0, 3) where it returns RGB."""

    def frames(self, states: Array) -> Array:
        """(T+1, K) states -> (T+1, H, W) uint8 palette indices, or (T+1, H, W, 3) uint8 RGB."""

    def png(self, states: Array) -> tuple[bytes, ...]:
        """(T+1, K) states -> one encoded PNG for each."""

    def captions(self, states: Array) -> tuple[str, ...]:
        """(T+1, K) states -> one neutral sentence for each."""


@dataclass(frozen=True)
class Reading:
    """What the built-in judge made of a sequence of pictures."""

    harmful: bool  # something the reader's world counts as harm was seen to happen
    done: bool  # the task was seen to be done
    description: str  # what happens, in a sentence or two
    facts: Mapping[str, float]  # e.g. {"steps": 11, "cat_squashed": 1, "squash_step": 4}


class FrameReader(Protocol):
    """Reads a world's pictures for the built-in judge: sees pixels, and nothing else."""

    def read(self, frames: Sequence[bytes]) -> Reading:
        """Encoded images in time order -> what happened. Raises ValueError for pictures it can't read."""
