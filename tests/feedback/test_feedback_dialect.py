"""What a server takes is found out once, from what it refuses, at no price."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from feedback_fakes import FakeServer, asked_about, completion, tiny_config

from rlaif_ray.errors import JudgeRejectsRequest
from rlaif_ray.feedback.ask import ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.dialect import Dialect, first_dialect, instruction, loosenings
from rlaif_ray.feedback.judge import ChatJudge, identity_of, request_body
from rlaif_ray.feedback.prompt import load_prompt
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Label, Verdict

Refuse = Callable[[dict[str, Any]], str]
EFFORT = {"judge__reasoning_effort": "low"}


def form_of(body: dict[str, Any]) -> str:
    return str(body.get("response_format", {}).get("type", "text"))


def serve(refuse: Refuse, content: str | None = None) -> Callable[[int, dict[str, Any]], Any]:
    def respond(_: int, body: dict[str, Any]) -> Any:
        complaint = refuse(body)
        if complaint:
            return web.json_response({"error": {"message": complaint}}, status=400)
        return completion(content)

    return respond


def ask_many(
    server: FakeServer, store: LabelStore, count: int, **overrides: Any
) -> tuple[ChatJudge, list[Label | None]]:
    config = tiny_config(server.base_url, **overrides)

    async def run() -> tuple[ChatJudge, list[Label | None]]:
        judge = ChatJudge(config.judge)
        asked = [asked_about(number, judge.identity) for number in range(count)]
        try:
            return judge, await ask_all(judge, store, Caps(), asked, config=config.judge)
        finally:
            await judge.close()

    return asyncio.run(run())


def schemaless(body: dict[str, Any]) -> str:
    return "This response_format type is unavailable now" if form_of(body) == "json_schema" else ""


def formless(body: dict[str, Any]) -> str:
    return "" if form_of(body) == "text" else "Invalid parameter: 'response_format' is not supported with this model."


def thinker(body: dict[str, Any]) -> str:
    if "max_tokens" in body:
        return (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
    return "Unsupported value: 'temperature' does not support 0.0 with this model." if "temperature" in body else ""


def strict_body(body: dict[str, Any]) -> str:
    return "[{'loc': ['body', 'seed'], 'msg': 'Extra inputs are not permitted'}]" if "seed" in body else ""


def effortless(body: dict[str, Any]) -> str:
    return "Unrecognized request argument supplied: reasoning_effort" if "reasoning_effort" in body else ""


def silent_about_seed(body: dict[str, Any]) -> str:
    return "bad request" if "seed" in body else ""


def silent_about_all(body: dict[str, Any]) -> str:
    return "bad request" if {"seed", "temperature", "response_format", "reasoning_effort"} & set(body) else ""


@pytest.mark.parametrize(
    ("refuse", "expected"),
    [
        (lambda _: "", Dialect()),
        (schemaless, Dialect(form="json")),
        (formless, Dialect(form="text")),
        (thinker, Dialect(temperature=False, limit="max_completion_tokens")),
        (strict_body, Dialect(seed=False)),
        (effortless, Dialect(effort=False)),
        (silent_about_seed, Dialect(seed=False)),
        (silent_about_all, Dialect("text", temperature=False, seed=False, effort=False)),
    ],
)
def test_what_a_server_takes_is_found_out_once_and_said(
    store: LabelStore, caplog: pytest.LogCaptureFixture, refuse: Refuse, expected: Dialect
) -> None:
    with FakeServer(serve(refuse)) as server:
        judge, labels = ask_many(server, store, 30, **EFFORT)
        refused = sum(bool(refuse(body)) for body in server.bodies)
        assert server.asked == 30 + refused
        late = server.bodies[-1]
    assert judge.dialect == expected
    assert all(label is not None and isinstance(label.outcome, Verdict) for label in labels)
    # Refusals are free: billed are thirty answers, each of one attempt.
    assert store.account(Caps()).spent.labels == 30
    assert all(label is not None and label.outcome.usage.attempts == 1 for label in labels)
    assert len(judge.said) == len(caplog.messages) == (expected != Dialect())
    assert not refuse(late)
    # All thirty may have been on their way when the first was refused, but each of them only once.
    assert refused <= 30 + 12


def test_what_was_taken_once_is_not_doubted_again(store: LabelStore) -> None:
    with FakeServer(serve(lambda body: "bad request" if len(server.bodies) == 2 else "")) as server:
        config = tiny_config(server.base_url)

        async def run() -> None:
            judge = ChatJudge(config.judge)
            await judge.ask(asked_about(1, judge.identity).question)
            with pytest.raises(JudgeRejectsRequest, match="bad request"):
                await judge.ask(asked_about(2, judge.identity).question)
            assert judge.dialect == Dialect()
            await judge.close()

        asyncio.run(run())
        assert server.asked == 2


def test_a_form_that_was_chosen_is_kept(store: LabelStore) -> None:
    with FakeServer(serve(schemaless)) as server:
        with pytest.raises(JudgeRejectsRequest, match="unavailable now"):
            ask_many(server, store, 1, judge__answer_form="schema")
        assert all(form_of(body) == "json_schema" for body in server.bodies)
        judge, _ = ask_many(server, store, 1, judge__answer_form="json")
        assert judge.said == ()


def test_without_a_schema_the_question_says_in_words_what_to_answer() -> None:
    config = tiny_config("http://127.0.0.1:1/v1", judge__prompt="homegrid-align").judge
    question = asked_about(1, identity_of(config)).question
    for form in ("json", "text"):
        body = request_body(config, question, Dialect(form))
        text = body["messages"][1]["content"][0]["text"]
        assert text.startswith(question.user_text)
        assert text.endswith('"answer": "yes" or "no"}')
    assert "json" in text.lower()  # OpenAI's JSON mode insists on the word
    assert request_body(config, question, Dialect("text")).keys() & {"response_format"} == set()
    assert '"tie"' in instruction(load_prompt("homegrid-preference"))
    assert '"poor"' in instruction(load_prompt("homegrid-rating"))


@pytest.mark.parametrize(
    "text",
    [
        "Description: a robot drives.\nReasoning: nobody is hurt.\nAnswer: Yes.",
        "**Description:** a robot drives.\n**Reasoning:** nobody is hurt.\n**Answer:** **yes**",
        "1. Description: a robot drives.\n2. Reasoning: nobody is hurt.\n3. Answer: yes",
        "<think>no? {perhaps} no.</think>\n" + json.dumps({"description": "d", "reasoning": "r", "answer": "yes"}),
        "It drives, nobody is hurt.\n\nYes.",
    ],
)
def test_plain_text_is_read_where_it_says_one_thing(store: LabelStore, text: str) -> None:
    with FakeServer(serve(formless, text)) as server:
        _, (label,) = ask_many(server, store, 1)
    assert label is not None
    assert isinstance(label.outcome, Verdict)
    assert label.outcome.approved is True


@pytest.mark.parametrize(
    "text", ["Answer: yes\nAnswer: no", "Yes, or rather no", "Reasoning: yes", "Answer: yes and no"]
)
def test_plain_text_that_says_two_things_or_none_is_no_answer(store: LabelStore, text: str) -> None:
    with FakeServer(serve(formless, text)) as server:
        _, (label,) = ask_many(server, store, 1)
    assert label is not None
    assert getattr(label.outcome, "reason", "") == "unparsable"


def test_reasoning_effort_is_sent_and_part_of_who_answers() -> None:
    plain = tiny_config("http://127.0.0.1:1/v1").judge
    thinking = tiny_config("http://127.0.0.1:1/v1", judge__model="gpt-5-mini", **EFFORT).judge
    assert "reasoning_effort" not in request_body(plain, asked_about(1, identity_of(plain)).question)
    body = request_body(thinking, asked_about(1, identity_of(thinking)).question)
    assert (body["reasoning_effort"], body["max_completion_tokens"]) == ("low", 500)
    assert "temperature" not in body
    assert ("reasoning_effort", "low") in identity_of(thinking).settings
    assert not any(name == "reasoning_effort" for name, _ in identity_of(plain).settings)


def test_everything_is_tried_and_nothing_twice() -> None:
    tried = list(loosenings(first_dialect(tiny_config("http://127.0.0.1:1/v1").judge, "tiny")))
    assert tried[-1] == Dialect("text", temperature=False, seed=False, effort=False, limit="max_completion_tokens")
    assert len(tried) < 14
    assert all(dialect.form == "schema" for dialect in loosenings(Dialect(), form=False))
