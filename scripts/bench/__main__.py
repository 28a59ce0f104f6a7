#!/usr/bin/env python
"""Speed against what people use today, and what feedback costs the training loop.

    .venv/bin/python scripts/bench                       # every suite: some five hours on two cores
    .venv/bin/python scripts/bench learners feedback     # only these
    .venv/bin/python scripts/bench quality --resume      # go on where it was stopped
    .venv/bin/python scripts/bench --smoke [--json]      # under 3 minutes: the ratios beside the stored ones

    learners    steps/s: ours, Stable-Baselines3, stock RLlib; same network and hyperparameters    50 minutes
    published   steps/s against Stable-Baselines3 with the published settings                      5 minutes
    quality     wall time to survives >= 95 % and found >= 95 %, one reward model for all          15 minutes
    breakdown   where an iteration's time goes; the learner against the arithmetic limit           20 minutes
    feedback    feedback off, distilled, hybrid, direct: what it costs                             1 hour
    growth      environments, runners, grids, episodes, labels a second                            25 minutes
    memory      after 10 million steps over after 1 million                                        15 minutes
    overlap     sampling ahead: speed and learning curves, three seeds                             15 minutes
    gpu         the learner and the reward model on a GPU, where there is one
    compile     torch.compile: what it wins and what it costs                                      2 minutes
    before      the same runs with the package before the work on speed: learning, three seeds      15 minutes

Contenders take turns of a few seconds in one run on one machine; figures are medians with lowest and highest, ratios
are of turns next to each other in time. Writes ``benchmarks/speed-SUITE.json`` and the tables of
``docs/BENCHMARKS.md`` after every round, so that a suite can be stopped at any time. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pages
import suites
from duel import Contestant, tell
from journal import Journal
from plan import Plan
from this_machine import CORES, machine

from rlaif_ray.files import write_whole

# Of a smoke run's three minutes; the rest is for the rounds that are under way when a comparison's share is over.
SMOKE_S = 120.0
LOST = 0.8  # of a stored ratio


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    if arguments.smoke:
        return smoke(arguments)
    results = {name: measure(name, arguments) for name in arguments.suites or list(suites.SUITES)}
    print(json.dumps(results, indent=1) if arguments.json else pages.text(arguments.results))
    return 0


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One suite, written down after each round."""
    tell(f"== {name}")
    settings = {"suite": name, "tiny": arguments.tiny, "cores": CORES}
    journal = Journal(arguments.work / f"{name}.jsonl", settings, resume=arguments.resume)
    plan = Plan(arguments.work / "logs", journal, Contestant, arguments.rounds, arguments.tiny)
    if not arguments.resume:  # what a suite prepares for itself belongs to its run
        (plan.logs / "given-rm.pickle").unlink(missing_ok=True)
        shutil.rmtree(plan.logs / "given-policy", ignore_errors=True)
    told = {"command": command(name, arguments), "machine": machine(), "finished": False}
    out: dict[str, Any] = {}
    for found in suites.SUITES[name](plan):
        out = told | found
        store(name, out, arguments)
    out["finished"] = True
    store(name, out, arguments)
    return out


def store(name: str, out: dict[str, Any], arguments: argparse.Namespace) -> None:
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"speed-{name}.json"
    write_whole(path, json.dumps(out, indent=1, default=float) + "\n")  # whoever stops this finds a whole file
    pages.write(arguments.results, arguments.page)


def command(name: str, arguments: argparse.Namespace) -> str:
    """What makes this suite's figures again, whatever else was measured with it."""
    words = ["scripts/bench", name]
    words += ["--rounds", str(arguments.rounds)] if arguments.rounds else []
    return "python " + shlex.join([*words, *(["--tiny"] if arguments.tiny else [])])


def smoke(arguments: argparse.Namespace) -> int:
    """A few blocks of the main comparisons; reports, and fails nobody on a noisy machine."""
    work = Path(tempfile.mkdtemp(prefix="bench-smoke-"))
    plan = Plan(work, Journal(work / "smoke.jsonl", {}), Contestant, arguments.rounds, arguments.tiny)
    stored = {name: one for suite in suites.SUITES for name, one in pages.ratios(arguments.results, suite).items()}
    found = suites.smoke(plan, SMOKE_S, stored)
    rows = compared(found, stored)
    if arguments.json:
        print(json.dumps({"machine": machine(), "ratios": rows}))
        return 0
    for name, row in rows.items():
        before = "not stored" if row["stored"] is None else f"stored {row['stored']:.2f}"
        print(f"{name:60} {row['now']:6.2f}   {before}{'   LOWER: measure again on a quiet machine' * row['lower']}")
    return 0


def compared(found: dict[str, Any], stored: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each ratio now and as it was stored; lower where it has lost more than a fifth and no turn of those stored was so
    low: a round or two of a few seconds are no more than that."""
    rows = {}
    for name, value in found.items():
        before, now = stored.get(name), value["median"]
        lower = before is not None and now < min(LOST * before["median"], before["low"])
        rows[name] = {"now": now, "stored": None if before is None else before["median"], "lower": lower}
    return rows


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", help=f"any of {', '.join(suites.SUITES)}; none: all")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each part; 0: each suite's own number")
    parser.add_argument("--resume", action="store_true", help="keep the rounds there are, and go on after them")
    parser.add_argument("--tiny", action="store_true", help="all of it in seconds: proves that it runs, no more")
    parser.add_argument("--smoke", action="store_true", help="the main ratios beside the stored ones")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--results", type=Path, default=Path("benchmarks"), help="folder of the results' files")
    parser.add_argument("--page", type=Path, default=Path("docs/BENCHMARKS.md"))
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="folder of rounds and logs")
    arguments = parser.parse_args(words)
    unknown = [name for name in arguments.suites if name not in suites.SUITES]
    if unknown:
        parser.error(f"suite: got {unknown[0]!r}, allowed are {', '.join(suites.SUITES)}")
    return arguments


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # who stands still between turns must not be left so
    raise SystemExit(main())
