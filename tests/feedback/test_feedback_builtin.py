"""The built-in judge: its errors are its profile's, it reads pictures and wording, it comes and goes cleanly."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from feedback_fakes import TinyRenderer, asked_about, tiny_config, tiny_episode

from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.feedback.ask import ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.builtin.compose import Opinion, fill
from rlaif_ray.feedback.builtin.decide import Seen, decide, latency_s, polarity_of
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.builtin.profile import Profile, load_profile, profile_names
from rlaif_ray.feedback.judge import ChatJudge
from rlaif_ray.feedback.prompt import answer_schema, load_prompt
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Reading, Verdict

READER = "feedback_fakes:TinyReader"
PUBLISHED = load_profile("gpt-4o-mini-2024")


def seen(harmful: bool, content: bytes, **facts: float) -> Seen:
    return Seen(Reading(harmful, True, "it hurt something" if harmful else "it fetched something", facts), content)


def contents(count: int) -> list[bytes]:
    return [hashlib.sha256(str(number).encode()).digest() for number in range(count)]


def test_error_rates_are_the_published_ones() -> None:
    approved = sum(decide(PUBLISHED, seen(True, c), polarity="align", seed=0).approves for c in contents(20_000))
    rejected = sum(not decide(PUBLISHED, seen(False, c), polarity="align", seed=0).approves for c in contents(20_000))
    # Binomial: standard deviations 24 and 8; four of them.
    assert approved == pytest.approx(20_000 * 188 / 6240, abs=100)
    assert rejected == pytest.approx(20_000 * 12 / 3760, abs=32)


def test_the_violate_wording_is_nearly_always_answered_negatively() -> None:
    for harmful in (True, False):
        decisions = [decide(PUBLISHED, seen(harmful, c), polarity="violate", seed=0) for c in contents(4_000)]
        assert np.mean([d.says_yes for d in decisions]) > 0.95
        assert not any(d.approves and d.says_yes for d in decisions)


def test_the_perfect_profile_errs_never_and_undoes_the_polarity() -> None:
    perfect = load_profile("perfect")
    for content in contents(2_000):
        for harmful in (True, False):
            align = decide(perfect, seen(harmful, content), polarity="align", seed=0)
            violate = decide(perfect, seen(harmful, content), polarity="violate", seed=0)
            assert align.says_yes is align.approves is violate.approves is (not harmful)
            assert violate.says_yes is harmful
    assert latency_s(perfect, b"x", 0) == 0.0


def test_errors_depend_on_content_and_seed_alone() -> None:
    def errors(seed: int) -> list[bool]:
        return [decide(PUBLISHED, seen(True, c), polarity="align", seed=seed).approves for c in contents(3_000)]

    assert errors(0) == errors(0)
    assert errors(0) != errors(1)


def test_latency_is_mostly_three_to_six_seconds() -> None:
    seconds = np.array([latency_s(PUBLISHED, content, 0) for content in contents(5_000)])
    assert np.median(seconds) == pytest.approx(4.24, rel=0.02)
    assert np.mean((seconds > 3) & (seconds < 6)) == pytest.approx(0.90, abs=0.02)


@pytest.mark.parametrize("name", ["align", "violate"])
def test_the_wording_of_the_shipped_prompts_is_understood(name: str) -> None:
    prompt = load_prompt(f"homegrid-{name}")
    assert polarity_of(f"{prompt.system}\n{prompt.user}") == name


def test_the_last_wording_counts_and_none_is_none() -> None:
    assert polarity_of("Does it violate values, or is it in line with them?") == "align"
    assert polarity_of("What is the weather?") is None


def test_answers_follow_the_schema_of_the_request() -> None:
    opinion = Opinion("no", False, "it hurt something", "that is why")
    usual = fill(opinion, answer_schema("approval"))
    assert usual == fill(opinion, None)
    assert (usual["description"], usual["answer"]) == ("it hurt something", "no")
    own = {
        "type": "object",
        "properties": {"why": {"type": "string"}, "ok": {"type": "boolean"}, "say": {"enum": ["Yes", "No"]}},
    }
    assert fill(opinion, own) == {"why": usual["reasoning"], "ok": False, "say": "No"}
    with pytest.raises(ValueError, match="'score' is neither"):
        fill(opinion, {"type": "object", "properties": {"score": {"type": "number"}}})


def test_profiles_are_checked(tmp_path: Path) -> None:
    assert profile_names() == ["cheap-nano", "gpt-4o-mini-2024", "gpt-4o-mini-structured", "perfect"]
    with pytest.raises(UnknownNameError, match="did you mean 'perfect'"):
        load_profile("prefect")
    (tmp_path / "bad.yaml").write_text("name: bad\nmiss_rate: 1.5\n")
    with pytest.raises(ConfigError, match=r"miss_rate: got 1\.5; input should be less than or equal to 1"):
        load_profile(str(tmp_path / "bad.yaml"))
    (tmp_path / "odd.yaml").write_text("name: odd\nmis_rate: 0.5\n")
    with pytest.raises(ConfigError, match="mis_rate"):
        load_profile(str(tmp_path / "odd.yaml"))


def post(url: str, body: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/chat/completions", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply), dict(reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


def body_of(model: str = "perfect", *, text: str = "Does it agree with human values?", **more: Any) -> dict[str, Any]:
    states = tiny_episode(1, harmful=True).states
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}}
        for png in TinyRenderer().png(states)
    ]
    return {
        "model": model,
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}, *pictures]}],
    } | more


def test_every_answer_is_right_with_the_perfect_profile(builtin_judge: BuiltinJudge, store: LabelStore) -> None:
    url = builtin_judge.start("perfect", READER)
    for prompt in ("homegrid-align", "homegrid-violate"):
        config = tiny_config(url, judge__kind="builtin", judge__profile="perfect", judge__prompt=prompt)

        async def run(config: Any = config, prompt: str = prompt) -> None:
            judge = ChatJudge(config.judge)
            asked = [asked_about(n, judge.identity, harmful=n % 3 == 0, prompt=prompt) for n in range(150)]
            labels = await ask_all(judge, store, Caps(), asked, config=config.judge)
            await judge.close()
            for number, label in enumerate(labels):
                assert label is not None
                assert isinstance(label.outcome, Verdict)
                assert label.outcome.approved is (number % 3 != 0)

        asyncio.run(run())
    health = json.load(urllib.request.urlopen(url.replace("/v1", "/health"), timeout=10))
    assert health["answered"] == store.stats().labels == 300


def test_it_speaks_openai_and_complains_in_openais_form(builtin_judge: BuiltinJudge) -> None:
    url = builtin_judge.start("perfect", READER)
    status, reply, _ = post(url, body_of())
    assert status == 200
    assert reply["object"] == "chat.completion"
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + reply["usage"]["completion_tokens"]
    assert reply["usage"]["prompt_tokens"] == 8 + 4 * 85
    assert reply["choices"][0]["message"]["content"].endswith(" no")  # no JSON was asked for
    assert json.load(urllib.request.urlopen(f"{url}/models", timeout=10))["data"][0]["id"] == "perfect"

    assert post(url, body_of(text="How is the weather?"))[1]["choices"][0]["message"]["refusal"]
    cut = post(url, body_of(max_tokens=3))[1]["choices"][0]
    assert cut["finish_reason"] == "length"
    assert len(cut["message"]["content"]) == 12
    complaints = {
        "model_not_found": post(url, body_of("gpt-9")),
        "not JSON": post(url, b"{"),
        "has none": post(url, {"model": "perfect", "messages": [{"role": "user", "content": "Do they agree?"}]}),
        "stream": post(url, body_of(stream=True)),
        "messages": post(url, {"model": "perfect"}),
    }
    for word, (status, reply, _) in complaints.items():
        assert status == (404 if word == "model_not_found" else 400)
        assert word in json.dumps(reply["error"])
    broken = body_of()
    broken["messages"][0]["content"][1]["image_url"]["url"] = "data:image/png;base64,bm90IGEgcGljdHVyZQ=="
    assert "can't be read" in post(url, broken)[1]["error"]["message"]
    broken["messages"][0]["content"][1]["image_url"]["url"] = "https://elsewhere.example/cat.png"
    assert "only base64 data URLs" in post(url, broken)[1]["error"]["message"]


def test_refusals_and_rate_limits_of_a_profile(builtin_judge: BuiltinJudge, tmp_path: Path) -> None:
    profile = Profile(name="strict", refusal_rate=1.0, requests_per_minute=2)
    (tmp_path / "strict.yaml").write_text(json.dumps(profile.model_dump()))
    url = builtin_judge.start(str(tmp_path / "strict.yaml"), READER)
    status, reply, headers = post(url, body_of("strict"))
    assert status == 200
    assert reply["choices"][0]["message"]["refusal"].startswith("I'm sorry")
    assert reply["choices"][0]["message"]["content"] is None
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert post(url, body_of("strict"))[0] == 200
    status, reply, headers = post(url, body_of("strict"))
    assert (status, reply["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["Retry-After"]) <= 60


def test_a_port_in_use_and_a_missing_reader_are_one_line(
    builtin_judge: BuiltinJudge, tiny_world_importable: None
) -> None:
    url = builtin_judge.start("perfect", READER)
    port = int(url.rsplit(":", 1)[1].removesuffix("/v1"))
    with BuiltinJudge() as second:
        with pytest.raises(ConfigError, match=f"port: got {port}, which can't be used") as error:
            second.start("perfect", READER, port=port)
        assert "\n" not in str(error.value)
        with pytest.raises(ConfigError, match="can't load 'feedback_fakes:Reader'"):
            second.start("perfect", "feedback_fakes:Reader")
        with pytest.raises(UnknownNameError):
            second.start("prefect", READER)
        assert second.pid is None
    with pytest.raises(ConfigError, match="runs already"):
        builtin_judge.start("perfect", READER)


def gone(pid: int, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_it_stops_when_told_and_when_its_parent_is_killed(builtin_judge: BuiltinJudge) -> None:
    builtin_judge.start("perfect", READER)
    pid = builtin_judge.pid
    assert pid is not None
    builtin_judge.stop()
    assert gone(pid)
    code = (
        "import time; from rlaif_ray.feedback.builtin.launcher import BuiltinJudge; judge = BuiltinJudge(); "
        f"judge.start('perfect', {READER!r}); print(judge.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        assert psutil.pid_exists(orphan)
        os.kill(parent.pid, signal.SIGKILL)
    assert gone(orphan)
