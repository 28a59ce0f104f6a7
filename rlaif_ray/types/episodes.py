"""What acting makes: fragments of columns, and the whole episodes that were cut out of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rlaif_ray.errors import ShapeError

if TYPE_CHECKING:
    from rlaif_ray.types.verdicts import Scores

__all__ = [
    "Array",
    "Episode",
    "EpisodeBatch",
    "Fragment",
    "PolicyVersion",
    "Rollout",
    "Truth",
    "Units",
    "episode_key",
    "episodes_of",
    "need",
]

Array = npt.NDArray[Any]
PolicyVersion = int


def need(what: str, got: object, want: object) -> None:
    """Raise ShapeError, with both, unless what was got is what is wanted."""
    if got != want:
        raise ShapeError(f"{what}: got {got}, expected {want}")


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
    value: Array  # (T, N) float32, critic at obs; (T, N, 2) of one that takes a belief (``networks.ActorCritic``)
    next_value: Array  # likewise, only meaningful at cuts; 0 elsewhere
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
            need(f"{name} (T, N)", getattr(self, name).shape[:2], shape)

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

    @property
    def key(self) -> tuple[int, PolicyVersion]:
        """What names it in a run, as a label of it does: (episode_id, policy_version)."""
        return self.episode_id, self.policy_version

    def copy(self) -> Episode:
        """With columns of its own: one that is kept doesn't keep the whole batch alive that it was cut out of."""
        states = None if self.states is None else self.states.copy()
        return replace(self, obs=self.obs.copy(), states=states, actions=self.actions.copy())


Units = Episode | tuple[Episode, Episode]  # what a question is about: one, or two to choose between


def episodes_of(unit: Units) -> tuple[Episode, ...]:
    """The one, or both."""
    return (unit,) if isinstance(unit, Episode) else tuple(unit)


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
        need("obs_offsets (E + 1,)", self.obs_offsets.shape, (E + 1,))
        need("obs rows against the last offset", len(self.obs), int(self.obs_offsets[-1]))
        need("actions rows (S - E)", len(self.actions), len(self.obs) - E)
        for name in ("task_return", "terminated", "complete", "policy_version"):
            need(f"{name} (E,)", getattr(self, name).shape, (E,))
        if self.states is not None:
            need("states rows (S)", len(self.states), len(self.obs))

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
            need(f"truth {name!r} (E,)", values.shape, self.episode_id.shape)


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
    # Of ``episodes`` and of ``open`` by version of the reward model: each episode is scored by the one that was in
    # service when it began, and has version 0 in others' scores.
    scores: Mapping[int, tuple[Scores, Scores]] = field(default_factory=dict)
    scored_by: int = 0  # version that the runner scores episodes with that begin now; 0: none

    def __post_init__(self) -> None:
        need("truth episodes", self.truth.episode_id.shape, self.episodes.episode_id.shape)
        need("episode_cells (E, 3)", self.episode_cells.shape, (len(self.episodes), 3))
        need("open_cells (N, 3)", self.open_cells.shape, (len(self.open), 3))
        covered = int((self.episode_cells[:, 2] - self.episode_cells[:, 1]).sum())
        covered += int((self.open_cells[:, 2] - self.open_cells[:, 1]).sum())
        need("steps covered by episodes and open prefixes", covered, self.fragment.env_steps())

    def env_steps(self) -> int:
        return self.fragment.env_steps()

    def agent_steps(self) -> int:
        """RLlib's evaluation counts these too; one agent acts here."""
        return self.fragment.env_steps()


def episode_key(episode: Episode) -> str:
    """Content address of an episode: what happened in it, whoever ran it and whenever."""
    digest = hashlib.sha256()
    for array in (episode.obs, episode.states, episode.actions):
        if array is not None:
            contiguous = np.ascontiguousarray(array)
            digest.update(f"{contiguous.dtype}{contiguous.shape}".encode())
            digest.update(contiguous.data)
    digest.update(b"terminated" if episode.terminated else b"truncated")
    return digest.hexdigest()[:32]
