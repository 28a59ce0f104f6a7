#!/usr/bin/env python
"""What Ray Tune and the shared store cost: the same run as ``train`` and as a sweep's only trial, in turn.

    .venv/bin/python scripts/bench/sweep_overhead.py --steps 500000 --repeats 3

Compared is the wall time from the first iteration's end to the last one's (of the same number of steps), by the clock
in each run's rows, and the wall time of the whole commands. Writes ``benchmarks/sweep-overhead.json``. Needs a quiet
machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from this_machine import machine

COMMAND = [sys.executable, "-c", "import sys; from rlaif_ray.cli import main; sys.exit(main())"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    config = {"run": {"total_steps": arguments.steps, "evaluate_episodes": 200}, "feedback": {"start_step": 0},
              "mix": {"start_step": arguments.steps // 4, "ramp_steps": arguments.steps // 4}}  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(arguments.repeats):
            for kind in ("train", "sweep"):
                rows.append({"kind": kind, **measured(kind, Path(folder) / f"{kind}-{i}", config)})
                print(rows[-1], flush=True)
    medians = {
        key: {kind: statistics.median(r[key] for r in rows if r["kind"] == kind) for kind in ("train", "sweep")}
        for key in ("loop_s", "command_s")
    }
    result = {
        "config": config,
        "rows": rows,
        "medians": medians,
        "machine": machine(),
    }
    for key, both in medians.items():
        result[f"overhead_{key}_pct"] = 100 * (both["sweep"] / both["train"] - 1)
        print(f"{key}: train {both['train']:.1f}, sweep {both['sweep']:.1f}: {result[f'overhead_{key}_pct']:+.1f} %")
    Path("benchmarks").mkdir(exist_ok=True)
    Path("benchmarks/sweep-overhead.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measured(kind: str, folder: Path, config: dict[str, Any]) -> dict[str, float]:
    folder.mkdir()
    if kind == "train":
        file = folder / "run.yaml"
        file.write_text(json.dumps({"extends": "homegrid", **config}))  # JSON is YAML
        words, run = ["train", str(file), "--run.name", "one"], folder / "runs" / "one"
    else:
        file = folder / "one.yaml"
        file.write_text(json.dumps({"base": "homegrid", "set": config, "arms": [{"name": "a"}], "seeds": [0]}))
        words, run = ["sweep", str(file)], folder / "runs" / "one" / "trials" / "a-s0"
    began = time.monotonic()
    subprocess.run([*COMMAND, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    command_s = time.monotonic() - began
    lines = [json.loads(line) for line in (run / "result.json").read_text().splitlines()]
    # A row's `timestamp` is of whole seconds; `wall_s` is exact, and counts what lies between iterations.
    return {"loop_s": lines[-2]["wall_s"] - lines[0]["wall_s"], "command_s": command_s, "steps": lines[-2]["steps"]}


if __name__ == "__main__":
    raise SystemExit(main())
