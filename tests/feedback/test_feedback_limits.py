"""Turns: held over everything that shares a store, learned from what the server says. The clock is a number here."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from aiohttp import web
from feedback_fakes import FakeServer, asked_about, completion, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from rlaif_ray.feedback.ask import Asker, LocalStore
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.database import owner_id
from rlaif_ray.feedback.judge import ChatJudge, identity_of
from rlaif_ray.feedback.limits import Heard, Pace, Traffic, Wait, heard_in, seconds_of
from rlaif_ray.feedback.records import Record, record_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Label

JUDGE = identity_of(tiny_config("http://127.0.0.1:1/v1").judge)
ME = owner_id()
WORST = Amount(0.1, 1, 1000)


def granted(pace: Pace, until_s: float, tokens: int = 1, traffic: Traffic | None = None) -> list[float]:
    """When an asker that comes back as it is told, with an answer in no time, got its turns."""
    now, traffic, times = 1000.0, traffic or Traffic(), []
    while now < 1000.0 + until_s:
        turn = traffic.turn(pace, tokens, 0, now)
        if isinstance(turn, Wait):
            assert 0.0 < turn.seconds <= 1.0
            now += turn.seconds
        else:
            traffic = turn
            times.append(now - 1000.0)
    return times


def test_requests_a_minute() -> None:
    times = granted(Pace(requests_per_minute=600), 60.0)
    assert times[:10] == [0.0] * 10  # a second's worth at once
    assert times[10] == pytest.approx(0.1, abs=1e-3)
    assert len(times) == pytest.approx(610, abs=1)
    assert len(granted(Pace(requests_per_minute=6), 60.0)) == 6


def test_tokens_a_minute() -> None:
    times = granted(Pace(tokens_per_minute=60_000), 60.0, tokens=3_000)
    assert times[:5] == [0.0] * 5  # 15,000 at once, then 1,000 a second
    assert times[5] == pytest.approx(3.0, abs=1e-3)
    assert len(times) == 24
    assert len(granted(Pace(tokens_per_minute=60_000), 60.0, tokens=10**9)) == 4  # more than the bucket: a full one


@given(
    rpm=st.integers(1, 2_000),
    gaps=st.lists(st.floats(0.0, 3.0), max_size=200),
)
def test_no_minute_ever_sees_more_than_the_limit_and_a_seconds_worth(rpm: int, gaps: list[float]) -> None:
    now, traffic, times = 50.0, Traffic(), []
    for gap in gaps:
        now += gap
        turn = traffic.turn(Pace(requests_per_minute=rpm), 1, 0, now)
        if not isinstance(turn, Wait):
            traffic = turn
            times.append(now)
    for i, first in enumerate(times):
        within = sum(first <= time < first + 60.0 for time in times[i:])
        assert within <= rpm + max(1.0, rpm / 60.0) + 1


def test_tokens_that_were_not_used_are_given_back() -> None:
    pace = Pace(tokens_per_minute=60_000)
    full = Traffic().turn(pace, 15_000, 0, 100.0)
    assert isinstance(full, Traffic)
    assert isinstance(full.turn(pace, 1_000, 0, 100.0), Wait)
    after = full.after(Heard(), pace, 1, 14_000, 100.0)
    assert isinstance(after.turn(pace, 14_000, 0, 100.0), Traffic)
    assert isinstance(after.turn(pace, 14_001, 0, 100.0), Wait)


def test_questions_in_flight() -> None:
    pace = Pace(concurrency=3)
    assert isinstance(Traffic().turn(pace, 1, 2, 0.0), Traffic)
    assert isinstance(Traffic().turn(pace, 1, 3, 0.0), Wait)
    assert isinstance(Traffic().turn(Pace(), 1, 10**6, 0.0), Traffic)


def test_retry_after_pauses_everybody_for_as_long() -> None:
    traffic = Traffic().after(heard_in({}, refused=True, after_s=7.0), Pace(), 1, 0, 100.0)
    paused = replace(traffic, paused_until=1000.25)
    assert granted(Pace(requests_per_minute=60), 0.5, traffic=paused) == [pytest.approx(0.25)]
    assert isinstance(traffic.turn(Pace(), 1, 0, 106.9), Wait)
    assert isinstance(traffic.turn(Pace(), 1, 0, 107.0), Traffic)
    longer = traffic.after(Heard(pause_s=1e9), Pace(), 1, 0, 100.0)
    assert longer.paused_until == 220.0  # not believed beyond two minutes


def test_a_refusal_halves_and_answers_make_room_again() -> None:
    pace = Pace(concurrency=64)
    traffic = Traffic().after(Heard(refused=True), pace, 64, 0, 10.0)
    assert traffic.window == 32.0
    assert traffic.after(Heard(refused=True), pace, 60, 0, 10.5).window == 32.0  # the same piece of news
    assert traffic.after(Heard(refused=True), pace, 30, 0, 12.0).window == 15.0
    assert isinstance(traffic.turn(pace, 1, 32, 12.0), Wait)
    answers = 0
    while traffic.window is not None:
        traffic = traffic.after(Heard(), pace, 32, 0, 20.0)
        answers += 1
    assert 1_400 < answers < 1_700  # (64^2 - 32^2) / 2
    traffic = Traffic()
    for now in range(20):
        traffic = traffic.after(Heard(refused=True), pace, 64, 0, 10.0 + 2 * now)
    assert isinstance(traffic.turn(pace, 1, 0, 100.0), Traffic)  # never less than one
    assert isinstance(traffic.turn(pace, 1, 1, 100.0), Wait)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1.5", 1.5), ("6m0s", 360.0), ("120ms", 0.12), ("1h2m3s", 3723.0), ("", None), ("soon", None), ("1m!", None),
     ("-3", None), ("nan", None)],
)  # fmt: skip
def test_durations_in_headers(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


def test_what_headers_say() -> None:
    heard = heard_in({
        "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "50", "x-ratelimit-reset-requests": "10s",
        "x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-tokens": "90000",
        "x-ratelimit-reset-tokens": "24s",
    })  # fmt: skip
    assert heard == Heard(requests_s=1.0, tokens_s=2500.0)
    assert heard_in({"x-ratelimit-limit-requests": "120"}) == Heard(requests_s=2.0)
    empty = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
    assert heard_in(empty) == Heard(pause_s=1.0, requests_s=1.0)
    assert heard_in({"x-ratelimit-limit-requests": "lots", "x-ratelimit-remaining-tokens": "-1"}) == Heard()


def test_the_stricter_of_ours_and_the_servers_limit_holds() -> None:
    taught = Traffic().after(Heard(requests_s=2.0), Pace(), 1, 0, 0.0)
    assert len(granted(Pace(requests_per_minute=600), 30.0, traffic=taught)) == pytest.approx(62, abs=1)
    assert len(granted(Pace(requests_per_minute=60), 30.0, traffic=taught)) == pytest.approx(31, abs=1)


def record(number: int) -> Record:
    return record_of(asked_about(number, JUDGE))


def test_two_openings_of_one_file_take_turns(store: LabelStore) -> None:
    pace = Pace(concurrency=2)
    with LabelStore(store.path) as other:
        first = store.admit(record(1), WORST, Caps(), ME, pace)
        assert isinstance(first, int)
        assert isinstance(other.admit(record(2), WORST, Caps(), ME, pace), int)
        assert isinstance(other.admit(record(3), WORST, Caps(), ME, pace), Wait)
        store.settle(first, Amount())
        assert isinstance(other.admit(record(3), WORST, Caps(), ME, pace), int)
        elsewhere = replace(record(4), judge="another/model")
        assert isinstance(store.admit(elsewhere, WORST, Caps(), ME, pace), int)  # another judge, other limits
        ticket = store.admit(record(5), WORST, Caps(), ME, Pace())
        assert isinstance(ticket, int)
        store.hear(ticket, Heard(refused=True, pause_s=5.0), pace, 0)
        waiting = other.admit(record(6), WORST, Caps(), ME, Pace())
        assert isinstance(waiting, Wait)
        assert waiting.why == "the server asked to wait"


def test_waiting_reserves_nothing(store: LabelStore) -> None:
    assert isinstance(store.admit(record(1), WORST, Caps(), ME, Pace(concurrency=1)), int)
    before = store.account(Caps())
    assert isinstance(store.admit(record(2), WORST, Caps(), ME, Pace(concurrency=1)), Wait)
    assert store.account(Caps()) == before


def test_a_refusals_headers_are_heard(store: LabelStore) -> None:
    """What a 429 says about the server's limits holds for everybody from then on, like what an answer says."""
    told = {"x-ratelimit-limit-requests": "120", "Retry-After": "0.05"}

    def respond(number: int, _: object) -> object:
        if number:
            return completion()
        return web.json_response({"error": {"message": "slow down"}}, status=429, headers=told)

    with FakeServer(respond) as server:
        config = tiny_config(server.base_url).judge

        async def ask() -> Label | None:
            judge = ChatJudge(config)
            try:
                asker = Asker(judge, LocalStore(store), Caps(), config, backoff_s=0.01)
                return await asker.ask(asked_about(1, judge.identity))
            finally:
                await judge.close()

        label = asyncio.run(ask())
    assert label is not None
    assert label.outcome.usage.attempts == 2
    with store.reading() as db:
        traffic = json.loads(db.execute("SELECT state FROM traffic").fetchone()["state"])
    assert traffic["requests_s"] == 2.0
    assert traffic["halved_at"] > 0.0
