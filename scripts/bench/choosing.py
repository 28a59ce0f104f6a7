#!/usr/bin/env python
"""What choosing whom to ask about costs and gains: time beside the scoring that mixing needs anyway, how many
rejections are among the questions, and how exactly their answers tell the approval among all episodes.

    python scripts/bench/choosing.py [--episodes 800] [--approval 0.95] [--questions 20] [--draws 2000] [--seed 0]

Recorded Homegrid episodes of a mixed policy, of which so many are left out that the share asked for is approved, as
late in training; the reward model (an ensemble of three) has learned from 100 others. In place of a judge stands what
recorded states say, for this audit alone. ``error`` is the root of the mean squared error of the estimate over all
draws, ``covered`` how often its 95 % interval holds the truth, ``naive`` what the plain mean of the answers would say.
Prints a table, writes ``benchmarks/choosing.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mixed_play import episodes
from processes import show
from this_machine import machine

from rlaif_ray.config import FeedbackConfig, load_config
from rlaif_ray.envs.homegrid_world import STATE_COLUMNS
from rlaif_ray.feedback.estimate import estimated_mean
from rlaif_ray.feedback.select import choose
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer
from rlaif_ray.scoring import Remembering
from rlaif_ray.types import Array, Candidates, Episode, EpisodeBatch

TAUGHT = 100
ENSEMBLE = 3
ROUNDS = 5  # of what is timed; the median counts
SQUASHED = STATE_COLUMNS.index("squashed")
MODES = ("uniform", "newest", "uncertain", "disagreement", "stratified")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=800, help="that finish in one iteration")
    parser.add_argument("--approval", type=float, default=0.95, help="of them, share that a judge would approve of")
    parser.add_argument("--questions", type=int, default=20, help="of one iteration")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), **vars(options)}
    source = episodes(options.seed)
    model = taught(list(islice(source, TAUGHT)))
    played = late(source, options.episodes, options.approval)
    batch, verdict = EpisodeBatch.pack(played), np.array([approved(one) for one in played])
    found |= {"approval": float(verdict.mean()), "observations": len(batch.obs)}
    found |= timed(model, batch)
    candidates = candidates_of(model, batch)
    rng = np.random.default_rng(options.seed)
    for mode in MODES:
        found[mode] = drawn(rng, candidates, verdict, mode, options)
    show(found)
    out = Path("benchmarks") / "choosing.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {out}")
    return 0


def late(source: Iterator[Episode], number: int, approval: float) -> list[Episode]:
    """So many episodes, of which that share is approved."""
    room = {1.0: round(approval * number), 0.0: number - round(approval * number)}
    found = []
    while any(room.values()):
        one = next(source)
        if room[approved(one)]:
            room[approved(one)] -= 1
            found.append(one)
    np.random.default_rng(0).shuffle(found)  # type: ignore[arg-type]  # those that are rare were full first
    return found


def approved(episode: Episode) -> float:
    assert episode.states is not None
    return float(not episode.states[:, SQUASHED].any())


def taught(some: list[Episode]) -> RewardModel:
    config = load_config({}, {"reward_model.ensemble": ENSEMBLE, "reward_model.gate_accuracy": 0.0}).reward_model
    trainer = RewardModelTrainer(config, some[0].obs.shape[1:], seed=0)
    trainer.learn(some, [approved(one) for one in some])
    assert trainer.served is not None
    return trainer.served


def candidates_of(model: RewardModel, batch: EpisodeBatch) -> Candidates:
    """As if each had ended in a row of its own."""
    scores = model.score(batch)
    assert scores.spread is not None
    spread = scores.spread[batch.obs_offsets[1:] - 1]
    return Candidates(batch.policy_version, np.arange(len(batch)), batch.terminated, scores.final, spread)


def timed(model: RewardModel, batch: EpisodeBatch) -> dict[str, float]:
    """Milliseconds of scoring all finished episodes, of being told the same again, and of choosing."""

    def once(what: Callable[[], object]) -> float:
        began = time.perf_counter()
        what()
        return 1000 * (time.perf_counter() - began)

    remembering = Remembering(model)
    first, again = [], []
    for _ in range(ROUNDS):
        remembering.forget()
        first.append(once(lambda: remembering.score(batch)))
        again.append(once(lambda: remembering.score(batch)))
    return {"score_ms": float(np.median(first)), "score_again_ms": float(np.median(again))}


def drawn(
    rng: np.random.Generator, candidates: Candidates, verdict: Array, mode: str, options: argparse.Namespace
) -> dict[str, float]:
    feedback = FeedbackConfig.model_validate({"select": mode})
    truth, count = verdict.mean(), options.questions
    estimates, naive, covered, rejected, spent = [], [], 0, 0.0, 0.0
    for _ in range(options.draws):
        began = time.perf_counter()
        one = choose(rng, candidates, float(count), feedback)
        spent += time.perf_counter() - began
        value = verdict[one.index]
        estimate = estimated_mean(value, one.probability)
        estimates.append(estimate.mean)
        naive.append(value.mean())
        covered += estimate.low <= truth <= estimate.high
        rejected += float((1.0 - value).sum())
    return {
        "choose_ms": 1000 * spent / options.draws,
        "rejections_among_questions": rejected / (options.draws * count),
        "estimate": float(np.mean(estimates)),
        "error": float(np.sqrt(np.mean((np.array(estimates) - truth) ** 2))),
        "covered": covered / options.draws,
        "naive": float(np.mean(naive)),
    }


if __name__ == "__main__":
    raise SystemExit(main())
