"""The machine that figures are of, described once, in the same words in every file of results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil

__all__ = ["CORES", "machine"]


def _cores() -> int:
    """Those that this process may use: `taskset -c 0,1 python scripts/bench ...` measures a machine of two."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CORES = _cores()


def machine() -> dict[str, Any]:
    """What it is, what runs on it, and how busy others keep it now."""
    return {
        "cores": CORES,
        "processor": _processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "ray", "numpy")},
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
