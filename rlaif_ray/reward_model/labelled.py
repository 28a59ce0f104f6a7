"""Labelled episodes as the reward model keeps them: one for each distinct content, the copies' verdicts averaged."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_ray.errors import ShapeError
from rlaif_ray.reward_model.losses import mean_belief, scale_of
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.reward_model.packing import Bags
from rlaif_ray.types import Array, Episode, Scale, Units, episodes_of

__all__ = [
    "Labelled",
    "Labels",
    "final_beliefs",
    "final_logits",
    "is_held_out",
    "mark",
    "observation_key",
    "scale_over",
    "targets",
    "versions",
]


@dataclass
class Labelled:
    """One distinct episode, or two of which one is preferred; asked again, its verdicts are averaged, so that copies
    don't count as evidence."""

    key: str
    obs: tuple[Array, ...]  # of the one, or of both
    values: list[float]
    weight: float
    held_out: bool
    policy_version: int  # the newest that made it: it is on-policy for that one too
    digests: tuple[Bags, ...] = ()  # made at the first fit that needs them

    @property
    def value(self) -> float:
        return sum(self.values) / len(self.values)

    def chosen_for(self, purpose: str, share: float) -> bool:
        return is_chosen(self.key, purpose, share)


def observation_key(obs: Array) -> str:
    """Content address of what the reward model sees of an episode: its observations, and nothing else."""
    contiguous = np.ascontiguousarray(obs)
    digest = hashlib.sha256(f"{contiguous.dtype}{contiguous.shape}".encode())
    digest.update(contiguous.data)
    return digest.hexdigest()[:32]


def mark(key: str) -> str:
    """A label's short name, by which a model remembers what it learned from."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def is_chosen(key: str, purpose: str, share: float) -> bool:
    """Whether a label is one of a share: set by its content, the same in every run and after a restart."""
    digest = hashlib.sha256(f"{purpose}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def is_held_out(key: str, share: float) -> bool:
    """Whether a label is never trained on: a fixed share of every period's, whatever policy they come from."""
    return is_chosen(key, "held out", share)


class Labels:
    """What was labelled so far, by content. ``obs_shape`` is (H, W, C) or (D,)."""

    def __init__(self, obs_shape: Sequence[int], holdout: float) -> None:
        self.obs_shape, self.holdout = tuple(obs_shape), holdout
        self._by_key: dict[str, Labelled] = {}

    def __len__(self) -> int:
        """Distinct ones."""
        return len(self._by_key)

    def in_order(self) -> list[Labelled]:
        """By key: the order of arrival must not matter."""
        return [self._by_key[key] for key in sorted(self._by_key)]

    def add(self, units: Sequence[Units], values: Sequence[float], weights: Sequence[float] | None = None) -> None:
        """Take verdicts' values in [0, 1] about whole episodes (1 is good), or about two of them (1: the first one is
        preferred). Raises ShapeError for anything else."""
        weights = [1.0] * len(values) if weights is None else weights
        self.check(units, values, weights)
        for unit, value, weight in zip(units, values, weights, strict=True):
            self._add(episodes_of(unit), float(value), float(weight))

    def check(self, units: Sequence[Units], values: Sequence[float], weights: Sequence[float] | None = None) -> None:
        """Raises ShapeError for labels that ``add`` won't take."""
        weights = [1.0] * len(values) if weights is None else weights
        if not len(units) == len(values) == len(weights):
            raise ShapeError(f"labels: got {len(units)} episodes, {len(values)} values, {len(weights)} weights")
        several = {len(episodes_of(unit)) for unit in units}
        several |= {len(known.obs) for known in itertools.islice(self._by_key.values(), 1)}
        if len(several) > 1:
            raise ShapeError("label: got one about another number of episodes than those before, expected the same")
        for unit, value, weight in zip(units, values, weights, strict=True):
            if not 0.0 <= value <= 1.0 or not 0.0 < weight < math.inf:
                raise ShapeError(f"label: got value {value}, weight {weight}, expected within [0, 1] and above 0")
            for episode in episodes_of(unit):
                if episode.obs.shape[1:] != self.obs_shape:
                    raise ShapeError(f"label: got observations {episode.obs.shape[1:]}, expected {self.obs_shape}")

    def _add(self, episodes: tuple[Episode, ...], value: float, weight: float) -> None:
        obs = tuple(episode.obs for episode in episodes)
        keys = [observation_key(one) for one in obs]
        if len(keys) == 2 and keys[0] == keys[1]:
            return  # nothing can be learned of what looks the same
        if keys != sorted(keys):  # the same two the other way round are the same label
            keys, obs, value = keys[::-1], obs[::-1], 1.0 - value
        key, version = "|".join(keys), max(episode.policy_version for episode in episodes)
        known = self._by_key.get(key)
        if known is None:
            self._by_key[key] = Labelled(key, obs, [value], weight, is_held_out(key, self.holdout), version)
            return
        known.values.append(value)
        known.weight = max(known.weight, weight)
        known.policy_version = max(known.policy_version, version)


def targets(labels: Sequence[Labelled]) -> Array:
    """(E,) float32 in [0, 1]."""
    return np.array([one.value for one in labels], np.float32)


def versions(labels: Sequence[Labelled]) -> Array:
    """(E,) int64 policy versions."""
    return np.array([one.policy_version for one in labels], np.int64)


def final_logits(model: RewardModel, labels: Sequence[Labelled]) -> Array:
    """(K, E) logits at the labelled episodes' ends; of two episodes the first's less the second's."""
    of_each = []
    for i in range(len(labels[0].obs)):
        offsets = np.concatenate([[0], np.cumsum([len(one.obs[i]) for one in labels])])
        logits = model.logits(np.concatenate([one.obs[i] for one in labels]), offsets)
        of_each.append(logits[:, offsets[1:] - 1])
    return of_each[0] if len(of_each) == 1 else of_each[0] - of_each[1]


def final_beliefs(model: RewardModel, labels: Sequence[Labelled]) -> Array:
    """(E,) beliefs there."""
    return mean_belief(final_logits(model, labels), model.temperature)


def scale_over(model: RewardModel, labels: Sequence[Labelled]) -> Scale:
    """What the model's beliefs are over these labels' episodes."""
    obs = [each for one in labels for each in one.obs]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in obs])])
    belief = mean_belief(model.logits(np.concatenate(obs), offsets), model.temperature)
    return scale_of(belief, belief[offsets[1:] - 1])
