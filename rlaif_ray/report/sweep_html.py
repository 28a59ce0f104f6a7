"""``write_sweep_report(folder)``: one self-contained HTML file, its tables beside it, and the best config as a file."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlaif_ray.config import dump_config
from rlaif_ray.files import write_whole
from rlaif_ray.report import sweep_charts
from rlaif_ray.report.figures import clock_time, count, decimal, number
from rlaif_ray.report.outcome import STARTS
from rlaif_ray.report.sweep import STATES, Arm, SweepRecord
from rlaif_ray.report.sweep_stats import Interval, interquartile_mean, marginal, paired_gain
from rlaif_ray.report.sweep_tables import arm_rows, best_arm, write_best, write_tables
from rlaif_ray.sweep.plan import in_words

__all__ = ["headline", "prices", "statements", "write_sweep_report"]

FEW_SEEDS = 5  # with fewer, a bootstrap interval is too narrow (Agarwal et al. 2021, section 4.1)


def write_sweep_report(folder: Path) -> Path:
    """Write ``report.html``, the tables and ``best.yaml`` into the sweep's folder; the page's path.

    Raises ConfigError where it is no sweep's folder.
    """
    record = SweepRecord.read(folder)
    write_tables(record)
    best_file = write_best(record)
    target = record.place.folder / "report.html"
    write_whole(target, _page(record, best_file))
    return target


def _page(record: SweepRecord, best_file: Path | None) -> str:
    pages = Environment(
        loader=PackageLoader("rlaif_ray.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["decimal"] = decimal
    pages.filters["count"] = lambda value: "-" if value is None else count(float(value))
    best = best_arm(record)
    front = {arm.name for unit in _units(record) for arm in sweep_charts.front_of(record, unit)}
    rows = [
        {
            **row,
            "on_front": row["arm"] in front,
            "best": best is not None and row["arm"] == best.name,
            "asks": row["stand_alone_labels"] > 0,
        }
        for row in arm_rows(record)
    ]
    baseline, gains = _gains(record)
    return pages.get_template("sweep.html.j2").render(
        record=record,
        name=record.place.folder.name,
        headline=headline(record),
        facts=_facts(record),
        statements=statements(record),
        cost_charts=_marked(*(sweep_charts.cost_quality_chart(record, unit) for unit in _units(record))),
        prices=[line for unit in _units(record) for line in prices(record, unit)],
        arms=rows,
        starts=_starts(record),
        best="" if best is None else best.name,
        best_file="" if best_file is None else _shown(best_file),
        baseline=baseline,
        gains=gains,
        curves=next(iter(_marked(sweep_charts.curves_chart(record))), ""),
        parallel=next(iter(_marked(sweep_charts.parallel_chart(record))), ""),
        histories=_histories(record),
        states=STATES,
        base=dump_config(record.place.base),
    )


def _marked(*charts: str | None) -> list[Markup]:
    """SVG of our own making, as it is."""
    return [Markup(svg) for svg in charts if svg]


def _units(record: SweepRecord) -> tuple[str, ...]:
    """In what cost is shown: USD where anything costs any, and labels."""
    return ("usd", "labels") if record.priced else ("labels",)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _starts(record: SweepRecord) -> str:
    name = next(iter(record.place.base.env.evaluate_options), "train")
    return STARTS.get(name, name)


def headline(record: SweepRecord) -> str:
    """One sentence: the best of the front by the value, beside the cheapest; or how far the sweep came."""
    ended = sum(trial.ended for trial in record.trials)
    unit = _units(record)[0]
    front = sweep_charts.front_of(record, unit)
    if not front:
        return f"{ended} of {len(record.trials)} trials have ended: nothing to compare yet"
    value = record.value.replace("_", " ")
    dearest, cheapest = front[-1], front[0]
    said = f"{dearest.name}: {value} {_iqm(dearest, record.value)} for {_money(record, dearest, unit)} a run"
    if dearest is not cheapest:
        said += f"; {cheapest.name}: {_iqm(cheapest, record.value)} for {_money(record, cheapest, unit)}"
    return said


def _iqm(arm: Arm, outcome: str) -> str:
    return f"{decimal(interquartile_mean(arm.outcomes(outcome)))} %"


def _money(record: SweepRecord, arm: Arm, unit: str) -> str:
    cost = float(np.nanmean(arm.costs(unit)))
    return f"{count(cost)} labels" if unit == "labels" else f"USD {decimal(cost, 3)}{_as_if(record)}"


def _as_if(record: SweepRecord) -> str:
    return " as-if" if record.as_if else ""


def _facts(record: SweepRecord) -> list[tuple[str, str]]:
    facts = [(words, str(n)) for words, n in record.counts().items()]
    labels, spend = number(record.summary, "labels"), number(record.summary, "spend_usd")
    cap = number(record.summary, "cap_usd")
    if math.isfinite(labels):
        facts.append(("labels paid for, all trials", count(labels)))
        of = f" of {decimal(cap, 2)}" if math.isfinite(cap) else ""
        facts.append((f"cash spent, all trials{_as_if(record)}", f"USD {decimal(spend, 3)}{of}"))
    walls = [number(trial.summary, "wall_s") for trial in record.trials]
    known = [wall for wall in walls if math.isfinite(wall)]
    return [*facts, ("wall time of all trials", clock_time(sum(known)))] if known else facts


def statements(record: SweepRecord) -> list[str]:
    """What a reader must know before quoting a figure of this sweep."""
    said = []
    if record.place.smoke:
        said.append("This is a smoke run: steps, seeds and labels are cut to a minute. Its figures mean nothing.")
    if record.strangers:
        kind = "studies" if record.place.smoke else "smoke runs"
        said.append(f"Left out, because they are of {kind}: {', '.join(record.strangers)}.")
    seeds = len(record.place.study.seeds)
    if seeds < FEW_SEEDS and record.place.study.pbt is None:
        said.append(f"{seeds} seed{'s' if seeds > 1 else ''} an arm: intervals of fewer than {FEW_SEEDS} say little.")
    missing = [trial.name for trial in record.trials if trial.state == "not_run"]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        said.append(f"Not run: {', '.join(missing[:8])}{more}.")
    if _cap_reached(record):
        said.append("The cap of the whole sweep was reached: trials that came late may have had less than their share.")
    unlearned = [trial.name for trial in record.trials if trial.state == "no_feedback_learned"]
    if unlearned:
        said.append(f"No feedback was learned from in: {', '.join(unlearned)}.")
    said += _about_keeping_up(record)
    if any(trial.state == "stopped" for trial in record.trials):
        said.append("Trials ended early have no final evaluation and stand in no figure but their learning curves.")
    said += _about_judge(record)
    said.append(
        "Outcomes are ground truth, for this report only: no search, early stop or choice of a best config saw them."
    )
    return said


def _about_keeping_up(record: SweepRecord) -> list[str]:
    """Arms whose fraction is not what it says."""
    behind = sorted(
        {trial.arm for trial in record.trials if number(trial.summary.get("lateness") or {}, "turned_away") > 0}
    )
    if not behind:
        return []
    return [
        f"The judge did not keep up in {', '.join(behind)}: some questions were not put, and verdicts came late "
        "(trials.csv: turned_away, staleness_iterations)."
    ]


def _cap_reached(record: SweepRecord) -> bool:
    """Or all but: what is left may be less than the worst case of one question."""
    caps = {"labels": record.place.study.budget.labels, "spend_usd": record.place.study.budget.usd}
    return any(cap and number(record.summary, key) > 0.99 * cap for key, cap in caps.items())


def _about_judge(record: SweepRecord) -> list[str]:
    if not record.as_if:
        return ["Cash is what was paid: an answer that several trials used was paid for once."]
    profiles = {
        t.record.config.judge.profile for t in record.trials if t.record and t.record.config and t.record.config.asks
    }
    return [
        f"The built-in judge gave the feedback ({', '.join(sorted(profiles)) or 'none'}): a program that reads the "
        "pictures and errs as its profile says. It shows how the method works; it shows nothing of what an LLM values.",
        "Prices are as-if: what the profile's model would have charged. Nothing was paid.",
    ]


def _gains(record: SweepRecord) -> tuple[str, list[tuple[str, Interval]]]:
    """Every other arm against the first that ended, pair by pair."""
    ended = [arm for arm in record.arms if arm.ended]
    if len(ended) < 2 or record.place.study.pbt is not None or not record.value:
        return "", []
    first = ended[0]
    return first.name, [(arm.name, paired_gain(*_paired(record, first, arm)[1])) for arm in ended[1:]]


def _paired(record: SweepRecord, before: Arm, after: Arm, unit: str = "labels") -> Any:
    """((costs), (outcomes)) of two arms by the seeds of either, nan where one lacks it."""
    seeds = sorted({trial.seed for arm in (before, after) for trial in arm.trials})
    sides = []
    for arm in (before, after):
        at = {trial.seed: i for i, trial in enumerate(arm.trials)}
        costs, outcomes = arm.costs(unit), arm.outcomes(record.value)
        rows = [(costs[at[s]], outcomes[at[s]]) if s in at else (math.nan, math.nan) for s in seeds]
        sides.append(np.array(rows).T)
    return (sides[0][0], sides[1][0]), (sides[0][1], sides[1][1])


def prices(record: SweepRecord, unit: str) -> list[str]:
    """What one more point of the value costs, from each arm on the front to the next dearer one."""
    front = sweep_charts.front_of(record, unit)
    value = record.value.replace("_", " ")
    said = []
    for before, after in itertools.pairwise(front):
        step = marginal(*_paired(record, before, after, unit))
        interval = f"{decimal(step.gain.low)} to {decimal(step.gain.high)}, {step.gain.n} pairs"
        between = interval if step.gain.n > 1 else "one pair"
        gain = f"{decimal(step.gain.value)} points ({between})"
        if not math.isfinite(step.price):
            said.append(f"From {before.name} to {after.name}: no gain in {value} is shown; difference {gain}.")
            continue
        dearest = _price(record, step.dearest, unit) if math.isfinite(step.dearest) else "any price"
        at_most = f" (at most {dearest}, by the interval)" if step.gain.n > 1 else ""
        said.append(
            f"From {before.name} to {after.name}, one more point of {value} costs "
            f"{_price(record, step.price, unit)}{at_most}; difference {gain}."
        )
    return said


def _price(record: SweepRecord, amount: float, unit: str) -> str:
    return f"{decimal(amount)} labels" if unit == "labels" else f"USD {decimal(amount, 4)}{_as_if(record)}"


def _histories(record: SweepRecord) -> list[tuple[str, list[str]]]:
    """What a population's members were set to, and from when on."""
    if record.place.study.pbt is None:
        return []
    return [
        (trial.name, [f"{count(float(one['steps']))}: {in_words(one['set'])}" for one in trial.history])
        for trial in record.trials
        if trial.history
    ]
