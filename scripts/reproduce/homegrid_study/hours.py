"""The plan of hours: arms x seeds x minutes, in order, until the machine-hours are spent; what does not fit is named.

Minutes of an arm that was run are measured. Those of others are estimated from what was measured: environment steps
over steps a second of that policy network, answers waited for over answers a second, evaluation by the episode. Both
say which they are. ``measure_speeds`` makes the second kind: short real runs, written to speeds.json with their
machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from homegrid_study.arms import Layout, Step
from homegrid_study.processes import environment, shared_by
from rlaif_ray.config import Config, dump_config, load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.files import write_whole
from rlaif_ray.machine import this_machine

__all__ = ["HOURS", "Planned", "Speeds", "measure_speeds", "plan", "planned", "write_plan"]

HOURS = 12.0
MEASURE = "scripts/reproduce/homegrid plan --measure"
EPISODE_STEPS = 12.0  # of a trained policy's episodes here (11.5 published before feedback, 17 to 21 after)
EVALUATED = 10_000  # episodes of each world
WORLDS_PLAYED = 5.0  # by a policy trained in the published one
AUDIT_MINUTES = 4.0  # a look at nets that nobody has measured yet: 2 nets, some 10 policies; replaced by measured ones
NETWORKS = ("planning", "ego-allocentric", "egocentric", "mlp", "cnn")
MEASURED_STEPS = {"planning": 160_000, "ego-allocentric": 160_000, "egocentric": 160_000, "mlp": 240_000, "cnn": 40_000}
PROBED = 1_000  # episodes played to measure evaluation
NETS = ("event-max", "cnn-lstm")
FITTED, FITTED_EPOCHS = 200, 3
# Answers a second where many are in flight: measured apart, see docs/BENCHMARKS.md.
POOL = Path("benchmarks/pool-efficiency.json")


@dataclass(frozen=True)
class Speeds:
    """What estimates go by."""

    steps_per_s: Mapping[str, float]  # by policy network
    started_s: Mapping[str, float]  # start and end of a run: its process's time less that of its iterations
    evaluated_per_s: Mapping[str, float]  # episodes
    labels_per_s: float
    fitted_per_s: Mapping[str, float]  # by reward-model net: labels times passes over them

    @staticmethod
    def read(layout: Layout) -> Speeds:
        """Raises ConfigError: they were not measured."""
        if not layout.speeds.is_file():
            raise ConfigError(f"{layout.speeds}: not there; measure first: {MEASURE}")
        raw = json.loads(layout.speeds.read_text())
        return Speeds(raw["steps_per_s"], raw["started_s"], raw["evaluated_per_s"], raw["labels_per_s"],
                      raw["fitted_per_s"])  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A step and its minutes."""

    key: str
    kind: str
    arm: str
    seed: int
    minutes: float
    basis: str  # "measured", or what it was estimated from
    fits: bool
    finished: bool


def plan(steps: Sequence[Step], layout: Layout, hours: float) -> tuple[Planned, ...]:
    """Every step in order with its minutes; ``fits`` until the hours are spent. A step that needs one that doesn't fit
    doesn't either."""
    speeds = Speeds.read(layout)
    measured = _measured(steps)
    rows: list[Planned] = []
    left, out = 60.0 * hours, set[str]()
    for step in steps:
        minutes, basis = _minutes(step, measured, speeds)
        fits = minutes <= left and not out.intersection(step.needs)
        if fits:
            left -= minutes
        else:
            out.add(step.key)
        rows.append(Planned(step.key, step.kind, step.arm, step.seed, minutes, basis, fits, step.finished))
    return tuple(rows)


def write_plan(rows: Sequence[Planned], layout: Layout, hours: float) -> None:
    """``plan.json`` beside the results."""
    layout.plan.parent.mkdir(parents=True, exist_ok=True)
    facts = {"command": f"scripts/reproduce/homegrid plan --hours {hours:g}", "smoke": layout.smoke, "hours": hours,
             "machine": this_machine(), "steps": [asdict(row) for row in rows]}  # fmt: skip
    write_whole(layout.plan, json.dumps(facts, indent=1) + "\n")


def planned(steps: Sequence[Step], layout: Layout) -> tuple[Step, ...]:
    """Those that fit into the hours of ``plan.json``.

    Raises ConfigError where the arms have changed since it was made: what it doesn't know would never be run.
    """
    fits = {row["key"]: row["fits"] for row in json.loads(layout.plan.read_text())["steps"]}
    if unknown := [step.key for step in steps if step.key not in fits]:
        raise ConfigError(
            f"{layout.plan} doesn't know {unknown[0]!r} ({len(unknown)} of {len(steps)} steps): the arms have changed "
            "since it was made; `scripts/reproduce/homegrid plan` makes it anew"
        )
    return tuple(step for step in steps if fits[step.key])


@dataclass(frozen=True)
class _Ran:
    """Minutes of finished steps of an arm; of those that shared the machine, their part of it."""

    alone: list[float] = field(default_factory=list)
    shared: list[float] = field(default_factory=list)


def _measured(steps: Sequence[Step]) -> dict[tuple[str, str], _Ran]:
    """By file and arm, what is finished."""
    found: dict[tuple[str, str], _Ran] = {}
    for step in steps:
        if (result := step.made) is not None:
            ran, jobs = found.setdefault((step.study, step.arm), _Ran()), shared_by(result)
            (ran.shared if jobs > 1 else ran.alone).append(float(result["minutes"]) / jobs)
    return found


def _minutes(step: Step, measured: Mapping[tuple[str, str], _Ran], speeds: Speeds) -> tuple[float, str]:
    """Minutes of the machine and what they are based on."""
    ran = measured.get((step.study, step.arm))
    if ran is not None:
        own = ran.alone or ran.shared
        beside = "" if ran.alone else ", beside others: its part of the machine"
        return statistics.mean(own), f"measured, {len(own)} run{'s' * (len(own) > 1)}{beside}"
    if step.kind == "audit":
        return AUDIT_MINUTES, "a guess, until one was run"
    if step.kind == "label":
        count = step.labels
        return count / speeds.labels_per_s / 60.0, f"estimated: {count:,} answers at {speeds.labels_per_s:.0f}/s"
    return _of_training(step, speeds)


def _of_training(step: Step, speeds: Speeds) -> tuple[float, str]:
    config, network = step.config, step.config.policy.network
    steps = float(config.run.total_steps)
    if config.run.feedback_episodes:
        steps = min(steps, EPISODE_STEPS * config.run.feedback_episodes)
    if network not in speeds.steps_per_s:
        raise ConfigError(
            f"{step.layout.speeds}: measured without the policy network {network!r}; measure again: {MEASURE}"
        )
    rate = speeds.steps_per_s[network]
    seconds = speeds.started_s[network] + steps / rate
    basis = f"estimated: {steps / 1e6:.2f} M steps at {rate:,.0f}/s ({network})"
    if config.asks and config.feedback.late == "wait":
        answers = config.feedback.fraction * steps / EPISODE_STEPS
        seconds += answers / speeds.labels_per_s
        basis += f", {answers:,.0f} answers waited for at {speeds.labels_per_s:.0f}/s"
    if config.reward_model.labels:
        model = config.reward_model
        count = next((one.labels for one in step.before if one.kind == "label"), config.budget.labels or 0)
        seconds += (1 - model.holdout) * count * model.epochs / speeds.fitted_per_s[model.net]
        basis += f", a fit to {count:,} labels ({model.net}, {model.epochs} passes)"
    seconds += WORLDS_PLAYED * EVALUATED / speeds.evaluated_per_s[network]
    return seconds / 60.0, basis


# ------------------------------------------------------------------------------------------------ measuring


def measure_speeds(layout: Layout, networks: Sequence[str] = NETWORKS) -> None:
    """A short run of each network, as a process like those of the study, and the play of its policy."""
    rows = {}
    for network in networks:
        rows[network] = row = _measure(network, layout)
        print(f"{network}: {row['steps_per_s']:,.0f} steps/s, start and end {row['started_s']:.0f} s, "
              f"{row['evaluated_per_s']:,.0f} episodes/s", flush=True)  # fmt: skip
    pool = json.loads(POOL.read_text())
    fitted = {net: statistics.median(row[net] for row in rows.values()) for net in NETS}
    facts: dict[str, Any] = {
        "command": MEASURE,
        "machine": this_machine(),
        **{name: {network: row[name] for network, row in rows.items()}
           for name in ("steps_per_s", "started_s", "evaluated_per_s")},
        "labels_per_s": pool["labels_per_s"], "labels_per_s_from": str(POOL), "fitted_per_s": fitted,
    }  # fmt: skip
    layout.speeds.parent.mkdir(parents=True, exist_ok=True)
    write_whole(layout.speeds, json.dumps(facts, indent=1) + "\n")


def _measure(network: str, layout: Layout) -> dict[str, float]:
    from rlaif_ray.experiment import evaluate

    base = "tune_configs/bases/smoke.yaml" if layout.smoke else "tune_configs/bases/study.yaml"
    steps = 2_048 if layout.smoke else MEASURED_STEPS[network]
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(base, {"run.dir": folder, "run.name": network, "run.total_steps": steps,
                                    "run.evaluate_episodes": 0, "mix.source": "none",
                                    "policy.network": network})  # fmt: skip
        file = Path(folder) / "config.yaml"
        file.write_text(dump_config(config))
        command = [sys.executable, "-m", "homegrid_study.rlaif", "train", str(file)]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
        whole_s = time.monotonic() - began
        run = Path(folder) / network
        rows = [json.loads(line) for line in (run / "result.json").read_text().splitlines()]
        counted = rows[1:]  # the first iteration warms up
        steps_per_s = sum(r["iteration_steps"] for r in counted) / sum(r["step_s"] for r in counted)
        began = time.monotonic()
        evaluate(run, episodes=PROBED)
        evaluated_per_s = PROBED / (time.monotonic() - began)
        fitted = {net: _fitted_per_s(config, run, net) for net in NETS}
    started_s = max(0.0, whole_s - sum(row["step_s"] for row in rows))
    return {"steps_per_s": steps_per_s, "started_s": started_s, "evaluated_per_s": evaluated_per_s, **fitted}


def _fitted_per_s(config: Config, run: Path, net: str) -> float:
    """Labels times passes a second, of a fit to episodes of the policy just trained; what they say doesn't matter."""
    from rlaif_ray.evaluation import World, play
    from rlaif_ray.networks import load_policy
    from rlaif_ray.reward_model.actor import LocalRewardModel

    batch, _ = play(load_policy(run), World(config.env.id, config.env.options), FITTED, deterministic=False, seed=0)
    model = config.reward_model.model_copy(update={"net": net, "epochs": FITTED_EPOCHS, "min_labels": 1})
    learns = LocalRewardModel(model, obs_shape=batch.obs.shape[1:], seed=0)
    began = time.monotonic()
    learns.add(list(batch), [float(i % 2) for i in range(FITTED)])
    return (1 - model.holdout) * FITTED * FITTED_EPOCHS / (time.monotonic() - began)
