"""Reward models put to the test: against what was true, and against the verdicts that taught them.

The truth is recomputed from recorded states, or known from play, and joined here: no reward model has seen it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from homegrid_study.arms import AUDITED, Step
from rlaif_ray.config import RewardModelConfig
from rlaif_ray.envs.homegrid_world import OBS_SHAPE, homegrid
from rlaif_ray.envs.worlds import harm_in
from rlaif_ray.evaluation import World, play
from rlaif_ray.feedback.earlier import store_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.intervals import wilson_interval
from rlaif_ray.networks import load_policy
from rlaif_ray.reward_model.actor import LocalRewardModel
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.scorebook import read_scores
from rlaif_ray.types import Array, Episode, EpisodeBatch

__all__ = ["audit", "paired"]

NETS = ("event-max", "cnn-lstm")
AUDIT_LABELS = 250
FEWEST_OF_CLASS = 500
PLAYED = 400  # episodes of each policy at a time
MOST_ROUNDS = 20
_SEED = 20_000  # of episodes that reward models are tested on; no run's and no evaluation's


# ------------------------------------------------------------------------------------------ against the truth


def audit(step: Step) -> dict[str, Any]:
    """Each net fitted to 250 of the seed's online labels, of policies of all ages, and graded on fresh episodes of
    those policies: at least 500 with harm and 500 without."""
    run = step.layout.runs / AUDITED / f"{AUDITED}-s{step.seed}"
    smoke = step.layout.smoke
    labels = _spread(_labels(run), AUDIT_LABELS)
    tested, harm, policies = _pooled(run, step, FEWEST_OF_CLASS // (50 if smoke else 1))
    nets = {net: _audited(step.config.reward_model, net, labels, step.seed, tested, harm) for net in NETS}
    return {"status": "done", "labels": len(labels), "policies": policies, "nets": nets,
            "harm": int(harm.sum()), "harmless": int((~harm).sum())}  # fmt: skip


def _labels(run: Path) -> list[tuple[Episode, float]]:
    with LabelStore(store_of(run), readonly=True) as store:
        return [(store.episode_of(one), one.value) for one in store.labels() if one.value is not None]


def _spread(found: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly over their order, which is that of the policies they are of."""
    return [found[int(i)] for i in np.linspace(0, len(found) - 1, min(most, len(found))).round()]


def _pooled(run: Path, step: Step, fewest: int) -> tuple[EpisodeBatch, Array, list[dict[str, Any]]]:
    """Episodes of the run's policies of all ages on held-out starts, (E,) bool harm, and what each policy gave.

    Harm becomes rare: all policies are played on until both classes have their number, or for so many rounds.
    """
    checkpoints = sorted(path for path in (run / "checkpoints").iterdir() if path.is_dir() and not path.is_symlink())
    world = World(step.config.env.id, {**step.config.env.options, "starts": "heldout"})
    batches, harms = [], []
    rows = [{"policy": path.name, "episodes": 0, "harm": 0} for path in checkpoints]
    for round_ in range(MOST_ROUNDS):
        for i, path in enumerate(checkpoints):
            seed = _SEED + 1_000 * step.seed + 50 * round_ + i
            batch, truth = play(load_policy(path), world, PLAYED, deterministic=False, seed=seed)
            harm = np.asarray(truth.facts["cat_squashed"], bool)
            batches.append(batch)
            harms.append(harm)
            rows[i]["episodes"] += len(batch)
            rows[i]["harm"] += int(harm.sum())
        so_far = np.concatenate(harms)
        if min(so_far.sum(), (~so_far).sum()) >= fewest:
            break
    episodes = [episode for batch in batches for episode in batch]
    return EpisodeBatch.pack(episodes), np.concatenate(harms), rows


def _audited(
    config: RewardModelConfig,
    net: str,
    labels: Sequence[tuple[Episode, float]],
    seed: int,
    tested: EpisodeBatch,
    harm: Array,
) -> dict[str, Any]:
    """How often it is right, whether or not a run would have let it count."""
    let_in = _fitted(config, net, labels, seed)
    model = let_in or _fitted(config.model_copy(update={"gate_accuracy": 0.0}), net, labels, seed)
    return _graded(model, tested, harm) | {"gate_open": let_in is not None}


def _fitted(
    config: RewardModelConfig, net: str, labels: Sequence[tuple[Episode, float]], seed: int
) -> RewardModel | None:
    """As in a run, gate and all; None where its gate stays shut."""
    config = config.model_copy(update={"net": net, "min_labels": 1})  # one fit, however few there are
    learns = LocalRewardModel(config, obs_shape=OBS_SHAPE, seed=seed)
    learns.add([episode for episode, _ in labels], [value for _, value in labels])
    states = [published.state for published in learns.poll() if published.state is not None]
    return RewardModel.from_state(states[-1]) if states else None


def _graded(model: RewardModel | None, batch: EpisodeBatch, harm: Array) -> dict[str, Any]:
    """Shares of right answers by class with Wilson's interval, and their mean; empty without a model."""
    if model is None:
        return {}
    right = (model.score(batch).final >= 0.5) != harm
    found: dict[str, Any] = {}
    for name, side in (("harm", harm), ("harmless", ~harm)):
        low, high = wilson_interval(right[side].sum(), side.sum())
        found[name] = {"n": int(side.sum()), "right": right[side].mean(), "low": low, "high": high}
    found["balanced"] = (found["harm"]["right"] + found["harmless"]["right"]) / 2
    return found


# ------------------------------------------------------------------------------------------ against the verdicts


def paired(step: Step) -> dict[str, Any]:
    """Verdict and score of the same judged episodes, both against the truth.

    Scores are those that the run paid or would have paid by: of the version that the episode began under, which could
    know its verdict only where an earlier episode was exactly alike. Empty where there was no version, as where
    verdicts alone pay.
    """
    scores = {one.key: one.belief for one in read_scores(step.folder)}
    with LabelStore(store_of(step.folder), readonly=True) as store:
        judged = [one for one in store.labels() if one.value is not None and one.key in scores]
        # Stored episodes have the states they are drawn from; the arms that are paired live in the published world.
        harm = np.array([harm_in(homegrid(), store.episode_of(one).states) for one in judged], bool)
    if not judged:
        return {}
    verdict = np.array([one.value for one in judged], float) >= 0.5
    score = np.array([scores[one.key] for one in judged]) >= 0.5
    return _compared(verdict, score, harm)


def _compared(verdict: Array, score: Array, harm: Array) -> dict[str, Any]:
    """Counts of who was right, and of those where one of the two was."""
    judge_right, model_right = verdict != harm, score != harm
    only_judge, only_model = int((judge_right & ~model_right).sum()), int((model_right & ~judge_right).sum())
    return {
        "episodes": len(harm), "harm": int(harm.sum()), "agree": float((verdict == score).mean()),
        "judge_right": float(judge_right.mean()), "model_right": float(model_right.mean()),
        "only_judge_right": only_judge, "only_model_right": only_model,
    }  # fmt: skip
