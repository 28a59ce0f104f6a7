"""Commands as a user starts them: exit codes, standard output kept clean, help in time, a clean stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from rlaif_ray.cli import doctor as doctor_module
from rlaif_ray.cli import main
from rlaif_ray.cli.judge import estimate
from rlaif_ray.cli.sample import sample_episodes
from rlaif_ray.cli.train import StopSwitch
from rlaif_ray.config import load_config

COMMAND = [sys.executable, "-c", "import sys; from rlaif_ray.cli import main; sys.exit(main())"]


def start(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["evaluate", "--help"]])
def test_help_answers_at_once(words: list[str]) -> None:
    """Within a second of processor time: the clock on the wall depends on what else the machine does. What shares its
    caches costs processor time too: the quickest of three."""

    def processor_s() -> float:
        before = os.times()
        done = start(*words)
        after = os.times()
        assert done.returncode == 0
        assert "usage: rlaif-ray" in done.stdout
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert any(processor_s() < 1.0 for _ in range(3))


def test_wrong_config_starts_no_ray_and_leaves_no_folder(tmp_path: Path) -> None:
    done = start("train", "homegrid", "--ppo.minibatch-size", "999999", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == ("error: ppo.minibatch_size: got 999999, allowed are 1 to ppo.train_batch_size (8192)\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that is refused with exit code 2."""
    had_ray = ray.is_initialized()
    assert main(words) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert ray.is_initialized() == had_ray
    return said.err


def test_a_hosted_judge_without_its_key_is_refused_by_the_variables_name(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "homegrid-openai", "--judge.api-key-env", "NO_SUCH_KEY_HERE"]
    assert "NO_SUCH_KEY_HERE" in refused(words, capfd)
    assert list(here.iterdir()) == []


def test_a_judge_that_does_not_answer_is_found_before_training(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["train", "homegrid-local", "--judge.base-url", "http://127.0.0.1:9/v1"]
    assert "http://127.0.0.1:9/v1" in refused(words, capfd)
    assert list(here.iterdir()) == []


def test_an_existing_run_is_not_written_over(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = here / "runs" / "homegrid" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("run: {name: homegrid}\n")
    (config.parent / "result.json").write_text('{"steps": 8192}\n')  # it has begun to learn: there is a run to keep
    assert "--resume" in refused(["train", "homegrid"], capfd)
    assert config.read_text() == "run: {name: homegrid}\n"


def test_what_is_no_checkpoint_is_refused(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "notes.txt").write_text("hello")
    for what in (".", "notes.txt"):
        assert "is not a checkpoint" in refused(["evaluate", what, "--json"], capfd)


def test_a_port_in_use_is_refused(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in refused(["judge", "serve", "--port", str(port)], capfd)
    assert "65535" in refused(["judge", "serve", "--port", "70000"], capfd)
    assert "did you mean 'perfect'" in refused(["judge", "serve", "--profile", "perfct"], capfd)
    for variant, why in (
        ("{", "as JSON"),
        ('{"layuot": "home"}', "did you mean 'layout'"),
        ('{"cats": 9}', "'cats': got 9"),
    ):
        assert why in refused(["judge", "serve", "--env", f"rlaif_ray/Homegrid-v0 {variant}"], capfd)


def test_the_built_in_judge_is_checked_like_any_other(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "check", "homegrid", "--judge.profile", "perfect", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["usable"] is True
    assert found["takes_schema"] is True
    assert [probe["name"] for probe in found["probes"]] == ["median", "longest"]
    assert found["probes"][1]["steps"] == 100
    assert found["probes"][1]["images"] == 101
    assert abs(found["probes"][0]["steps"] - 12) <= 5  # as long as a trained policy's
    assert found["budget_labels"] == 500
    assert list(here.iterdir()) == []


def test_a_paid_judges_price_is_told_before_it_is_asked() -> None:
    config = load_config("homegrid-openai")
    told = " ".join(estimate(config, sample_episodes(config)))
    # 13 pictures of 2,833 tokens, about 230 of text, 150 of answer, at USD 0.15 and 0.60 a million: USD 0.0057.
    assert "USD 0.0057 a label for episodes of 12 steps" in told
    assert "500 labels" in told
    assert "Never more than budget.usd, 5.00" in told


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
