"""A sweep's figures as tables: one row a trial, one row an arm; CSV and Parquet; and the best config as a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rlaif_ray.config import Config, dump_config
from rlaif_ray.config.sweeping import OF_APPROVALS
from rlaif_ray.report.figures import number
from rlaif_ray.report.sweep import Arm, SweepRecord, Trial
from rlaif_ray.report.sweep_stats import stratified_iqm

__all__ = ["arm_rows", "best_arm", "trial_rows", "write_best", "write_tables"]

BEST = "best.yaml"


def trial_rows(record: SweepRecord) -> list[dict[str, Any]]:
    """One flat row a trial, also of those that were not run."""
    return [_trial_row(record, trial) for trial in record.trials]


def _trial_row(record: SweepRecord, trial: Trial) -> dict[str, Any]:
    summary = trial.summary
    row: dict[str, Any] = {
        "trial": trial.name, "arm": trial.arm, "seed": trial.seed, "state": trial.state, "smoke": record.place.smoke,
        "steps": number(summary, "steps"), "wall_s": number(summary, "wall_s"),
        "stand_alone_usd": trial.cost("usd"), "stand_alone_labels": trial.cost("labels"),
        "cash_usd": number(summary, "spend_usd"),
        "cash_labels": number(summary, "labels"), "replayed": number(summary, "replayed"),
        "abstained": number(summary, "abstained"),
    }  # fmt: skip
    for starts, outcome in (summary.get("evaluation") or {}).items() if trial.ended else ():
        for name in (*record.outcome_names, "mean_length", "task_return"):
            row[f"{starts}/{name}"] = number(outcome, name)
    row |= {
        f"share_{source}": trial.share(source) for source in ("direct", "distilled", "abstained", "task", "dropped")
    }
    row |= {
        "staleness_iterations": trial.mean_of("mix/staleness"),
        "deferred_iterations": trial.mean_of("mix/deferred_iterations"),
        "dropped_steps": _total(trial, "mix/dropped_steps"),
        "turned_away": _total(trial, "feedback/turned_away"),
        "rm_heldout_accuracy": number(summary.get("reward_model") or {}, "heldout_accuracy"),
        "metric": trial.last_of(record.place.study.metric),
    }
    return row | {f"set/{key}": _plain(value) for key, value in trial.point.items()}


def arm_rows(record: SweepRecord) -> list[dict[str, Any]]:
    """One flat row an arm: interquartile means with their intervals, mean costs, and what it really learned from."""
    rows = []
    for arm in record.arms:
        row: dict[str, Any] = {"arm": arm.name, "planned": len(arm.trials), "ended": len(arm.ended), "run": arm.run}
        for name in record.outcome_names:
            found = stratified_iqm([arm.outcomes(name)])
            row |= {f"{name}_pct": found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        for unit in ("usd", "labels"):
            row[f"stand_alone_{unit}"] = arm.mean(list(arm.costs(unit)))
        row["cash_usd"] = arm.mean([number(trial.summary, "spend_usd") for trial in arm.ended])
        for source in ("direct", "distilled", "dropped"):
            row[f"{source}_pct"] = arm.mean([100 * trial.share(source) for trial in arm.ended])
        row["direct_of_paid_pct"] = arm.mean([_direct_of_paid(trial) for trial in arm.ended])
        row["staleness_iterations"] = arm.mean([trial.mean_of("mix/staleness") for trial in arm.ended])
        row["dropped_steps"] = arm.mean([_total(trial, "mix/dropped_steps") for trial in arm.ended])
        row["turned_away"] = arm.mean([_total(trial, "feedback/turned_away") for trial in arm.ended])
        row["metric"] = arm.mean([trial.last_of(record.place.study.metric) for trial in arm.ended])
        rows.append(row | {f"set/{key}": _plain(value) for key, value in arm.point.items()})
    return rows


def _direct_of_paid(trial: Trial) -> float:
    """Of the episodes that feedback paid for, those paid by a verdict itself, in percent."""
    paid = trial.share("direct") + trial.share("distilled")
    return 100 * trial.share("direct") / paid if paid > 0 else math.nan


def _total(trial: Trial, key: str) -> float:
    return float(np.nansum(trial.record.column(key))) if trial.record is not None and trial.record.rows else math.nan


def best_arm(record: SweepRecord) -> Arm | None:
    """By the study's metric, which knows no truth: the mean over the seeds that ended. None: nothing to go by."""
    metric = record.place.study.metric
    verdicts_needed = metric in OF_APPROVALS
    scored: list[tuple[float, Arm]] = []
    for arm in record.arms:
        judged = [t for t in arm.ended if not verdicts_needed or t.last_of("audit/verdicts") > 0]
        score = arm.mean([trial.last_of(metric) for trial in judged])
        if judged and math.isfinite(score):
            scored.append((score, arm))
    return max(scored, key=lambda one: one[0])[1] if scored else None


def write_best(record: SweepRecord) -> Path | None:
    """``best.yaml``: the best arm's config, ready for ``train``, with a store and a budget of its own."""
    best = best_arm(record)
    config = next((t.record.config for t in best.ended if t.record and t.record.config), None) if best else None
    if best is None or config is None:
        return None
    path = record.place.folder / BEST
    name = record.place.folder.name
    said = f"# The best arm of the sweep {name}, by {record.place.study.metric}: {best.name}\n"
    path.write_text(said + dump_config(_alone(config, record.place.base, f"{name}-best"[:100])))
    return path


def _alone(config: Config, base: Config, name: str) -> Config:
    """A trial's config as a single run's: what was its share is its whole, and it has the machine to itself."""
    threads = {"learner_threads": base.resources.learner_threads}
    budget = config.budget
    own = {"usd": budget.run_usd, "labels": budget.run_labels, "tokens": budget.run_tokens}
    own |= {"run_usd": None, "run_labels": None, "run_tokens": None}
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"name": name, "dir": "runs"}),
            "budget": budget.model_copy(update=own),
            "feedback": config.feedback.model_copy(update={"store": ""}),
            "resources": config.resources.model_copy(update=threads),
        }
    )


def write_tables(record: SweepRecord) -> list[Path]:
    """``trials`` and ``arms`` as CSV and Parquet in the sweep's folder."""
    import pandas as pd

    written = []
    for name, rows in (("trials", trial_rows(record)), ("arms", arm_rows(record))):
        table = pd.DataFrame(rows)
        for key in [column for column in table.columns if column.startswith("set/")]:
            if table[key].map(type).nunique() > 1:  # one column, one type
                table[key] = table[key].map(lambda value: None if _absent(value) else str(value))
        csv, parquet = record.place.folder / f"{name}.csv", record.place.folder / f"{name}.parquet"
        table.to_csv(csv, index=False)
        table.to_parquet(parquet, index=False)
        written += [csv, parquet]
    return written


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
