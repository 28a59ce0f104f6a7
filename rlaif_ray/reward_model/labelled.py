"""Labelled episodes as the reward model keeps them: one for each distinct content, the copies' verdicts averaged.

Some are held out: never learned from, a model is graded on them, and no episode of theirs is seen in what is learned
from (``apart``). They must be like all episodes that end, whatever was preferred in asking. So where a source of labels
has some that were drawn for what is known of them (``targeted``), only its ``audit`` labels can be held out, and more
of those, so that of all its labels the share held out is the same. How many more is known beforehand of labels that are
being asked for, so that what was held out once stays so as they come.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import ShapeError
from rlaif_ray.reward_model.apart import apart, is_chosen, mark
from rlaif_ray.reward_model.calibration import Calibrate
from rlaif_ray.reward_model.losses import mean_belief, scale_of
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.reward_model.packing import Bags
from rlaif_ray.types import DRAWS, Array, Draw, Episode, Scale, Units, episodes_of

__all__ = [
    "Labelled",
    "Labels",
    "final_beliefs",
    "final_logits",
    "how_to_calibrate",
    "is_held_out",
    "mark",
    "observation_key",
    "scale_over",
    "targets",
    "versions",
]

HELD_OUT = "held out"  # the purpose of their draw


@dataclass
class Labelled:
    """One distinct episode, or two of which one is preferred; asked again, its verdicts are averaged, so that copies
    don't count as evidence."""

    key: str
    obs: tuple[Array, ...]  # of the one, or of both
    values: list[float]
    weight: float
    policy_version: int  # the newest that made it: it is on-policy for that one too
    draws: dict[str, set[Draw]]  # by source of labels: how it was chosen there
    held_out: bool | None = False  # as of the last ``Labels.in_order``; None: nor is it learned from
    digests: tuple[Bags, ...] = ()  # made at the first fit that needs them

    @property
    def value(self) -> float:
        return sum(self.values) / len(self.values)


def observation_key(obs: Array) -> str:
    """Content address of what the reward model sees of an episode: its observations, and nothing else."""
    contiguous = np.ascontiguousarray(obs)
    digest = hashlib.sha256(f"{contiguous.dtype}{contiguous.shape}".encode())
    digest.update(contiguous.data)
    return digest.hexdigest()[:32]


def is_held_out(key: str, share: float) -> bool:
    """Whether a label on one episode that may be held out is: a share of every period's, whatever policy they come
    from."""
    return is_chosen(key, HELD_OUT, share)


class Labels:
    """What was labelled so far, by content. ``obs_shape`` is (H, W, C) or (D,).

    ``audit_share``: of the labels without a source, which the run itself asks for, those that are drawn from all alike;
    None: counted, as with labels that come all at once.
    """

    def __init__(self, obs_shape: Sequence[int], holdout: float, audit_share: float | None = None) -> None:
        self.obs_shape, self.holdout, self.audit_share = tuple(obs_shape), holdout, audit_share
        self._by_key: dict[str, Labelled] = {}
        self._targeted: set[str] = set()  # sources whose asking preferred some

    def __len__(self) -> int:
        """Distinct ones."""
        return len(self._by_key)

    def in_order(self) -> list[Labelled]:
        """By key, each told whether it is held out: the order of arrival must not matter."""
        share = {
            source: self._share(source) for source in {source for one in self._by_key.values() for source in one.draws}
        }
        labels = [self._by_key[key] for key in sorted(self._by_key)]
        chances = [[share[source] for source in one.draws if self._alike(one, source)] for one in labels]
        held = apart([one.key for one in labels], HELD_OUT, [max(of, default=0.0) for of in chances], self.holdout)
        for one, is_held in zip(labels, held, strict=True):
            one.held_out = is_held
        return labels

    @property
    def unused(self) -> int:
        """Pairs that are neither held out nor learned from, as of the last ``in_order``."""
        return sum(one.held_out is None for one in self._by_key.values())

    def stands_for_all(self, one: Labelled) -> bool:
        """Whether some draw that treats all episodes alike asked about it: only then may a model be graded on it."""
        return any(self._alike(one, source) for source in one.draws)

    def _alike(self, one: Labelled, source: str) -> bool:
        draws = one.draws.get(source, set())
        return "audit" in draws or (bool(draws) and source not in self._targeted)

    def _share(self, source: str) -> float:
        """Of a source's labels that may be held out, those that are: ``holdout`` of all of its labels, or every one."""
        if not source and self.audit_share is not None:
            return min(1.0, self.holdout / self.audit_share)
        there = [one for one in self._by_key.values() if source in one.draws]
        alike = sum(self._alike(one, source) for one in there)
        return min(1.0, self.holdout * (len(there) / alike)) if alike else 0.0

    def add(
        self,
        units: Sequence[Units],
        values: Sequence[float],
        weights: Sequence[float] | None = None,
        *,
        draws: Sequence[Draw] = (),
        source: str = "",
    ) -> None:
        """Take verdicts' values in [0, 1] about whole episodes (1 is good), or about two of them (1: the first one is
        preferred). ``draws`` say how each was chosen (empty: all audit) among the labels of ``source``, which were
        asked for by one design. Raises ShapeError for anything else."""
        weights = [1.0] * len(values) if weights is None else weights
        draws = draws or ["audit"] * len(values)
        self.check(units, values, weights, draws)
        for unit, value, weight, draw in zip(units, values, weights, draws, strict=True):
            self._add(episodes_of(unit), float(value), float(weight), (source, draw))

    def check(
        self,
        units: Sequence[Units],
        values: Sequence[float],
        weights: Sequence[float] | None = None,
        draws: Sequence[Draw] = (),
    ) -> None:
        """Raises ShapeError for labels that ``add`` won't take."""
        weights = [1.0] * len(values) if weights is None else weights
        if not len(units) == len(values) == len(weights):
            raise ShapeError(f"labels: got {len(units)} episodes, {len(values)} values, {len(weights)} weights")
        _check_draws(draws, len(values))
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

    def _add(self, episodes: tuple[Episode, ...], value: float, weight: float, asked: tuple[str, Draw]) -> None:
        obs = tuple(episode.obs for episode in episodes)
        keys = [observation_key(one) for one in obs]
        if len(keys) == 2 and keys[0] == keys[1]:
            return  # nothing can be learned of what looks the same
        if keys != sorted(keys):  # the same two the other way round are the same label
            keys, obs, value = keys[::-1], obs[::-1], 1.0 - value
        key, version = "|".join(keys), max(episode.policy_version for episode in episodes)
        source, draw = asked
        if draw == "targeted":
            self._targeted.add(source)
        known = self._by_key.get(key)
        if known is None:
            self._by_key[key] = Labelled(key, obs, [value], weight, version, {source: {draw}})
            return
        known.draws.setdefault(source, set()).add(draw)
        known.values.append(value)
        known.weight = max(known.weight, weight)
        known.policy_version = max(known.policy_version, version)


def _check_draws(draws: Sequence[str], expected: int) -> None:
    """Raises ShapeError."""
    if draws and len(draws) != expected:
        raise ShapeError(f"labels: got {len(draws)} draws, {expected} values")
    if unknown := set(draws).difference(DRAWS):
        raise ShapeError(f"label: got draw {min(unknown)!r}, expected one of {', '.join(DRAWS)}")


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
    return mean_belief(final_logits(model, labels), model.temperature, model.offset)


def how_to_calibrate(config: RewardModelConfig, labels: Sequence[Labelled]) -> Calibrate:
    """An offset is for labels of one episode each: which of two comes first means nothing."""
    return "temperature" if len(labels[0].obs) == 2 else config.calibrate


def scale_over(model: RewardModel, labels: Sequence[Labelled]) -> Scale:
    """What the model's beliefs are over these labels' episodes."""
    obs = [each for one in labels for each in one.obs]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in obs])])
    belief = mean_belief(model.logits(np.concatenate(obs), offsets), model.temperature, model.offset)
    return scale_of(belief, belief[offsets[1:] - 1])
