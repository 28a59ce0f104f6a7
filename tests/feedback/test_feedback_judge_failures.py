"""The chat judge where something fails: what is tried again, what it costs, and when it is given up."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from typing import Any

import pytest
from aiohttp import web
from feedback_fakes import KEY, FakeServer, asked_about, completion, tiny_config
from test_feedback_judge import PRICED, Respond, ask, outcome_of

from rlaif_ray.errors import (
    JudgeError,
    JudgeRejectsKey,
    JudgeRejectsModel,
    JudgeRejectsRequest,
    JudgeUnreachable,
)
from rlaif_ray.feedback.ask import Asker, LocalStore, ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.judge import ChatJudge
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.feedback.wire import retry_after_s
from rlaif_ray.types import Abstention, Label, Verdict


def failing(status: int, times: int, headers: dict[str, str] | None = None) -> Respond:
    def respond(number: int, _: dict[str, Any]) -> Any:
        if number < times:
            return web.json_response({"error": {"message": f"failed {KEY}"}}, status=status, headers=headers)
        return completion()

    return respond


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_failures_that_are_not_billed_are_retried_for_nothing(store: LabelStore, status: int) -> None:
    outcome = outcome_of(failing(status, 2), store)
    assert isinstance(outcome, Verdict)
    assert outcome.usage.attempts == 3
    assert store.stats().labels == 1
    assert store.stats().spend_usd == pytest.approx(0.14)


@pytest.mark.parametrize(
    "respond", [failing(502, 1), failing(504, 1), lambda n, _: "hang up" if n < 1 else completion()]
)
def test_failures_whose_fate_is_unknown_are_written_off_and_retried(store: LabelStore, respond: Respond) -> None:
    outcome = outcome_of(respond, store)
    assert isinstance(outcome, Verdict)
    assert outcome.usage.attempts == 2
    assert store.stats().labels == 2
    assert store.stats().spend_usd == pytest.approx(outcome.usage.cost_usd)
    assert outcome.usage.cost_usd > 1.0


def test_a_server_that_stays_broken_abstains_unbilled(store: LabelStore) -> None:
    with FakeServer(failing(503, 99)) as server:
        (label,) = ask(server, store, judge__retries=2)
    assert server.asked == 3
    assert label is not None
    assert isinstance(label.outcome, Abstention)
    assert (label.outcome.reason, label.outcome.usage.attempts) == ("http", 3)
    assert label.outcome.detail == "HTTP 503: failed [key]"
    assert (store.stats().labels, store.stats().spend_usd) == (0, 0.0)


def test_retry_after_is_honoured(store: LabelStore) -> None:
    started = time.monotonic()
    outcome_of(failing(429, 1, {"Retry-After": "0.6"}), store)
    assert time.monotonic() - started > 0.6


def test_retry_after_as_seconds_milliseconds_or_a_date() -> None:
    date = email.utils.formatdate(1_000_030.0, usegmt=True)
    assert retry_after_s({"retry-after": "7"}, 0.0) == 7.0
    assert retry_after_s({"retry-after": "7", "retry-after-ms": "250"}, 0.0) == 0.25
    assert retry_after_s({"retry-after": date}, 1_000_000.0) == 30.0
    assert retry_after_s({"retry-after": date}, 2_000_000.0) == 0.0
    assert retry_after_s({"retry-after": "86400"}, 0.0) == 120.0
    assert [retry_after_s(h, 0.0) for h in ({}, {"retry-after": "soon"}, {"retry-after": "nan"})] == [None] * 3


def test_a_timeout_is_written_off_and_abstains(store: LabelStore) -> None:
    async def never() -> Any:
        await asyncio.sleep(5)
        return completion()

    outcome = outcome_of(lambda *_: never(), store, judge__timeout_s=0.3, judge__retries=1)
    assert isinstance(outcome, Abstention)
    assert (outcome.reason, outcome.usage.attempts) == ("timeout", 2)
    assert store.stats().labels == 2
    assert store.stats().spend_usd == pytest.approx(outcome.usage.cost_usd)


def test_a_slow_drip_is_a_timeout_too(store: LabelStore) -> None:
    config = tiny_config("http://127.0.0.1:1/v1", judge__timeout_s=0.4, judge__retries=0)

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n")
        try:
            for _ in range(50):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            return
        finally:
            writer.close()

    async def run() -> list[Label | None]:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        judge = ChatJudge(config.judge.model_copy(update={"base_url": url}))
        try:
            return await ask_all(judge, store, Caps(), [asked_about(1, judge.identity)], config=config.judge)
        finally:
            await judge.close()
            server.close()

    (label,) = asyncio.run(run())
    assert label is not None
    assert isinstance(label.outcome, Abstention)
    assert label.outcome.reason == "timeout"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "invalid_api_key", JudgeRejectsKey),
        (403, "forbidden", JudgeRejectsKey),
        (404, "model_not_found", JudgeRejectsModel),
        (400, "unsupported_parameter", JudgeRejectsRequest),
        (413, "too_large", JudgeRejectsRequest),
        (422, "unprocessable", JudgeRejectsRequest),
        (402, "payment_required", JudgeError),
        (429, "insufficient_quota", JudgeError),
    ],
)
def test_what_cannot_get_better_stops_at_once(
    store: LabelStore, status: int, code: str, error: type[JudgeError]
) -> None:
    body = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": code}}
    with FakeServer(lambda *_: web.json_response(body, status=status)) as server:
        with pytest.raises(error) as caught:
            ask(server, store)
        # What to leave out is tried where that may help; a refused request isn't billed.
        assert server.asked == 1 or (status in (400, 422) and server.asked < 16)
    assert type(caught.value) is error
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.account(Caps()).reserved.labels == 0
    assert store.stats().labels == 0
    # The question is free again for a judge that works.
    assert isinstance(outcome_of(lambda *_: completion(), store), Verdict)


def test_a_content_filter_is_an_answer_not_an_end(store: LabelStore) -> None:
    body = {"error": {"message": "blocked", "code": "content_filter"}}
    outcome = outcome_of(lambda *_: web.json_response(body, status=400), store)
    assert isinstance(outcome, Abstention)
    assert outcome.reason == "refusal"


def test_nobody_there_is_told_after_the_retries_and_costs_nothing(store: LabelStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    config = tiny_config(url, **PRICED, judge__retries=1)

    async def run() -> None:
        judge = ChatJudge(config.judge)
        asker = Asker(judge, LocalStore(store), Caps(), config.judge, backoff_s=0.01)
        try:
            await asker.ask(asked_about(1, judge.identity))
        finally:
            await judge.close()

    with pytest.raises(JudgeUnreachable, match=f"nothing answers at {url}.*2 attempts"):
        asyncio.run(run())
    assert store.stats().spend_usd == 0.0
