"""RLlib runs that several tests look at: starting a runner's process costs seconds."""

from __future__ import annotations

import pytest
from ppo_runs import Recorded, settings


@pytest.fixture(scope="module")
def two_runners(ray_session):
    run = Recorded(settings(runners=2))
    yield run
    run.algorithm.stop()


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
