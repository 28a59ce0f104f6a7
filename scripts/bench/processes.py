"""What the processes of a pool or a run take: processor time and memory by kind; a table of figures."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
from this_machine import machine

__all__ = ["cpu_seconds", "machine", "memory_mb", "show", "signal_all"]

MEGABYTE = 1_000_000
_TITLES = {
    "ray::Questioner": "questioners",
    "ray::LabelStore": "store",
    "ray::_Worker": "reward model",
    "EnvRunner": "runners",
    "rlaif_ray.feedback.builtin": "server",
    "ray::": "other workers",
    "raylet": "raylet",
    "gcs_server": "gcs",
}


def cpu_seconds(of: psutil.Process | None = None) -> Counter[str]:
    """Processor seconds (user and system) so far of a process ("driver"; none: this one) and what it started."""
    return _by_kind(of, lambda process: float(sum(process.cpu_times()[:2])))


def memory_mb(of: psutil.Process | None = None) -> Counter[str]:
    """Proportional memory in MB: what processes share, the object store's pages too, is shared out among them."""
    return _by_kind(of, lambda process: process.memory_full_info().pss / MEGABYTE)


def signal_all(pid: int, what: signal.Signals) -> None:
    """To a process and then to all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(what)


def _by_kind(top: psutil.Process | None, of: Callable[[psutil.Process], float]) -> Counter[str]:
    this, found = top or psutil.Process(), Counter[str]()
    for process in [this, *this.children(recursive=True)]:
        try:
            found["driver" if process == this else _kind(process)] += of(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def _kind(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    return next((kind for title, kind in _TITLES.items() if title in command), "other")


def show(found: dict[str, Any], indent: str = "") -> None:
    """Print figures as a table, what is below a heading indented."""
    for key, value in found.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        elif not isinstance(value, list):
            print(f"{indent}{key:{34 - len(indent)}} {f'{value:.4g}' if isinstance(value, float) else value}")
    sys.stdout.flush()
