"""What a step was made with: a result, or a run's folder, of other settings than today's is not the step's.

Settings are told by dotted name, those alone in which they differ from the product's defaults: a setting that the
product gets later, and that nobody sets, leaves all that was made before as it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rlaif_ray.config import Config

__all__ = ["differing", "digest", "of_labels", "of_run"]

# Where a run lies, on what machine it acts, and what it begins with, which is told by that step's own settings.
NOT_OF_THE_RUN = ("run.name", "run.dir", "run.init", "reward_model.labels", "resources.")
JUDGE = ("judge.profile", "judge.prompt", "judge.seed")  # what `rlaif-ray label` is told of it


def of_run(config: Config) -> dict[str, Any]:
    """Of a training run; one that asks nothing has no budget for it."""
    nothing = not config.asks or not (config.feedback.fraction or config.feedback.fraction_final)
    without = (*NOT_OF_THE_RUN, *(("budget.",) if nothing else ()))
    flat = _flat(config.model_dump(mode="json", exclude_defaults=True))
    return {name: value for name, value in flat.items() if not name.startswith(without)}


def of_labels(config: Config) -> dict[str, Any]:
    """Of a data set of labels, but for how many there are."""
    judge = config.judge.model_dump(mode="json")
    return {name: judge[name.partition(".")[2]] for name in JUDGE}


def digest(settings: Mapping[str, Any]) -> str:
    """Short, for a step that begins with this one."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words: ``budget.labels was 500, is 1000``; [] where they are the same."""
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    return [f"{name} was {_told(then, name)}, is {_told(now, name)}" for name in names]


def _told(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "the default"


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) and value else {f"{above}{name}": value}
    return flat
