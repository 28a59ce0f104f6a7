"""``rlaif-ray sweep``: check every arm before anything starts, run them with a live table, report at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rlaif_ray.cli.options import Sweep
from rlaif_ray.cli.output import only_json, print_json, text_console
from rlaif_ray.cli.train import StopSwitch
from rlaif_ray.config import deep_merge
from rlaif_ray.config.sweeping import Study, SweepBudget, read_study, study_from
from rlaif_ray.errors import ConfigError, nearest
from rlaif_ray.sweep.place import Place, is_sweep

__all__ = ["sweep"]

NAMES = ("run.name", "run.dir")
CAPS = tuple(f"budget.{name}" for name in SweepBudget.model_fields)


def sweep(command: Sweep) -> int:
    """One sweep. Returns 0 where it is done (or was stopped as asked), 1 where a trial failed."""
    place = _place(command)
    with only_json(command.json):
        console = text_console()
        _say_what_comes(place, console)
        outcome = _run(place, command.resume, console)
        _show_end(place, outcome.summary, command, console)
    if command.json:
        print_json(outcome.summary)
    return int(outcome.exit_code)


def _place(command: Sweep) -> Place:
    """The sweep that is meant: a new one, or with --resume the one in the folder of that name."""
    path = Path(command.study)
    if not path.is_file():
        guess = nearest(path.name, [p.name for p in path.parent.glob("*.yaml")])
        hint = f"; did you mean {str(path.parent / guess)!r}?" if guess else ""
        raise ConfigError(f"sweep {command.study!r}: no such file{hint}")
    study = read_study(path, smoke=command.smoke)
    given: Mapping[str, Any] = command.overrides
    study = _with_caps(study, given)
    root = Path(str(given.get("run.dir", "runs")))
    if not command.resume:
        return Place.new(study, {k: v for k, v in given.items() if k not in (*NAMES, *CAPS)}, root, smoke=command.smoke)
    other = [key for key in given if key not in NAMES]
    if other:
        raise ConfigError(f"--resume: got '--{other[0]}' too, but a sweep goes on with its own file")
    folder = root / (study.name + ("-smoke" if command.smoke else ""))
    if not is_sweep(folder):
        raise ConfigError(f"--resume: {str(folder)!r} holds no sweep that was begun; start it without --resume")
    return Place.read(folder)


def _with_caps(study: Study, given: Mapping[str, Any]) -> Study:
    """--run.name names the sweep; --budget.usd and the like cap all of it."""
    changes: dict[str, Any] = {"budget": {key.partition(".")[2]: given[key] for key in CAPS if key in given}}
    if "run.name" in given:
        changes["name"] = str(given["run.name"])
    return study_from(deep_merge(study.model_dump(mode="json"), changes))


def _say_what_comes(place: Place, console: Console) -> None:
    """How many trials, on what caps; what labels may cost, where they cost anything."""
    study, asking = place.study, [config for cell in place.cells if (config := place.config_of(cell)).asks]
    arms = len({cell.arm for cell in place.cells})
    console.print(
        f"{place.folder.name}: {arms} arms x {len(study.seeds)} seeds, {len(place.cells)} trials", highlight=False
    )
    caps = [f"{getattr(study.budget, name):g} {name}" for name in ("usd", "labels", "tokens")
            if getattr(study.budget, name) is not None]  # fmt: skip
    console.print(f"Caps of the whole sweep: {', '.join(caps) or 'none'}.", highlight=False)
    if place.smoke:
        console.print("A smoke run: it shows that the sweep works, and is part of no study.", style="bold yellow")
    if not asking or asking[0].judge.local:
        return
    from rlaif_ray.cli.judge import estimate
    from rlaif_ray.cli.sample import sample_episodes

    console.print(f"Of one trial ({asking[0].run.name}), of {len(asking)} that ask:", highlight=False)
    for line in estimate(asking[0], sample_episodes(asking[0])):
        console.print(line, highlight=False, soft_wrap=True)


def _run(place: Place, resume: bool, console: Console) -> Any:
    from rlaif_ray.report.sweep_live import SweepView

    stop = StopSwitch(then="Stopping: running trials save themselves; labels are kept. Ctrl-C again: at once.")
    names = [cell.name for cell in place.cells]
    with SweepView(place.folder.name, names, console) as view, stop.on_signals(view.say):
        from rlaif_ray.sweep.run import sweep as run_sweep  # brings torch and Ray: seconds, so the view is up first

        def monitor(seen: Any) -> None:
            stop.hold()
            view.update(seen.trial, seen.state, seen.row)

        return run_sweep(place, resume=resume, monitor=monitor, stop=stop)


def _show_end(place: Place, summary: Mapping[str, Any], command: Sweep, console: Console) -> None:
    from rlaif_ray.report.sweep import SweepRecord
    from rlaif_ray.report.sweep_html import headline, statements, write_sweep_report

    for error in summary["errors"]:
        console.print(f"failed: {error}", style="red", highlight=False, soft_wrap=True)
    if summary["status"] == "interrupted":
        console.print("\nInterrupted.", style="bold")
        again = f"rlaif-ray sweep {command.study}{' --smoke' if command.smoke else ''} --resume"
        names = [f"--{key} {command.overrides[key]}" for key in NAMES if key in command.overrides]
        console.print(f"Go on with: {' '.join([again, *names])}", highlight=False, soft_wrap=True)
        console.print(f"Report so far: rlaif-ray report {place.folder}", highlight=False, soft_wrap=True)
        return
    page = write_sweep_report(place.folder)
    record = SweepRecord.read(place.folder)
    for line in statements(record):
        console.print(f"- {line}", highlight=False)
    console.print(f"\n{headline(record)}.", style="bold")
    console.print(f"Report: {page}", highlight=False, soft_wrap=True)
