"""What the run takes of the machine: peak memory of this process and all it started."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType

import psutil

__all__ = ["PeakMemory", "memory_gb"]

EVERY_S = 2.0


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
