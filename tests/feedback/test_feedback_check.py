"""Looking before spending: ping, check and estimate."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from aiohttp import web
from feedback_fakes import FakeServer, TinyRenderer, completion, tiny_config, tiny_episode

from rlaif_ray.errors import ConfigError, JudgeRejectsKey, JudgeRejectsModel, JudgeUnreachable
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.check import check_judge, estimate_cost, ping

MEDIAN, LONGEST = tiny_episode(1, steps=3), tiny_episode(2, steps=9, harmful=True)
PRICED = {"judge__input_usd_per_mtok": 1000.0, "judge__output_usd_per_mtok": 2000.0}


def check(server: FakeServer, **overrides: Any) -> Any:
    return check_judge(tiny_config(server.base_url, **overrides), MEDIAN, LONGEST, TinyRenderer())


def test_a_check_asks_twice_and_says_what_it_found() -> None:
    limits = {"x-ratelimit-limit-requests": "30", "x-ratelimit-limit-tokens": "1200000"}
    with FakeServer(lambda n, _: web.json_response(completion(answer="no" if n else "yes"), headers=limits)) as server:
        found = check(server, **PRICED, budget__labels=90)
        assert server.asked == 2
    assert [probe.name for probe in found.probes] == ["median", "longest"]
    assert [(probe.steps, probe.images, probe.answer) for probe in found.probes] == [
        (3, 4, "approved"),
        (9, 10, "rejected"),
    ]
    assert [(probe.input_tokens, probe.output_tokens) for probe in found.probes] == [(100, 20)] * 2
    assert found.takes_schema
    assert found.takes_images
    assert found.takes_parameters
    assert found.usable
    assert (found.labels_per_minute, found.limited_by) == (30.0, "the server's request limit")
    assert found.budget_minutes == 3.0
    assert found.budget_usd == pytest.approx(90 * 0.14)


def test_the_config_and_the_latency_limit_the_rate_too() -> None:
    with FakeServer(lambda *_: completion()) as server:
        assert check(server, judge__requests_per_minute=10).labels_per_minute == 10.0
        by_tokens = check(server, judge__tokens_per_minute=600)
        assert (by_tokens.labels_per_minute, by_tokens.limited_by) == (5.0, "judge.tokens_per_minute")
        free = check(server)
        mean_s = sum(probe.latency_s for probe in free.probes) / 2
        assert free.labels_per_minute == pytest.approx(60 * 64 / mean_s)
        assert free.budget_minutes is None


def picky(word: str, complaint: str) -> Any:
    def respond(_: int, body: dict[str, Any]) -> Any:
        images = len(body["messages"][1]["content"]) - 1
        if word in body or (word == "images" and images > 5):
            return web.json_response({"error": {"message": complaint}}, status=400)
        return completion()

    return respond


@pytest.mark.parametrize(
    ("word", "expected"),
    [("response_format", (False, True, True)), ("seed", (True, True, False)), ("images", (True, False, True))],
)
def test_what_a_server_does_not_take_is_found_out(word: str, expected: tuple[bool, bool, bool]) -> None:
    with FakeServer(picky(word, f"no {word} here")) as server:
        found = check(server)
    assert (found.takes_schema, found.takes_images, found.takes_parameters) == expected
    assert found.usable is (word != "images")  # what else it doesn't take is left out of a run's questions too
    assert len(found.notes) == 1
    assert f"no {word} here" in found.notes[0]
    assert all(probe.answer == "approved" for probe in found.probes)


def test_an_abstaining_judge_is_not_usable() -> None:
    with FakeServer(lambda *_: completion("no idea")) as server:
        found = check(server)
    assert found.probes[0].answer == "abstained (unparsable)"
    assert not found.usable


def test_ping_finds_out_before_anything_starts(builtin_judge: BuiltinJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    url = builtin_judge.start("perfect", "feedback_fakes:TinyReader")
    ping(tiny_config(url, judge__kind="builtin", judge__profile="perfect"))
    with pytest.raises(JudgeRejectsModel, match=r"got 'gpt-4o-mini-2024', which .* doesn't have.*'perfect'"):
        ping(tiny_config(url, judge__kind="builtin"))
    with pytest.raises(JudgeRejectsModel, match=r"got 'tiny', which .* doesn't have; it lists 1, such as: 'perfect'"):
        ping(tiny_config(url))
    with FakeServer(lambda *_: completion()) as server:
        ping(tiny_config(server.base_url))
        assert server.asked == 0
        ping(tiny_config(server.base_url, judge__model="any-name"))  # it takes any name, as such servers do
        assert (server.asked, server.bodies[0]["max_tokens"]) == (1, 1)
    with (
        FakeServer(lambda *_: web.json_response({"error": {"message": "who?"}}, status=401)) as server,
        pytest.raises(JudgeRejectsKey, match=r"rejects the key in OPENAI_API_KEY \(401\): who\?"),
    ):
        ping(tiny_config(server.base_url, judge__model="other"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(JudgeUnreachable, match=f"nothing answers at {url}") as error:
            ping(tiny_config(url))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (404, "<h1>Not Found</h1>", "text/html", r"said: 404, text/html"),
        (200, "<!doctype html>\n<title>A page</title>", "text/html", r"said: text/html; .*'<!doctype html> <title>"),
        (200, '{"hello": "world"}', "application/json", r"said: application/json; .*hello"),
    ],
)
def test_something_else_at_the_base_url_is_no_judge(status: int, body: str, kind: str, said: str) -> None:
    """An address without /v1, or a page of something else, must not get past the door."""
    with FakeServer(lambda *_: completion()) as server:
        server.models_reply = lambda: web.Response(status=status, text=body, content_type=kind)
        with pytest.raises(JudgeUnreachable, match=said) as error:
            ping(tiny_config(server.base_url))
        assert server.asked == 0
        with pytest.raises(JudgeUnreachable, match=r"usually ends in /v1$"):
            ping(tiny_config(server.base_url.removesuffix("/v1")))  # the server's own 404
    assert "\n" not in str(error.value)


def test_a_server_without_a_list_of_models_is_asked_one_word() -> None:
    with FakeServer(lambda *_: completion()) as server:
        server.models_reply = lambda: web.Response(status=405)
        ping(tiny_config(server.base_url))
        assert server.asked == 1
    unknown = web.json_response({"error": {"message": "no such model"}}, status=404)
    with FakeServer(lambda *_: unknown) as server:
        server.models_reply = lambda: web.Response(status=405)
        with pytest.raises(JudgeRejectsModel, match="no such model"):
            ping(tiny_config(server.base_url))


def test_the_nearest_models_are_named() -> None:
    unknown = web.json_response({"error": {"message": "no such model"}}, status=404)
    names = ["qwen2.5-vl-7b", "qwen2.5-vl-3b", "embedder"]
    with FakeServer(lambda *_: unknown) as server:
        server.models_reply = lambda: web.json_response({"data": [{"id": name} for name in names]})
        with pytest.raises(JudgeRejectsModel, match=r"nearest of the 3 it lists: 'qwen2.5-vl-7b', 'qwen2.5-vl-3b'$"):
            ping(tiny_config(server.base_url, judge__model="qwen-vl-7b"))


def test_the_estimate_by_hand() -> None:
    config = tiny_config(
        "https://api.openai.com/v1", judge__model="gpt-4o-mini-2024-07-18", judge__max_images=11, budget__labels=500
    )
    found = estimate_cost(config, [9, 11, 100], picture_px=(448, 384))
    assert found.images_per_question == pytest.approx((10 + 11 + 11) / 3)
    assert found.input_tokens_per_question == pytest.approx(2833 * 32 / 3, rel=0.01)
    assert found.usd_per_question == pytest.approx((found.input_tokens_per_question * 0.15 + 150 * 0.6) / 1e6)
    assert (found.questions, found.usd) == (500, pytest.approx(500 * found.usd_per_question))
    with pytest.raises(ConfigError, match="no episode lengths"):
        estimate_cost(config, [], picture_px=(448, 384))
