#!/usr/bin/env python
"""Speed against what people use today, and what feedback costs the training loop.

    .venv/bin/python scripts/bench                       # everything that is measured side by side, about an hour
    .venv/bin/python scripts/bench learners feedback     # only these
    .venv/bin/python scripts/bench --smoke [--json]      # under 3 minutes: the ratios beside the stored ones

Contenders take turns, block by block, in one run on one machine; figures are medians with lowest and highest, ratios
are of blocks next to each other in time. Writes ``benchmarks/speed-SUITE.json`` and the tables of
``docs/BENCHMARKS.md``. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pages
import suites
from duel import machine, tell

RESULTS = Path("benchmarks")


def main() -> int:
    arguments = parse()
    logs = Path(tempfile.mkdtemp(prefix="bench-"))
    tell(f"logs of the contenders: {logs}")
    if arguments.smoke:
        return smoke(logs, arguments.json)
    results = {}
    for name in arguments.suites or list(suites.SUITES):
        tell(f"== {name}")
        run: Callable[..., Any] = suites.SUITES[name]
        results[name] = {
            "command": "python scripts/bench " + shlex.join(sys.argv[1:]),
            "machine": machine(),
            **run(logs, arguments.rounds),
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"speed-{name}.json").write_text(json.dumps(results[name], indent=1) + "\n")
        pages.write(RESULTS, Path("docs/BENCHMARKS.md"))
    print(json.dumps(results, indent=1) if arguments.json else pages.text(RESULTS))
    return 0


def smoke(logs: Path, as_json: bool) -> int:
    """A few blocks of the main comparisons; reports, and fails nobody on a noisy machine."""
    found = suites.smoke(logs)
    stored = {name: value for suite in suites.SUITES for name, value in pages.ratios(RESULTS, suite).items()}
    rows = {
        name: {"now": value["median"], "stored": stored.get(name, {}).get("median")} for name, value in found.items()
    }
    if as_json:
        print(json.dumps({"machine": machine(), "ratios": rows}))
        return 0
    for name, row in rows.items():
        before = "not stored" if row["stored"] is None else f"stored {row['stored']:.2f}"
        low = row["stored"] is not None and row["now"] < 0.8 * row["stored"]
        print(f"{name:60} {row['now']:6.2f}   {before}{'   LOWER: measure again on a quiet machine' if low else ''}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", help=f"any of {', '.join(suites.SUITES)}; none: all")
    parser.add_argument("--rounds", type=int, default=0, help="blocks of each contender; 0: each suite's own number")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.suites if name not in suites.SUITES]
    if unknown:
        parser.error(f"suite: got {unknown[0]!r}, allowed are {', '.join(suites.SUITES)}")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
