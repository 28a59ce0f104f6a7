"""Ten processes killed at random moments: the account is right, nothing received is lost, the work gets done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import ray

sys.path.insert(0, str(Path(__file__).parent))
from chaos import Chaos


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_session")
def test_whoever_is_killed_the_account_is_right(tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    outcome = Chaos(address, tmp_path, kills=10, episodes=200, seed=7, drivers=2).run(deadline_s=240.0)
    print(f"\n{outcome.table()}")
    assert sum(outcome.kills.values()) == 10
    assert outcome.broken() == []
