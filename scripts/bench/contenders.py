#!/usr/bin/env python
"""Whoever trains on Homegrid for a comparison, each in a process of its own: ours, Stable-Baselines3, stock RLlib.

    python scripts/bench/contenders.py '{"kind": "sb3", "network": "mlp", "threads": 2}'

builds one, says that it is ready, and for every JSON line {"do": "block"} trains on one batch and answers with a JSON
line: environment steps, seconds, processor seconds, and what else it can tell of itself. {"do": "train", "seconds": S}
trains for so long and by whole batches; {"do": "evaluate", "episodes": N, "starts": "heldout"} answers with the true
outcomes of the policy as it is. With "lead_s" it trains before the clock starts, so that a runner is sampling
ahead; with "settle_s" it waits afterwards until that is over, so that others don't pay for it.
``duel.py`` drives several in turn.

All have the same world (vectorised), batch of 8,192 steps, 4 epochs, minibatches of 1,024, Adam, clip, discount and
coefficients, and a network of the same shapes. The others' networks are written plainly, as a user of theirs would.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

import torch
from common import Contender
from processes import cpu_seconds
from this_machine import CORES


def build(kind: str, threads: int = 0, **options: Any) -> Contender:
    if threads:
        torch.set_num_threads(threads)
    if kind == "ours":
        from with_ours import Ours

        return Ours(threads=threads, **options)
    if kind in ("sb3", "sb3-published", "sb3-preset"):
        import with_sb3

        makes = {"sb3": with_sb3.StableBaselines, "sb3-published": with_sb3.Published, "sb3-preset": with_sb3.Preset}
        return makes[kind](**options)
    if kind == "rllib":
        from with_rllib import StockRLlib

        return StockRLlib(threads=threads, **options)
    raise SystemExit(f"kind: got {kind!r}, allowed are ours, sb3, sb3-published, sb3-preset, rllib")


class Performer:
    """Does what it is told with a contender, by the clock."""

    def __init__(self, what: dict[str, Any]) -> None:
        self.contender = build(**what)

    def __call__(self, do: str, lead_s: float = 0.0, settle_s: float = 0.0, **options: Any) -> dict[str, Any]:
        if lead_s:
            self.train(lead_s)
        found = self._measured(do, options)
        time.sleep(settle_s)
        return found

    def _measured(self, do: str, options: dict[str, Any]) -> dict[str, Any]:
        before = cpu_seconds()
        began = time.perf_counter()
        said: dict[str, Any] = getattr(self if hasattr(Performer, do) else self.contender, do)(**options)
        seconds = time.perf_counter() - began
        after = cpu_seconds()
        spent = {kind: after[kind] - before[kind] for kind in after}
        return {
            "seconds": seconds, "processor_s": sum(spent.values()), "judge_processor_s": spent.get("server", 0.0),
            "reward_model_processor_s": spent.get("reward model", 0.0), "by_process": spent,
            "threads": torch.get_num_threads(), "cores": CORES,
        } | said  # fmt: skip

    def block(self) -> dict[str, Any]:
        return self.contender.block()

    def train(self, seconds: float = 0.0, steps: int = 0) -> dict[str, Any]:
        """At least one batch, until so many seconds have passed and so many steps are done.

        Steps and labels of all of it, and what else batches tell of themselves as means over them.
        """
        began, done, labels = time.perf_counter(), 0, getattr(self.contender, "labels", 0.0)
        blocks: list[dict[str, Any]] = []
        while not blocks or time.perf_counter() - began < seconds or done < steps:
            blocks.append(self.contender.block())
            done += blocks[-1]["steps"]
        means = {key: statistics.fmean(block[key] for block in blocks) for key in blocks[0]}
        told = {"steps": done, "blocks": len(blocks), "labels": getattr(self.contender, "labels", 0.0) - labels}
        return means | told

    def evaluate(self, episodes: int, starts: str) -> dict[str, Any]:
        """Of the policy as it acts (stochastic)."""
        from rlaif_ray.evaluation import World, evaluate_policy

        world = World("rlaif_ray/Homegrid-v0", {"starts": starts})
        found = evaluate_policy(self.contender.policy(), world, episodes, seed=12_345)
        return {key: found[key] for key in ("found", "cat_survived", "mean_length", "episodes")}


def main() -> int:
    talk = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not for whoever listens
    perform = Performer(json.loads(sys.argv[1]))
    print(json.dumps({"ready": True, "threads": torch.get_num_threads()}), file=talk)
    for line in sys.stdin:
        print(json.dumps(perform(**json.loads(line)), default=float), file=talk)
    perform.contender.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
