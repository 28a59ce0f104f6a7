"""Who gives way: all threads of a process, never less than before."""

from __future__ import annotations

import os
import subprocess
import sys

GIVES_WAY = """
import os, threading
from rlaif_ray.priority import give_way
ended = threading.Event()
thread = threading.Thread(target=ended.wait)
thread.start()
found = []
for niceness in (7, 3):
    give_way(niceness)
    found.append([os.getpriority(os.PRIO_PROCESS, one) for one in (threading.get_native_id(), thread.native_id)])
ended.set()
print(found)
"""


def test_all_threads_of_a_process_give_way_and_stay_behind() -> None:
    least = max(7, os.getpriority(os.PRIO_PROCESS, 0))  # whoever runs these tests may have made them give way
    done = subprocess.run([sys.executable, "-c", GIVES_WAY], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == str([[least, least]] * 2), done.stderr
