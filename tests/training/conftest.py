"""RLlib runs that several tests look at: starting a runner's process costs seconds."""

from __future__ import annotations

import pytest
import torch
from ppo_runs import Recorded


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Nets this small take longer to share out than to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build(ray_session):
    """Builds algorithms and stops them at the test's end."""
    built = []

    def one(config):
        built.append(Recorded(config))
        return built[-1]

    yield one
    for run in built:
        run.algorithm.stop()
