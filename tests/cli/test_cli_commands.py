"""Commands as a user starts them: exit codes, standard output kept clean, help in time, a clean stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlaif_ray.cli import doctor as doctor_module
from rlaif_ray.cli import main
from rlaif_ray.cli.train import StopSwitch

COMMAND = [sys.executable, "-c", "import sys; from rlaif_ray.cli import main; sys.exit(main())"]


def start(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["evaluate", "--help"]])
def test_help_answers_at_once(words: list[str]) -> None:
    """The best of three: the machine may be busy with other things."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        done = start(*words)
        took.append(time.perf_counter() - began)
        assert done.returncode == 0
        assert "usage: rlaif-ray" in done.stdout
    assert min(took) < 1.0


def test_wrong_config_starts_no_ray_and_leaves_no_folder(tmp_path: Path) -> None:
    done = start("train", "homegrid", "--ppo.minibatch-size", "999999", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == ("error: ppo.minibatch_size: got 999999, allowed are 1 to ppo.train_batch_size (8192)\n")
    assert list(tmp_path.iterdir()) == []


def test_a_hosted_judge_without_its_key_is_refused_by_the_variables_name(tmp_path: Path) -> None:
    words = [*COMMAND, "train", "homegrid-openai", "--judge.api-key-env", "NO_SUCH_KEY_HERE"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "NO_SUCH_KEY_HERE" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_judge_that_does_not_answer_is_found_before_training(tmp_path: Path) -> None:
    done = start("train", "homegrid-local", "--judge.base-url", "http://127.0.0.1:9/v1", cwd=tmp_path)
    assert done.returncode == 2
    assert "http://127.0.0.1:9/v1" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_an_existing_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "runs" / "homegrid").mkdir(parents=True)
    (tmp_path / "runs" / "homegrid" / "config.yaml").write_text("run: {name: homegrid}\n")
    done = start("train", "homegrid", cwd=tmp_path)
    assert done.returncode == 2
    assert "--resume" in done.stderr
    assert (tmp_path / "runs" / "homegrid" / "config.yaml").read_text() == "run: {name: homegrid}\n"


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for words in (["evaluate", "."], ["evaluate", "notes.txt"]):
        done = start(*words, "--json", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "is not a checkpoint" in done.stderr


def test_the_doctor_prints_one_json_object_and_no_secret(tmp_path: Path) -> None:
    env = {**os.environ, "OPENAI_API_KEY": "sk-planted-secret"}
    done = subprocess.run(
        [*COMMAND, "doctor", "--json"], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=env, check=False
    )
    figures = json.loads(done.stdout)
    found = {f["name"]: f for f in figures["findings"]}
    assert found["OPENAI_API_KEY"]["value"] == "set"
    assert "planted" not in done.stdout + done.stderr
    assert found["ray"]["level"] == "ok"
    assert figures["ok"] is (done.returncode == 0)
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_calls_a_wrong_version_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor_module._parted("ray[rllib,tune]==2.60.0") == ("ray", "==2.60.0")
    assert doctor_module._parted("numpy>=2.2; python_version > '3'") == ("numpy", ">=2.2")
    monkeypatch.setattr(doctor_module.importlib.metadata, "requires", lambda _: ["numpy>=99", "no-such-package>=1"])
    levels = {f.name: f.level for f in doctor_module.findings()}
    assert levels["numpy"] == "bad"
    assert levels["no-such-package"] == "bad"
    assert main(["doctor"]) == 1
    assert "needs >=99" in capsys.readouterr().out


def test_standard_output_holds_the_object_alone() -> None:
    code = """
import subprocess, sys
from rlaif_ray.cli.output import only_json, print_json
with only_json(True):
    print("a library speaks")
    subprocess.run([sys.executable, "-c", "print('a child speaks')"], check=True)
print_json({"found": 0.5, "accuracy": float("nan"), "nested": {"list": (1, float("inf"))}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == {"found": 0.5, "accuracy": None, "nested": {"list": [1, None]}}
    assert done.stdout.count("\n") == 1
    assert "a library speaks" in done.stderr
    assert "a child speaks" in done.stderr


def test_the_first_signal_asks_for_a_stop_and_the_second_interrupts() -> None:
    said: list[str] = []
    stop = StopSwitch()
    before = signal.getsignal(signal.SIGINT)
    with stop.on_signals(said.append):
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        assert len(said) == 1
        assert "checkpoint" in said[0]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
