"""What a step is made with: a result, or a run's folder, of other settings than today's is not the step's.

All settings are told, by dotted name, so that a default that changes is noticed; one that the product got later counts
as what it is by default. Of a judge's profile and prompt, which are files, digests stand beside their names.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rlaif_ray.config import Config
from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.feedback.prompt import load_prompt

__all__ = ["differing", "digest", "of_labels", "of_run"]

# Where a run lies, on what machine it acts, and what it begins with, which is told by that step's own settings.
NOT_OF_THE_RUN = (
    "run.name", "run.dir", "run.init", "reward_model.labels", "resources.env_runners", "resources.learner_threads",
    "resources.object_store_mb", "resources.address", "resources.device", "judge.base_url",
)  # fmt: skip
JUDGE = ("judge.profile", "judge.prompt", "judge.seed")  # what `rlaif-ray label` is told of it


def of_run(config: Config) -> dict[str, Any]:
    """Of a training run; one that asks nothing has no budget for it."""
    nothing = not config.asks or not (config.feedback.fraction or config.feedback.fraction_final)
    without = (*NOT_OF_THE_RUN, *(("budget.",) if nothing else ()))
    flat = _flat(config.model_dump(mode="json"))
    return {name: value for name, value in flat.items() if not name.startswith(without)} | _files(config)


def of_labels(config: Config) -> dict[str, Any]:
    """Of a data set of labels, but for how many there are."""
    judge = config.judge.model_dump(mode="json")
    return {name: judge[name.partition(".")[2]] for name in JUDGE} | _files(config)


def digest(settings: Mapping[str, Any]) -> str:
    """Short, for a step that begins with this one; of what isn't as it is by default."""
    default = _defaults()
    return _hash({name: value for name, value in settings.items() if name not in default or default[name] != value})


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words: ``budget.labels was 500, is 1000``; [] where they are the same."""
    before = {name: value for name, value in _defaults().items() if name in now} | dict(then)
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return [f"{name} was {before.get(name, 'not there')!r}, is {now.get(name, 'not there')!r}" for name in names]


def _files(config: Config) -> dict[str, Any]:
    """Digests of the profiles and the prompt of whoever is asked."""
    if not config.asks:
        return {}
    profiles = [load_profile(one.profile) for one in config.judge.members]
    read = [one.model_dump(mode="json", exclude={"source"}, exclude_defaults=True) for one in profiles]
    return {"profiles": _hash(read), "prompt": load_prompt(config.judge.prompt).hash[:12]}


@functools.cache
def _defaults() -> Mapping[str, Any]:
    return _flat(Config().model_dump(mode="json"))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) and value else {f"{above}{name}": value}
    return flat
