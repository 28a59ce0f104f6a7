"""Shards: one at a time, until a limit; what fails is a result, and what would begin with it is not run."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
from homegrid_study import shards
from homegrid_study.arms import Layout, Step, chosen, steps_of
from homegrid_study.shards import Clock, run_shard

from rlaif_ray.errors import ConfigError


@pytest.fixture
def steps(tmp_path: Path) -> tuple[Step, ...]:
    layout = Layout.of(smoke=True, folder=tmp_path)
    return chosen(steps_of(layout), ["direct/direct-s0"], [])


def test_a_step_that_fails_is_a_result_and_what_begins_with_it_is_left(steps: tuple[Step, ...]) -> None:
    task, direct = steps
    task.folder.mkdir(parents=True)
    (task.folder / "config.yaml").write_text("run: {nonsense: 1}\n")  # as if spoilt since it was begun
    said: list[str] = []
    done = run_shard(steps, task.layout, 1.0, said.append)
    assert done == {"finished": [], "failed": [task.key], "left": [direct.key]}
    stored = json.loads(task.result.read_text())
    assert stored["status"] == "failed"
    assert "nonsense" in stored["reason"]
    assert stored["smoke"] is True
    assert stored["minutes"] > 0
    assert not direct.folder.exists()
    # It stays so until somebody takes the result away.
    assert run_shard(steps, task.layout, 1.0, said.append) == {"finished": [], "failed": [], "left": [direct.key]}


def test_no_step_is_begun_without_time_for_it(steps: tuple[Step, ...]) -> None:
    done = run_shard(steps, steps[0].layout, 0.001, lambda line: None)
    assert done == {"finished": [], "failed": [], "left": [step.key for step in steps]}
    assert not steps[0].folder.exists()


def test_one_shard_at_a_time(steps: tuple[Step, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LOCK_WAIT_S", 0.3)
    layout = steps[0].layout
    layout.runs.mkdir(parents=True)
    with open(layout.runs / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another shard of the study runs here"):
            run_shard(steps, layout, 1.0, lambda line: None)


def test_seconds_add_up_over_shards(steps: tuple[Step, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    steps[0].folder.parent.mkdir(parents=True)
    for began, ended in ((100.0, 130.0), (500.0, 560.0)):
        clock = Clock.of(steps[0])
        clock._since = began
        monkeypatch.setattr("time.monotonic", lambda ended=ended: ended)
        clock.tick()
    assert Clock.of(steps[0]).seconds == 90.0
