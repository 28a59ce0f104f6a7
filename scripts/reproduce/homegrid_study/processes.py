"""The processes of a step: what they run under, who shared the machine with them, and which code they are."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["CHANGED", "code", "ends_with_parent", "environment", "shared_by"]

CHANGED = 3  # exit code: the study's files are others than those of the shard that began the process
MADE_OF = ("rlaif_ray", "tune_configs", "scripts", "pyproject.toml")
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def shared_by(result: Mapping[str, Any]) -> int:
    """How many steps ran side by side while this one did; results from before that could be had the machine alone."""
    return int(result.get("jobs", 1))


def code() -> str:
    """The commit, with a + where what a run is made of differs from it, not results or documents; empty outside a
    repository."""
    found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if found.returncode:
        return ""
    root = ":(top)"  # wherever it is asked from
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *(root + one for one in MADE_OF)], check=False)
    return found.stdout.strip() + "+" * (changed.returncode != 0)


def environment(*, one_thread: bool = False) -> dict[str, str]:
    """Of a process that this one begins: it finds these modules, wherever it was begun from; with ``one_thread`` its
    libraries compute on one, as beside others they should."""
    ours = str(Path(__file__).parents[1])
    known = os.environ.get("PYTHONPATH", "")
    threads = {"OMP_NUM_THREADS": "1"} if one_thread else {}
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join([ours, known] if known else [ours])}


def ends_with_parent() -> None:
    """Where the shard that began this process is killed, it is told to stop as if by Ctrl-C, and saves itself (Linux;
    elsewhere it runs to its end, and the next shard waits for it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
