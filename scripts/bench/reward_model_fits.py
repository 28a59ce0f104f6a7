#!/usr/bin/env python
"""Ways of fitting the reward model as labels come, compared on the same labels: refits against warm restarts, what ends
a fit, and the judge's mistakes undone or not.

    python scripts/bench/reward_model_fits.py [--seeds 8] [--stages 60 100 150 200 250] [--judges published misses-20]
                                              [--ways refit "refit, no cap on steps"] [--net event-max]
                                              [--out FILE.json]

Homegrid episodes between random and shortest-path play; labels from the truth with the errors of each judge
(approved though squashed, rejected though harmless). At each stage every way of fitting has the same labels to learn
from, a fifth held out; ``warm`` goes on from its own net of the stage before. Printed: balanced accuracy against the
truth on 1,000 episodes that nobody saw (mean over seeds, and the paired difference from ``refit`` with its standard
error) and processor seconds of a fit on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reward_model_speed import play
from this_machine import machine

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.reward_model import RewardModel
from rlaif_ray.reward_model.ensemble import estimated_flips, fit_members, training_set
from rlaif_ray.reward_model.fitting import fit_net
from rlaif_ray.reward_model.labelled import Labelled, Labels
from rlaif_ray.reward_model.losses import balanced_accuracy
from rlaif_ray.types import Array, EpisodeBatch

JUDGES = {"published": (0.03, 0.003), "misses-20": (0.2, 0.0), "coin-10": (0.1, 0.1)}
FRESH, FRESH_SEED = 1_000, 10_000
WARM_EPOCHS = 1 / 3  # of a refit's: that is what warm restarts are for

# (config, labels to learn from, seed, what it made at the stage before) -> model
Way = Callable[[RewardModelConfig, Sequence[Labelled], tuple[int, ...], RewardModel | None], RewardModel]


def refit(
    config: RewardModelConfig, train: Sequence[Labelled], seed: tuple[int, ...], _: RewardModel | None
) -> RewardModel:
    """From scratch: what the trainer does."""
    flips = estimated_flips(config, train, seed) if config.noise == "estimated" else None
    return fit_members(config, train, seed, flips=flips)[0]


def warm(share: float) -> Way:
    """Go on from the weights of the stage before, for a share of the passes."""

    def go_on(
        config: RewardModelConfig, train: Sequence[Labelled], seed: tuple[int, ...], before: RewardModel | None
    ) -> RewardModel:
        if before is None:
            return refit(config, train, seed, None)
        (net,) = before.members
        shorter = config.model_copy(update={"epochs": max(1, round(share * config.epochs))})
        fit_net(net, training_set(net, train), shorter, int(np.random.SeedSequence(seed).generate_state(1)[0]))
        return before

    return go_on


WAYS: dict[str, tuple[Way, dict[str, Any]]] = {
    "refit": (refit, {}),
    "refit, no cap on steps": (refit, {"updates": 0}),
    "warm, a third of the passes": (warm(WARM_EPOCHS), {}),
    "warm, all passes": (warm(1.0), {}),
    "refit, early stop on validation": (refit, {"early_stop": "validation"}),
    "refit, mistakes undone": (refit, {"noise": "estimated"}),
    "refit, both": (refit, {"noise": "estimated", "early_stop": "validation"}),
}


@dataclass(frozen=True)
class Measured:
    """One fit."""

    judge: str
    way: str
    labels: int
    seed: int
    balanced: float  # against the truth
    fit_s: float  # processor time


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--stages", type=int, nargs="+", default=[60, 100, 150, 200, 250])
    parser.add_argument("--judges", nargs="+", choices=sorted(JUDGES), default=["published", "misses-20"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="refit, and against it")
    parser.add_argument("--net", choices=["event-max", "cnn-lstm"], default="event-max")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ways = [name for name in WAYS if name == "refit" or name in options.ways]
    torch.set_num_threads(1)
    fresh, fresh_squashed = play(FRESH, FRESH_SEED)
    batch, truth = EpisodeBatch.pack(fresh), 1.0 - fresh_squashed
    found: list[Measured] = []
    for judge in options.judges:
        for seed in range(options.seeds):
            found += measure(judge, seed, sorted(options.stages), ways, options.net, (batch, truth))
        for stage in sorted(options.stages):
            print(f"\n{judge}, {stage} labels asked for, {options.net}, {options.seeds} seeds")
            print("\n".join(table([one for one in found if (one.judge, one.labels) == (judge, stage)])), flush=True)
    if options.out:
        said = {"machine": machine(), "net": options.net, "fits": [vars(one) for one in found]}
        options.out.write_text(json.dumps(said) + "\n")


def measure(
    judge: str, seed: int, stages: Sequence[int], ways: Sequence[str], net: str, fresh: tuple[EpisodeBatch, Array]
) -> list[Measured]:
    """Ways of fitting, stage by stage, on the same labels; graded on ``fresh`` episodes and what was the case."""
    (episodes, squashed), (batch, truth) = play(stages[-1], seed), fresh
    said = verdicts(squashed, judge, seed)
    before: dict[str, RewardModel] = {}
    found = []
    for stage in stages:
        labels = Labels(batch.obs.shape[1:], RewardModelConfig().holdout)
        labels.add(episodes[:stage], said[:stage].tolist())
        train = [one for one in labels.in_order() if one.held_out is False]
        for name in ways:
            way, differs = WAYS[name]
            config = RewardModelConfig(net=net, **differs)
            started = time.process_time()
            before[name] = way(config, train, (seed, len(labels)), before.get(name))
            fit_s = time.process_time() - started
            balanced = balanced_accuracy(before[name].score(batch).final, truth)
            found.append(Measured(judge, name, stage, seed, balanced, fit_s))
    return found


def verdicts(squashed: Array, judge: str, seed: int) -> Array:
    """(E,) approvals in {0, 1}."""
    u, (missed, alarmed) = np.random.default_rng([seed, 7]).random(len(squashed)), JUDGES[judge]
    return np.where(squashed, u < missed, u >= alarmed).astype(np.float64)


def table(fits: Sequence[Measured]) -> list[str]:
    """A line for each way: accuracy, paired difference from refits, processor time."""
    of = {
        name: np.array([one.balanced for one in fits if one.way == name]) for name in dict.fromkeys(f.way for f in fits)
    }
    lines = [f"{'way of fitting':32} {'balanced':>9} {'against refit':>18} {'fit, s':>7}"]
    for name, balanced in of.items():
        fit_s = np.median([one.fit_s for one in fits if one.way == name])
        apart = balanced - of["refit"]
        error = apart.std(ddof=1) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
        against = "" if name == "refit" else f"{100 * apart.mean():+.2f} +- {100 * error:.2f}"
        lines.append(f"{name:32} {balanced.mean():9.2%} {against:>18} {fit_s:7.2f}")
    return lines


if __name__ == "__main__":
    main()
