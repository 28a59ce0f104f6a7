"""What the processes of a pool take: processor time and memory by kind; the machine they are on; a table of figures."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

MEGABYTE = 1_000_000
_TITLES = {
    "ray::Questioner": "questioners",
    "ray::LabelStore": "store",
    "rlaif_ray.feedback.builtin": "server",
    "ray::": "other workers",
    "raylet": "raylet",
    "gcs_server": "gcs",
}


def machine() -> dict[str, Any]:
    """The machine, and how much others kept it busy when this began."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def cpu_seconds() -> Counter[str]:
    """Processor seconds (user and system) so far of this process ("driver") and all it started, by kind."""
    return _by_kind(lambda process: float(sum(process.cpu_times()[:2])))


def memory_mb() -> Counter[str]:
    """Proportional memory in MB: what processes share is shared out among them."""
    return _by_kind(lambda process: process.memory_full_info().pss / MEGABYTE)


def _by_kind(of: Any) -> Counter[str]:
    this, found = psutil.Process(), Counter[str]()
    for process in [this, *this.children(recursive=True)]:
        try:
            found["driver" if process == this else _kind(process)] += of(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def _kind(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    return next((kind for title, kind in _TITLES.items() if title in command), "other")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def show(found: dict[str, Any], indent: str = "") -> None:
    """Print figures as a table, what is below a heading indented."""
    for key, value in found.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        elif not isinstance(value, list):
            print(f"{indent}{key:{34 - len(indent)}} {f'{value:.4g}' if isinstance(value, float) else value}")
    sys.stdout.flush()
