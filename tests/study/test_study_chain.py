"""The whole chain in small, with real processes: killed half-way, gone on with side by side, where one is killed again;
measured, reported, marked as smoke."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from homegrid_study import rewards
from homegrid_study.arms import Layout, steps_of

from rlaif_ray.envs.homegrid_world import homegrid
from rlaif_ray.envs.worlds import harm_in
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.scorebook import Score, append_scores

ROOT = Path(__file__).parents[2]
COMMAND = str(ROOT / "scripts" / "reproduce" / "homegrid")
ENVIRONMENT = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
WAIT_S = 480.0


def study(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *words], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=WAIT_S
    )


def begin_and_kill(folder: Path, arm: str, sign: Path) -> int:
    """Begin a shard and kill it with SIGKILL as soon as ``sign`` is there; the process of its step, by its id."""
    process = subprocess.Popen([COMMAND, "run", "--smoke", "--folder", str(folder), "--arm", arm], env=ENVIRONMENT,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + WAIT_S
    while not sign.exists():
        assert process.poll() is None, "the shard ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def go_on_and_kill(folder: Path, arms: list[str], begun: Path, sign: Path) -> str:
    """Two at a time; the process of the run that began with the file ``begun`` is killed with SIGKILL as soon as
    ``sign`` is there. What the shard has said, which ends well."""
    words = ["run", "--smoke", "--folder", str(folder), "--jobs", "2", "--arm", *arms]
    with subprocess.Popen([COMMAND, *words], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + WAIT_S
        while not sign.exists():
            assert process.poll() is None, "the shard ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        mine = [one for one in psutil.Process(process.pid).children() if str(begun) in one.cmdline()]
        assert len(mine) == 1
        mine[0].kill()
        said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, said
    return said


def result(folder: Path, key: str) -> dict[str, object]:
    read: dict[str, object] = json.loads((folder / "results" / f"{key}.json").read_text())
    return read


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(1_200)
def test_the_whole_chain_in_small_survives_a_kill_and_never_enters_the_study(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "task" / "task-s0"
    assert begin_and_kill(tmp_path, "task", run / "config.yaml") == -signal.SIGKILL
    assert not (tmp_path / "results" / "task" / "task-s0.json").exists()

    begun = tmp_path / "runs" / "direct" / "direct-s0.yaml"
    arms = ["published/labels-s0", "direct/direct-s0"]
    said = go_on_and_kill(tmp_path, arms, begun, begun.with_suffix("") / "config.yaml")
    assert "direct/direct-s0: its process died (signal 9), going on" in said
    assert "labels-s0: its process died" not in said
    assert said.index("labels-s0 ...") < said.index("direct/direct-s0: finished")  # side by side
    assert said.index("direct/direct-s0 ...") < said.index("labels-s0: finished")
    assert "3 finished, 0 failed, 0 left" in said
    rows = [json.loads(line) for line in (run / "result.json").read_text().splitlines()]
    assert [row["steps"] for row in rows] == [1_024, 2_048, 3_072, 4_096]  # none is missing, none was taken twice
    task, direct = result(tmp_path, "task/task-s0"), result(tmp_path, "direct/direct-s0")
    assert task["smoke"] is direct["smoke"] is True
    assert direct["status"] == "done"
    assert direct["jobs"] == 2
    assert direct["begins_with"] == ["task/task-s0"]
    chain, own, before = direct["chain"], direct["own"], task["own"]
    assert isinstance(chain, dict)
    assert isinstance(own, dict)
    assert isinstance(before, dict)
    assert chain["steps"] == own["steps"] + before["steps"]
    assert own["labels"] == chain["labels"]
    assert chain["jobs"] == 2

    again = study("run", "--smoke", "--folder", str(tmp_path), "--arm", "direct/direct-s0")
    assert "0 finished, 0 failed, 0 left" in again.stdout  # what is finished stays so
    told = study("report", "--smoke", "--folder", str(tmp_path))
    assert told.returncode == 0, told.stderr
    page = (tmp_path / "docs" / "STUDY.md").read_text()
    assert page.startswith("# SMOKE")
    assert "| direct | 1 of 1 |" in page
    stored = list((ROOT / "benchmarks" / "study").rglob("*-s?.json"))
    assert not any(json.loads(file.read_text())["smoke"] for file in stored)
    reward_models_are_audited(tmp_path)
    scores_are_paired_with_verdicts(tmp_path)


def reward_models_are_audited(folder: Path) -> None:
    """On what the chain has left: the task-only run's policies, and the labels that were bought of its episodes."""
    step = next(one for one in steps_of(Layout.of(smoke=True, folder=folder)) if one.kind == "audit")
    run = folder / "runs" / step.needs[0]
    run.mkdir(parents=True)
    shutil.copy(folder / "runs" / "published" / "labels-s0" / "labels.sqlite", run / "labels.sqlite")
    shutil.copytree(folder / "runs" / "task" / "task-s0" / "checkpoints", run / "checkpoints", symlinks=True)
    found = rewards.audit(step)
    assert found["labels"] == 48
    assert found["harm"] + found["harmless"] == sum(one["episodes"] for one in found["policies"])
    assert min(found["harm"], found["harmless"]) >= 10
    for graded in found["nets"].values():
        assert graded["harm"]["n"] == found["harm"]
        assert graded["balanced"] == pytest.approx((graded["harm"]["right"] + graded["harmless"]["right"]) / 2)
        assert graded["harm"]["low"] <= graded["harm"]["right"] <= graded["harm"]["high"]


def scores_are_paired_with_verdicts(folder: Path) -> None:
    """Of the labels that were bought, beliefs that are right but for one; and one was judged before there was any."""
    step = next(one for one in steps_of(Layout.of(smoke=True, folder=folder)) if one.arm == "labels")
    assert rewards.paired(step) == {}  # nobody scored them
    with LabelStore(step.folder / "labels.sqlite", readonly=True) as store:
        labels = [one for one in store.labels() if one.value is not None]
        harm = [bool(harm_in(homegrid(), store.episode_of(one).states)) for one in labels]
    right = [(one.value >= 0.5) != harmed for one, harmed in zip(labels, harm, strict=True)][1:]
    beliefs = [float(harmed if i == right.index(True) + 1 else not harmed) for i, harmed in enumerate(harm)]
    scores = [
        Score(0, one.episode_id, one.policy_version, 1, belief) for one, belief in zip(labels, beliefs, strict=True)
    ]
    append_scores(step.folder, scores[1:])
    pairs = rewards.paired(step)
    assert (pairs["episodes"], pairs["harm"]) == (len(labels) - 1, sum(harm[1:]))
    assert (pairs["only_judge_right"], pairs["only_model_right"]) == (1, right.count(False))
    assert pairs["judge_right"] == pytest.approx(sum(right) / len(right))
    assert pairs["agree"] == pytest.approx(1 - (1 + right.count(False)) / len(right))


def test_a_folder_without_smoke_is_refused() -> None:
    done = study("run", "--folder", "elsewhere")
    assert done.returncode == 2
    assert "goes with --smoke" in done.stderr
