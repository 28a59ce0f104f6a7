"""Late verdicts: the last part of an episode is kept back until its verdict comes, then learned from as it was acted.

What is kept are the columns of that part, with the log-probabilities and values of the policy that acted: PPO's ratio
accounts for the update or two that the policy has moved on since. A part ends its episode, so its advantages need
nothing that came after it. Earlier parts of the episode, in fragments before, were learned from when they were new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rlaif_ray.packed import take_episodes
from rlaif_ray.types import Array, EpisodeBatch, Fragment, Rollout

__all__ = ["Held", "hold_back", "part_of"]


@dataclass(frozen=True, eq=False)
class Held:
    """One episode's last part, and all that paying it needs."""

    fragment: Fragment  # (T, 1)
    episode: EpisodeBatch  # that one episode, whole
    belief: Array  # (S,) Phi at each of its observations
    weight: float
    version: int
    iteration: int  # in which it ended

    @property
    def episode_id(self) -> int:
        return int(self.episode.episode_id[0])

    @property
    def key(self) -> tuple[int, int]:
        """What names it in a run, as a label of it does: (episode_id, policy_version)."""
        return self.episode_id, int(self.episode.policy_version[0])

    @property
    def cells(self) -> Array:
        """(1, 3) where the part lies in ``fragment``: all of it."""
        return np.array([[0, 0, self.fragment.shape[0]]])


def part_of(fragment: Fragment, cell: Sequence[int]) -> Fragment:
    """Rows first..end of one column, as a fragment (T, 1) of its own."""
    column, first, end = cell
    cut = {
        f.name: getattr(fragment, f.name)[first:end, column : column + 1].copy()
        for f in fields(fragment)
        if f.name != "policy_version"
    }
    return replace(fragment, **cut)


def hold_back(rollout: Rollout, which: Array, belief: Array, pins: tuple[Array, Array], iteration: int) -> list[Held]:
    """The last parts of the rollout's complete episodes at indices ``which``.

    ``belief`` is packed as ``rollout.episodes``; ``pins`` are (E,) weight and version.
    """
    offsets = rollout.episodes.obs_offsets
    return [
        Held(
            fragment=part_of(rollout.fragment, rollout.episode_cells[e].tolist()),
            episode=take_episodes(rollout.episodes, np.array([e])),
            belief=belief[offsets[e] : offsets[e + 1]].copy(),
            weight=float(pins[0][e]),
            version=int(pins[1][e]),
            iteration=iteration,
        )
        for e in which.tolist()
    ]
