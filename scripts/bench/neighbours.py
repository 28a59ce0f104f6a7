#!/usr/bin/env python
"""How much slower a minibatch is learned while the other core does something else: cores share their last cache and
the way to memory. What asks and judges runs there, however little of it is the learner's own.

    python scripts/bench/neighbours.py "a reward model's fit"

works without end, as one of those whom ``measured`` lets work and holds in turn.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from flops import SAMPLES
from mixed_play import episodes
from passes import homegrid
from plan import Row

from rlaif_ray.config import RewardModelConfig, load_config
from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.reward_model import RewardModelTrainer

__all__ = ["KINDS", "measured"]

PASSES = 40  # of a turn: a third of a second
LABELS = 300
Work = Callable[[], object]  # done again and again


def counting() -> Work:
    """Few numbers, always the same: no memory to speak of."""

    def count() -> None:
        for _ in range(100_000):
            pass

    return count


def objects() -> Work:
    """What a program of many small parts does: texts and tables that come and go."""
    return lambda: sum(map(len, {i: str(i) for i in range(20_000)}.values()))


def streaming() -> Work:
    """64 MB that no cache holds."""
    large = torch.randn(2**24)
    return lambda: large.add_(1.0)


def stepping() -> Work:
    """A runner's worlds."""
    world, rng = HomegridVectorEnv(256), np.random.default_rng(0)
    world.reset(seed=0)
    return lambda: world.step(rng.integers(0, 4, world.num_envs))


def fitting() -> Work:
    """A reward model, to labels that can't be learned: no fit ends early."""
    some = list(islice(episodes(), LABELS))
    trainer = RewardModelTrainer(RewardModelConfig(), some[0].obs.shape[1:], 0)
    trainer.add(some, np.random.default_rng(0).integers(0, 2, LABELS).astype(float).tolist())
    return trainer.fit


KINDS: dict[str, Callable[[], Work]] = {
    "counting in Python": counting, "Python's small objects": objects, "256 worlds' steps": stepping,
    "a reward model's fit": fitting, "64 MB, over and over": streaming,
}  # fmt: skip


def measured(turns: int, passes: int = PASSES, kinds: Sequence[str] = tuple(KINDS)) -> Row:
    """A table: median milliseconds of the preset's minibatch on one thread, and over those with nothing beside it."""
    cores = sorted(os.sched_getaffinity(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    neighbours = {kind: _Neighbour(kind, cores[-1]) for kind in kinds}
    try:
        os.sched_setaffinity(0, {cores[0]})
        learn = _learner()
        times: dict[str, list[float]] = {kind: [] for kind in ("nothing", *kinds)}
        for _ in range(turns):
            for kind in random.sample(list(times), len(times)):
                times[kind].append(_turn(learn, neighbours.get(kind), passes))
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
        for one in neighbours.values():
            one.close()
    alone = times["nothing"]
    ratios = {kind: statistics.median(a / b for a, b in zip(each, alone, strict=True)) for kind, each in times.items()}
    return {
        "title": "A minibatch while the other core works",
        "head": ["the other core", "ms", "over nothing"],
        "rows": [[kind, 1e3 * statistics.median(each), ratios[kind]] for kind, each in times.items()],
        "note": f"Forward, backward and optimiser of the preset's network, {SAMPLES:,} samples, one thread on a core "
        f"of its own; medians of {turns} turns of {passes} passes in random order. Nobody takes the learner's core: "
        "what is lost is lost in the cache and on the way to memory that cores share.",
    }  # fmt: skip


class _Neighbour:
    """A process on one core that is held except when it is told to work."""

    def __init__(self, kind: str, core: int) -> None:
        words = [sys.executable, str(Path(__file__)), kind, str(core)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit(f"the neighbour {kind!r} ended before it worked")
        self.hold()

    def work(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def hold(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _turn(learn: Callable[[], None], neighbour: _Neighbour | None, passes: int) -> float:
    """Seconds of a pass."""
    if neighbour is not None:
        neighbour.work()
    learn()
    began = time.perf_counter()
    for _ in range(passes):
        learn()
    seconds = time.perf_counter() - began
    if neighbour is not None:
        neighbour.hold()
    return seconds / passes


def _learner() -> Callable[[], None]:
    preset = load_config("homegrid").policy
    net, given, forward = homegrid(preset.network, preset.hidden)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

    def learn() -> None:
        optimiser.zero_grad()
        forward(given).backward()
        optimiser.step()

    return learn


def main(kind: str, core: str) -> None:
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {int(core)})
    work = KINDS[kind]()
    work()
    print("ready", flush=True)
    while True:
        work()


if __name__ == "__main__":
    main(*sys.argv[1:])
