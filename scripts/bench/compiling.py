"""``torch.compile``: whether a minibatch's forward and backward pass wins by it what compiling costs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import passes
import torch
from common import BATCH, EPOCHS, NETWORKS
from flops import SAMPLES
from plan import Plan, Row

from rlaif_ray.config import load_config
from rlaif_ray.networks import ActorCritic

__all__ = ["suite"]


def suite(plan: Plan) -> Iterator[Row]:
    """Plain and compiled passes in turn, on one thread, on columns digested as the learner has them."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        yield {"contenders": {}, "ratios": {}, "not_run": "torch.compile needs a C++ compiler, which isn't here"}
        return
    torch.set_num_threads(1)
    rows = []
    for network in NETWORKS:
        found = compared(network, plan.times(60))
        rows.append([network, found["plain_ms"], found["compiled_ms"], found["compile_s"], verdict(found)])
        yield {"contenders": {}, "ratios": {}, "tables": [table(rows)]}


def compared(network: str, times: int) -> dict[str, float]:
    """Medians of both over so many turns, and what the first compiled pass took."""
    net, given, plain = passes.homegrid(network)
    compiled = torch.compile(plain, dynamic=False)
    compile_s = seconds(net, compiled, given)
    both = [(seconds(net, plain, given), seconds(net, compiled, given)) for _ in range(times)]
    plain_s, compiled_s = (sorted(column)[len(both) // 2] for column in zip(*both, strict=True))
    return {"plain_ms": 1e3 * plain_s, "compiled_ms": 1e3 * compiled_s, "compile_s": compile_s}


def seconds(net: ActorCritic, forward: passes.Pass, given: Any) -> float:
    """Of one forward and backward pass."""
    net.zero_grad()
    began = time.perf_counter()
    forward(given).backward()
    return time.perf_counter() - began


def verdict(found: dict[str, float]) -> str:
    """After how many of the preset's runs compiling has paid."""
    won_s = (found["plain_ms"] - found["compiled_ms"]) / 1e3
    if won_s <= 0:
        return "never"
    minibatches = load_config("homegrid").run.total_steps * EPOCHS / SAMPLES
    return f"{found['compile_s'] / (won_s * minibatches):.2f}"


def table(rows: list[list[Any]]) -> Row:
    return {
        "title": "A minibatch, plain and compiled",
        "head": ["network", "plain, ms", "compiled, ms", "compiling, s", "has paid after runs of the preset"],
        "rows": [list(row) for row in rows],
        "note": f"Forward and backward, {SAMPLES:,} samples, one thread; a batch of {BATCH:,} steps is "
        f"{BATCH * EPOCHS // SAMPLES} of them. The optimiser, which is fused already, is left out.",
    }
