"""Labelling a data set in one process: streamed, capped, stopped and gone on with; over real HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from feedback_fakes import FakeServer, TinyRenderer, completion, tiny_config, tiny_episode
from test_feedback_batch import PRICE

from rlaif_ray.config import Config
from rlaif_ray.errors import JudgeRejectsKey, StoreError
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.dataset import DataSet
from rlaif_ray.feedback.judge import ChatJudge
from rlaif_ray.feedback.offline import Ended, Progress, Tally, label_now, sample_ahead
from rlaif_ray.feedback.question import Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Episode, episode_key


class Numbered:
    """Episodes 0, 1, 2 ... up to a last one; counts the chunks it was asked for."""

    chunk_size = 4

    def __init__(self, most: int = 1_000) -> None:
        self.most, self.chunks = most, 0

    def chunk(self, number: int) -> Sequence[Episode]:
        self.chunks += 1
        first = number * self.chunk_size
        return [tiny_episode(n) for n in range(first, min(self.most, first + self.chunk_size))]


class Drawn(TinyRenderer):
    """Counts pictures drawn and not yet sent."""

    def __init__(self) -> None:
        self.drawn = 0

    def png(self, states: Any) -> tuple[bytes, ...]:
        self.drawn += 1
        return super().png(states)


def label(
    store: LabelStore,
    config: Config,
    wanted: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    renderer: TinyRenderer | None = None,
    told: list[Progress] | None = None,
) -> Ended:
    data = DataSet(store, "set")
    tally = Tally(data, wanted, (told if told is not None else []).append)
    sample_ahead(data, Numbered(), wanted, tally, stop)

    async def run() -> Ended:
        judge = ChatJudge(config.judge)
        questions = Questionnaire.of(config.judge, renderer or TinyRenderer(), judge.identity)
        try:
            return await label_now(judge, data, questions, config, tally, stop)
        finally:
            await judge.close()

    return asyncio.run(run())


def test_a_data_set_is_sampled_once(store: LabelStore) -> None:
    data, source = DataSet(store, "set"), Numbered()
    tally = Tally(data, 6, lambda _: None)
    assert sample_ahead(data, source, 6, tally, lambda: False) == 6
    assert (len(data), source.chunks) == (8, 2)  # chunks are stored whole
    assert sample_ahead(data, source, 8, tally, lambda: False) == 8
    assert source.chunks == 2
    assert sample_ahead(data, source, 9, tally, lambda: False) == 9
    assert (len(data), source.chunks) == (12, 3)
    assert [data.episode(n).episode_id for n in range(12)] == list(range(12))
    assert episode_key(data.episode(7)) == episode_key(tiny_episode(7))
    assert data.episode(7).policy_version == tiny_episode(7).policy_version
    with pytest.raises(StoreError, match="no episode 12 in data set 'set'"):
        data.episode(12)
    assert sample_ahead(data, source, 100, tally, lambda: True) == 12  # told to stop
    store.prune(0.0)
    assert episode_key(data.episode(11)) == episode_key(tiny_episode(11))  # not pruned though nobody asked about it


def test_a_source_that_ends_and_grows(store: LabelStore) -> None:
    data = DataSet(store, "set")
    tally = Tally(data, 10, lambda _: None)
    assert sample_ahead(data, Numbered(6), 10, tally, lambda: False) == 6
    assert sample_ahead(data, Numbered(9), 10, tally, lambda: False) == 9
    assert [episode_key(data.episode(n)) for n in range(9)] == [episode_key(tiny_episode(n)) for n in range(9)]


def test_each_episode_is_asked_about_once_whatever_happens(store: LabelStore) -> None:
    """Stopped, gone on with, then more of them: as many requests as episodes."""
    with FakeServer(lambda *_: completion()) as server:
        config = tiny_config(server.base_url, feedback__concurrency=2, **PRICE)
        stopping = threading.Event()

        def respond(number: int, _: dict[str, Any]) -> Any:
            if number == 4:
                stopping.set()
            return completion()

        server.respond = respond
        assert label(store, config, 10, stop=stopping.is_set) == "interrupted"
        some = len(store.labels())
        assert 5 <= some <= 6  # what was under way was waited for
        assert (server.asked, store.account(Caps()).reserved) == (some, Amount())
        told: list[Progress] = []
        assert label(store, config, 10, told=told) == "done"
        assert (server.asked, len(store.labels())) == (10, 10)
        assert told[-1].labelled == 10 - some
        assert label(store, config, 10) == "done"
        assert server.asked == 10
        assert label(store, config, 14) == "done"
        assert server.asked == 14
    assert sorted(one.episode_id for one in store.labels("set")) == list(range(14))


def test_only_what_is_asked_about_is_drawn(store: LabelStore) -> None:
    renderer, ahead = Drawn(), []

    def respond(number: int, _: dict[str, Any]) -> Any:
        ahead.append(renderer.drawn - number)
        return completion()

    with FakeServer(respond) as server:
        assert label(store, tiny_config(server.base_url, feedback__concurrency=3), 40, renderer=renderer) == "done"
    assert renderer.drawn == 40
    assert max(ahead) <= 3 + 1


def test_the_budget_ends_it_when_nothing_in_flight_may_make_room(store: LabelStore) -> None:
    """An attempt reserves several times what it uses: the money goes on being spent as answers settle."""
    with FakeServer(lambda *_: completion()) as server:
        cap = 0.5
        config = tiny_config(server.base_url, budget__usd=cap, feedback__concurrency=8, judge__max_tokens=500, **PRICE)
        assert label(store, config, 60) == "budget"
        account = store.account(Caps())
        assert account.reserved == Amount()
        worst = max(row[0] for row in store_rows(store, "SELECT worst_usd FROM attempts"))
        assert cap - worst < account.spent.usd <= cap + 1e-9
        assert server.asked == account.spent.labels < 60


def test_an_answer_that_never_came_is_asked_for_by_the_next_command(store: LabelStore) -> None:
    failing = {"status": 503}
    from aiohttp import web

    def respond(*_: Any) -> Any:
        return web.json_response({"error": {"message": "no"}}, status=503) if failing["status"] == 503 else completion()

    with FakeServer(respond) as server:
        config = tiny_config(server.base_url, judge__retries=0)
        assert label(store, config, 3) == "done"
        assert [one.value for one in store.labels()] == [None] * 3
        failing["status"] = 200
        assert label(store, config, 3) == "done"
    assert [one.value for one in store.labels()][3:] == [1.0] * 3
    assert DataSet(store, "set").labelled(3) == 3


def test_a_judge_that_can_not_be_used_ends_it(store: LabelStore) -> None:
    from aiohttp import web

    with (
        FakeServer(lambda *_: web.json_response({"error": {"message": "no"}}, status=401)) as server,
        pytest.raises(JudgeRejectsKey),
    ):
        label(store, tiny_config(server.base_url), 20)
    assert store.account(Caps()).spent == Amount()
    assert store.account(Caps()).reserved == Amount()


def test_a_question_in_somebody_elses_batch_is_left_alone(store: LabelStore) -> None:
    from rlaif_ray.feedback.batches import Book
    from rlaif_ray.feedback.question import Asked
    from rlaif_ray.feedback.records import record_of

    with FakeServer(lambda *_: completion()) as server:
        config = tiny_config(server.base_url)
        judge = ChatJudge(config.judge)
        question = Questionnaire.of(config.judge, TinyRenderer(), judge.identity).about(tiny_episode(1))
        batch = Book(store, "another").begin()
        assert store.claim(record_of(Asked(question, tiny_episode(1), "another")), batch.owner) == "claimed"
        assert label(store, config, 3) == "done"
        assert sorted(one.episode_id for one in store.labels("set")) == [0, 2]
        Book(store, "another").close(batch, "never sent")
        assert label(store, config, 3) == "done"
        assert len(store.labels("set")) == 3


def store_rows(store: LabelStore, sql: str) -> list[tuple[Any, ...]]:
    with store.reading() as db:
        return [tuple(row) for row in db.execute(sql).fetchall()]
