"""Who looks on while Tune runs, and how the sweep is stopped cleanly."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.result import SHOULD_CHECKPOINT

from rlaif_ray.sweep.keeping import StateKeeper
from rlaif_ray.sweep.place import TUNE, Place
from rlaif_ray.sweep.trial import cell_of

__all__ = ["Seen", "Watch", "looking_on"]

# Whoever stops a sweep waits for the checkpoints of what is running, but not for ever.
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Seen:
    """Something happened to a trial."""

    trial: str
    state: str  # running, done, stopped, failed
    row: Mapping[str, Any]  # the newest result; {} before the first


@dataclass
class _Onlooker:
    place: Place
    monitor: Callable[[Seen], None]
    stop: Callable[[], bool]


_ONLOOKERS: dict[str, _Onlooker] = {}


@contextlib.contextmanager
def looking_on(place: Place, monitor: Callable[[Seen], None], stop: Callable[[], bool]) -> Iterator[None]:
    """While it lasts, ``Watch`` of that sweep passes on what it sees, and hears ``stop``."""
    key = str(place.folder)
    _ONLOOKERS[key] = _Onlooker(place, monitor, stop)
    try:
        yield
    finally:
        del _ONLOOKERS[key]


class Watch(Callback):  # type: ignore[misc]
    """Tune's callback. Tune stores it with the sweep, so it holds nothing but the folder's name.

    To stop, each running trial is made to save itself first; then Tune is told by the signal that it listens to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self._asked_at: float | None = None
        self._saved: set[str] = set()
        self._told = False
        self._keeper = StateKeeper(Path(folder) / TUNE)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(Path(state["folder"]))  # type: ignore[misc]

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._keeper.look()
        onlooker = _ONLOOKERS.get(self.folder)
        if onlooker is None or self._told or not onlooker.stop():
            return
        self._asked_at = self._asked_at or time.monotonic()
        running = {t.trial_id for t in trials if t.status == "RUNNING" and t.last_result}
        if running <= self._saved or time.monotonic() - self._asked_at > _PATIENCE_S:
            self._told = True
            os.kill(os.getpid(), signal.SIGUSR1)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._pass_on(trial, "running", {})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if self._asked_at is not None:
            result[SHOULD_CHECKPOINT] = True
        self._pass_on(trial, "running", result)

    def on_trial_save(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._asked_at is not None:
            self._saved.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        row = trial.last_result
        # A schedule's end; `done` is set for both.
        early = "summary" not in row and row.get("steps", 0) < row.get("total_steps", 0)
        self._pass_on(trial, "stopped" if early else "done", row)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._pass_on(trial, "failed", {})

    def _pass_on(self, trial: Any, state: str, row: Mapping[str, Any]) -> None:
        onlooker = _ONLOOKERS.get(self.folder)
        if onlooker is not None:
            onlooker.monitor(Seen(cell_of(onlooker.place, trial.config, trial.trial_id).name, state, row))
