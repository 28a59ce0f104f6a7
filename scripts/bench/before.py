"""Whether the policy learns as well as it did before the work on speed: the same runs with the package as it was and
as it is, the same seeds, the same number of steps."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from duel import tell
from overlap import interval
from plan import Plan, Row

__all__ = ["found", "suite"]

# The last commit before the learner's digests, sparse first layers, runners that sample ahead or score.
REVISION = "896ef0844fad29edcf5d7e6a8d1e771a57f0e509"
PACKAGE = "rlaif_ray"
NAMES = ("before", "after")
POINTS = 8  # of a learning curve
COMMAND = [sys.executable, "-c", f"import sys; from {PACKAGE}.cli import main; sys.exit(main())"]
# The preset of that time at half its length, in words that both know.
CONFIG: dict[str, Any] = {
    "extends": "homegrid",
    "run": {"total_steps": 1_750_000, "evaluate_episodes": 2_000},
    "policy": {"network": "egocentric", "hidden": [256, 256]},
    "feedback": {"start_step": 75_000, "fraction": 0.04, "labels_per_iteration": 4},
    "mix": {"start_step": 350_000, "ramp_steps": 600_000},
    "resources": {"env_runners": 0},
}
TINY: dict[str, Any] = {
    "extends": "homegrid",
    "run": {"total_steps": 4_096, "evaluate_episodes": 20},
    "env": {"num_envs": 32},
    "policy": {"network": "mlp", "hidden": [32]},
    "ppo": {"train_batch_size": 512, "minibatch_size": 256},
    "mix": {"source": "none"},
    "resources": {"env_runners": 0},
}


def suite(plan: Plan, revision: str = REVISION) -> Iterator[Row]:
    """Whole runs in turn, three seeds; what counts is what they reach, not how long they take."""
    try:
        folders = {"before": _package(plan.logs / "package", revision), "after": Path.cwd()}
    except subprocess.CalledProcessError as error:
        why = f"commit {revision[:12]} isn't in this copy's history ({error.stderr.decode().strip()})"
        yield {"contenders": {}, "ratios": {}, "not_run": why}
        return
    for seed in range(len(plan.journal.rounds("runs")), plan.times(3)):
        plan.journal.add("runs", {name: run(plan, name, folders[name], seed) for name in NAMES})
        yield found(plan.journal.rounds("runs"), revision)
    yield found(plan.journal.rounds("runs"), revision)


def _package(folder: Path, revision: str) -> Path:
    """Where that commit's package lies. Raises CalledProcessError: there is no such commit here."""
    packed = subprocess.run(["git", "archive", revision, PACKAGE], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(folder, filter="data")
    return folder.absolute()


def run(plan: Plan, name: str, package: Path, seed: int) -> Row:
    """A run in a process of its own, by the package in that folder: its curve and what it reached at the end."""
    config = TINY if plan.tiny else CONFIG
    folder = (plan.logs / f"{name}-s{seed}").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("w") as log:
        subprocess.run(
            [*COMMAND, "train", str(file), "--run.dir", str(folder), "--run.name", "run", "--run.seed", str(seed)],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(package)}, check=True, stdout=log, stderr=log,
        )  # fmt: skip
    rows = [json.loads(line) for line in (folder / "run" / "result.json").read_text().splitlines()]
    summary = json.loads((folder / "run" / "summary.json").read_text())
    last = summary["phases"][-1]["evaluation"]["heldout"]
    at_end = {key: float(last[key]) for key in ("found", "cat_survived", "mean_length")}
    tell(f"{name}, seed {seed}: " + ", ".join(f"{key} {value:.4g}" for key, value in at_end.items()))
    return {"curve": curve(rows, config["run"]["total_steps"]), "end": at_end}


def curve(rows: Sequence[Mapping[str, Any]], total: int) -> list[list[float] | None]:
    """Shares found and survived in training's own episodes, mean of the iterations of each part of the run; None where
    no episode has ended."""
    truths = [(row["steps"], row["truth"]) for row in rows if "found" in row.get("truth", {})]
    points: list[list[float] | None] = []
    for i in range(POINTS):
        some = [t for steps, t in truths if i * total / POINTS < steps <= (i + 1) * total / POINTS]
        points.append([float(np.mean([t[key] for t in some])) for key in ("found", "cat_survived")] if some else None)
    return points


def found(seeds: Sequence[Mapping[str, Row]], revision: str) -> Row:
    """Means of the seeds with 95 % intervals, and the pairs' differences with theirs."""
    if not seeds:
        return {"contenders": {}, "ratios": {}}
    ends = []
    for key, unit in (("found", "%"), ("cat_survived", "%"), ("mean_length", "")):
        scale = 100.0 if unit else 1.0
        values = {name: [scale * one[name]["end"][key] for one in seeds] for name in NAMES}
        apart = [after - before for before, after in zip(*values.values(), strict=True)]
        ends.append([f"{key} {unit}".strip(), *(_between(values[name]) for name in NAMES), _between(apart)])
    parts = []
    for i in range(POINTS):
        both = {name: [point for one in seeds if (point := one[name]["curve"][i])] for name in NAMES}
        cells = [_shares([point[j] for point in both[name]]) for name in NAMES for j in (0, 1)]
        parts.append([f"{i} to {i + 1} of {POINTS}", *cells])
    return {
        "contenders": {}, "ratios": {}, "runs": list(seeds), "revision": revision,
        "tables": [
            {
                "title": "What the runs reach",
                "head": ["on held-out starts", "before", "after", "after less before, same seed"],
                "rows": ends,
                "note": f"Before: commit `{revision[:12]}`. {len(seeds)} seeds; same steps, network and coefficients; "
                f"{CONFIG['run']['evaluate_episodes']:,} episodes each. Mean and 95 % interval over seeds (Student's "
                "t).",
            },
            {
                "title": "How they get there",
                "head": ["part of the run", "before: found", "before: survived", "after: found", "after: survived"],
                "rows": parts,
                "note": "In training's own episodes (truth, for the audit only).",
            },
        ],
    }  # fmt: skip


def _shares(values: Sequence[float]) -> str | None:
    return "{:.1%} ({:.1%} to {:.1%})".format(*interval(values)) if values else None


def _between(values: Sequence[float]) -> str:
    mean, low, high = interval(values, bounds=(-np.inf, np.inf))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
