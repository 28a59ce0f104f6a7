"""What is compared with what. Each suite returns contenders' figures and the ratios that come of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import BATCH, EPOCHS, operations
from duel import Row, duel, ratio, summary

Blocks = Mapping[str, Sequence[Row]]
CORES = os.cpu_count() or 1
AHEAD = {"resources": {"overlap": True}}


def learners(logs: Path, rounds: int, networks: Sequence[str] = ("mlp", "cnn")) -> Row:
    """Same world, network, batch and coefficients; each contender with the threads and environments that suit it."""
    out: Row = {"contenders": {}, "ratios": {}, "limits": {}}
    for network in networks:
        found = duel(candidates(network), rounds=rounds or {"mlp": 20, "cnn": 8}[network], warm_up=2, logs=logs)
        out["contenders"] |= {f"{network}: {name}": summary(rows) for name, rows in found.items()}
        ours, sb3, stock = (best(found, kind) for kind in ("ours", "SB3", "RLlib"))
        out["ratios"] |= {
            f"{network}: ours / SB3": ratio(found[ours], found[sb3]) | {"of": [ours, sb3]},
            f"{network}: ours / stock RLlib": ratio(found[ours], found[stock]) | {"of": [ours, stock]},
        }
        out["limits"][network] = arithmetic(network, summary(found[ours])["median"])
    return out


def candidates(network: str) -> dict[str, dict[str, Any]]:
    ours = {"kind": "ours", "network": network}
    sb3 = {"kind": "sb3", "network": network, "threads": CORES}
    everybody: dict[str, dict[str, Any]] = {
        f"ours, {CORES} threads": ours | {"threads": CORES},
        "ours, 1 thread and a runner ahead": ours | {"threads": 1, "runners": 1} | AHEAD,
        f"ours, {CORES} threads and a runner ahead": ours | {"threads": CORES, "runners": 1} | AHEAD,
        f"SB3, 64 envs, {CORES} threads": sb3 | {"envs": 64},
        f"SB3, 128 envs, {CORES} threads": sb3 | {"envs": 128},
        f"SB3, 256 envs, {CORES} threads": sb3 | {"envs": 256},
        "SB3, 256 envs, 1 thread": sb3 | {"envs": 256, "threads": 1},
        f"SB with our trunk inside, {CORES} threads": sb3 | {"ours": True},
        f"RLlib, {CORES} threads": {"kind": "rllib", "network": network, "threads": CORES},
        "RLlib, 1 thread and a runner": {"kind": "rllib", "network": network, "threads": 1, "runners": 1},
    }
    return everybody


def best(blocks: Blocks, kind: str) -> str:
    """Of one kind's variants the one that is fastest in this run."""
    names = [name for name in blocks if name.startswith(f"{kind},")]
    return max(names, key=lambda name: summary(blocks[name])["median"])


def arithmetic(network: str, steps_per_s: float) -> Row:
    """What the plain network's operations alone would take at the rate of a large matrix product."""
    gflops = product_gflops(CORES)
    seconds = operations(network) * BATCH * EPOCHS / (gflops * 1e9)
    return {
        "gflops_of_a_product": gflops, "operations_per_sample": operations(network),
        "steps_per_s_at_that_rate": BATCH / seconds, "ours_over_it": steps_per_s / (BATCH / seconds),
    }  # fmt: skip


def product_gflops(threads: int, size: int = 1_024, repeats: int = 20) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    torch.set_num_threads(before)
    return 2.0 * size**3 / statistics.median(times) / 1e9


def published(logs: Path, rounds: int) -> Row:
    """Against SB3 as the published study ran it: 4 environments, its defaults, 2x2 convolutions."""
    ours = {"kind": "ours", "threads": 1, "runners": 1, "every": 1} | AHEAD
    found = duel(
        {
            "ours, mlp": ours | {"network": "mlp"},
            "ours, egocentric (the preset's)": ours | {"network": "egocentric"},
            "SB3, published settings": {"kind": "sb3-published", "threads": CORES, "every": 4},
        },
        rounds=rounds or 12, warm_up=2, logs=logs,
    )  # fmt: skip
    theirs = found["SB3, published settings"]
    return {
        "contenders": {name: summary(rows) for name, rows in found.items()},
        "ratios": {f"{name} / SB3, published settings": ratio(rows, theirs) for name, rows in found.items()
                   if name.startswith("ours")},
    }  # fmt: skip


def feedback(logs: Path, rounds: int) -> Row:
    """What feedback costs the loop: steps a second with it over those without. The judge runs on the same cores."""
    found = duel(asking(), rounds=rounds or 40, warm_up=40, logs=logs)
    off = found["off"]
    out: Row = {"contenders": {}, "ratios": {}}
    for name, rows in found.items():
        out["contenders"][name] = summary(rows)
        if name != "off":
            out["ratios"][f"{name} / off"] = ratio(rows, off)
            without = [row | {"seconds": row["seconds"] - row.get("judge_processor_s", 0.0) / CORES} for row in rows]
            out["ratios"][f"{name}, the judge's processor time taken off / off"] = ratio(without, off)
    return out


def asking() -> dict[str, dict[str, Any]]:
    ours: dict[str, Any] = {"kind": "ours", "network": "egocentric", "threads": 1, "runners": 1}
    judge = {"judge": {"kind": "builtin", "profile": "gpt-4o-mini-2024"}}
    spread = {"labels_per_iteration": 2, "late": "defer", "fraction": 1.0}
    many = {"labels_per_iteration": 8, "late": "defer", "fraction": 1.0, "concurrency": 256}
    return {
        "off": ours,
        "distilled, every episode scored": ours | judge | {
            "mix": {"source": "distilled", "ramp_steps": 1}, "feedback": spread, "budget": {"labels": 100},
            "reward_model": {"pace": "go"},
        },
        "hybrid, 2 questions an iteration, deferred": ours | judge | {
            "mix": {"source": "hybrid"}, "feedback": spread, "reward_model": {"retrain_every": 20, "pace": "go"},
        },
        "hybrid, 8 questions an iteration, deferred": ours | judge | {
            "mix": {"source": "hybrid"}, "feedback": many, "reward_model": {"retrain_every": 200, "pace": "go"},
        },
        "direct, 2 questions an iteration, deferred": ours | judge | {
            "mix": {"source": "direct", "credit": "terminal", "unjudged": "task"}, "feedback": spread,
        },
    }  # fmt: skip


def growth(logs: Path, rounds: int) -> Row:
    """More environments, and more runners than there are cores only where that is said."""
    ours = {"kind": "ours", "network": "mlp", "threads": 1}
    contestants: dict[str, dict[str, Any]] = {
        f"{n} environments": ours | {"env": {"num_envs": n}} for n in (32, 128, 512, 2_048, 4_096)
    }
    contestants |= {f"{n} runner(s), ahead": ours | {"runners": n} | AHEAD for n in (1, 2, 4, 8) if n <= max(2, CORES)}
    found = duel(contestants, rounds=rounds or 10, warm_up=2, logs=logs)
    return {"contenders": {name: summary(rows) for name, rows in found.items()}, "ratios": {}}


def memory(logs: Path, rounds: int) -> Row:
    """Memory of all processes after a million steps and after ten million."""
    from duel import Contestant

    one = Contestant(
        "memory", {"kind": "ours", "network": "mlp", "threads": 1, "runners": 1} | AHEAD, logs / "memory.log"
    )
    marks: dict[str, float] = {}
    steps, limit = 0, (rounds or 10) * 1_000_000
    try:
        while steps < limit:
            row = one.block()
            steps += row["steps"]
            million = steps // 1_000_000
            if million and f"{million}M" not in marks:
                marks[f"{million}M"] = one.memory_gb()
    finally:
        one.close()
    first, last = marks["1M"], marks[f"{limit // 1_000_000}M"]
    return {
        "contenders": {}, "memory_gb": marks,
        "ratios": {"memory at the end / after 1 M steps": {"median": last / first, "low": last / first,
                                                            "high": last / first, "pairs": 1}},
    }  # fmt: skip


def gpu(logs: Path, rounds: int) -> Row:
    """The learner on a GPU, where there is one."""
    if not torch.cuda.is_available():
        return {"contenders": {}, "ratios": {}, "not_run": "PyTorch sees no GPU on this machine"}
    ours = {"kind": "ours", "threads": CORES}
    contestants = {
        f"{network}, {device}": ours | {"network": network, "resources": {"device": device}}
        for network in ("mlp", "cnn", "egocentric") for device in ("cpu", "cuda")
    }  # fmt: skip
    found = duel(contestants, rounds=rounds or 10, warm_up=3, logs=logs)
    return {
        "contenders": {name: summary(rows) for name, rows in found.items()},
        "ratios": {
            f"{n}: GPU / CPU": ratio(found[f"{n}, cuda"], found[f"{n}, cpu"]) for n in ("mlp", "cnn", "egocentric")
        },
    }


SUITES = {
    "learners": learners, "published": published, "feedback": feedback, "growth": growth, "memory": memory, "gpu": gpu,
}  # fmt: skip


def smoke(logs: Path) -> dict[str, Row]:
    """The main ratios from a few blocks each."""
    out: dict[str, Row] = {}
    for network, rounds in (("mlp", 8), ("cnn", 2)):
        everybody = candidates(network)
        names = [f"ours, {CORES} threads", f"SB3, 128 envs, {CORES} threads", f"RLlib, {CORES} threads"]
        found = duel({name: everybody[name] for name in names}, rounds=rounds, warm_up=1, logs=logs)
        ours, sb3, stock = (found[name] for name in names)
        out |= {f"{network}: ours / SB3": ratio(ours, sb3), f"{network}: ours / stock RLlib": ratio(ours, stock)}
    contestants = {name: what for name, what in asking().items() if name.startswith(("off", "hybrid, 2"))}
    found = duel(contestants, rounds=15, warm_up=10, logs=logs)
    name = next(name for name in found if name.startswith("hybrid"))
    out[f"{name} / off"] = ratio(found[name], found["off"])
    return out
