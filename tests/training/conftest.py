"""RLlib runs that several tests look at: starting a runner's process costs seconds."""

from __future__ import annotations

import pytest
from ppo_runs import Recorded

from rlaif_ray.products import one_thread


@pytest.fixture(scope="module", autouse=True)
def on_one_thread():
    """Nets this small take longer to share out than to compute."""
    with one_thread():
        yield


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
