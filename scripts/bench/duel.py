"""Several contenders in turn on one machine: A B A B ..., so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
Row = dict[str, Any]


class Contestant:
    """One contender's process."""

    def __init__(self, name: str, what: Mapping[str, Any], log: Path) -> None:
        self.name, self.what = name, dict(what)
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "RAY_DEDUP_LOGS": "0", "PYTHONWARNINGS": "ignore"}
        self._log = open(log, "w")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "contenders.py"), json.dumps(what)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
        )  # fmt: skip
        self._expect()

    def block(self) -> Row:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        row: Row = json.loads(self._expect())
        return row

    def memory_gb(self) -> float:
        """Of the process and all it started; what they share is shared out."""
        from rlaif_ray.machine import memory_gb

        return memory_gb(psutil.Process(self._process.pid))

    def _expect(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended unexpectedly; its log: {self._log.name}")
        return line

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._log.close()


def duel(
    contestants: Mapping[str, Mapping[str, Any]], *, rounds: int, warm_up: int, logs: Path
) -> dict[str, list[Row]]:
    """Blocks of every contestant, round by round. A contestant whose ``every`` is k takes part in each k-th round."""
    logs.mkdir(parents=True, exist_ok=True)
    running: list[Contestant] = []
    blocks: dict[str, list[Row]] = {name: [] for name in contestants}
    try:
        for name, what in contestants.items():
            plain = {key: value for key, value in what.items() if key != "every"}
            running.append(Contestant(name, plain, logs / f"{name.replace('/', '-').replace(' ', '-')}.log"))
            for _ in range(max(1, warm_up // int(what.get("every", 1)))):
                running[-1].block()
        for i in range(rounds):
            for one in running:
                if i % int(contestants[one.name].get("every", 1)) == 0:
                    blocks[one.name].append(one.block())
            tell(f"round {i + 1} of {rounds}: " + ", ".join(f"{n} {rate(b[-1]):,.0f}/s" for n, b in blocks.items()))
    finally:
        for one in running:
            one.close()
    return blocks


def rate(row: Row) -> float:
    return float(row["steps"] / row["seconds"])


def summary(rows: Sequence[Row]) -> Row:
    """Steps a second: median, lowest, highest; the other figures' medians."""
    rates = [rate(row) for row in rows]
    out: Row = {"median": statistics.median(rates), "low": min(rates), "high": max(rates), "blocks": len(rates)}
    for key in rows[0]:
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        if len(values) == len(rows):
            out[f"{key}_median"] = statistics.median(values)
    return out


def ratio(a: Sequence[Row], b: Sequence[Row]) -> Row:
    """Median of the ratios of blocks next to each other in time, and their spread."""
    n = min(len(a), len(b))
    each = [rate(x) / rate(y) for x, y in zip(a[:: max(1, len(a) // n)], b[:: max(1, len(b) // n)], strict=False)]
    return {"median": statistics.median(each), "low": min(each), "high": max(each), "pairs": len(each)}


def machine() -> Row:
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = found[0] if found else ""
    import torch

    return {
        "cores": os.cpu_count(), "processor": model or platform.machine(), "system": platform.system(),
        "python": platform.python_version(), "torch": torch.__version__,
        "load_at_start": [round(x, 2) for x in os.getloadavg()],
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }  # fmt: skip


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
