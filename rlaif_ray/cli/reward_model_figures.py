"""A reward model's figures as one object, and as a table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlaif_ray.intervals import wilson_interval
from rlaif_ray.reward_model.calibration import reliability
from rlaif_ray.reward_model.examining import Examined, examine
from rlaif_ray.reward_model.grading import Grade, calibration_figures, grade
from rlaif_ray.reward_model.labelled import Labelled, final_beliefs, targets, versions
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.reward_model.periods import DRIFT_LEVEL, accuracies, period_length, periods_of
from rlaif_ray.types import PeriodAccuracy

__all__ = ["figures_of", "told"]


def figures_of(model: RewardModel, unseen: Sequence[Labelled], truth: Mapping[str, bool]) -> dict[str, Any]:
    """All figures of a model on labels that it did not learn from. ``truth``: observation key -> nothing bad happened;
    it is looked at here and by nobody else."""
    found = examine(model, unseen)
    return {
        "model": {
            "version": model.version, "net": model.config.net, "ensemble": model.config.ensemble,
            "temperature": model.temperature, "offset": model.offset, "learned_from": len(model.trained_on) or None,
        },
        "against_judge": _graded(found.pooled),
        "calibration": {
            "how": found.calibration.how, **_paired(calibration_figures(found.calibration)),
            "reliability": [
                {"belief": b.belief, "label": b.label, "n": b.n, "label_95": list(wilson_interval(b.label * b.n, b.n))}
                for b in reliability(found.calibration.belief, found.calibration.target)
            ],
        },
        "policy_versions": [_period(row) for row in found.periods],
        "on_policy": _on_policy(found.periods[-1]),
        "drift": {"p": found.drift_p, "alarm": found.drift_alarm, "level": DRIFT_LEVEL},
        "gate": _gate(model, found),
        "truth_audit_only": _audit(model, unseen, truth),
    }  # fmt: skip


def _graded(one: Grade) -> dict[str, Any]:
    shares = one.table.shares()
    return {
        "n": one.n, "accuracy": one.accuracy, "accuracy_95": list(one.interval),
        "balanced_accuracy": one.balanced, "balanced_accuracy_95": list(one.balanced_interval),
        "confusion": {cell: k for cell, (k, _) in shares.items()},
        "confusion_share": {cell: k / n if n else None for cell, (k, n) in shares.items()},  # of those of its row
        "confusion_share_95": {cell: list(wilson_interval(k, n)) for cell, (k, n) in shares.items()},
    }  # fmt: skip


def _paired(flat: Mapping[str, float]) -> dict[str, Any]:
    names = [name for name in flat if not name.endswith(("_low", "_high"))]
    both = {f"{name}_95": [flat[f"{name}_low"], flat[f"{name}_high"]] for name in names}
    return {name: flat[name] for name in names} | both


def _period(row: PeriodAccuracy) -> dict[str, Any]:
    return {
        "first": row.first, "last": row.last, "n": row.n, "good": row.good, "bad": row.bad,
        "right_good": row.good_right, "right_bad": row.bad_right, "accuracy": row.accuracy,
        "accuracy_95": list(wilson_interval(row.right, row.n)),
    }  # fmt: skip


def _on_policy(newest: PeriodAccuracy) -> dict[str, Any]:
    errors = newest.n - newest.right
    return {
        "measurable": newest.measurable,
        "accuracy": newest.accuracy if newest.measurable else None,
        "accuracy_95": list(wilson_interval(newest.right, newest.n)) if newest.measurable else None,
        "good": newest.good, "bad": newest.bad, "errors": errors,
        "error_share_95": list(wilson_interval(errors, newest.n)),
        "zero_error_bound": newest.zero_error_bound,
    }  # fmt: skip


def _gate(model: RewardModel, found: Examined) -> dict[str, Any]:
    return {
        "accuracy": found.exam.gated_by, "accuracy_95": list(found.exam.gated_interval),
        "needed": model.config.gate_accuracy, "n": found.exam.n, "on": found.exam.labels,
        "passed": found.exam.gated_by >= model.config.gate_accuracy,
    }  # fmt: skip


def _audit(model: RewardModel, labels: Sequence[Labelled], truth: Mapping[str, bool]) -> dict[str, Any] | None:
    """The model, and the judge that taught it, against what was the case; None where nobody can tell."""
    known = [one for one in labels if all(key in truth for key in one.key.split("|"))]
    if not known:
        return None
    case = np.array([_case(one, truth) for one in known], np.float32)
    belief, said = final_beliefs(model, known), targets(known)
    version = versions(known)
    period = periods_of(version, period_length(len(known)))
    return {
        "reward_model": _graded(grade(belief, case)),
        "judge": _graded(grade(said, case)),
        "policy_versions": [_period(row) for row in accuracies(belief, case, version, period)],
    }


def _case(one: Labelled, truth: Mapping[str, bool]) -> float:
    """1 good, 0 bad; of two, that the first is better (1/2: they are alike)."""
    good = [float(truth[key]) for key in one.key.split("|")]
    return good[0] if len(good) == 1 else 0.5 + (good[0] - good[1]) / 2


# ------------------------------------------------------------------------------------------ in words


def told(figures: Mapping[str, Any]) -> list[str]:
    """Lines for a terminal of 80 columns."""
    judge, calibration, gate = figures["against_judge"], figures["calibration"], figures["gate"]
    counts = figures["labels"]
    lines = [
        f"labels             {counts['distinct']:,} distinct of {counts['verdicts']:,} verdicts, "
        f"{counts['abstained']:,} abstentions; graded on {counts['graded']:,} never learned from",
        f"agrees with judge  {_share(judge['accuracy'], judge['accuracy_95'])}",
        f"balanced           {_share(judge['balanced_accuracy'], judge['balanced_accuracy_95'])}",
        f"gate               {'open' if gate['passed'] else 'shut'}: "
        f"{_share(gate['accuracy'], gate['accuracy_95'])} of {gate['n']} {gate['on']}",
        f"                   ({_percent(gate['needed'])} are needed)",
        f"Brier score        {_number(calibration['brier'], calibration['brier_95'])}",
        f"calibration error  {_number(calibration['calibration_error'], calibration['calibration_error_95'])}",
        f"                   ({calibration['how']})",
        "",
        *_confusion(judge, "the judge said"),
        "",
        *_versions(figures["policy_versions"], "held out: agreement with the judge"),
        _newest(figures["on_policy"]),
        _drift(figures["drift"]),
        "",
        *_reliability(calibration["reliability"]),
    ]
    return lines + _told_audit(figures["truth_audit_only"])


def _told_audit(audit: Mapping[str, Any] | None) -> list[str]:
    if audit is None:
        return ["", "truth (audit only): this world can't tell it from stored states, or which world it is isn't known"]
    model, judge = audit["reward_model"], audit["judge"]
    return [
        "",
        "truth (audit only): neither judge nor reward model has seen it",
        f"  reward model     balanced {_share(model['balanced_accuracy'], model['balanced_accuracy_95'])}",
        f"  judge            balanced {_share(judge['balanced_accuracy'], judge['balanced_accuracy_95'])}",
        *_confusion(model, "it was"),
        "",
        *_versions(audit["policy_versions"], "truth (audit only): agreement with what was the case"),
    ]


def _confusion(graded: Mapping[str, Any], who: str) -> list[str]:
    table = graded["confusion"]
    return [
        f"{who:18} {'RM: good':>10} {'RM: bad':>10}  right of these (95 %)",
        f"  good             {table['good_as_good']:10,} {table['good_as_bad']:10,}  {_recall(graded, 'good_as_good')}",
        f"  bad              {table['bad_as_good']:10,} {table['bad_as_bad']:10,}  {_recall(graded, 'bad_as_bad')}",
    ]


def _recall(graded: Mapping[str, Any], cell: str) -> str:
    share = graded["confusion_share"][cell]
    return "-" if share is None else _share(share, graded["confusion_share_95"][cell])


def _versions(rows: Sequence[Mapping[str, Any]], title: str) -> list[str]:
    lines = [title, f"{'policy versions':18} {'good':>6} {'bad':>6} {'right':>6}  accuracy (95 %)"]
    return lines + [
        f"{row['first']:>8} - {row['last']:<7} {row['good']:6} {row['bad']:6} {row['right_good'] + row['right_bad']:6}"
        f"  {_share(row['accuracy'], row['accuracy_95'])}"
        for row in rows
    ]


def _newest(newest: Mapping[str, Any]) -> str:
    if newest["measurable"]:
        return f"on-policy          {_share(newest['accuracy'], newest['accuracy_95'])}"
    known = f"{newest['good']} good and {newest['bad']} bad labels, 20 of each are needed"
    bound = newest["zero_error_bound"]
    free = f"no error, so at most {_percent(bound)} (rule of three)"
    low, high = map(_percent, newest["error_share_95"])
    errors = f"errors: {newest['errors']} ({low} to {high})" if math.isnan(bound) else free
    return f"on-policy          not measurable ({known}); {errors}"


def _drift(drift: Mapping[str, Any]) -> str:
    if math.isnan(drift["p"]):
        return "drift              not measurable (one period)"
    state = "ALARM: the newest period does worse" if drift["alarm"] else "none seen"
    return f"drift              {state} (p = {drift['p']:.3f}, alarm below {drift['level']:g})"


def _reliability(bins: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{'reliability':18} {'belief':>7} {'label':>7} {'n':>6}  label's 95 %"]
    return lines + [
        f"{'':18} {b['belief']:7.3f} {b['label']:7.3f} {b['n']:6}  {b['label_95'][0]:.3f} to {b['label_95'][1]:.3f}"
        for b in bins
    ]


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "-"


def _share(value: float, ends: Sequence[float]) -> str:
    if not math.isfinite(value):
        return "- (one class only)"
    return f"{value:.1%} ({ends[0]:.1%} to {ends[1]:.1%})"


def _number(value: float, ends: Sequence[float]) -> str:
    return f"{value:.4f} ({ends[0]:.4f} to {ends[1]:.4f})"
