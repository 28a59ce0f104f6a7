"""Made-up results of the study's runs, of the form in which they are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from homegrid_study.arms import Layout, Step

from rlaif_ray.files import write_whole

MACHINE = {"cores": 2, "processor": "made-up", "system": "Linux", "python": "3.11", "load": 0.0}
NETWORKS = ("planning", "ego-allocentric", "egocentric")
SPEEDS = {
    "steps_per_s": {**dict.fromkeys(NETWORKS, 8_000.0), "mlp": 14_000.0, "cnn": 1_500.0},
    "started_s": dict.fromkeys((*NETWORKS, "mlp", "cnn"), 10.0),
    "evaluated_per_s": {**dict.fromkeys((*NETWORKS, "mlp"), 1_000.0), "cnn": 100.0},
    "labels_per_s": 50.0,
    "fitted_per_s": {"event-max": 8_000.0, "cnn-lstm": 800.0},
}


def layout(folder: Path) -> Layout:
    """The study's own kind of places, in a folder of a test."""
    made = Layout(folder / "runs", folder / "results", folder / "docs")
    made.results.mkdir(parents=True)
    made.speeds.write_text(json.dumps(SPEEDS))
    return made


def result(step: Step, survives: float, found: float, **more: Any) -> dict[str, Any]:
    """Of a training run; shares of episodes."""
    outcome = {"episodes": 10_000, "found": found, "cat_survived": survives, "mean_length": 11.25, "task_return": 0.9}
    own = {"labels": 500, "usd": 3.25, "steps": 3_500_000, "wall_s": 600.0}
    summary = {
        "status": "done", "seed": step.seed, "steps": own["steps"], "wall_s": own["wall_s"], "labels": 500,
        "spend_usd": 3.25, "feedback_episodes": 20_100, "evaluation": {"heldout": outcome, "train": outcome},
        "provenance": {"direct": 0.1, "distilled": 0.85, "task": 0.05}, "reward_model": {"reason": ""},
    }  # fmt: skip
    shares = {"truth/found": found, "truth/cat_survived": survives}
    rows = [{"steps": 1e5 * i, **shares, "rm/balanced_accuracy": 0.9 + i / 100} for i in range(1, 6)]
    facts = {
        "key": step.key, "kind": step.kind, "study": step.study, "arm": step.arm, "seed": step.seed, "smoke": False,
        "code": "abc", "machine": MACHINE, "begins_with": list(step.needs), "settings": step.settings,
        "status": "done", "about": step.about,
        "set": {}, "summary": summary, "own": own, "chain": own, "rows": rows, "minutes": 12.0,
    }  # fmt: skip
    return facts | more


def store(step: Step, found: dict[str, Any]) -> None:
    step.result.parent.mkdir(parents=True, exist_ok=True)
    write_whole(step.result, json.dumps({"settings": dict(step.settings), **found}))
