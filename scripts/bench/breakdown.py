"""Where an iteration's time goes, for each network, and how far its learner is from what arithmetic allows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import given_rm
from common import EPOCHS, NETWORKS, PLAIN, sized
from duel import duel, ratio, summary
from flops import operations
from plan import Plan, Row
from stopwatch import PARTS

__all__ = ["fits", "suite"]


def suite(plan: Plan) -> Iterator[Row]:
    """Every episode scored by a reward model that was given; nobody is asked. Three ways of sampling each network."""
    given = str(given_rm.fitted(plan.logs / "given-rm.pickle", plan.size(given_rm.LABELS, 120)))
    out: Row = {"contenders": {}, "ratios": {}}
    tables: dict[str, Row] = {}
    for network in NETWORKS[: plan.size(len(NETWORKS), 1)]:
        rounds = plan.times({"cnn": 8}.get(network, 16))
        for found in duel(ways(network, given), plan, part=network, rounds=rounds, warm_up=3):
            out["contenders"] |= {f"{network}: {name}": summary(rows) for name, rows in found.items()}
            tables[network] = parts_table(network, found)
            out["ratios"] |= {
                f"{network}: {name} / driver alone": ratio(rows, found["driver alone"])
                for name, rows in found.items() if name != "driver alone"
            }  # fmt: skip
            yield out | {"tables": [*tables.values(), limits_table(tables)]}


def ways(network: str, given: str) -> dict[str, dict[str, Any]]:
    ours = {"kind": "ours", **sized(network), "given": given, "timed": True, "mix": {"ramp_steps": 1}}
    return {
        "driver alone": ours,
        "a runner in turn": ours | {"runners": 1, "resources": {"overlap": False}},
        "a runner ahead": ours | {"runners": 1, "resources": {"overlap": True}},
    }


def parts_table(network: str, found: dict[str, list[Row]]) -> Row:
    """Milliseconds of an iteration, medians over blocks; what does not fit is in ``the rest``."""
    names = [*PARTS, "sampled beside"]
    rows = [[name, *(_median_ms(rows, name) for rows in found.values())] for name in names]
    whole = ["iteration", *(1e3 * statistics.median(sum(r[p] for p in PARTS) for r in rows) for rows in found.values())]
    return {
        "title": f"`{network}`, milliseconds of an iteration",
        "head": ["", *found],
        "rows": [*rows, whole],
        "learner": learner(network, found["driver alone"]) if network in PLAIN else None,
    }


def _median_ms(rows: Sequence[Row], name: str) -> float | None:
    """None where there is no such part."""
    return 1e3 * statistics.median(row[name] for row in rows) if name in rows[0] else None


def learner(network: str, rows: Sequence[Row]) -> Row:
    """The learner's passes against the rate of a large product on the same threads, measured beside each block.

    ``of_limit``: share of that rate at which it does the operations that it really does; ``as_dense``: the rate at
    which it would have to do the plain network's, over the product's.
    """
    passes = statistics.median(EPOCHS * row["steps"] / row["blocks"] / row["learn_s"] for row in rows)
    gflops = statistics.median(row["product_gflops"] for row in rows)
    dense, really = operations(network, ours=False), operations(network, ours=True)
    return {
        "passes_per_s": passes, "product_gflops": gflops, "operations_dense": dense, "operations_ours": really,
        "of_limit": passes * really / (gflops * 1e9), "as_dense": passes * dense / (gflops * 1e9),
    }  # fmt: skip


def limits_table(tables: dict[str, Row]) -> Row:
    rows = []
    for network, table in tables.items():
        one = table["learner"]
        if one is None:  # it searches: no network of products does what it does
            continue
        rows.append([
            network, one["passes_per_s"], one["operations_dense"] / 1e6, one["operations_ours"] / 1e6,
            one["product_gflops"], one["of_limit"], one["as_dense"],
        ])  # fmt: skip
    return {
        "title": "The learner against arithmetic",
        "head": [
            "", "sample passes/s", "million operations a pass, plain network", "same, those ours does",
            "GFLOP/s of a large product, same threads", "share of it that ours reaches",
            "plain network's at our speed",
        ],
        "rows": rows,
        "note": "Operations are counted as a minibatch of 1,024 observations goes through, forwards and backwards. "
        "Ours adds up rows of weights where the plain network multiplies by zeros: it does fewer operations, at a "
        "lower rate than a large product's. The last column is what the plain network would have to reach to be as "
        "fast: above 1 no plain network can be.",
    }  # fmt: skip


def fits(plan: Plan, devices: Sequence[str]) -> Row:
    """Seconds to fit a reward model on the same episodes, on each device, in turn."""
    from mixed_play import episodes

    from rlaif_ray.config import RewardModelConfig
    from rlaif_ray.envs.homegrid_world import STATE_COLUMNS
    from rlaif_ray.reward_model import RewardModelTrainer

    taught = list(islice(episodes(0, "train"), plan.size(500, 120)))
    harmed = STATE_COLUMNS.index("squashed")
    values = [1.0 - float(one.states is not None and one.states[-1, harmed] > 0) for one in taught]
    seconds: dict[str, list[float]] = {
        f"{net}, {device}": [] for net in ("event-max", "cnn-lstm") for device in devices
    }
    for _ in range(plan.times(5)):
        for name, spent in seconds.items():
            net, device = name.split(", ")
            config = RewardModelConfig.model_validate({"net": net} | ({"epochs": 3} if plan.tiny else {}))
            trainer = RewardModelTrainer(config, taught[0].obs.shape[1:], 0, device=device)
            trainer.add(taught, values)
            began = time.perf_counter()
            trainer.fit()
            spent.append(time.perf_counter() - began)
    return {
        "title": f"Fitting the reward model on {len(taught)} labels",
        "head": ["", "seconds, median", "lowest", "highest"],
        "rows": [[name, statistics.median(s), min(s), max(s)] for name, s in seconds.items()],
        "note": "Labels are what the states say: the fit's speed does not depend on whose they are.",
    }
