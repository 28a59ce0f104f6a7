"""The machine that figures are of, by the names that benches know it by."""

from __future__ import annotations

from rlaif_ray.config.running import available_cores
from rlaif_ray.machine import this_machine as machine

__all__ = ["CORES", "machine"]

CORES = available_cores()  # `taskset -c 0,1 python scripts/bench ...` measures a machine of two
