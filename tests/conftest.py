"""What several rooms' tests share: one Ray for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    import ray

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
