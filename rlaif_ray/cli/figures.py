"""Commands that look at what is there: ``evaluate``, ``report``."""

from __future__ import annotations

from pathlib import Path

from rlaif_ray.cli.options import Evaluate, Report
from rlaif_ray.cli.output import only_json, print_json
from rlaif_ray.errors import CheckpointError, ConfigError, UnknownNameError
from rlaif_ray.report.run import find_run
from rlaif_ray.sweep.place import PLAN

__all__ = ["evaluate", "find_checkpoint", "report"]

STARTS = ("all", "train", "heldout")


def evaluate(command: Evaluate) -> int:
    """Play fresh episodes with a checkpoint's policy and print what came of them."""
    if command.starts and command.starts not in STARTS:
        raise UnknownNameError("value of --starts", command.starts, STARTS)
    checkpoint = find_checkpoint(command.checkpoint)
    with only_json(command.json):
        from rlaif_ray import experiment

        outcome = experiment.evaluate(
            checkpoint,
            episodes=command.episodes,
            options={"starts": command.starts} if command.starts else None,
            deterministic=command.deterministic,
            seed=command.seed,
        )
    if command.json:
        print_json(outcome)
    else:
        for name, value in outcome.items():
            print(f"{name:14} {_in_words(value)}")
    return 0


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items()) or "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def find_checkpoint(text: str) -> Path:
    """A checkpoint's folder, or that of the run that ``text`` names. Raises CheckpointError: there is none."""
    if Path(text).exists():
        return Path(text)
    try:
        return find_run(text)
    except ConfigError:
        raise CheckpointError(f"checkpoint {text!r}: no such folder, and no run of that name below runs/") from None


def report(command: Report) -> int:
    """Write the report.html of a run or a sweep and say where it is."""
    run = find_run(command.run)
    if (run / PLAN).is_file():
        from rlaif_ray.report.sweep_html import write_sweep_report

        print(write_sweep_report(run))
        return 0
    from rlaif_ray.report.html import write_report

    print(write_report(run))
    return 0
