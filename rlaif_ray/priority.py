"""Who goes first where a run's processes share few cores: whoever learns, since all others wait for that in the end."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["ASKING", "LAST", "SAMPLING", "behind", "give_way"]

# Niceness of those that ask and answer, that sample, and that fit a reward model: on a core that the learner wants they
# get a fourth, a fourth and a seventieth of it. Whoever asks must keep up with what the config asks for: a verdict that
# comes late is of a policy that is gone. Whoever samples ahead is waited for when a fit takes its core meanwhile.
ASKING, SAMPLING, LAST = 5, 5, 19
THREADS = Path("/proc/self/task")  # Linux keeps niceness by thread; Ray runs an asynchronous actor on one of its own


def give_way(niceness: int) -> None:
    """Let all threads of this process have at least that niceness. It can't be taken back without a privilege."""
    for thread in [int(one.name) for one in THREADS.iterdir()] if THREADS.is_dir() else [0]:
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            behind(thread, niceness)


def behind(process: int, niceness: int) -> None:
    """Likewise of another process, before it has more threads than one."""
    os.setpriority(os.PRIO_PROCESS, process, max(niceness, os.getpriority(os.PRIO_PROCESS, process)))
