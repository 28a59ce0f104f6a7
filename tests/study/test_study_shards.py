"""Shards: one at a time, until a limit; what fails is a result, and what would begin with it is not run; steps side by
side wait for what they begin with."""

from __future__ import annotations

import fcntl
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import study_results
from homegrid_study import shards
from homegrid_study.arms import Layout, Step, chosen, steps_of
from homegrid_study.shards import Clock, Shard, run_shard

from rlaif_ray.config import Config, load_config
from rlaif_ray.errors import ConfigError

TOGETHER_S = 20.0


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


def published(tmp_path: Path) -> dict[str, Step]:
    """Two chains that part after the task-only run, by name."""
    layout = Layout.of(smoke=True, folder=tmp_path)
    arms = ["published/published_2-s0", "direct/direct-s0"]
    return {step.name: step for step in chosen(steps_of(layout), arms, [])}


def test_steps_side_by_side_wait_for_what_they_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = published(tmp_path)
    assert list(steps) == ["task-s0", "labels-s0", "published_1-s0", "published_2-s0", "direct-s0"]
    together, told = threading.Barrier(2), list[str]()

    def do(shard: Shard, step: Step) -> shards.Ended:
        told.append(f"{step.name} begins")
        if step.name in ("labels-s0", "direct-s0"):
            together.wait(TOGETHER_S)  # for each other: alone, neither would end
        told.append(f"{step.name} ends")
        study_results.store(step, {"status": "done"})
        return "finished"

    monkeypatch.setattr(Shard, "do", do)
    done = run_shard(tuple(steps.values()), steps["task-s0"].layout, 1.0, lambda line: None, jobs=2)
    assert set(done["finished"]) == {step.key for step in steps.values()}
    for before, after in (("task", "labels"), ("task", "direct"), ("labels", "published_1"),
                          ("published_1", "published_2")):  # fmt: skip
        assert told.index(f"{before}-s0 ends") < told.index(f"{after}-s0 begins")


def test_what_was_finished_on_another_machine_is_run_again_where_others_begin_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, ran, said = published(tmp_path), list[str](), list[str]()
    for name in ("task-s0", "labels-s0", "published_1-s0"):
        study_results.store(steps[name], {"status": "done", "of": "another machine"})
    (steps["labels-s0"].folder).mkdir(parents=True)
    (steps["labels-s0"].folder / "labels.sqlite").touch()

    def _begin(shard: Shard, step: Step, clock: Clock) -> int:
        ran.append(step.name)
        (step.folder / "checkpoints" / "last").mkdir(parents=True)
        (step.folder / "summary.json").write_text('{"status": "done"}')
        return 0

    def _measure(shard: Shard, step: Step, clock: Clock) -> int:
        study_results.store(step, {"status": "done", "of": "this machine"})
        return 0

    monkeypatch.setattr(Shard, "_begin", _begin)
    monkeypatch.setattr(Shard, "_measure", _measure)
    layout = steps["task-s0"].layout
    run_shard(tuple(steps.values()), layout, 1.0, said.append, jobs=2)
    # Its labels are at hand; without a run that lacks its result nothing would have been run again.
    assert ran[0] == "task-s0"
    assert sorted(ran) == ["direct-s0", "published_1-s0", "published_2-s0", "task-s0"]
    assert ran.index("published_1-s0") < ran.index("published_2-s0")
    assert json.loads(steps["task-s0"].result.read_text())["of"] == "this machine"
    assert json.loads(steps["labels-s0"].result.read_text())["of"] == "another machine"
    assert sum("isn't here any more" in line for line in said) >= 2
    ran.clear()
    for name in ("task-s0", "published_1-s0"):
        shutil.rmtree(steps[name].folder)
    assert run_shard(tuple(steps.values()), layout, 1.0, said.append)["finished"] == ran == []


def test_one_at_a_time_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, told, running = published(tmp_path), list[str](), threading.Lock()

    def do(shard: Shard, step: Step) -> shards.Ended:
        assert running.acquire(blocking=False)
        told.append(step.name)
        study_results.store(step, {"status": "failed" if step.name == "labels-s0" else "done"})
        running.release()
        return "failed" if step.name == "labels-s0" else "finished"

    monkeypatch.setattr(Shard, "do", do)
    done = run_shard(tuple(steps.values()), steps["task-s0"].layout, 1.0, lambda line: None)
    assert told == ["task-s0", "labels-s0", "direct-s0"]
    assert done["failed"] == ["published/labels-s0"]
    assert done["left"] == ["published/published_1-s0", "published/published_2-s0"]


def test_an_error_is_told_once_what_runs_beside_has_saved_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, saved = published(tmp_path), list[str]()
    study_results.store(steps["task-s0"], {"status": "done"})
    (steps["task-s0"].folder / "checkpoints" / "last").mkdir(parents=True)

    def do(shard: Shard, step: Step) -> shards.Ended:
        if step.name == "labels-s0":
            raise OSError("the disk is full")
        deadline = time.monotonic() + TOGETHER_S
        while shard.left_s > 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        saved.append(step.name)
        return "stopped"

    monkeypatch.setattr(Shard, "do", do)
    with pytest.raises(OSError, match="the disk is full"):
        run_shard(tuple(steps.values()), steps["task-s0"].layout, 1.0, lambda line: None, jobs=2)
    assert saved == ["direct-s0"]


def test_the_most_that_ran_side_by_side_is_remembered(steps: tuple[Step, ...]) -> None:
    step = steps[0]
    step.folder.parent.mkdir(parents=True)
    assert Clock.of(step).jobs == 1
    for jobs in (1, 3, 2):
        Clock.of(step, jobs).tick()
    assert Clock.of(step).figures["jobs"] == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_beside_another_takes_one_process_and_one_thread(tmp_path: Path, jobs: int) -> None:
    layout = study_results.layout(tmp_path)
    step = next(one for one in steps_of(layout) if one.key == "online/online-s20")
    step.folder.parent.mkdir(parents=True)
    with open(tmp_path / "lock", "w") as lock:
        command = Shard(layout, 0.0, lock, print, jobs)._command(step)
    begun = load_config(command[-1])
    if jobs == 1:
        assert begun == step.config
        assert begun.resources.env_runners == 1
    else:
        assert (begun.resources.env_runners, begun.resources.learner_threads) == (0, 1)
        assert without_resources(begun) == without_resources(step.config)


def without_resources(config: Config) -> dict[str, object]:
    return config.model_dump(exclude={"resources"})
