"""The machine: what it is, in the same words beside every figure, and what the run takes of it, peak memory of this
process and all it started."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from rlaif_ray.config.running import available_cores
from rlaif_ray.processor import processor_says

__all__ = ["PeakMemory", "memory_gb", "system_says", "this_machine"]

EVERY_S = 2.0


def this_machine() -> dict[str, Any]:
    """What it is, what runs on it, and how busy others keep it now. ``cores`` are those that this process may use:
    under `taskset -c 0,1` a figure is of a machine of two."""
    return {
        "cores": available_cores(),
        "processor": processor_says("model name") or platform.machine(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": system_says(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "ray", "numpy")},
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def system_says() -> str:
    """Kernel's number, processor family and C library: what may matter to a figure, and not what a kernel's builder
    called it, which may name the host."""
    kernel = platform.release().split("-")[0]
    library = " ".join(platform.libc_ver())
    return f"{platform.system()} {kernel} {platform.machine()}" + (f", {library}" if library.strip() else "")


def memory_gb(process: psutil.Process) -> float:
    """GB held by a process and its descendants; memory they share is shared out (Linux), not counted for each."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            total += _proportional_bytes(one)
    return total / 1e9


def _proportional_bytes(process: psutil.Process) -> int:
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if rollup.exists():
        for line in rollup.read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)


class PeakMemory:
    """Looks every two seconds while it is entered."""

    def __init__(self) -> None:
        self._peak = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._thread.join(timeout=EVERY_S)

    def peak_gb(self) -> float:
        return round(self._peak, 3)

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._done.wait(EVERY_S):
            self._peak = max(self._peak, memory_gb(this))
