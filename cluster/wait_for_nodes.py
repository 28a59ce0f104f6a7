"""Wait until a cluster has so many nodes: `RAY_ADDRESS=... python cluster/wait_for_nodes.py COUNT [SECONDS]`."""

from __future__ import annotations

import sys
import time

import ray


def main(count: int, patience_s: float) -> None:
    """Exits with 1 where they don't come."""
    deadline, alive = time.monotonic() + patience_s, 0
    while alive < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"error: {alive} of {count} nodes came within {patience_s:g} s")
        time.sleep(1.0)
        alive = nodes()
    print(f"{alive} nodes")


def nodes() -> int:
    """Living nodes; 0 where the head doesn't answer yet."""
    try:
        ray.init(address="auto", log_to_driver=False, ignore_reinit_error=True)
    except ConnectionError:
        return 0
    return sum(bool(node["Alive"]) for node in ray.nodes())


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 300.0)
