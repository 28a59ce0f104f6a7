"""Labels a second: what the pool makes of questions that come at a given rate, and what each costs whom."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

from asking import PUBLISHED, variant
from mixed_play import episodes
from plan import Plan, Row
from pool import POLL_S, Pool
from processes import cpu_seconds
from this_machine import CORES

from rlaif_ray.types import Episode

__all__ = ["measured", "needed"]

DISTINCT = 2_000  # episodes; they are asked about again and again, and never answered from the store
CONCURRENCY = 256


def measured(plan: Plan, rates: Sequence[int]) -> Iterator[Row]:
    """The built-in judge without its latency, on the same cores: each rate for so many seconds, one after the other."""
    for rate in rates:
        part = f"labels, {rate}"
        for _ in range(len(plan.journal.rounds(part)), plan.times(3)):
            plan.journal.add(part, at(rate, seconds=plan.size(15, 1), patience_s=plan.size(0, 60)))
        yield table({r: plan.journal.rounds(f"labels, {r}") for r in rates if plan.journal.rounds(f"labels, {r}")})


def at(rate: int, seconds: float, patience_s: float = 0.0) -> Row:
    """So many questions put each second; what came back while they were put, and processor seconds by process.

    ``patience_s``: wait so long for the others as well, where figures mean nothing and there are to be some."""
    asked = list(islice(episodes(0), min(DISTINCT, max(1, round(rate * seconds)))))
    options = argparse.Namespace(concurrency=CONCURRENCY, actors=max(1, CORES - 1))
    with tempfile.TemporaryDirectory(prefix="labels-bench-") as folder:
        profile = variant(Path(folder), PUBLISHED, latency_median_s=0.0)
        with Pool(Path(folder), profile, options, {"judge.replay": "off"}) as run:
            run.warm()
            return _put(run, rate, seconds, cycle(asked), patience_s)


def _put(run: Pool, rate: int, seconds: float, asked: Iterator[Episode], patience_s: float) -> Row:
    cpu, began, blocked_s, put = cpu_seconds(), time.monotonic(), 0.0, 0
    while (passed := time.monotonic() - began) < seconds or put < round(rate * seconds):  # however late its last turn
        due = round(rate * min(seconds, passed + POLL_S)) - put
        called = time.monotonic()
        # What the pool won't take, because too much waits already, is not put again: its rate is what it is.
        run.pool.submit(list(islice(asked, due)), inclusion_probability=1.0, step=0)
        run.arrived += len(run.pool.poll())
        blocked_s += time.monotonic() - called
        put += due
        time.sleep(max(0.0, began + POLL_S * (passed // POLL_S + 1) - time.monotonic()))
    run.arrived += len(run.pool.wait(patience_s))
    wall_s, spent = time.monotonic() - began, cpu_seconds()
    spent.subtract(cpu)
    return {"rate": rate, "seconds": wall_s, "put": put, "labels": run.arrived, "blocked": blocked_s / wall_s,
            "cpu_s": {kind: used for kind, used in spent.items() if used > 0.0}}  # fmt: skip


def table(found: dict[int, list[Row]]) -> Row:
    rows = []
    for rate, looks in found.items():
        labels, seconds = sum(one["labels"] for one in looks), sum(one["seconds"] for one in looks)
        each = [one["labels"] / one["seconds"] for one in looks]
        cost = milliseconds(looks)
        rows.append([
            rate, labels / seconds, f"{min(each):,.1f} to {max(each):,.1f}", cost["questioners"], cost["store"],
            cost["server"],
            f"{100 * max(one['blocked'] for one in looks):.1f} %", needed(rate, cost),
        ])  # fmt: skip
    return {
        "title": "Labels a second",
        "head": ["put, a second", "answered, a second", "lowest to highest", "asking, ms each", "store, ms",
                 "judge, ms", "driver's time in calls, at most", "cores needed"],
        "rows": rows,
        "note": "The built-in judge without its latency, pictures drawn and read on the same "
        f"{CORES} cores. What cores would be needed is worked out from the "
        "processor milliseconds of a label at this rate (asking, store, judge), not measured; the store is one "
        "process, which can't do more than its own milliseconds allow.",
    }  # fmt: skip


def milliseconds(looks: Sequence[Row]) -> Counter[str]:
    """Processor milliseconds a label, by kind of process."""
    labels = max(1, sum(one["labels"] for one in looks))
    total: Counter[str] = Counter()
    for one in looks:
        total.update(one["cpu_s"])
    return Counter({kind: 1e3 * seconds / labels for kind, seconds in total.items()})


def needed(rate: float, cost: Counter[str]) -> str:
    """Cores for so many labels a second, or that one store is too slow for them."""
    if rate * cost["store"] > 1e3:
        return f"one store does {1e3 / cost['store']:,.0f}/s at most"
    return f"{rate * (cost['questioners'] + cost['store'] + cost['server']) / 1e3:.1f}"
