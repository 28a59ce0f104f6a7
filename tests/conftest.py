"""What several rooms' tests share: one Ray for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A busy machine is no reason for a property to fail.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first: no process is then left alone with them at the end. First of all those that share what
    takes long to set up: processes that run out of work take from the end of another's, and would set it up again."""
    items.sort(key=lambda item: (item.get_closest_marker("long") is None, "cluster" not in fixtures_of(item)))


def fixtures_of(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    import ray

    from rlaif_ray.surroundings import NICENESS

    with pytest.MonkeyPatch.context() as meanwhile:
        # As in a run: on a busy machine Ray's workers would hardly get to start. Only meanwhile: commands that tests
        # start have to see to it themselves.
        meanwhile.setenv(NICENESS, os.environ.get(NICENESS, "0"))
        ray.init(
            address="local",  # also where a cluster was started on this machine
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=150_000_000,
            log_to_driver=False,
            configure_logging=False,
        )
    yield
    ray.shutdown()
