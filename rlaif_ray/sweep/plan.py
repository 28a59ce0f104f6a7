"""Which trials a sweep has: arms x seeds, or points drawn x seeds, all known before anything starts.

Seeds are the outer loop: a sweep that is stopped half-way has whole pairs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlaif_ray.config import Config, load_config
from rlaif_ray.config.reading import takes_list
from rlaif_ray.config.sweeping import Search, Study, own_caps
from rlaif_ray.errors import ConfigError

__all__ = ["Cell", "cells_of", "config_of", "in_words", "suggested", "with_seed"]

_DRAWN_FROM = 0  # the seed of a random search's points: the same file has the same ones


@dataclass(frozen=True)
class Cell:
    """One trial to be."""

    name: str  # its folder
    arm: str
    seed: int
    set: Mapping[str, Any] = field(default_factory=dict)  # dotted config keys


def cells_of(study: Study) -> tuple[Cell, ...]:
    """Every trial of the study, in the order in which they are begun; none where a searcher chooses as it goes.

    Raises ConfigError: two arms of one name.
    """
    if study.search is not None and study.search.algorithm != "random":
        return ()
    if study.pbt is not None and study.search is not None:
        points = _points(study.search)
        return tuple(Cell(f"member-{i:03d}", f"member-{i:03d}", study.seeds[0] + i, p) for i, p in enumerate(points))
    if study.search is not None:
        arms = [(f"point-{i:03d}", point) for i, point in enumerate(_points(study.search))]
    else:
        arms = [one for arm in study.arms for one in _choices(arm)]
    names = [name for name, _ in arms]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"arms: got {twice!r} twice, expected names that differ")
    return tuple(Cell(f"{name}-s{seed}", name, seed, point) for seed in study.seeds for name, point in arms)


def suggested(study: Study, point: Mapping[str, Any], repeat: int) -> Cell:
    """The trial of a point that a searcher has chosen, for the ``repeat``-th of the seeds."""
    seed = study.seeds[repeat % len(study.seeds)]
    arm = f"point-{hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:8]}"
    return Cell(f"{arm}-s{seed}", arm, seed, point)


def config_of(base: Config, study: Study, cell: Cell, folder: Path) -> Config:
    """A trial's config: the base with the cell's keys, a seed for the judge's errors too, and the sweep's budget.

    Raises ConfigError, naming the arm.
    """
    fixed = {"run.name": cell.name, "run.dir": str(folder / "trials"), "run.seed": cell.seed, "judge.seed": cell.seed}
    try:
        config = load_config(base.model_dump(mode="json"), {**with_seed(cell.set, cell.seed), **fixed})
    except ConfigError as error:
        raise ConfigError(f"arm {cell.arm!r}: {error}{_hint_at_lists(study, cell)}") from None
    if config.watch.action == "rollback":
        raise ConfigError(
            f"arm {cell.arm!r}: watch.action: got 'rollback', allowed in a sweep are 'report', 'stop' (trials' "
            "checkpoints are Tune's)"
        )
    store = base.feedback.store or str(folder / "labels.sqlite")
    threads = config.resources.learner_threads or 1  # a core for each runner and one to learn: trials share a machine
    return config.model_copy(
        update={
            "budget": own_caps(config.budget, study.budget),
            "feedback": config.feedback.model_copy(update={"store": store}),
            "resources": config.resources.model_copy(update={"learner_threads": threads}),
        }
    )


def with_seed(point: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The same with ``{seed}`` in texts filled in: a trial may begin with what another one of its seed has left."""
    return {
        key: value.replace("{seed}", str(seed)) if isinstance(value, str) else value for key, value in point.items()
    }


def in_words(point: Mapping[str, Any]) -> str:
    """``{"mix.weight": 0.5}`` -> ``weight 0.5``, for tables."""
    return ", ".join(f"{_leaf(key)} {_short(value)}" for key, value in point.items())


def _hint_at_lists(study: Study, cell: Cell) -> str:
    """What to write instead where a list that was meant as one value was taken for a choice."""
    for key, value in cell.set.items():
        listed = [arm[key] for arm in study.arms if isinstance(arm.get(key), list)]
        listed += [study.search.space[key].get("choice", [])] if study.search and key in study.search.space else []
        meant = next((values for values in listed if value in values), None)
        if meant and takes_list(key) and not isinstance(value, list):
            return f"; a list is a choice of its values: one that is a list itself is written [{meant}] for {key}"
    return ""


def _choices(arm: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """An arm's name and keys for every combination of its listed values."""
    keys = [key for key in arm if key != "name"]
    listed = [key for key in keys if isinstance(arm[key], list)]
    for values in itertools.product(*(arm[key] for key in listed)):
        chosen = dict(zip(listed, values, strict=True))
        parts = [str(arm["name"]), *(f"{_leaf(key)}{_short(value)}" for key, value in chosen.items())]
        yield (
            "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts),
            {k: chosen.get(k, arm[k]) for k in keys},
        )


def _points(search: Search) -> list[dict[str, Any]]:
    """Points drawn from the space."""
    rng = np.random.default_rng(_DRAWN_FROM)
    return [{key: _drawn(domain, rng) for key, domain in search.space.items()} for _ in range(search.samples)]


def _drawn(domain: Mapping[str, Any], rng: np.random.Generator) -> Any:
    kind, values = next(iter(domain.items()))
    if kind == "choice":
        return values[int(rng.integers(len(values)))]
    low, high = values
    if kind == "randint":
        return int(rng.integers(low, high, endpoint=True))
    if kind == "loguniform":
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
