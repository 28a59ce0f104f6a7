"""Fit the members of a reward model to labels: bootstrap samples, weights of classes, a judge's mistakes undone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.reward_model import losses
from rlaif_ray.reward_model.apart import apart
from rlaif_ray.reward_model.calibration import folds_of
from rlaif_ray.reward_model.fitting import TrainingSet, fit_net
from rlaif_ray.reward_model.labelled import Labelled, final_beliefs, targets
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.reward_model.nets import SequenceNet
from rlaif_ray.reward_model.noise import FlipRates, estimate_flips
from rlaif_ray.types import Array

__all__ = ["certain", "estimated_flips", "fit_members", "said_good", "training_set"]

VALIDATION_SHARE = 1 / 8  # of the labels to learn from
FEWEST_TO_VALIDATE = 10  # with fewer the training loss says when to stop
NOISE_FOLDS = 3  # each another fit, at two thirds of the labels


def fit_members(
    config: RewardModelConfig,
    train: Sequence[Labelled],
    seed: Sequence[int],
    *,
    device: str = "cpu",
    flips: FlipRates | None = None,
) -> tuple[RewardModel, float]:
    """An ensemble, each member on its own bootstrap sample (a single one on all labels), and the mean loss."""
    seeds = np.random.SeedSequence(tuple(seed)).generate_state(2)
    rng = np.random.default_rng(seeds[0])
    model = RewardModel.create(config, train[0].obs[0].shape[1:], int(seeds[1]))
    observed = np.concatenate([obs for one in train for obs in one.obs])
    learned, asked = _parts(config, train)
    validation = training_set(model.members[0], asked, flips=flips) if asked else None
    found = []
    for net in model.members:
        net.normalise_by(observed)
        times = _bootstrap(rng, targets(learned)) if config.ensemble > 1 else None
        data = training_set(net, learned, times, flips)
        found.append(fit_net(net.to(device), data, config, int(rng.integers(2**31)), validation))
        net.to("cpu")
    return model, float(np.mean(found))


def estimated_flips(
    config: RewardModelConfig, train: Sequence[Labelled], seed: Sequence[int], *, device: str = "cpu"
) -> FlipRates:
    """How often labels are flipped, from beliefs of nets that were fitted without them."""
    alone = config.model_copy(update={"ensemble": 1})
    target = targets(train)
    fold, belief = folds_of(target, NOISE_FOLDS), np.zeros(len(train), np.float32)
    for k in range(NOISE_FOLDS):
        inside = [one for one, f in zip(train, fold, strict=True) if f == k]
        others = [one for one, f in zip(train, fold, strict=True) if f != k]
        if inside and others:
            model, _ = fit_members(alone, others, (*seed, k), device=device)
            belief[fold == k] = final_beliefs(model, inside)
    return estimate_flips(belief, target, certain(train), symmetric=len(train[0].obs) == 2)


def training_set(
    net: SequenceNet, labels: Sequence[Labelled], times: Array | None = None, flips: FlipRates | None = None
) -> TrainingSet:
    """What ``fit_net`` takes, with classes weighing the same. ``times``: (E,) how often each label is in the sample,
    once where not given; ``flips``: rates of the judge's mistakes, as they are without weights."""
    for one in labels:
        one.digests = one.digests or tuple(net.digest(obs) for obs in one.obs)
    times = np.ones(len(labels)) if times is None else times
    kept = np.flatnonzero(times)
    target = targets(labels)[kept]
    weight = (np.array([one.weight for one in labels]) * times)[kept]
    under = None if flips is None else flips.under(losses.class_ratio(target, weight))
    sure = certain(labels)[kept]
    balanced = losses.class_weights(target, weight)
    return TrainingSet.of([labels[int(i)].digests for i in kept], target, balanced, under, None if sure.all() else sure)


def certain(labels: Sequence[Labelled]) -> Array:
    """(E,) bool: which labels claim certainty. Verdicts that do are so on average too: a share of them is flipped, and
    the loss is linear in the label."""
    return np.array([all(value in (0.0, 1.0) for value in one.values) for one in labels], bool)


def said_good(labels: Sequence[Labelled]) -> float:
    """Share called good among the labels that claim certainty; nan for none."""
    hard = targets(labels)[certain(labels)]
    return float(hard.mean()) if len(hard) else math.nan


def _parts(config: RewardModelConfig, train: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Labels to learn from, and those that say when to stop, none where there are too few of either class; of pairs no
    episode is in both."""
    if config.early_stop == "training":
        return list(train), []
    side = apart([one.key for one in train], "validation", [VALIDATION_SHARE] * len(train))
    learned, asked = ([one for one, s in zip(train, side, strict=True) if s is which] for which in (False, True))
    both = all(len({one.value > 0.5 for one in part}) == 2 for part in (learned, asked))
    return (learned, asked) if both and len(asked) >= FEWEST_TO_VALIDATE else (list(train), [])


def _bootstrap(rng: np.random.Generator, target: Array) -> Array:
    """How often each label is drawn, with replacement within each class: neither can go missing."""
    times = np.zeros(len(target))
    for members in (np.flatnonzero(target > 0.5), np.flatnonzero(target <= 0.5)):
        if len(members):
            times[members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)))
    return times
