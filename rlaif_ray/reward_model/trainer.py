"""Labels in, versions of a reward model out: add, fit when due, grade on held-out labels, publish or keep the old one.

A plain class, with no Ray and no clock of its own. Every fit starts from scratch: with the labels at hand it takes a
second or less, and what comes out then depends on the seed and the labels alone, not on the order in which they came,
on earlier fits or on a restart in between.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import CheckpointError, ShapeError
from rlaif_ray.reward_model.fitting import TrainingSet, fit_net
from rlaif_ray.reward_model.grading import Decision, Grade, decide, grade
from rlaif_ray.reward_model.losses import Confusion, class_weights, fit_temperature, mean_belief, scale_of
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.reward_model.packing import Bags
from rlaif_ray.types import Array, Episode, RewardModelReport, Scale, Units

__all__ = ["Published", "RewardModelTrainer", "is_held_out", "observation_key"]

FEWEST_HELD_OUT = 5  # labels; below that a share of right answers says nothing
FORMAT = 1


@dataclass(frozen=True)
class Published:
    """The outcome of one fit. ``report.gate_open`` says whether the version in service may count from now on."""

    state: dict[str, Any] | None  # ``RewardModel.state()`` of a new version; None: nothing new to load
    report: RewardModelReport  # of the version in service; of the refused candidate where there is none


@dataclass
class _Labelled:
    """One distinct episode, or two of which one is preferred; asked again, its verdicts are averaged, so that copies
    don't count as evidence."""

    key: str
    obs: tuple[Array, ...]  # of the one, or of both
    values: list[float]
    weight: float
    held_out: bool
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
    """Whether an episode's label is never trained on: set by its content, the same in every run and after a restart."""
    digest = hashlib.sha256(b"held out:" + key.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


class RewardModelTrainer:
    """Holds labelled episodes and the version in service.

    ``obs_shape`` is (H, W, C) or (D,); ``device`` is where nets are fitted.
    """

    def __init__(self, config: RewardModelConfig, obs_shape: Sequence[int], seed: int, device: str = "cpu") -> None:
        self.config, self.obs_shape, self.seed, self.device = config, tuple(obs_shape), seed, device
        self.served: RewardModel | None = None
        self._labels: dict[str, _Labelled] = {}
        self._considered = 0  # labels that the last fit knew
        self._version = 0
        RewardModel.create(config, self.obs_shape, seed)  # an impossible shape is an error now, not at the first fit

    def __len__(self) -> int:
        """Distinct labelled episodes."""
        return len(self._labels)

    def add(self, units: Sequence[Units], values: Sequence[float], weights: Sequence[float] | None = None) -> None:
        """Take verdicts' values in [0, 1] about whole episodes (1 is good), or about two of them (1: the first one is
        preferred). Raises ShapeError for anything else."""
        weights = [1.0] * len(values) if weights is None else weights
        self.check(units, values, weights)
        for unit, value, weight in zip(units, values, weights, strict=True):
            self._add(tuple(episode.obs for episode in _episodes(unit)), float(value), float(weight))

    def check(self, units: Sequence[Units], values: Sequence[float], weights: Sequence[float] | None = None) -> None:
        """Raises ShapeError for labels that ``add`` won't take."""
        weights = [1.0] * len(values) if weights is None else weights
        if not len(units) == len(values) == len(weights):
            raise ShapeError(f"labels: got {len(units)} episodes, {len(values)} values, {len(weights)} weights")
        for unit, value, weight in zip(units, values, weights, strict=True):
            if not 0.0 <= value <= 1.0 or not 0.0 < weight < math.inf:
                raise ShapeError(f"label: got value {value}, weight {weight}, expected within [0, 1] and above 0")
            if any(len(known.obs) != len(_episodes(unit)) for known in itertools.islice(self._labels.values(), 1)):
                raise ShapeError("label: got one about another number of episodes than those before, expected the same")
            for episode in _episodes(unit):
                if episode.obs.shape[1:] != self.obs_shape:
                    raise ShapeError(f"label: got observations {episode.obs.shape[1:]}, expected {self.obs_shape}")

    def due(self) -> bool:
        """Whether a fit would know enough new labels: `min_labels` for the first, then every `retrain_every`."""
        fresh = len(self) - self._considered
        return len(self) >= self.config.min_labels and (not self._considered or fresh >= self.config.retrain_every)

    def learn(self, units: Sequence[Units], values: Sequence[float]) -> list[Published]:
        """``add``, then one ``fit`` if that made it due."""
        self.add(units, values)
        return [self.fit()] if self.due() else []

    def fit(self) -> Published:
        """Fit on the labels at hand, grade on the held-out ones, and publish, refuse or keep the version in service."""
        started = time.perf_counter()
        self._considered = len(self)
        labels = [self._labels[key] for key in sorted(self._labels)]  # the order of arrival must not matter
        train, held = ([one for one in labels if one.held_out is side] for side in (False, True))
        why_not = _too_little(train, held)
        if why_not:
            decision = Decision(None, None, gate_open=False, reason=why_not)
            return Published(None, self._report(decision, len(train), math.nan, started))
        candidate, loss = self._fit_members(train)
        logit_KE, target_E = _final_logits(candidate, held), _targets(held)
        candidate.temperature = fit_temperature(logit_KE, target_E)
        decision = decide(
            candidate=grade(mean_belief(logit_KE, candidate.temperature), target_E),
            on_training=grade(_final_beliefs(candidate, train), _targets(train)),
            incumbent=None if self.served is None else grade(_final_beliefs(self.served, held), target_E),
            gate_accuracy=self.config.gate_accuracy,
        )
        if decision.publish:
            self._version += 1
            candidate.version, self.served = self._version, candidate
            candidate.scale = _scale(candidate, labels)
        report = self._report(decision, len(train), loss, started, candidate.temperature)
        return Published(candidate.state() if decision.publish else None, report)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides the labels, which the caller adds again after ``restore``."""
        return {
            "format": FORMAT,
            "version": self._version,
            "considered": self._considered,
            "served": None if self.served is None else self.served.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``. Raises CheckpointError for anything else or for another observation shape."""
        try:
            if state["format"] != FORMAT:
                raise CheckpointError(f"reward model trainer: got format {state['format']!r}, this one reads {FORMAT}")
            version, considered = int(state["version"]), int(state["considered"])
            served = None if state["served"] is None else RewardModel.from_state(state["served"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not a reward model trainer's state: {type(error).__name__}: {error}") from error
        if served is not None and served.obs_shape != self.obs_shape:
            raise CheckpointError(
                f"reward model: got one for observations {served.obs_shape}, expected {self.obs_shape}"
            )
        self._version, self._considered, self.served = version, considered, served

    def _add(self, obs: tuple[Array, ...], value: float, weight: float) -> None:
        keys = [observation_key(one) for one in obs]
        if len(keys) == 2 and keys[0] == keys[1]:
            return  # nothing can be learned of what looks the same
        if keys != sorted(keys):  # the same two the other way round are the same label
            keys, obs, value = keys[::-1], obs[::-1], 1.0 - value
        key = "|".join(keys)
        known = self._labels.get(key)
        if known is None:
            self._labels[key] = _Labelled(key, obs, [value], weight, is_held_out(key, self.config.holdout))
        else:
            known.values.append(value)
            known.weight = max(known.weight, weight)

    def _fit_members(self, train: Sequence[_Labelled]) -> tuple[RewardModel, float]:
        """An ensemble, each member on its own bootstrap sample (a single one on all labels), and the mean loss."""
        seeds = np.random.SeedSequence((self.seed, len(self))).generate_state(2)
        rng = np.random.default_rng(seeds[0])
        candidate = RewardModel.create(self.config, self.obs_shape, int(seeds[1]))
        observed = np.concatenate([obs for one in train for obs in one.obs])
        for one in train:
            one.digests = one.digests or tuple(candidate.members[0].digest(obs) for obs in one.obs)
        target, weight = _targets(train), np.array([one.weight for one in train])
        losses = []
        for net in candidate.members:
            net.normalise_by(observed)
            times = _bootstrap(rng, target) if self.config.ensemble > 1 else np.ones(len(train))
            kept = np.flatnonzero(times)
            data = TrainingSet.of(
                [train[int(i)].digests for i in kept],
                target[kept],
                class_weights(target[kept], (weight * times)[kept]),
            )
            losses.append(fit_net(net.to(self.device), data, self.config, int(rng.integers(2**31))))
            net.to("cpu")
        return candidate, float(np.mean(losses))

    def _report(
        self, decision: Decision, train_n: int, loss: float, started: float, temperature: float = math.nan
    ) -> RewardModelReport:
        """On the version in service where one stays or comes in; on the refused candidate else."""
        shown = decision.shown or Grade.none()
        extra = {**shown.extra(), "temperature": temperature}
        if decision.candidate is not None:
            extra["candidate_accuracy"] = decision.candidate.accuracy
        return RewardModelReport(
            version=self._version,
            gate_open=decision.gate_open,
            heldout_accuracy=shown.accuracy,
            heldout_n=shown.n,
            heldout_low=shown.low,
            balanced_accuracy=shown.balanced,
            train_n=train_n,
            loss=loss,
            fit_s=time.perf_counter() - started,
            reason=decision.reason,
            extra=extra,
        )


def _too_little(train: Sequence[_Labelled], held: Sequence[_Labelled]) -> str:
    """Why a fit would be for nothing; empty: it isn't."""
    if len(held) < FEWEST_HELD_OUT:
        return f"{len(held)} held-out labels, at least {FEWEST_HELD_OUT} are needed"
    target = _targets(train)
    table = Confusion.of(target, target)
    if not table.good or not table.bad:
        return f"labels to learn from: {table.good} good, {table.bad} bad; at least one of each is needed"
    return ""


def _bootstrap(rng: np.random.Generator, target: Array) -> Array:
    """How often each label is drawn, with replacement within each class: neither can go missing."""
    times = np.zeros(len(target))
    for members in (np.flatnonzero(target > 0.5), np.flatnonzero(target <= 0.5)):
        if len(members):
            times[members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)))
    return times


def _targets(labels: Sequence[_Labelled]) -> Array:
    return np.array([one.value for one in labels], np.float32)


def _final_logits(model: RewardModel, labels: Sequence[_Labelled]) -> Array:
    """(K, E) logits at the labelled episodes' ends; of two episodes the first's less the second's."""
    of_each = []
    for i in range(len(labels[0].obs)):
        offsets = np.concatenate([[0], np.cumsum([len(one.obs[i]) for one in labels])])
        logits = model.logits(np.concatenate([one.obs[i] for one in labels]), offsets)
        of_each.append(logits[:, offsets[1:] - 1])
    return of_each[0] if len(of_each) == 1 else of_each[0] - of_each[1]


def _scale(model: RewardModel, labels: Sequence[_Labelled]) -> Scale:
    """Of all labelled episodes, held-out ones too: nothing is learned from them here."""
    obs = [each for one in labels for each in one.obs]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in obs])])
    belief = mean_belief(model.logits(np.concatenate(obs), offsets), model.temperature)
    return scale_of(belief, belief[offsets[1:] - 1])


def _episodes(unit: Units) -> tuple[Episode, ...]:
    return (unit,) if isinstance(unit, Episode) else tuple(unit)


def _final_beliefs(model: RewardModel, labels: Sequence[_Labelled]) -> Array:
    return mean_belief(_final_logits(model, labels), model.temperature)
