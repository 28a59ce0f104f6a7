"""Tune's own state, kept twice: it is written in place, so a kill in that moment leaves a torn file.

While a sweep runs, whole files are copied aside now and then, each put in place by renaming; on resuming, a torn newest
state is replaced by the copy. Results, labels and checkpoints are not in it: at worst the copy is some seconds old.

Being old, either may name a checkpoint that has since made room for newer ones: the newest whole one takes its place.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from rlaif_ray.checkpoints import check_checkpoint
from rlaif_ray.errors import CheckpointError
from rlaif_ray.files import written_whole

__all__ = ["EVERY_S", "StateKeeper", "mend", "mend_checkpoint"]

EVERY_S = 10.0
_COPY = "kept"
# The trials' and, by their side, the searchers': Tune names them by the time of its start.
_STATE = "experiment_state-*.json"
_BESIDE = ("basic-variant-state-*.json", "searcher-state-*", "search_gen_state-*")


class StateKeeper:
    """Copies Tune's state in ``folder`` aside when it is whole and has changed; ``now`` is a monotonic clock's."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._looked_at, self._seen = folder, float("-inf"), 0.0

    def look(self, now: float | None = None) -> bool:
        """At most every ten seconds; whether something was copied."""
        now = time.monotonic() if now is None else now
        if now - self._looked_at < EVERY_S:
            return False
        self._looked_at = now
        newest = _newest(self._folder)
        if newest is None or newest.stat().st_mtime == self._seen or not _whole(newest):
            return False
        self._seen = newest.stat().st_mtime
        _copy_all(self._folder, self._folder / _COPY)
        return True


def mend(folder: Path) -> bool:
    """Make the newest state one that can be read; whether there is any."""
    newest = _newest(folder)
    if newest is not None and _whole(newest):
        return True
    kept = _newest(folder / _COPY)
    if kept is None or not _whole(kept):
        return False
    if newest is not None:
        newest.unlink()
    _copy_all(folder / _COPY, folder)
    return True


def mend_checkpoint(named: Path) -> bool:
    """Where the checkpoint that Tune's state names is gone or torn, the trial's newest whole one gets its name.

    Whether it did. Where none is whole all stays as it is.
    """
    if _facts(named) is not None:
        return False
    whole = [(facts["steps"], path) for path in named.parent.glob("checkpoint_*") if (facts := _facts(path))]
    if not whole:
        return False
    shutil.rmtree(named, ignore_errors=True)
    max(whole)[1].rename(named)
    return True


def _facts(checkpoint: Path) -> dict[str, Any] | None:
    """None unless it is whole."""
    try:
        return check_checkpoint(checkpoint)[1]
    except CheckpointError:
        return None


def _newest(folder: Path) -> Path | None:
    """By name, as Tune itself finds it."""
    return max(folder.glob(_STATE), default=None)


def _whole(file: Path) -> bool:
    try:
        json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return True


def _copy_all(source: Path, target: Path) -> None:
    """The trials' state last: where it is, the rest is."""
    target.mkdir(exist_ok=True)
    for pattern in (*_BESIDE, _STATE):
        for file in source.glob(pattern):
            with written_whole(target / file.name) as copy:
                shutil.copyfile(file, copy)
