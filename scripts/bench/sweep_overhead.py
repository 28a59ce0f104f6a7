#!/usr/bin/env python
"""What Ray Tune and the shared store cost: the same run as ``train`` and as a sweep's only trial, in turn.

    python scripts/bench/sweep_overhead.py [--turns 40] [--commands 5]

Two figures, since they are measured differently. *An iteration*: both runs are started, and one of them always stands
still with all its processes (SIGSTOP) while the other has a turn of 5 s: a machine that changes its pace by the minute
does so for both. Its time is that between two rows of a turn. *The rest*: whole commands of few steps, one
after the other, without the time between their rows: what starting and ending takes. Together they are said for the
preset's number of steps. Writes ``benchmarks/sweep-overhead.json``. Needs a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from processes import signal_all
from this_machine import machine

from rlaif_ray.config import load_config

COMMAND = [sys.executable, "-c", "import sys; from rlaif_ray.cli import main; sys.exit(main())"]
KINDS = ("train", "sweep")
TURN_S, AFTER_A_STOP_S = 5.0, 0.5  # of a turn; of which the first rows don't count
SHORT, ENDLESS = 32_768, 2**30  # steps of a command that is to start and to end, and of one that is measured between
# Asking and the ramp begin at once, so that no phase of a run is one that only the other has reached.
SOON = {"feedback": {"start_step": 0}, "mix": {"start_step": 0}, "budget": {"labels": 100_000, "usd": 1_000.0}}
STARTED_S = 240.0
NOTHING_LEARNED = 1  # exit code of a run with too few answers for a reward model: the short ones


class Run:
    """The preset's run, as one of the two commands, in a folder of its own."""

    def __init__(self, kind: str, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir()
        self.kind = kind
        if kind == "train":
            file = self._write(folder / "run.yaml", {"extends": "homegrid", **settings})
            words, self._path = ["train", file, "--run.name", "one"], folder / "runs" / "one"
        else:
            arms = {"base": "homegrid", "set": settings, "arms": [{"name": "a"}], "seeds": [0]}
            file = self._write(folder / "one.yaml", arms)
            words, self._path = ["sweep", file], folder / "runs" / "one" / "trials" / "a-s0"
        self._began = time.monotonic()
        self._process = subprocess.Popen([*COMMAND, *words], cwd=folder, stdout=subprocess.DEVNULL)

    @staticmethod
    def _write(path: Path, content: Mapping[str, Any]) -> str:
        path.write_text(json.dumps(content))  # JSON is YAML
        return str(path)

    def rows(self) -> list[dict[str, Any]]:
        """Of every iteration so far."""
        file = self._path / "result.json"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def started(self) -> None:
        """Wait for the first row."""
        while not self.rows():
            if self._process.poll() is not None or time.monotonic() - self._began > STARTED_S:
                raise SystemExit(f"{self.kind} has not started: exit code {self._process.poll()}")
            time.sleep(0.1)

    def halt(self) -> None:
        signal_all(self._process.pid, signal.SIGSTOP)

    def turn(self) -> list[float]:
        """Go on for a while -> seconds of each iteration that began and ended meanwhile."""
        signal_all(self._process.pid, signal.SIGCONT)
        time.sleep(AFTER_A_STOP_S)
        before = len(self.rows())
        time.sleep(TURN_S)
        self.halt()
        ends = [row["wall_s"] for row in self.rows()[before:]]
        return [b - a for a, b in itertools.pairwise(ends)]

    def rest(self) -> float:
        """Wait for its end -> seconds of the command without those between its rows."""
        if self._process.wait() not in (0, NOTHING_LEARNED):
            raise SystemExit(f"{self.kind} failed: exit code {self._process.returncode}")
        whole = time.monotonic() - self._began
        ends = [row["wall_s"] for row in self.rows()]
        return whole - (ends[-2] - ends[0])  # the last row is written when the run is over

    def close(self) -> None:
        signal_all(self._process.pid, signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            signal_all(self._process.pid, signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40, help="of each, 5 s long")
    parser.add_argument("--commands", type=int, default=5, help="of each, of few steps")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rest = list(commands(Path(folder), arguments.commands))
        pairs = list(turns(Path(folder), arguments.turns))
    result = summary(pairs, rest) | {"pairs": pairs, "commands": rest, "machine": machine()}
    for key in ("iteration_ratio", "rest_s", "whole_s", "overhead_pct"):
        print(f"{key}: {result[key]}")
    Path("benchmarks").mkdir(exist_ok=True)
    Path("benchmarks/sweep-overhead.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


def commands(folder: Path, n: int) -> Iterator[dict[str, float]]:
    """Whole short runs, both kinds by turns -> each pair's seconds besides the loop."""
    for i in range(n):
        short = {"run": {"total_steps": SHORT, "evaluate_episodes": 100}} | SOON
        yield {kind: Run(kind, folder / f"short-{kind}-{i}", short).rest() for kind in KINDS}


def turns(folder: Path, n: int) -> Iterator[dict[str, float]]:
    """Turns of two long runs -> mean seconds of an iteration in each pair of turns."""
    running: list[Run] = []
    try:
        for kind in KINDS:
            endless = {"run": {"total_steps": ENDLESS}} | SOON
            running.append(Run(kind, folder / f"long-{kind}", endless))
            running[-1].started()
            running[-1].turn()
        for i in range(n):
            order = running if i % 2 == 0 else running[::-1]
            pair = {one.kind: statistics.mean(one.turn()) for one in order}
            print(pair, flush=True)
            yield pair
    finally:
        for one in running:
            one.close()


def summary(pairs: list[dict[str, float]], rest: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and quartiles, and what they come to over the preset's steps."""
    preset = load_config("homegrid")
    iterations = preset.run.total_steps / preset.ppo.train_batch_size
    ratios = sorted(pair["sweep"] / pair["train"] for pair in pairs)
    quarter = len(ratios) // 4
    rest_s = {kind: statistics.median(one[kind] for one in rest) for kind in KINDS}
    train_s = iterations * statistics.median(pair["train"] for pair in pairs)
    ratio = statistics.median(ratios)
    whole = {"train": rest_s["train"] + train_s, "sweep": rest_s["sweep"] + train_s * ratio}
    return {
        "iteration_ratio": {"median": ratio, "quartiles": [ratios[quarter], ratios[-1 - quarter]], "pairs": len(pairs)},
        "rest_s": rest_s,
        "whole_s": whole,
        "overhead_pct": 100 * (whole["sweep"] / whole["train"] - 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
