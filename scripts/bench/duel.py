"""Several contenders in turn on one machine: A B A B ..., so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from plan import Plan, Row, Turns
from processes import memory_mb, signal_all
from this_machine import CORES

HERE = Path(__file__).parent
Blocks = dict[str, list[Row]]


class Contestant:
    """One contender in a process of its own."""

    def __init__(self, name: str, what: Mapping[str, Any], log: Path) -> None:
        self.name, self.what = name, dict(what)
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "RAY_DEDUP_LOGS": "0", "PYTHONWARNINGS": "ignore"}
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = open(log, "w")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "contenders.py"), json.dumps(what)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
        )  # fmt: skip
        self._answer()

    def ask(self, what: str = "block", **options: Any) -> Row:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what became of it is told below
            self._process.stdin.write(json.dumps({"do": what, **options}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def memory_mb(self) -> Mapping[str, float]:
        return memory_mb(psutil.Process(self._process.pid))

    def halt(self) -> None:
        signal_all(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        signal_all(self._process.pid, signal.SIGCONT)

    def _answer(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise SystemExit(f"{self.name} ended unexpectedly; its log: {self._log.name}")
        row: Row = json.loads(line)
        return row

    def close(self) -> None:
        self.go_on()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._log.close()


TURN_S = 3.0  # of a turn, at least; it is of whole batches
AHEAD_S = 1.0  # a runner that samples ahead has its fragment ready after that


def turn_of(what: Mapping[str, Any], tiny: bool) -> Row:
    """What a contender does when it is its turn: ``turn`` of its description, or a few batches.

    Whoever samples ahead is given a batch before the clock starts, and a pause after it has stopped: its first fragment
    would else have been sampled, and its last would be, at the others' expense. Whoever ``stops`` needs neither.
    """
    turn: Row = {"what": "train", "seconds": TURN_S, **what.get("turn", {})}
    ahead = what.get("runners") and what.get("resources", {}).get("overlap", what["kind"] == "ours")
    if ahead and not what.get("stops"):
        turn |= {"lead_s": 1e-3, "settle_s": AHEAD_S}
    return turn | ({"seconds": 0.0, "lead_s": 0.0, "settle_s": 0.0} if tiny else {})


def duel(
    contestants: Mapping[str, Mapping[str, Any]], plan: Plan, *, part: str, rounds: int, warm_up: int
) -> Iterator[Blocks]:
    """Turns of every contestant so far, after each round. One whose ``every`` is k takes part in each k-th round;
    ``turn`` says what its turn is. As the machine's pace changes meanwhile, ``against`` may name who has a turn before
    and after each of its turns: their sum stands in its row under that word. One that ``stops`` stands still between
    turns with all that works for it in the background: short turns need no time to get going or to settle. Its own
    ``warm_up`` goes before everybody's."""
    done = plan.journal.rounds(part)
    if len(done) < rounds and not plan.out_of_time:
        for rows in _rounds(contestants, plan, len(done), rounds, warm_up, part):
            plan.journal.add(part, rows)
            yield blocks_of(plan.journal.rounds(part))
    elif done:
        yield blocks_of(done)


def _rounds(
    contestants: Mapping[str, Mapping[str, Any]], plan: Plan, first: int, rounds: int, warm_up: int, part: str
) -> Iterator[Row]:
    running: list[Turns] = []
    every = {name: int(what.get("every", 1)) for name, what in contestants.items()}
    turns = {name: turn_of(what, plan.tiny) for name, what in contestants.items()}
    against = {name: what["against"] for name, what in contestants.items() if "against" in what}
    stopping = {name for name, what in contestants.items() if what.get("stops")}
    try:
        for name, what in contestants.items():
            running.append(started(plan, name, what))
            for _ in range(0 if plan.tiny else max(1, what.get("warm_up", warm_up) // every[name])):
                running[-1].ask()
            if name in stopping:
                running[-1].halt()
        for i in range(first, rounds):
            rows = _round([one for one in running if i % every[one.name] == 0], turns, against, stopping)
            tell(f"{part}, round {i + 1} of {rounds}: " + ", ".join(f"{n} {rate(r):,.0f}/s" for n, r in rows.items()))
            yield rows
            if plan.out_of_time:
                return
    finally:
        for one in running:
            one.close()


def _round(
    some: Sequence[Turns], turns: Mapping[str, Row], against: Mapping[str, str], stopping: Collection[str]
) -> Row:
    by_name = {one.name: one for one in some}
    rows: Row = {}
    before: dict[str, Row] = {}  # of those that others are held against, the newest turn

    def turn(one: Turns) -> Row:
        if one.name not in stopping:
            return one.ask(**turns[one.name])
        one.go_on()
        try:
            return one.ask(**turns[one.name])
        finally:
            one.halt()

    for one in some:
        if one.name not in against:
            rows[one.name] = before[one.name] = turn(one)
            continue
        other = against[one.name]
        row, after = turn(one), turn(by_name[other])
        both = {key: before[other][key] + after[key] for key in ("steps", "seconds")}
        rows[one.name], before[other] = row | {"against": both}, after
    return rows


def started(plan: Plan, name: str, what: Mapping[str, Any]) -> Turns:
    """A contender's process. What is only the round's business isn't handed to it."""
    plain = {key: value for key, value in what.items() if key not in ("every", "turn", "against", "stops", "warm_up")}
    return plan.start(name, plan.sized(plain), plan.logs / f"{name.replace('/', '-').replace(' ', '-')}.log")


def blocks_of(rounds: Sequence[Mapping[str, Row]]) -> Blocks:
    blocks: Blocks = {}
    for rows in rounds:
        for name, row in rows.items():
            blocks.setdefault(name, []).append(row)
    return blocks


def rate(row: Mapping[str, Any]) -> float:
    return float(row["steps"] / row["seconds"])


def summary(rows: Sequence[Row]) -> Row:
    """Steps a second: median, lowest, highest; the threads it had; the other figures' medians."""
    out: Row = {**spread([rate(row) for row in rows]), "blocks": len(rows), "threads": rows[-1].get("threads")}
    for key in rows[0]:
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        if len(values) == len(rows) and key != "threads":
            out[f"{key}_median"] = statistics.median(values)
    return out


def ratio(a: Sequence[Row], b: Sequence[Row]) -> Row:
    """Median of the ratios of blocks next to each other in time, and their spread."""
    n = min(len(a), len(b))
    each = [rate(x) / rate(y) for x, y in zip(a[:: max(1, len(a) // n)], b[:: max(1, len(b) // n)], strict=False)]
    return {**spread(each), "pairs": len(each)}


def ratio_against(rows: Sequence[Row]) -> Row:
    """Median of the ratios of blocks over the turns of another before and after each, and their spread."""
    return ratio(rows, [row["against"] for row in rows])


def spread(values: Sequence[float]) -> Row:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def without_judge(rows: Sequence[Row]) -> list[Row]:
    """The same blocks with the judge's own processor time taken off the clock, as the least it can have cost: shared
    out over all cores."""
    return [row | {"seconds": row["seconds"] - row.get("judge_processor_s", 0.0) / CORES} for row in rows]


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
