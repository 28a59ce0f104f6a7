#!/usr/bin/env python
"""How well the feedback pool uses a judge that takes seconds, what it costs the processors, and what memory it needs.

    python scripts/bench/pool.py                      # 5,000 Homegrid episodes, 256 in flight, answers after 3 to 6 s
    python scripts/bench/pool.py --memory             # 20,000 questions, answers after 0.2 s
    python scripts/bench/pool.py --failures           # the same verdicts from a healthy and from a failing server?

The built-in judge serves on the same machine: its processor time counts too, and is told apart. The rate is held
against the least of what concurrency / mean latency allows and what the cores can draw, encode, ask and serve, each of
which is measured by itself before. Prints a table, writes ``benchmarks/pool-NAME.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from asking import PUBLISHED, READER, config_for, labels_of, questions, variant
from mixed_play import episodes
from processes import cpu_seconds, memory_mb, show
from this_machine import machine

from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.feedback.judge import judge_from
from rlaif_ray.feedback.pool import FeedbackPool
from rlaif_ray.feedback.question import Asked
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Episode

POLL_S = 0.25  # a training step that is quick
PARTS_OF = 300  # episodes for each part that is measured by itself
SAMPLES = 40  # looks at the memory in a run
WARM = 0.05  # of the questions, before memory is held to have settled


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--failures", action="store_true")
    parser.add_argument("--questions", type=int, default=0, help="default: 5,000; 20,000 (memory); 400 (failures)")
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--name", default="")
    options = parser.parse_args()
    what = "memory" if options.memory else "failures" if options.failures else "efficiency"
    count = options.questions or {"memory": 20_000, "failures": 400, "efficiency": 5_000}[what]
    found = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="pool-bench-") as folder:
        found |= {"memory": memory, "failures": failures, "efficiency": efficiency}[what](Path(folder), count, options)
    found["load_after"] = round(os.getloadavg()[0], 2)
    show(found)
    out = Path("benchmarks") / f"pool-{options.name or what}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {out}")
    return 0 if found["holds"] else 1


def efficiency(folder: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Labels a second against what the judge and the processors allow."""
    profile = load_profile(PUBLISHED)
    latency_s = profile.latency_median_s * math.exp(profile.latency_sigma**2 / 2)  # mean of a log-normal
    asked = list(islice(episodes(0), count))
    parts = parts_ms(asked[:PARTS_OF])
    cores = machine()["cores"]
    bounds = {"latency": options.concurrency / latency_s, "cores": cores * 1e3 / sum(parts.values())}
    with Pool(folder, PUBLISHED, options) as run:
        run.warm()
        cpu, began, blocked_s = cpu_seconds(), time.time(), 0.0
        for blocked in run.through(iter(asked)):
            blocked_s += blocked
        wall_s = time.time() - began
        cpu = cpu_seconds() - cpu
        stats, at = run.pool.stats(), run.answered_at()[-count:]
    steady = np.interp([0.1, 0.9], np.linspace(0, 1, count), at)
    least = min(bounds, key=lambda name: bounds[name])
    rate = count / wall_s
    return {
        "questions": count,
        "concurrency": options.concurrency,
        "wall_s": wall_s,
        "labels_per_s": rate,
        "labels_per_s_middle": 0.8 * count / float(steady[1] - steady[0]),
        "mean_latency_s": latency_s,
        "measured_latency_s": stats.latency_s,
        "allowed_by_latency_per_s": bounds["latency"],
        "allowed_by_cores_per_s": bounds["cores"],
        "bound": least,
        "efficiency": rate / bounds[least],
        "alone_ms": parts,
        "in_the_run_cpu_ms": {kind: 1e3 * seconds / count for kind, seconds in cpu.most_common() if seconds > 0.01},
        "in_the_run_cores": sum(cpu.values()) / wall_s,
        "driver_in_submit_and_poll": blocked_s / wall_s,
        "failed": stats.failed,
        "holds": rate >= 0.9 * bounds[least] and not stats.failed,
    }


def parts_ms(some: list[Episode]) -> dict[str, float]:
    """Processor milliseconds a question of each part by itself, nothing else going on."""
    renderer, cpu = HomegridRenderer(), time.process_time
    renderer.png(some[0].states)  # draws the house
    began = cpu()
    for episode in some:
        renderer.png(episode.states)
    drawn_s = cpu() - began
    with BuiltinJudge() as server:
        config = config_for(server.start("perfect", READER), "perfect", {})
        put = questions(config, some)
        judge, process = judge_from(config.judge, None), psutil.Process(server.pid)

        async def asking() -> None:
            gate = asyncio.Semaphore(32)

            async def one(asked: Asked) -> None:
                async with gate:
                    await judge.ask(asked.question)

            await asyncio.gather(*map(one, put))
            await judge.close()

        served, began = sum(process.cpu_times()[:2]), cpu()
        asyncio.run(asking())
        asked_s, served_s = cpu() - began, sum(process.cpu_times()[:2]) - served
    each = 1e3 / len(some)
    return {"draw_and_encode": drawn_s * each, "ask": asked_s * each, "serve": served_s * each}


def memory(folder: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """What driver, store and questioners grow by, once warm."""
    looks: list[dict[str, float]] = []
    quick = variant(folder, "perfect", latency_median_s=0.2, latency_sigma=0.21)
    with Pool(folder, quick, options) as run:
        run.warm()
        began, next_look = time.time(), 0
        for _ in run.through(islice(episodes(0), count)):
            if run.arrived >= next_look:
                looks.append({"questions": run.arrived, "s": time.time() - began, **memory_mb()})
                next_look += count // SAMPLES
        time.sleep(1.0)
        looks.append({"questions": run.arrived, "s": time.time() - began, **memory_mb()})
        stats = run.pool.stats()
    warm = next(look for look in looks if look["questions"] >= WARM * count)
    pool = ("driver", "store", "questioners", "gcs", "raylet")  # Ray's own processes remember what the pool calls
    growth = {kind: looks[-1][kind] - warm[kind] for kind in (*pool, "server")}
    total = sum(growth[kind] for kind in pool)
    return {
        "questions": count,
        "labels_per_s": count / looks[-1]["s"],
        "growth_mb": growth,
        "pool_growth_mb": total,
        "from_questions": warm["questions"],
        "peak_mb": {kind: max(look[kind] for look in looks) for kind in pool},
        "failed": stats.failed,
        "holds": total < 300.0 and not stats.failed,
        "looks": [{key: round(value, 1) for key, value in look.items()} for look in looks],
    }


def failures(folder: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """The same questions of a healthy server and of one that fails a fifth of its requests."""
    share = dict.fromkeys(("status_500", "status_503", "hang_up", "cut_body"), 1.0 - 0.8 ** (1 / 4))
    profiles = {
        "healthy": variant(folder, PUBLISHED, latency_median_s=0.0),
        "failing": variant(folder, PUBLISHED, latency_median_s=0.0, failures=share),
    }
    asked = list(islice(episodes(0), count))
    found: dict[str, dict[int, float | None]] = {}
    attempts = Counter[str]()
    for name, profile in profiles.items():
        with BuiltinJudge() as server, LabelStore(folder / f"{name}.sqlite") as store:
            config = config_for(server.start(profile, READER), profile, {"judge.retries": 12})
            labels = asyncio.run(labels_of(config, store, asked))
            found[name] = {label.episode_id: label.value for label in labels}
            attempts[name] = sum(label.outcome.usage.attempts for label in labels)
    healthy, failing = found["healthy"], found["failing"]
    return {
        "questions": count,
        "attempts": dict(attempts),
        "failed_attempts": 1.0 - count / attempts["failing"],
        "verdicts": {str(value): number for value, number in Counter(healthy.values()).items()},
        "different": sum(value != failing.get(number) for number, value in healthy.items()),
        "holds": healthy == failing and len(healthy) == count and None not in healthy.values(),
    }


class Pool:
    """A server, a Ray and a pool; asks about episodes as a training loop would."""

    def __init__(
        self, folder: Path, profile: str, options: argparse.Namespace, more: dict[str, Any] | None = None
    ) -> None:
        self._folder, self._profile, self._options, self._more = folder, profile, options, more or {}
        self.arrived = 0

    def __enter__(self) -> Pool:
        import ray

        self._server = BuiltinJudge()
        url = self._server.start(self._profile, READER)
        sizes = {"feedback.concurrency": self._options.concurrency, "feedback.pool_actors": self._options.actors}
        self._own_ray = not ray.is_initialized()
        if self._own_ray:
            ray.init(num_cpus=2, include_dashboard=False, object_store_memory=500_000_000, log_to_driver=False)
        self._store = self._folder / "labels.sqlite"
        config = config_for(url, self._profile, sizes | self._more)
        self.pool = FeedbackPool(config, renderer=HomegridRenderer(), store_path=self._store, run_id="bench")
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self.pool.close()
        if self._own_ray:
            ray.shutdown()
        self._server.stop()

    def warm(self) -> None:
        """One question to each actor: its process has started, its modules are loaded."""
        few = list(islice(episodes(1), self._options.actors))
        self.pool.submit(few, inclusion_probability=1.0, step=0)
        assert len(self.pool.wait(120.0)) == len(few), "the pool gave no answer within two minutes"

    def through(self, source: Iterator[Episode]) -> Iterator[float]:
        """Have all judged; after each turn the seconds it spent in the pool's calls."""
        waiting: list[Episode] = []
        deepest = 2 * self._options.concurrency  # as many again as are in flight: never idle, and little is held
        more = True
        while more or waiting or self.pool.in_flight:
            waiting += islice(source, max(0, deepest - self.pool.in_flight - len(waiting)))
            more = bool(waiting)
            began = time.perf_counter()
            del waiting[: len(self.pool.submit(waiting, inclusion_probability=1.0, step=0))]
            self.arrived += len(self.pool.poll())
            yield time.perf_counter() - began
            time.sleep(POLL_S)

    def answered_at(self) -> list[float]:
        """Times of the answers, in order."""
        with LabelStore(self._store, readonly=True) as store, store.reading() as db:
            return [row[0] for row in db.execute("SELECT answered_at FROM answers ORDER BY answered_at")]


if __name__ == "__main__":
    raise SystemExit(main())
