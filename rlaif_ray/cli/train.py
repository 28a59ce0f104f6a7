"""``rlaif-ray train``: check what can be checked before anything starts, train with a live view, report at the end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from rlaif_ray.cli.options import Train
from rlaif_ray.cli.output import only_json, print_json, text_console
from rlaif_ray.config import Config, load_config
from rlaif_ray.errors import ConfigError

__all__ = ["StopSwitch", "train"]

DEFAULT_PRESET = "homegrid"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPING = "Stopping: a checkpoint after this iteration; labels are kept. Ctrl-C again: at once."
RESUMABLE = ("run.total_steps",)  # what may differ when a run goes on


def train(command: Train) -> int:
    """One run. Returns 0 where it is done (or was stopped as asked), 1 where it failed or no feedback was learned."""
    resume = _run_to_resume(command)
    config = load_config(resume / "config.yaml" if resume else command.config or DEFAULT_PRESET, command.overrides)
    with only_json(command.json):
        console = text_console()
        _ready_to_ask(config, console)
        path, summary, code = _train(config, resume, console)
        _show_end(path, console)
    if command.json:
        print_json(summary)
    return code


def _run_to_resume(command: Train) -> Path | None:
    if not command.resume:
        return None
    given = [command.config] if command.config else [f"--{key}" for key in command.overrides if key not in RESUMABLE]
    if given:
        raise ConfigError(
            f"--resume {command.resume}: got {given[0]!r} too, but a run goes on with its own config; allowed is "
            "--run.total-steps, to let it run longer"
        )
    from rlaif_ray.report.run import find_run

    run = find_run(command.resume)
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"--resume {command.resume}: got a folder without config.yaml, expected a run's")
    return run


def _ready_to_ask(config: Config, console: Console) -> None:
    """Before a judge that costs money is asked: its key must be there, and what it may cost is said."""
    if not config.asks or config.judge.local:
        return
    from rlaif_ray.cli.judge import estimate
    from rlaif_ray.cli.sample import sample_episodes
    from rlaif_ray.feedback.judge import keys_for

    keys_for(config.judge)
    for line in estimate(config, sample_episodes(config)):
        console.print(line, highlight=False, soft_wrap=True)


def _train(config: Config, resume: Path | None, console: Console) -> tuple[Path, dict[str, object], int]:
    from rlaif_ray.report.live import LiveView

    stop = StopSwitch()
    as_if = config.asks and config.judge.as_if
    with LiveView(config.run.name, console, as_if=as_if) as view, stop.on_signals(view.say):
        from rlaif_ray import experiment  # brings torch and Ray: seconds, so the view is up first

        def monitor(row: dict[str, Any]) -> None:
            stop.hold()
            for notice in row.get("notices", ()):
                view.say(notice)
            view.update(row)

        outcome = experiment.train(config, resume=resume, monitor=monitor, stop=stop, say=view.say)
    return outcome.path, outcome.summary, outcome.exit_code


def _show_end(path: Path, console: Console) -> None:
    """The report's place, the table, and what must be said with it."""
    from rlaif_ray.feedback.quoting import printable
    from rlaif_ray.report.html import write_report
    from rlaif_ray.report.outcome import headline, outcome_table, statements
    from rlaif_ray.report.run import RunRecord

    record = RunRecord.read(path)
    if record.status == "interrupted":  # whoever stops a run doesn't want to wait for its charts
        console.print(f"\n{headline(record)}.", style="bold")
        console.print(f"Go on with: rlaif-ray train --resume {path}", highlight=False, soft_wrap=True)
        console.print(f"Report so far: rlaif-ray report {path}", highlight=False, soft_wrap=True)
        return
    page = write_report(path)
    if any(record.evaluations()):
        console.print(outcome_table(record))
        for line in statements(record):
            console.print(f"- {printable(line)}", highlight=False)
    console.print(
        f"\n{printable(headline(record))}.", style="bold red" if record.status == "no_feedback_learned" else "bold"
    )
    console.print(f"Report: {page.resolve()}", highlight=False, soft_wrap=True)


class StopSwitch:
    """Called by the run between iterations: whether to stop. The first Ctrl-C turns it on, the second is not caught."""

    def __init__(self, then: str = STOPPING) -> None:
        self._on, self._then = False, then
        self._say: Callable[[str], None] = print

    def __call__(self) -> bool:
        return self._on

    @contextlib.contextmanager
    def on_signals(self, say: Callable[[str], None]) -> Iterator[None]:
        """While it lasts, SIGINT and SIGTERM turn the switch on, and ``say`` tells the user what happens now."""
        self._say = say
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.hold()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hold(self) -> None:
        """Take the signals (again): starting Ray puts a handler of its own in place of that for SIGTERM."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._on:
            raise KeyboardInterrupt
        self._on = True
        self._say(self._then)
