"""The figures of ``local_judge.py``: how well log-odds tell harm from none, calibrations, and the reward model's gate.

z is the log-odds of "good" against "bad"; a judge that tells perfectly gives every harmless episode a higher z than
every harmful one: area under the curve 1. Chance is 0.5; below it, it tells the wrong way round.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer
from rlaif_ray.types import Array, Episode, EpisodeBatch, EpisodeTeller

__all__ = ["auc", "calibration_error", "platt", "study", "tables"]

RESAMPLES = 2_000
BINS = 10
FEW = 50  # labels that a calibration is fitted to
DRAWS = 20  # of those few
SEEDS = (0, 1, 2)  # of the reward model
STEEP = 100.0  # slope that makes a verdict of every difference: the hardest for a gate that is to stay shut
# Words for doing harm, and what it leaves. Whoever wrote this list had written the captions: it shows what a list can
# do that knows its world.
KEYWORDS = re.compile(
    r"\b(attack|blood|break|broke|bruis|burn|collid|collision|crash|crush|cruel|cut|damag|danger|dead|death|destroy|died?"
    r"|drives over|fell|harm|hit|hits|hurt|injur|kick|kill|mess|pain|punch|push|ran over|runs over|scar|smash|spill"
    r"|squash|stain|stuck|torn|victim|violen|wound)\w*",
    re.IGNORECASE,
)
Score = Callable[[Array], Array]


# ------------------------------------------------------------------------------------------ how well it tells


def auc(score: Array, harm: Array) -> float:
    """Probability that a harmless episode scores higher than a harmful one, ties half. (E,), (E,) bool."""
    good, bad = score[~harm], np.sort(score[harm])
    below, upto = np.searchsorted(bad, good, "left"), np.searchsorted(bad, good, "right")
    return float((below + upto).mean() / 2 / len(bad))


def with_interval(score: Array, harm: Array, seed: int = 0) -> dict[str, float]:
    """The area and its 95 % interval: percentiles over resamples of harmful and harmless episodes, each by itself."""
    rng = np.random.default_rng(seed)
    sides = np.flatnonzero(harm), np.flatnonzero(~harm)
    areas = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rng.choice(side, len(side)) for side in sides])
        areas.append(auc(score[drawn], harm[drawn]))
    low, high = np.percentile(areas, [2.5, 97.5])
    return {"auc": auc(score, harm), "low": float(low), "high": float(high)}


def keyword_score(captions: Sequence[str]) -> Array:
    """Less the number of bad words."""
    return np.array([-float(len(KEYWORDS.findall(caption))) for caption in captions])


# ------------------------------------------------------------------------------------------ calibration


def sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(z, float))))


def calibration_error(chance: Array, harm: Array) -> float:
    """Expected calibration error of P(good): over ten bins, the mean of |P - share of harmless|, by their number."""
    bins = np.minimum((chance * BINS).astype(int), BINS - 1)
    gaps = [abs(chance[bins == b].mean() - (~harm[bins == b]).mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


def platt(z: Array, harm: Array, *, shifted: bool = True) -> tuple[float, float]:
    """Slope and shift that make sigmoid(slope z + shift) the likeliest, with Platt's smoothed targets (1999).

    ``shifted`` False: the slope alone (a temperature).
    """
    good, bad = int((~harm).sum()), int(harm.sum())
    target = np.where(harm, 1.0 / (bad + 2.0), (good + 1.0) / (good + 2.0))
    centre, scale = (float(z.mean()), float(z.std()) or 1.0) if shifted else (0.0, 1.0)
    x = (z - centre) / scale

    def loss(of: Array) -> float:
        logit = of[0] * x + (of[1] if shifted else 0.0)
        return float((np.logaddexp(0.0, logit) - target * logit).mean())

    slope, shift = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x.tolist()
    return slope / scale, (shift - slope * centre / scale) if shifted else 0.0


def quality(chance: Array, harm: Array) -> dict[str, float]:
    said_good = chance >= 0.5
    by_side = [float((said_good != harm)[side].mean()) for side in (harm, ~harm)]
    return {
        "accuracy": float((said_good != harm).mean()),
        "balanced": float(np.mean(by_side)),
        "ece": calibration_error(chance, harm),
        "said_good": float(said_good.mean()),
    }


def calibrated(z: Array, harm: Array, content_free: float) -> dict[str, dict[str, float]]:
    """Each way of calibrating. Those that need labels are fitted to ``FEW`` and graded on the rest, over some draws."""
    found = {
        "none": quality(sigmoid(z), harm),
        "content-free": quality(sigmoid(z - content_free), harm),
        "median": quality(sigmoid(z - np.median(z)), harm),
    }
    for name, shifted in (("slope alone", False), ("Platt", True)):
        graded = []
        for draw in range(DRAWS):
            few = drawn_few(harm, draw)
            rest = np.setdiff1d(np.arange(len(z)), few)
            slope, shift = platt(z[few], harm[few], shifted=shifted)
            graded.append(quality(sigmoid(slope * z[rest] + shift), harm[rest]))
        found[name] = {key: float(np.mean([one[key] for one in graded])) for key in graded[0]}
    return found


def drawn_few(harm: Array, seed: int) -> Array:
    """(FEW,) indices, half of each side."""
    rng, each = np.random.default_rng(seed), min(FEW, len(harm) // 2) // 2
    return np.concatenate([rng.choice(np.flatnonzero(harm == side), each, replace=False) for side in (True, False)])


# ------------------------------------------------------------------------------------------ the gate


def gate(
    chance: Array, episodes: Sequence[Episode], harm: Array, fresh: tuple[Sequence[Episode], Array]
) -> dict[str, Any]:
    """The real reward model fitted to these probabilities, once for each seed; its gate, and how often it is right."""
    batch, fresh_harm = EpisodeBatch.pack(fresh[0]), fresh[1]
    reports, right = [], []
    for seed in SEEDS:
        trainer = RewardModelTrainer(RewardModelConfig(), episodes[0].obs.shape[1:], seed)
        published = (trainer.add(episodes, np.clip(chance, 0.0, 1.0).tolist()), trainer.fit())[1]
        reports.append(published.report)
        if published.state is not None:
            believed = RewardModel.from_state(published.state).score(batch).final > 0.5
            right.append(float((believed != fresh_harm).mean()))
    last = reports[0]
    return {
        "open": sum(report.gate_open for report in reports),
        "of": len(reports),
        "balanced": [round(report.balanced_accuracy, 4) for report in reports],
        "heldout_n": last.heldout_n,
        "said_good": float((chance > 0.5).mean()),
        "judge_right": float(((chance > 0.5) != harm).mean()),
        "reward_model_right": right,
        "reason": last.reason,
    }


# ------------------------------------------------------------------------------------------ all of it


def study(
    said: Mapping[str, Any],
    episodes: Sequence[Episode],
    harm: Array,
    fresh: tuple[Sequence[Episode], Array],
    renderer: EpisodeTeller,
) -> dict[str, Any]:
    """Every figure, from what was told of each episode in each wording (``local_judge.ask``)."""
    torch.set_num_threads(1)
    free = said["content_free"]
    result: dict[str, Any] = {"content_free": free, "content_free_other": said["content_free_other"]}
    result["wordings"], result["calibration"], result["gate"] = {}, {}, {}
    for wording, told in said["prompt"].items():
        kept = np.array([one is not None for one in told])
        some = [episodes[i] for i in np.flatnonzero(kept)]
        hurt = harm[: len(told)][kept]
        z_by = {order: log_odds(told, order) for order in ("first", "swapped")}
        both = (z_by["first"] + z_by["swapped"]) / 2
        captions = [renderer.caption(one.states, wording) for one in some if one.states is not None]
        result["wordings"][wording] = {
            "episodes": len(some), "abstained": int((~kept).sum()), "captions": len(set(captions)),
            "z_mean": float(both.mean()), "z_sd": float(both.std()),
            "z_gap": float((z_by["first"] - z_by["swapped"]).mean()),
            "bounded": sum(bool(one["bounded"]) for one in told if one),
            "first": with_interval(z_by["first"], hurt), "swapped": with_interval(z_by["swapped"], hurt),
            "both": with_interval(both, hurt), "keywords": with_interval(keyword_score(captions), hurt),
        }  # fmt: skip
        mean_free = (free["first"] + free["swapped"]) / 2
        result["calibration"][wording] = {
            "one order": calibrated(z_by["first"], hurt, free["first"]),
            "both orders": calibrated(both, hurt, mean_free),
        }
        few = drawn_few(hurt, 0)
        slope, shift = platt(both[few], hurt[few])
        chances = {
            "none": sigmoid(both), "content-free": sigmoid(both - mean_free),
            "median": sigmoid(both - np.median(both)), "Platt": sigmoid(slope * both + shift),
            "median, steep": sigmoid(STEEP * (both - np.median(both))),
        }  # fmt: skip
        result["gate"][wording] = {name: gate(chance, some, hurt, fresh) for name, chance in chances.items()}
        result["gate"][wording]["Platt"] |= {"slope": slope, "shift": shift}
    result["other_beginning"] = {w: other_row(told, harm) for w, told in said["other"].items()}
    return result


def log_odds(told: Sequence[Mapping[str, Any] | None], order: str) -> Array:
    return np.array([one["log_odds"][order] for one in told if one is not None])


def other_row(told: Sequence[Mapping[str, Any] | None], harm: Array) -> dict[str, Any]:
    kept = np.array([one is not None for one in told])
    z = {order: log_odds(told, order) for order in ("first", "swapped")}
    scores = z | {"both": (z["first"] + z["swapped"]) / 2}
    return {order: with_interval(score, harm[: len(told)][kept]) for order, score in scores.items()}


def tables(result: Mapping[str, Any]) -> str:
    """The tables of the page, in Markdown."""
    lines = ["| wording | one order | other order | both | keywords | z, mean and sd |", "|---|---|---|---|---|---|"]
    for wording, row in result["wordings"].items():
        areas = " | ".join(_area(row[name]) for name in ("first", "swapped", "both", "keywords"))
        lines.append(f"| {wording} | {areas} | {row['z_mean']:+.2f}, {row['z_sd']:.2f} |")
    lines += [
        "",
        "| wording | calibration | one order: balanced, ECE | both orders: balanced, ECE |",
        "|---|---|---|---|",
    ]
    for wording, by_orders in result["calibration"].items():
        if wording.endswith("-sock"):
            continue
        for name in by_orders["both orders"]:
            cells = [by_orders[o][name] for o in ("one order", "both orders")]
            shown = " | ".join(f"{100 * one['balanced']:.1f} %, {one['ece']:.3f}" for one in cells)
            lines.append(f"| {wording} | {name} | {shown} |")
    lines += [
        "",
        "| wording | calibration | judged good | gate | held-out balanced accuracy | right about fresh episodes |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for wording, by_name in result["gate"].items():
        for name, one in by_name.items():
            state = f"open {one['open']} of {one['of']}"
            right = ", ".join(f"{100 * share:.1f} %" for share in one["reward_model_right"]) or "-"
            accuracy = ", ".join("-" if math.isnan(b) else f"{100 * b:.1f} %" for b in one["balanced"])
            lines.append(f"| {wording} | {name} | {100 * one['said_good']:.0f} % | {state} | {accuracy} | {right} |")
    lines += ["", "| wording | one order | other order | both |", "|---|---|---|---|"]
    for wording, row in result["other_beginning"].items():
        lines.append(f"| {wording} | {' | '.join(_area(row[name]) for name in ('first', 'swapped', 'both'))} |")
    return "\n".join(lines)


def _area(one: Mapping[str, float]) -> str:
    return f"{one['auc']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
