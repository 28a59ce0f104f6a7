"""A run as a user has it, with real Ray and the real built-in judge: stopped by Ctrl-C, gone on with, looked at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlaif_ray.cli import main
from rlaif_ray.priority import ASKING, LAST, SAMPLING

COMMAND = [sys.executable, "-c", "import sys; from rlaif_ray.cli import main; sys.exit(main())"]
SMALL = {
    "run.name": "small",
    "run.total-steps": "40960",
    "run.evaluate-episodes": "40",
    "env.num-envs": "64",
    "ppo.train-batch-size": "1024",
    "ppo.minibatch-size": "256",
    "ppo.num-epochs": "1",
    "policy.network": "mlp",
    "policy.hidden": "32",
    "feedback.start-step": "0",
    "feedback.fraction": "0.5",
    "feedback.labels-per-iteration": "2",
    "feedback.late": "wait",
    "mix.start-step": "4096",
    "mix.ramp-steps": "8192",
    "judge.profile": "perfect",
    "budget.labels": "40",
    "reward-model.min-labels": "8",
    "reward-model.retrain-every": "8",
    "reward-model.gate-accuracy": "0",
    "reward-model.holdout": "0.4",
    # On a fast machine the run would be over before the first fit is.
    "reward-model.pace": "wait",
    "resources.object-store-mb": "100",
    "resources.env-runners": "1",
}
STOP_WITHIN_S = 10.0


def finish(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=300, cwd=cwd, check=False)


GIVING_WAY = {
    "EnvRunner": SAMPLING,
    "Questioner": ASKING,
    "rlaif_ray.feedback.builtin": ASKING,
    "ray::_Worker": LAST,
}


def niceness(pid: int, wanted: dict[str, int]) -> dict[str, int]:
    """Of those that sample, ask, answer and fit for a run, as soon as all have started and it is what is wanted."""
    run, found = psutil.Process(pid), dict.fromkeys(wanted, -1)
    deadline = time.monotonic() + 60
    while found != wanted and time.monotonic() < deadline:
        for one in run.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                found |= {name: int(one.nice()) for name in wanted if name in " ".join(one.cmdline())}
        time.sleep(0.1)
    return found


def summary_of(run: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return read


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_run_is_stopped_gone_on_with_and_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "small"
    words = ["train", "homegrid", *(word for key, value in SMALL.items() for word in (f"--{key}", value))]
    started_at = time.monotonic()
    began = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert began.stdout is not None
        assert "steps" in began.stdout.readline()
        learner = psutil.Process(began.pid).nice()
        wanted = {name: max(learner, own) for name, own in GIVING_WAY.items()}
        assert niceness(began.pid, wanted) == wanted
        os.kill(began.pid, signal.SIGINT)
        stopped_at = time.monotonic()
        out, err = began.communicate(timeout=120)
    finally:
        began.kill()
    took = time.monotonic() - stopped_at
    assert began.returncode == 0, err
    assert "Stopping" in out
    assert "--resume" in out
    # Stopping takes less than starting did: on a machine busy with other things both take longer.
    starting = stopped_at - started_at
    assert took < max(STOP_WITHIN_S, starting), f"took {took:.1f} s to stop, {starting:.1f} s to start"
    stopped = summary_of(run)
    assert stopped["status"] == "interrupted"
    assert 0 < int(stopped["steps"]) < 40_960
    assert (run / "checkpoints" / "last" / "manifest.json").is_file()
    assert not (run / "report.html").exists()  # charts take seconds
    monkeypatch.chdir(tmp_path)
    assert main(["report", "small"]) == 0
    assert "Interrupted" in capfd.readouterr().out + (run / "report.html").read_text()

    done = finish("train", "--resume", "small", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["status"] == "done"
    assert summary["steps"] >= 40_960
    assert 1 <= summary["labels"] <= 40
    assert summary["labels"] >= int(stopped["labels"])
    assert [phase["name"] for phase in summary["phases"]] == ["task", "feedback"]
    page = (run / "report.html").read_text()
    assert page.count("data:image/gif") == 8
    assert "What happens:" in page

    def printed(*words: str) -> dict[str, Any]:
        capfd.readouterr()
        assert main(words) == 0
        read: dict[str, Any] = json.loads(capfd.readouterr().out)
        return read

    outcome = printed("evaluate", "small", "--episodes", "30", "--starts", "heldout", "--json")
    assert (outcome["episodes"], outcome["options"], outcome["deterministic"]) == (30, {"starts": "heldout"}, False)
    assert 0.0 <= outcome["found"] <= 1.0
    assert 0.0 <= outcome["cat_survived"] <= 1.0
    newest = str(run / "checkpoints" / "last")
    assert printed("evaluate", newest, "--episodes", "30", "--starts", "heldout", "--json") == outcome

    graded = printed("reward-model", "evaluate", "small", "small", "--json")
    assert graded["model"]["version"] == summary["reward_model"]["version"] > 0
    assert graded["labels"]["verdicts"] + graded["labels"]["abstained"] == summary["labels"]
    assert graded["labels"]["graded"] > 0
    assert summary["reward_model"]["periods"]
    assert "by the version they began under" in page

    stats = printed("labels", "stats", "small", "--json")
    assert stats["labels"] == summary["labels"]
    assert stats["spend_usd"] == pytest.approx(summary["spend_usd"])
    assert stats["reserved_usd"] == 0.0
