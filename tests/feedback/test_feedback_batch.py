"""Batches over real HTTP, with the official client against the built-in server: every way they end, and every cent."""

from __future__ import annotations

import asyncio
import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from feedback_fakes import TinyRenderer, tiny_config, tiny_episode

from rlaif_ray.config import Config
from rlaif_ray.errors import ConfigError, JudgeError, JudgeRejectsRequest
from rlaif_ray.feedback import batch as batch_module
from rlaif_ray.feedback.batch import Batcher
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.builtin import batches
from rlaif_ray.feedback.dataset import DataSet
from rlaif_ray.feedback.judge import ChatJudge
from rlaif_ray.feedback.offline import Ended, Progress, Tally
from rlaif_ray.feedback.question import Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Abstention

PRICE = {"judge__input_usd_per_mtok": 100.0, "judge__output_usd_per_mtok": 100.0, "judge__batch_discount": 0.5}


def health(base_url: str) -> dict[str, Any]:
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/health", timeout=10) as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found


class Labelling:
    """A data set in a store, and what labelling it by batches came to."""

    def __init__(self, store: LabelStore, config: Config, wanted: int = 12, run_id: str = "set") -> None:
        self.store, self.config = store, config
        self.data = DataSet(store, run_id)
        if len(self.data) < wanted:
            self.data.add([tiny_episode(n, harmful=n % 3 == 0) for n in range(len(self.data), wanted)])
        self.told: list[Progress] = []
        self.tally = Tally(self.data, wanted, self.told.append)

    def run(self, stop: Callable[[], bool] = lambda: False, *, cancel: bool = False) -> Ended:
        return asyncio.run(self._run(stop, cancel))

    async def _run(self, stop: Callable[[], bool], cancel: bool) -> Ended:
        judge = ChatJudge(self.config.judge)
        questions = Questionnaire.of(self.config.judge, TinyRenderer(), judge.identity)
        batcher = Batcher(judge, self.data, questions, self.config, self.tally, stop)
        try:
            return await (batcher.cancel() if cancel else batcher.run())
        finally:
            await batcher.close()
            await judge.close()

    def values(self) -> dict[int, float | None]:
        return {label.episode_id: label.value for label in self.store.labels(self.data.run_id)}

    @property
    def spent(self) -> Amount:
        return self.store.account(Caps()).spent

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.store.reading() as db:
            return [tuple(row) for row in db.execute(sql).fetchall()]


def conserved(labelling: Labelling, base_url: str, cap_usd: float | None = None) -> None:
    """Billed by the server <= settled + written off <= cap, and nothing is left in flight."""
    account = labelling.store.account(Caps())
    assert account.reserved == Amount()
    assert health(base_url)["usd"] <= account.spent.usd + 1e-9
    assert cap_usd is None or account.spent.usd <= cap_usd + 1e-9
    assert labelling.rows("SELECT * FROM claims") == []


GOOD = {n: float(n % 3 != 0) for n in range(12)}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Say how many requests of each batch are answered, at once: what comes after waits until more are, or its end."""
    most, ends_within = 0.0, batches._ends_within

    async def ends(batch: Any, seconds: float) -> str:
        while len(batch.answered) >= most and not batch.called_off.is_set():
            await asyncio.sleep(0.01)
        return await ends_within(batch, seconds)

    def say(count: float) -> None:
        nonlocal most
        most = count

    monkeypatch.setattr(batches, "_ends_within", ends)
    return say


def test_a_batch_is_answered_at_its_price(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve()
    labelling = Labelling(store, tiny_config(url, **PRICE))
    assert labelling.run() == "done"
    assert labelling.values() == GOOD
    served = health(url)
    assert served["answered"] == 12
    assert labelling.spent.usd == pytest.approx(served["usd"])
    assert labelling.spent.usd == pytest.approx(0.5 * served["tokens"] * 100 / 1e6)
    assert (labelling.spent.labels, labelling.spent.tokens) == (12, served["tokens"])
    assert labelling.told[-1].labelled == 12
    conserved(labelling, url)
    with urllib.request.urlopen(f"{url}/batches", timeout=10) as reply:
        (shown,) = json.loads(reply.read())["data"]
    assert (shown["status"], shown["request_counts"]["completed"]) == ("completed", 12)
    with pytest.raises(urllib.error.HTTPError, match="404"):  # our file is taken away again
        urllib.request.urlopen(f"{url}/files/{shown['input_file_id']}", timeout=10)
    assert Labelling(store, labelling.config).run() == "done"  # and once more: nothing is left to be asked
    assert health(url)["answered"] == 12


def test_requests_that_fail_are_asked_again(serve: Callable[..., str], store: LabelStore) -> None:
    """Four of ten requests fail each time: what is stored is the same, and only answers are paid for."""
    url = serve(failures={"status_500": 0.2, "status_503": 0.2})
    labelling = Labelling(store, tiny_config(url, judge__retries=9, **PRICE))
    assert labelling.run() == "done"
    assert labelling.values() == GOOD
    attempts = labelling.rows("SELECT count(*), sum(used_labels) FROM attempts")
    assert attempts[0][0] > 12
    assert attempts[0][1] == 12
    assert labelling.spent.usd == pytest.approx(health(url)["usd"])
    assert len(labelling.rows("SELECT * FROM batches WHERE state = 'closed'")) >= 2
    conserved(labelling, url)


def test_a_question_that_keeps_failing_abstains(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve(failures={"status_503": 1.0})
    labelling = Labelling(store, tiny_config(url, judge__retries=1, **PRICE), wanted=3)
    assert labelling.run() == "done"
    outcomes = [label.outcome for label in store.labels()]
    assert [(one.reason, one.usage.attempts) for one in outcomes if isinstance(one, Abstention)] == [("http", 2)] * 3
    assert labelling.spent.labels == 0
    assert labelling.data.pending(3) == [0, 1, 2]  # the next command asks again
    conserved(labelling, url)


def test_what_expired_is_asked_again_and_what_was_answered_is_kept(
    serve: Callable[..., str], store: LabelStore
) -> None:
    url = serve(batch={"latency_s": 1.2, "expires_s": 0.65})
    labelling = Labelling(store, tiny_config(url, judge__retries=9, **PRICE))
    assert labelling.run() == "done"
    assert labelling.values() == GOOD
    assert health(url)["answered"] == 12  # none was answered twice
    expired = labelling.rows(
        "SELECT sum(used_labels), count(*) FROM attempts t JOIN batch_lines ON attempt_id = t.id "
        "JOIN batches b ON b.id = batch_id WHERE b.detail = 'expired' GROUP BY batch_id"
    )
    assert any(0 < answered < asked for answered, asked in expired)
    conserved(labelling, url)


def test_expiry_to_the_end_is_a_time_out(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve(batch={"expires_s": 0.1}, failures={"hang": 1.0})
    labelling = Labelling(store, tiny_config(url, judge__retries=0, **PRICE), wanted=2)
    assert labelling.run() == "done"
    outcomes = [label.outcome for label in store.labels()]
    assert [one.reason for one in outcomes if isinstance(one, Abstention)] == ["timeout"] * 2
    assert labelling.spent == Amount()
    conserved(labelling, url)


def test_a_request_the_judge_hangs_over_expires_alone(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve(batch={"expires_s": 0.4}, failures={"hang": 0.3})
    labelling = Labelling(store, tiny_config(url, judge__retries=9, **PRICE))
    assert labelling.run() == "done"
    assert labelling.values() == GOOD
    assert health(url)["answered"] == 12
    conserved(labelling, url)


def test_stopped_and_gone_on_with(serve: Callable[..., str], store: LabelStore, held: Callable[[float], None]) -> None:
    """Whoever stops leaves the batch out; the next command takes that very batch in."""
    url = serve()
    config = tiny_config(url, **PRICE)
    first = Labelling(store, config)
    assert first.run(stop=lambda: any(told.in_batches for told in first.told)) == "in_flight"
    assert first.values() == {}
    assert store.account(Caps()).reserved.labels == 12
    assert store.recover() == 0  # a batch is alive whoever sent it
    held(math.inf)
    second = Labelling(store, config)
    assert second.run() == "done"
    assert second.values() == GOOD
    assert (health(url)["answered"], len(second.rows("SELECT * FROM batches"))) == (12, 1)
    conserved(second, url)


def test_called_off_keeps_and_pays_what_was_answered(
    serve: Callable[..., str], store: LabelStore, held: Callable[[float], None]
) -> None:
    url = serve()
    held(3)
    config = tiny_config(url, **PRICE)
    first = Labelling(store, config)
    assert first.run(stop=lambda: any(told.answered_there >= 3 for told in first.told)) == "in_flight"
    second = Labelling(store, config)
    assert second.run(cancel=True) == "cancelled"
    kept = second.values()
    assert len(kept) == 3
    assert kept.items() <= GOOD.items()
    assert (health(url)["answered"], second.spent.labels) == (len(kept), len(kept))
    conserved(second, url)
    held(math.inf)
    third = Labelling(store, config)
    assert third.run() == "done"
    assert third.values() == GOOD
    assert health(url)["answered"] == 12
    assert Labelling(store, config).run(cancel=True) == "cancelled"  # nothing is out: nothing to do


def test_files_are_split_at_their_limits(
    serve: Callable[..., str], store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve()
    monkeypatch.setattr(batch_module, "MOST_REQUESTS", 5)
    labelling = Labelling(store, tiny_config(url, **PRICE))
    assert labelling.run() == "done"
    counts = labelling.rows("SELECT count(*) FROM batch_lines GROUP BY batch_id ORDER BY batch_id")
    assert counts == [(5,), (5,), (2,)]
    monkeypatch.setattr(batch_module, "MOST_BYTES", 9_000)  # a line has some 3 kB
    more = Labelling(store, labelling.config, run_id="another", wanted=20)
    assert more.run() == "done"
    sizes = more.rows("SELECT count(*) FROM batch_lines WHERE run_id = 'another' GROUP BY batch_id")
    assert sum(count for (count,) in sizes) == 8  # the other twelve were answered in the first data set
    assert all(count <= 4 for (count,) in sizes)
    assert len(more.values()) == 20
    assert health(url)["answered"] == 20
    conserved(more, url)


def test_the_budget_counts_the_worst_case_of_a_whole_batch(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve()
    cap = 0.35
    labelling = Labelling(store, tiny_config(url, budget__usd=cap, **PRICE))
    assert labelling.run() == "budget"
    labelled = len(labelling.values())
    assert 0 < labelled < 12
    assert labelling.spent.labels == labelled
    assert len(labelling.rows("SELECT * FROM batches WHERE detail = 'completed'")) >= 2  # what settled made room
    conserved(labelling, url, cap)
    richer = Labelling(store, tiny_config(url, **PRICE))
    assert richer.run() == "done"
    assert richer.values() == GOOD
    assert health(url)["answered"] == 12


def test_episodes_alike_are_asked_about_once(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve()
    labelling = Labelling(store, tiny_config(url, **PRICE), wanted=2)
    labelling.data.add([tiny_episode(1)] * 3)
    labelling.tally.wanted = 5
    assert labelling.run() == "done"
    assert labelling.values() == {0: 0.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}
    assert health(url)["answered"] == 2
    assert store.stats().replayed == 3


def test_a_part_of_the_request_that_is_not_taken_is_left_out(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve(lacks=["json_schema", "seed"])
    labelling = Labelling(store, tiny_config(url, **PRICE), wanted=4)
    assert labelling.run() == "done"
    assert labelling.values() == {n: GOOD[n] for n in range(4)}
    assert len(labelling.rows("SELECT * FROM batches")) == 3  # refused twice, for nothing
    conserved(labelling, url)


def test_what_can_not_be_done_is_said(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve(lacks=["batches"])
    labelling = Labelling(store, tiny_config(url, **PRICE), wanted=2)
    with pytest.raises(JudgeError, match=r"has no Batch API \(404\): leave --batch out"):
        labelling.run()
    assert labelling.spent == Amount()
    conserved(labelling, url)
    for kind in ("decisions", "logodds"):
        with pytest.raises(ConfigError, match=rf"judge\.kind: got '{kind}', allowed with --batch are"):
            Labelling(store, tiny_config(url, judge__kind=kind, **PRICE)).run()


def test_a_judge_that_takes_no_request_ends_it(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve()
    labelling = Labelling(store, tiny_config(url, judge__model="other", **PRICE), wanted=2)
    with pytest.raises(JudgeError, match="doesn't know model 'other'"):
        labelling.run()
    conserved(labelling, url)
    assert labelling.spent == Amount()


def test_a_file_that_is_none_fails_as_a_whole(
    serve: Callable[..., str], store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve()
    monkeypatch.setattr(Batcher, "_drawn", spoilt(Batcher._drawn))
    labelling = Labelling(store, tiny_config(url, **PRICE), wanted=3)
    with pytest.raises(JudgeRejectsRequest, match="doesn't take the batch: This line is not a request"):
        labelling.run()
    assert labelling.spent == Amount()
    conserved(labelling, url)


def spoilt(drawn: Any) -> Any:
    def line_cut(self: Batcher, number: int) -> Any:
        asked, line = drawn(self, number)
        return asked, line[:100] + b"\n"

    return line_cut
