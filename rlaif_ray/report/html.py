"""``write_report(run)``: one self-contained HTML file, readable from disk with no network and no script.

Charts are inline SVG, pictures are data URIs, and whatever a judge wrote is escaped by the template.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlaif_ray.feedback.quoting import printable
from rlaif_ray.files import write_whole
from rlaif_ray.report import charts
from rlaif_ray.report.figures import clock_time, count, decimal, number
from rlaif_ray.report.judged import read_judged
from rlaif_ray.report.outcome import headline, outcome_rows, statements, told_of
from rlaif_ray.report.reward_model import reward_model_section
from rlaif_ray.report.run import RunRecord

__all__ = ["render_report", "write_report"]

MEDIA_LIMIT_BYTES = 24 * 2**20  # of GIFs in one file: beyond it a browser, and a mail server, grow slow


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the run's folder; its path. Raises ConfigError where it is no run's folder."""
    target = run / "report.html"
    write_whole(target, render_report(RunRecord.read(run)))
    return target


def render_report(record: RunRecord) -> str:
    """The page as text."""
    pages = Environment(
        loader=PackageLoader("rlaif_ray.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["decimal"] = decimal
    pages.filters["printable"] = printable
    pages.filters["count"] = lambda value: "-" if value is None else count(float(value))
    return pages.get_template("report.html.j2").render(
        record=record,
        headline=headline(record),
        rows=outcome_rows(record),
        told=told_of(record),
        statements=statements(record),
        facts=_facts(record),
        charts=_charts(record),
        reward_model=reward_model_section(record),
        pairs=_pairs(record),
        judged=read_judged(record),
    )


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    """Small figures under the headline: (name, value)."""
    last, summary = record.last, record.summary
    labels = _first(number(summary, "labels"), number(last, "feedback/labels"))
    spend = _first(number(summary, "spend_usd"), number(last, "feedback/spend_usd"))
    cap = _first(number(summary, "cap_usd"), number(last, "feedback/cap_usd"))
    model: Mapping[str, Any] = summary.get("reward_model") or {}
    accuracy = _first(number(model, "heldout_accuracy"), number(last, "rm/heldout_accuracy"))
    held = _first(number(model, "heldout_n"), number(last, "rm/heldout_n"))
    facts = [
        ("steps", count(_first(number(summary, "steps"), number(last, "steps")))),
        ("wall time", clock_time(_first(number(summary, "wall_s"), number(last, "time_total_s")))),
        ("labels", count(labels)),
        ("abstentions", count(_first(number(summary, "abstained"), number(last, "feedback/abstained")))),
        (
            "spend" + (_as_if(record)),
            f"USD {decimal(spend, 3)}" + (f" of {decimal(cap, 2)}" if math.isfinite(cap) else ""),
        ),
        ("RM agrees, held out", f"{decimal(100 * accuracy)} % of {count(held)}"),
        ("peak memory", f"{decimal(number(summary, 'peak_memory_gb'))} GB"),
    ]
    return [(name, value) for name, value in facts if not value.startswith(("-", "USD -"))]


def _as_if(record: RunRecord) -> str:
    return ", as-if" if record.config and record.config.asks and record.config.judge.as_if else ""


def _first(*values: float) -> float:
    """The first that is known."""
    return next((value for value in values if math.isfinite(value)), values[-1])


def _charts(record: RunRecord) -> list[tuple[Markup, str]]:
    """(SVG, what to read off it) of each chart that has data. The SVG is our own: no text of a judge is in it."""
    drawn = (
        (
            charts.outcome_chart(record),
            "Training episodes that finished in each iteration (at first only short ones have). A proxy that rises "
            "while its truth does not is being gamed.",
        ),
        (
            charts.provenance_chart(record),
            "Shares of the episodes learned from. Only what really learned from a verdict counts as direct.",
        ),
        (charts.reward_model_chart(record), "Its scores count only while the gate is open."),
        (
            charts.watch_chart(record),
            "What the reward model promised of an episode before it had seen the verdict, and the verdict. An alarm "
            "means that it promises over a tenth more than the judge gives: it is being gamed. Whether the judge is, "
            "it can't tell.",
        ),
        (charts.money_chart(record), "Labels are billed questions, abstentions included."),
        (charts.time_chart(record), "Questions are asked on the side, and verdicts are used as they arrive."),
    )
    return [(Markup(svg), words) for svg, words in drawn if svg]


def _pairs(record: RunRecord) -> list[dict[str, str | int | None]]:
    """GIFs of the same starts before and after, as data URIs, as many as fit."""
    pairs: list[dict[str, str | int | None]] = []
    size = 0
    for pair in record.media():
        files = [path for path in (pair.before, pair.after) if path]
        size += sum(path.stat().st_size for path in files)
        if size > MEDIA_LIMIT_BYTES:
            break
        pairs.append({"number": pair.number, "before": _data_uri(pair.before), "after": _data_uri(pair.after)})
    return pairs


def _data_uri(path: Path | None) -> str | None:
    if path is None:
        return None
    return f"data:image/gif;base64,{base64.b64encode(path.read_bytes()).decode()}"
