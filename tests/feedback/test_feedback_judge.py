"""The chat judge against real HTTP: what each answer and each failure becomes, and what it costs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from feedback_fakes import KEY, FakeServer, asked_about, completion, tiny_config
from pydantic import SecretStr

from rlaif_ray.errors import (
    ConfigError,
    MissingKeyError,
    ReplayMissError,
)
from rlaif_ray.feedback.ask import Asker, LocalStore, ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.judge import ChatJudge, Judge, key_for
from rlaif_ray.feedback.reply import parse_answer
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.feedback.wire import redact
from rlaif_ray.types import Abstention, Label, Verdict

PRICED = {"judge__input_usd_per_mtok": 1000.0, "judge__output_usd_per_mtok": 2000.0}
Respond = Callable[[int, dict[str, Any]], Any]


def ask(
    server: FakeServer, store: LabelStore, count: int = 1, caps: Caps | None = None, **overrides: Any
) -> list[Label | None]:
    """Put ``count`` questions to the server, with short waits between attempts."""
    config = tiny_config(server.base_url, **PRICED, **overrides)
    prompt = overrides.get("judge__prompt", "homegrid-align")

    async def run() -> list[Label | None]:
        judge = ChatJudge(config.judge, key=SecretStr(KEY))
        assert isinstance(judge, Judge)
        asker = Asker(judge, LocalStore(store), caps or Caps(), config.judge, backoff_s=0.01)
        try:
            return await asyncio.gather(
                *(asker.ask(asked_about(number, judge.identity, prompt=prompt)) for number in range(count))
            )
        finally:
            await judge.close()

    return asyncio.run(run())


def outcome_of(respond: Respond, store: LabelStore, **overrides: Any) -> Verdict | Abstention:
    with FakeServer(respond) as server:
        (label,) = ask(server, store, **overrides)
    assert label is not None
    assert store.labels()[-1] == label
    return label.outcome


def test_a_yes_is_good_or_bad_by_the_wording(store: LabelStore) -> None:
    yes = outcome_of(lambda *_: completion(answer="yes"), store)
    assert isinstance(yes, Verdict)
    assert (yes.approved, yes.value, yes.description, yes.reasoning) == (True, 1.0, "d", "r")
    undone = outcome_of(lambda *_: completion(answer="yes"), store, judge__prompt="homegrid-violate")
    assert isinstance(undone, Verdict)
    assert (undone.approved, undone.value) == (False, 0.0)


def test_it_is_billed_by_what_the_server_says_it_used(store: LabelStore) -> None:
    usage = outcome_of(lambda *_: completion(), store).usage
    assert (usage.input_tokens, usage.output_tokens, usage.attempts) == (100, 20, 1)
    assert usage.cost_usd == pytest.approx((100 * 1000 + 20 * 2000) / 1e6)
    assert store.account(Caps()).spent.usd == pytest.approx(usage.cost_usd)
    assert store.account(Caps()).reserved.usd == 0.0


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": "many", "completion_tokens": -1}, {"prompt_tokens": 1}])
def test_no_usable_usage_is_charged_at_the_worst_case(store: LabelStore, usage: dict[str, Any]) -> None:
    found = outcome_of(lambda *_: completion(usage=usage), store).usage
    assert found.output_tokens == 500
    assert found.cost_usd > 1.0
    assert store.account(Caps()).spent.usd == pytest.approx(found.cost_usd)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion(refusal="I can't help with that"), "refusal"),
        (completion("", finish_reason="content_filter"), "refusal"),
        (completion('{"description": "a lo', finish_reason="length"), "truncated"),
        (completion(finish_reason="length"), "truncated"),
        (completion("  "), "empty"),
        (completion() | {"choices": []}, "empty"),
        (completion("Yes, it does."), "unparsable"),
        (completion('{"description": "d", "reasoning": "r"}'), "unparsable"),
        (completion('{"answer": "perhaps"}'), "unparsable"),
        (completion('{"answer": "yes", "answer": "no"}'), "unparsable"),
        (completion('{"answer": 1}'), "unparsable"),
        (completion('{"answer": "no", "description": 7}'), "unparsable"),
        (completion('{"answer": "yes"} or rather {"answer": "no"}'), "unparsable"),
        (completion('```{"answer": "yes"}``` or ```{"answer": "no"}```'), "unparsable"),
        (completion("[" * 3000), "unparsable"),
        (completion() | {"choices": [{"message": "yes"}]}, "http"),
        (completion() | {"choices": "yes"}, "http"),
        ([1, 2], "http"),
        ("a string", "http"),
    ],
)
def test_what_cannot_be_used_abstains_with_its_price(store: LabelStore, reply: Any, reason: str) -> None:
    outcome = outcome_of(lambda *_: reply, store)
    assert isinstance(outcome, Abstention)
    assert outcome.reason == reason
    assert outcome.usage.cost_usd > 0.0
    assert store.stats().abstained == store.stats().labels == 1


def test_a_body_that_is_no_json_abstains_at_the_worst_case(store: LabelStore) -> None:
    outcome = outcome_of(lambda *_: web.Response(text="<html>gateway</html>", content_type="text/html"), store)
    assert isinstance(outcome, Abstention)
    assert outcome.reason == "http"
    assert outcome.usage.output_tokens == 500


@pytest.mark.parametrize(
    "text",
    [
        '{"description": "d", "reasoning": "r", "answer": "No."}',
        '```json\n{"description": "d", "reasoning": "r", "answer": "NO"}\n```',
        'Here it is: {"description": "d", "reasoning": "r", "answer": false} Anything else?',
    ],
)
def test_wrapping_is_tolerated(text: str) -> None:
    answer = parse_answer(text, ("yes", "no"))
    assert (answer.description, answer.reasoning, answer.answer) == ("d", "r", "no")


def test_the_same_question_at_the_same_time_is_billed_once(store: LabelStore) -> None:
    async def slowly() -> Any:
        await asyncio.sleep(0.3)
        return completion()

    with FakeServer(lambda *_: slowly()) as server:
        config = tiny_config(server.base_url)

        async def run() -> list[Label | None]:
            judge = ChatJudge(config.judge)
            try:
                return await ask_all(judge, store, Caps(), [asked_about(1, judge.identity)] * 5, config=config.judge)
            finally:
                await judge.close()

        labels = asyncio.run(run())
        assert server.asked == 1
        again = asyncio.run(run())
        assert server.asked == 1
    assert sorted(label.replayed for label in labels if label) == [False, True, True, True, True]
    assert all(label is not None and label.replayed for label in again)
    assert (store.stats().labels, store.stats().replayed) == (1, 9)


def test_asking_ends_with_the_budget_and_what_was_answered_stays(store: LabelStore) -> None:
    with FakeServer(lambda *_: completion()) as server:
        labels = ask(server, store, count=9, caps=Caps(labels=4))
        assert server.asked == 4
        assert sum(label is not None for label in labels) == 4
        assert ask(server, store, count=9, caps=Caps(labels=4, usd=0.0)).count(None) == 5  # the others are replayed
        assert server.asked == 4


def test_money_is_never_exceeded_however_many_ask_at_once(store: LabelStore) -> None:
    one = ask_price(store)
    with FakeServer(lambda *_: completion()) as server:
        labels = ask(server, store, count=30, caps=Caps(usd=2.5 * one))
    spent = store.stats().spend_usd
    assert spent <= 2.5 * one
    assert 0 < sum(label is not None for label in labels) < 30


def ask_price(store: LabelStore) -> float:
    """The worst case of one question, in USD."""
    config = tiny_config("http://127.0.0.1:1/v1", **PRICED)
    judge = ChatJudge(config.judge)
    return judge.worst_case(asked_about(1, judge.identity).question).usd


def test_replay_only_never_asks(store: LabelStore) -> None:
    with FakeServer(lambda *_: completion()) as server:
        ask(server, store)
        assert ask(server, store, judge__replay="only")[0].replayed  # type: ignore[union-attr]
        with pytest.raises(ReplayMissError):
            ask(server, store, count=2, judge__replay="only")
        ask(server, store, judge__replay="off")
        assert server.asked == 2


def test_the_key_is_sent_and_found_nowhere_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    replies: list[Any] = [
        completion(f"the key is {KEY}"),
        web.json_response({"error": {"message": f"slow down, {KEY}"}}, status=429),
        completion(answer="yes"),
    ]
    path = tmp_path / "labels.sqlite"
    monkeypatch.setenv("TINY_KEY", KEY)
    with LabelStore(path) as store, FakeServer(lambda n, _: replies[n]) as server:
        config = tiny_config(server.base_url, judge__api_key_env="TINY_KEY")
        judge = ChatJudge(config.judge)

        async def run() -> None:
            asker = Asker(judge, LocalStore(store), Caps(), config.judge, backoff_s=0.01)
            await asker.ask(asked_about(1, judge.identity))
            await asker.ask(asked_about(2, judge.identity))
            await judge.close()

        asyncio.run(run())
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"homegrid-align" in written
        assert KEY.encode() not in written
        shown = f"{judge!r} {judge.endpoint!r} {judge.identity} {config!r} {vars(judge.endpoint)}"
        assert KEY not in shown + caplog.text + json.dumps(store.labels(), default=str)


def test_whatever_looks_like_a_key_is_taken_out() -> None:
    assert redact("Bearer abc.def and sk-proj-12345678 stay out") == "Bearer [key] and [key] stay out"
    assert redact("secret0 here", SecretStr("secret0")) == "[key] here"
    assert redact("the risk-averse robot asks") == "the risk-averse robot asks"


def test_a_remote_judge_without_its_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINY_KEY", raising=False)
    remote = tiny_config("https://api.openai.com/v1", judge__model="gpt-4o-mini", judge__api_key_env="TINY_KEY").judge
    with pytest.raises(MissingKeyError, match="environment variable TINY_KEY is empty"):
        ChatJudge(remote)
    assert key_for(tiny_config("http://127.0.0.1:1/v1", judge__api_key_env="TINY_KEY").judge) is None


def test_the_built_in_judge_has_to_be_started() -> None:
    with pytest.raises(ConfigError, match="the loopback address it printed"):
        ChatJudge(tiny_config("https://api.openai.com/v1", judge__kind="builtin").judge)
