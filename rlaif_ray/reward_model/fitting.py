"""One fit of one net: minibatches of whole episodes, AdamW, an early stop on the training loss alone.

Held-out labels have no say here: what stops a fit or picks its weights can't also grade it, or luck opens the gate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.reward_model import losses
from rlaif_ray.reward_model.nets import SequenceNet, one_thread
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

    @staticmethod
    def of(digests: Sequence[tuple[Bags, ...]], target: Array, weight: Array) -> TrainingSet:
        first, *second = (Bags.pack(each) for each in zip(*digests, strict=True))
        return TrainingSet(first, target.astype(np.float32), weight.astype(np.float32), *second)

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, index: Array) -> TrainingSet:
        seconds = None if self.seconds is None else self.seconds.take(index)
        return TrainingSet(self.digests.take(index), self.target[index], self.weight[index], seconds)

    def loss(self, net: SequenceNet) -> torch.Tensor:
        """The net's loss on all of it: cross entropy of approvals, or of preferences (Bradley-Terry)."""
        logit = net.final_logit(self.digests)
        target, weight = (torch.from_numpy(a).to(logit.device) for a in (self.target, self.weight))
        if self.seconds is None:
            return losses.binary_cross_entropy(logit, target, weight)
        return losses.bradley_terry(logit, net.final_logit(self.seconds), target, weight)


def fit_net(net: SequenceNet, data: TrainingSet, config: RewardModelConfig, seed: int) -> float:
    """Train ``net`` in place on the device it is on; returns the last pass's mean training loss (weighted).

    Minibatches and dropout are set by ``seed`` and nothing else; PyTorch's own generators are left as they were.
    """
    device = net.shift.device
    with one_thread(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        net.train()
        loss = _passes(net, data, config, np.random.default_rng(seed))
        net.eval()
    return loss


def _passes(net: SequenceNet, data: TrainingSet, config: RewardModelConfig, rng: np.random.Generator) -> float:
    batch = max(1, min(config.batch_size, math.ceil(len(data) / FEWEST_BATCHES)))
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: _cosine(i / config.epochs))
    best, since, loss = math.inf, 0, math.nan
    for _ in range(config.epochs):
        loss = _one_pass(net, data, optimiser, np.array_split(rng.permutation(len(data)), math.ceil(len(data) / batch)))
        schedule.step()
        best, since = (loss, 0) if loss < BETTER * best else (best, since + 1)
        if since >= PATIENCE:
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
