"""What came of a finished step, as one small JSON file: evaluations, costs, thinned curves, and where it came from.

Evaluations are of 10,000 episodes each, the policy acting as it learned to (stochastic). What a run began with is
charged to it: labels, as-if money, steps and wall time of all that came before it in its chain stand beside its own.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homegrid_study.arms import Step
from homegrid_study.hours import EVALUATED
from homegrid_study.processes import code, shared_by
from rlaif_ray.files import write_whole
from rlaif_ray.machine import this_machine

__all__ = ["SMOKE_EVALUATED", "UNTUNED", "WORLDS", "failed", "measured", "tidy", "write_result"]

SMOKE_EVALUATED = 40
# Options put over the world that was trained in; the first is the headline.
WORLDS: Mapping[str, Mapping[str, Any]] = {"heldout": {"starts": "heldout"}, "train": {"starts": "train"}}
# Besides, of a policy that was trained in Homegrid as published: all starts, since none of them was seen.
UNTUNED: Mapping[str, Mapping[str, Any]] = {
    "mirrored": {"layout": "mirrored", "starts": "all"},
    "furniture": {"layout": "furniture", "starts": "all"},
    "two cats": {"cats": 2, "starts": "all"},
}
MOST_ROWS = 80
COLUMNS = ("steps", "wall_s", "truth/", "rm/", "mix/", "task/episode", "feedback/")
PAIRED = ("online", "hybrid")  # files whose runs' verdicts are compared with their reward models' scores


def write_result(step: Step, result: Mapping[str, Any]) -> None:
    """In one piece: a file that is there is whole."""
    facts = {"key": step.key, "kind": step.kind, "study": step.study, "arm": step.arm, "seed": step.seed,
             "smoke": step.layout.smoke, "code": code(), "machine": this_machine(),
             "begins_with": list(step.needs), "settings": step.settings}  # fmt: skip
    step.result.parent.mkdir(parents=True, exist_ok=True)
    write_whole(step.result, json.dumps(_plain({**facts, **result}), allow_nan=False) + "\n")


def failed(step: Step, reason: str) -> dict[str, Any]:
    """A step that can't be gone on with: why is a result too. Remove its file to try again."""
    return {"status": "failed", "reason": reason, "set": _set(step)}


def measured(step: Step, seconds: float, jobs: int) -> dict[str, Any]:
    """Of a run, or of a data set of labels that has taken so many seconds, where ``jobs`` steps shared the machine."""
    return _of_labels(step, seconds, jobs) if step.kind == "label" else _of_run(step, jobs)


def _of_labels(step: Step, seconds: float, jobs: int) -> dict[str, Any]:
    from rlaif_ray.feedback.store import LabelStore

    with LabelStore(step.folder / "labels.sqlite", readonly=True) as store:
        stats = store.stats()
    own = {"labels": stats.labels, "usd": stats.spend_usd, "steps": 0, "wall_s": seconds}
    return {"status": "done", "abstained": stats.abstained, "profile": step.config.judge.profile, "own": own,
            "chain": _chain(step, own, jobs)}  # fmt: skip


def _of_run(step: Step, jobs: int) -> dict[str, Any]:
    from rlaif_ray.report.run import RunRecord

    record = RunRecord.read(step.folder)
    summary = dict(record.summary)
    own = {"labels": summary["labels"] or 0, "usd": summary["spend_usd"] or 0.0, "steps": summary["steps"],
           "wall_s": summary["wall_s"]}  # fmt: skip
    summary["evaluation"] = evaluated(step, step.folder / "checkpoints" / "last")
    chain = _chain(step, own, jobs)
    summary["stand_alone"] = {key: chain[key] for key in ("usd", "labels")}
    result = {
        "status": summary["status"], "about": step.about, "set": _set(step), "summary": summary, "own": own,
        "chain": chain, "rows": _thinned(record.rows),
    }  # fmt: skip
    if step.study in PAIRED:
        from homegrid_study.rewards import paired

        result["pairs"] = paired(step)
    return result


def tidy(run: Path) -> None:
    """Leave the newest checkpoint and those of phases: all ages of a hundred runs would fill a disk."""
    folder = run / "checkpoints"
    last = (folder / "last").resolve()
    for path in folder.glob("step-*"):
        if path.is_dir() and path.resolve() != last:
            shutil.rmtree(path)


def evaluated(step: Step, checkpoint: Path) -> dict[str, Any]:
    """Outcomes by world."""
    from rlaif_ray.experiment import evaluate

    episodes = SMOKE_EVALUATED if step.layout.smoke else EVALUATED
    as_published = step.config.env.options.keys() == {"starts"}
    worlds = {**WORLDS, **UNTUNED} if as_published else WORLDS
    return {name: evaluate(checkpoint, episodes=episodes, options=options) for name, options in worlds.items()}


def _chain(step: Step, own: Mapping[str, float], jobs: int) -> dict[str, float]:
    """Its own and that of all it began with, each once: labels that two rounds learn from were bought once. ``jobs``:
    the most that ran side by side at any time of it."""
    total, seen, todo = dict(own), set[str](), list(step.needs)
    while todo:
        key = todo.pop()
        if key in seen:
            continue
        seen.add(key)
        earlier = json.loads((step.layout.results / f"{key}.json").read_text())
        total = {name: value + earlier["own"][name] for name, value in total.items()}
        jobs = max(jobs, shared_by(earlier))
        todo += earlier["begins_with"]
    return total | {"jobs": jobs}


def _set(step: Step) -> dict[str, Any]:
    """What the tables say of an arm."""
    config = step.config
    return {"mix.source": config.mix.source, "mix.credit": config.mix.credit, "budget.labels": config.budget.labels,
            "feedback.fraction": config.feedback.fraction, "feedback.select": config.feedback.select,
            "reward_model.net": config.reward_model.net, "policy.network": config.policy.network,
            "judge.profile": Path(config.judge.profile).stem, "judge.prompt": config.judge.prompt,
            "run.feedback_episodes": config.run.feedback_episodes}  # fmt: skip


def _thinned(rows: Any) -> list[dict[str, Any]]:
    """At most so many of a run's rows, the last one among them: each the mean of those it stands for."""
    kept: list[dict[str, Any]] = []
    size = max(1, math.ceil(len(rows) / MOST_ROWS))
    for first in range(0, len(rows), size):
        block = rows[first : first + size]
        names = [name for name in block[-1] if name.startswith(COLUMNS)]
        kept.append({name: _summed(name, [row.get(name) for row in block]) for name in names})
    return kept


def _summed(name: str, values: list[Any]) -> float | None:
    numbers = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if not numbers:
        return None
    return numbers[-1] if name in ("steps", "wall_s") else round(sum(numbers) / len(numbers), 5)


def _plain(value: Any) -> Any:
    from rlaif_ray.runlog import plain, without_nan

    return without_nan(plain(value))
