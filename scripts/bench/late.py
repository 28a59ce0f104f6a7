#!/usr/bin/env python
"""What real runs make of a judge that takes 3 to 6 s, and how long a training step waits for the pool.

    python scripts/bench/late.py wait  [--labels 2000]      # direct, late: wait: is every verdict learned from?
    python scripts/bench/late.py defer [--steps 400000]     # hybrid, late: defer, as the preset: how stale, what share?
    python scripts/bench/late.py busy  [--steps 400000]     # as many questions an iteration as the pool can answer

``wait`` asks about every episode it can have answered in time and ends with its labels. ``pool_share`` is the time that
training steps spend in the pool's calls (submit, poll, account) over their whole time, the waiting that ``late: wait``
asks for not counted. Prints a table, writes ``benchmarks/late-WHAT.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from processes import show
from this_machine import machine

from rlaif_ray import experiment
from rlaif_ray.config import load_config
from rlaif_ray.feedback.pool import FeedbackPool

ALL = {"run.evaluate_episodes": 0, "judge.profile": "gpt-4o-mini-2024", "budget.usd": 10**6}
SETTINGS: dict[str, dict[str, Any]] = {
    "wait": {"mix.source": "direct", "mix.credit": "terminal", "mix.unjudged": "task", "mix.start_step": 0,
             "mix.ramp_steps": 0, "feedback.late": "wait", "feedback.fraction": 1.0, "feedback.start_step": 0,
             "feedback.labels_per_iteration": 0, "feedback.concurrency": 256, "resources.env_runners": 0},
    "defer": {"mix.credit": "terminal", "mix.start_step": 0, "mix.ramp_steps": 0, "feedback.start_step": 0},
    "busy": {"mix.credit": "terminal", "mix.start_step": 0, "mix.ramp_steps": 0, "feedback.start_step": 0,
             "feedback.fraction": 1.0, "feedback.labels_per_iteration": 0, "feedback.concurrency": 256,
             "feedback.late": "rm"},
}  # fmt: skip
CALLS = ("submit", "poll", "stats")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SETTINGS)
    parser.add_argument("--labels", type=int, default=0, help="cap; default: 2,000 (wait), 10,000")
    parser.add_argument("--steps", type=int, default=0, help="default: as many as needed (wait), 400,000")
    options = parser.parse_args()
    labels = options.labels or (2_000 if options.what == "wait" else 10_000)
    steps = options.steps or (10**7 if options.what == "wait" else 400_000)
    spent, waited = _timed()
    found: dict[str, Any] = {"what": options.what, "machine": machine()}
    with tempfile.TemporaryDirectory(prefix="late-bench-") as folder:
        config = load_config("homegrid", ALL | SETTINGS[options.what] | {
            "run.dir": folder, "run.total_steps": steps, "budget.labels": labels})  # fmt: skip
        rows: list[dict[str, Any]] = []
        done = {"wait": lambda: bool(rows) and rows[-1]["feedback"]["labels"] >= labels}.get(options.what)

        def look(row: dict[str, Any]) -> None:
            rows.append(row | {"pool_s": sum(spent.values()), "waited_s": sum(waited.values())})

        summary = experiment.train(config, monitor=look, stop=done).summary
    found |= _figures(rows, summary, spent)
    found["load_after"] = round(os.getloadavg()[0], 2)
    found["holds"] = _holds(options.what, found)
    show(found)
    out = Path("benchmarks") / f"late-{options.what}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {out}")
    return 0 if found["holds"] else 1


def _timed() -> tuple[Counter[str], Counter[str]]:
    """Seconds spent in the pool's calls from here on, and seconds waited for answers on purpose."""
    spent, waited = Counter[str](), Counter[str]()

    def timing(name: str, into: Counter[str]) -> None:
        plain = getattr(FeedbackPool, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                into[name] += time.perf_counter() - began

        setattr(FeedbackPool, name, timed)

    for name in CALLS:
        timing(name, spent)
    timing("wait", waited)
    return spent, waited


def _figures(rows: list[dict[str, Any]], summary: dict[str, Any], spent: Counter[str]) -> dict[str, Any]:
    steps_s = sum(row["step_s"] for row in rows)
    return {
        "status": summary["status"],
        "wall_s": summary["wall_s"],
        "steps": summary["steps"],
        "steps_per_s": summary["steps"] / steps_s,
        "iterations": len(rows),
        "iteration_s": steps_s / len(rows),
        "labels": summary["labels"],
        "labels_per_s": summary["labels"] / steps_s,
        "abstained": summary["abstained"],
        "latency_s": rows[-1]["feedback"]["latency_s"],
        "pool_s": dict(spent),
        "waited_s": rows[-1]["waited_s"],
        "pool_share": rows[-1]["pool_s"] / (steps_s - rows[-1]["waited_s"]),
        "direct_share": summary["provenance"]["direct"],
        "lateness": summary["lateness"],
    }


def _holds(what: str, found: dict[str, Any]) -> bool:
    late = found["lateness"]
    if what == "wait":
        return late["learned_directly"] == late["verdicts"] == found["labels"] - found["abstained"]
    return found["pool_share"] < 0.01 and late["past_deadline"] == 0


if __name__ == "__main__":
    raise SystemExit(main())
