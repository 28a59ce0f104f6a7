#!/usr/bin/env python
"""The same preset with several seeds, one run after the other; prints what each reached and the spread.

    .venv/bin/python scripts/bench/seeds.py homegrid --seeds 0 1 2 --name acceptance
    .venv/bin/python scripts/bench/seeds.py homegrid --read runs/quickstart runs/acceptance-1 runs/acceptance-2

Further words are config keys, as for ``rlaif-ray train``. The figures are those of each run's summary.json: of the
policy as it acts (stochastic), on starts held out of training and on training's. Writes ``benchmarks/seeds-NAME.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from this_machine import machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", default="acceptance")
    parser.add_argument("--read", type=Path, nargs="+", default=[], help="runs that are there already")
    arguments, overrides = parser.parse_known_args()
    paths = arguments.read or [train(arguments.preset, arguments.name, seed, overrides) for seed in arguments.seeds]
    rows = [row(json.loads((path / "summary.json").read_text())) for path in paths]
    result = {"preset": arguments.preset, "overrides": overrides, "machine": machine(), "runs": rows}
    out = Path("benchmarks") / f"seeds-{arguments.name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    show(rows)
    print(f"written: {out}")
    return 0


def train(preset: str, name: str, seed: int, overrides: list[str]) -> Path:
    run = f"{name}-{seed}"
    command = ["rlaif-ray", "train", preset, "--run.name", run, "--run.seed", str(seed), *overrides]
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)
    return Path("runs") / run


def row(summary: dict[str, Any]) -> dict[str, Any]:
    """One run's figures, flat."""
    figures: dict[str, Any] = {key: summary.get(key) for key in ("name", "seed", "steps", "wall_s", "labels", "status")}
    figures |= {"spend_as_if_usd": summary.get("spend_usd"), "peak_memory_gb": summary.get("peak_memory_gb")}
    figures["direct_share"] = summary["provenance"]["direct"]
    for phase in summary["phases"]:
        for starts, values in phase["evaluation"].items():
            # The world's own outcomes and the length; the rest says how it was evaluated.
            outcomes = {
                key: value for key, value in values.items() if isinstance(value, float) and key != "task_return"
            }
            figures |= {f"{phase['name']}/{starts}/{key}": value for key, value in outcomes.items()}
    return figures


def show(rows: list[dict[str, Any]]) -> None:
    for key in rows[0]:
        values = [one.get(key) for one in rows]
        numbers = [v for v in values if isinstance(v, int | float)]
        spread = f"median {statistics.median(numbers):.4g}, {min(numbers):.4g} to {max(numbers):.4g}" if numbers else ""
        print(f"{key:36} {'  '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in values):40} {spread}")


if __name__ == "__main__":
    raise SystemExit(main())
