"""The whole chain in small, with real processes: killed half-way, gone on with, measured, reported, marked as smoke."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def result(folder: Path, key: str) -> dict[str, object]:
    read: dict[str, object] = json.loads((folder / "results" / f"{key}.json").read_text())
    return read


@pytest.mark.ray
@pytest.mark.timeout(1_200)
def test_the_whole_chain_in_small_survives_a_kill_and_never_enters_the_study(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "online" / "online-s0"
    assert begin_and_kill(tmp_path, "online", run / "checkpoints" / "phase-task") == -signal.SIGKILL
    assert not (tmp_path / "results" / "online" / "online-s0.json").exists()
    asked = (run / "labels.sqlite").stat().st_ino

    done = study("run", "--smoke", "--folder", str(tmp_path), "--arm", "audit", "published/published_1-s0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 finished, 0 failed, 0 left" in done.stdout
    online, published = result(tmp_path, "online/online-s0"), result(tmp_path, "published/published_1-s0")
    audit = result(tmp_path, "audit/nets-s0")
    assert (run / "labels.sqlite").stat().st_ino == asked  # the same store: it went on, and did not begin again
    assert online["smoke"] is published["smoke"] is audit["smoke"] is True
    assert published["begins_with"] == ["task/task-s0", "published/labels-s0"]
    chain, own = published["chain"], published["own"]
    task = result(tmp_path, "task/task-s0")["own"]
    assert isinstance(chain, dict)
    assert isinstance(own, dict)
    assert isinstance(task, dict)
    assert chain["steps"] == own["steps"] + task["steps"]
    assert own["labels"] == 0
    assert chain["labels"] == 48  # bought before, and charged to it
    assert published["status"] == "done"
    assert isinstance(audit["nets"], dict)
    assert set(audit["nets"]) == {"event-max", "cnn-lstm"}
    assert online["pairs"] or online["status"] == "no_feedback_learned"

    again = study("run", "--smoke", "--folder", str(tmp_path), "--arm", "audit", "published/published_1-s0")
    assert "0 finished, 0 failed, 0 left" in again.stdout  # what is finished stays so
    told = study("report", "--smoke", "--folder", str(tmp_path))
    assert told.returncode == 0, told.stderr
    page = (tmp_path / "docs" / "STUDY.md").read_text()
    assert page.startswith("# SMOKE")
    assert "| published_1 | 1 of 1 |" in page
    assert (
        not (ROOT / "benchmarks" / "study" / "online" / "online-s0.json").exists()
        or not json.loads((ROOT / "benchmarks" / "study" / "online" / "online-s0.json").read_text())["smoke"]
    )


def test_a_folder_without_smoke_is_refused() -> None:
    done = study("run", "--folder", "elsewhere")
    assert done.returncode == 2
    assert "goes with --smoke" in done.stderr
