"""Processes killed at random moments: the account is right, nothing received is lost, the work gets done.

A short version; ``scripts/chaos`` kills a hundred, ``scripts/chaos --nightly`` a thousand.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import ray

sys.path.insert(0, str(Path(__file__).parent))
from chaos import Chaos
from chaos_train import TrainChaos


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_whoever_is_killed_the_account_is_right(tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    outcome = Chaos(address, tmp_path, kills=8, episodes=130, seed=7, drivers=1).run(deadline_s=840.0)
    print(f"\n{outcome.table()}")
    assert sum(outcome.kills.values()) == 8
    assert outcome.broken() == []


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_a_training_run_outlives_its_reward_model_s_actor_and_goes_on_after_its_own_death(tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    victims = ["reward model", "driver", "store"]
    outcome = TrainChaos(tmp_path, victims, 5, address=address, root=os.getpid()).run(deadline_s=840.0)
    print(f"\n{outcome.table()}")
    assert sum(outcome.kills.values()) == len(victims)
    assert outcome.broken() == []
