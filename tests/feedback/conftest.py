"""The feedback room's fixtures: a store, and subprocesses that find the tests' tiny world."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import feedback_fakes
import pytest
from hypothesis import settings
from ray import cloudpickle

from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.store import LabelStore

# A busy machine is no reason for a property to fail.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# Ray's workers don't have the tests on their path.
cloudpickle.register_pickle_by_value(feedback_fakes)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore(tmp_path / "labels.sqlite") as opened:
        yield opened


@pytest.fixture
def tiny_world_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])))


@pytest.fixture
def builtin_judge(tiny_world_importable: None) -> Iterator[BuiltinJudge]:
    with BuiltinJudge() as judge:
        yield judge
