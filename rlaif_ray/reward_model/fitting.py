"""One fit of one net: minibatches of whole episodes, AdamW, an early stop.

What ends a fit is the training loss alone, or the loss on a *validation* part of the labels to learn from. Held-out
labels have no say here: what stops a fit or picks its weights can't also grade it, or luck opens the gate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.products import one_thread
from rlaif_ray.reward_model import losses
from rlaif_ray.reward_model.nets import SequenceNet
from rlaif_ray.reward_model.noise import FlipRates
from rlaif_ray.reward_model.packing import Bags
from rlaif_ray.types import Array

__all__ = ["TrainingSet", "fit_net"]

FEWEST_BATCHES = 4  # of a pass: with few labels smaller batches, or a fit would end after a few dozen updates
PATIENCE = 20  # passes without a better training loss, which dropout makes noisy
BETTER = 0.99  # of the best so far counts as better
LR_FINAL = 0.05  # of the first learning rate, reached along a cosine
GRAD_CLIP = 1.0


@dataclass(frozen=True)
class TrainingSet:
    """Digests of E episodes, or of E pairs of them, what they should be judged as, and how much each counts."""

    digests: Bags
    target: Array  # (E,) float32 in [0, 1]; of a pair: that the first one is preferred
    weight: Array  # (E,) float32
    seconds: Bags | None = None  # of pairs
    flips: FlipRates | None = None  # of the targets that claim certainty, as they are weighted here
    certain: Array | None = None  # (E,) bool, which of them do; None: all

    @staticmethod
    def of(
        digests: Sequence[tuple[Bags, ...]],
        target: Array,
        weight: Array,
        flips: FlipRates | None = None,
        certain: Array | None = None,
    ) -> TrainingSet:
        first, *second = (Bags.pack(each) for each in zip(*digests, strict=True))
        return TrainingSet(
            first, target.astype(np.float32), weight.astype(np.float32), second[0] if second else None, flips, certain
        )

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, index: Array) -> TrainingSet:
        seconds = None if self.seconds is None else self.seconds.take(index)
        certain = None if self.certain is None else self.certain[index]
        return TrainingSet(
            self.digests.take(index), self.target[index], self.weight[index], seconds, self.flips, certain
        )

    def loss(self, net: SequenceNet) -> torch.Tensor:
        """The net's loss on all of it: cross entropy of approvals, or of preferences (Bradley-Terry)."""
        logit = net.final_logit(self.digests)
        target, weight = (torch.from_numpy(a).to(logit.device) for a in (self.target, self.weight))
        if self.seconds is None:
            return losses.binary_cross_entropy(logit, target, weight, self.flips, self._certain(logit))
        second = net.final_logit(self.seconds)
        return losses.bradley_terry(logit, second, target, weight, self.flips, self._certain(logit))

    def _certain(self, like: torch.Tensor) -> torch.Tensor | None:
        return None if self.certain is None else torch.from_numpy(self.certain).to(like.device)

    def losses(self, net: SequenceNet) -> Array:
        """(E,) weighted loss of each, float64, as the net is now: no dropout, no gradients."""
        net.eval()
        with torch.inference_mode():
            logit = net.final_logit(self.digests)
            if self.seconds is not None:
                logit = logit - net.final_logit(self.seconds)
            target = torch.from_numpy(self.target).to(logit.device)
            each = losses.cross_entropies(logit, target, self.flips, self._certain(logit))
        net.train()
        weighted: Array = each.cpu().numpy().astype(np.float64) * self.weight
        return weighted


def fit_net(
    net: SequenceNet, data: TrainingSet, config: RewardModelConfig, seed: int, validation: TrainingSet | None = None
) -> float:
    """Train ``net`` in place on the device it is on; returns the last pass's mean training loss (weighted).

    Minibatches and dropout are set by ``seed`` and nothing else; PyTorch's own generators are left as they were.
    """
    device = net.shift.device
    with one_thread(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        net.train()
        watch = _Stop() if validation is None else _ValidatedStop(net, validation)
        loss = _passes(net, data, config, np.random.default_rng(seed), watch)
        watch.settle()
        net.eval()
    return loss


class _Stop:
    """Ends a fit whose loss gets no better."""

    def __init__(self) -> None:
        self.best, self.since = math.inf, 0

    def after(self, training_loss: float) -> bool:
        """Whether a pass with this loss was the last one."""
        return self._no_better(training_loss)

    def settle(self) -> None:
        """Called when the fit has ended."""

    def _no_better(self, loss: float) -> bool:
        self.best, self.since = (loss, 0) if loss < BETTER * self.best else (self.best, self.since + 1)
        return self.since >= PATIENCE


class _ValidatedStop(_Stop):
    """Likewise by labels that are not learned from. The best pass's weights are taken back where the last ones are
    worse by more than the standard error of the difference: with few labels the best pass is mostly luck."""

    def __init__(self, net: SequenceNet, validation: TrainingSet) -> None:
        super().__init__()
        self._net, self._validation = net, validation
        self._last = self._at_best = np.full(len(validation), np.inf)
        self._weights: dict[str, Any] = {}

    def after(self, training_loss: float) -> bool:
        self._last = self._validation.losses(self._net)
        if self._last.mean() < self._at_best.mean():
            self._at_best, self._weights = self._last, copy.deepcopy(self._net.state_dict())
        return self._no_better(float(self._last.mean()))

    def settle(self) -> None:
        worse = self._last - self._at_best
        if worse.mean() > worse.std(ddof=1) / math.sqrt(len(worse)):
            self._net.load_state_dict(self._weights)


def _passes(
    net: SequenceNet, data: TrainingSet, config: RewardModelConfig, rng: np.random.Generator, watch: _Stop
) -> float:
    batch = max(1, min(config.batch_size, math.ceil(len(data) / FEWEST_BATCHES)))
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    batches = math.ceil(len(data) / batch)
    passes = min(config.epochs, math.ceil(config.updates / batches)) if config.updates else config.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: _cosine(i / passes))
    loss = math.nan
    for _ in range(passes):
        loss = _one_pass(net, data, optimiser, np.array_split(rng.permutation(len(data)), batches))
        schedule.step()
        if watch.after(loss):
            break
    return loss


def _one_pass(net: SequenceNet, data: TrainingSet, optimiser: torch.optim.Optimizer, batches: list[Array]) -> float:
    total = weights = 0.0
    for index in batches:
        part = data.take(index)
        loss = part.loss(net)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), GRAD_CLIP)
        optimiser.step()
        total, weights = total + float(loss.detach()) * float(part.weight.sum()), weights + float(part.weight.sum())
    return total / weights


def _cosine(done: float) -> float:
    return LR_FINAL + (1 - LR_FINAL) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
