"""``rlaif-ray`` as a step's process, by this interpreter: ``python -m homegrid_study.rlaif train ...``.

Where the shard that began it is killed, it is told to stop as if by Ctrl-C, and saves itself (Linux; elsewhere it runs
to its end, and the next shard waits for it).
"""

from __future__ import annotations

import ctypes
import signal
import sys

from rlaif_ray.cli import main

_PR_SET_PDEATHSIG = 1  # of Linux's prctl

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    raise SystemExit(main())
