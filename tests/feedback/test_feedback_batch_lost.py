"""Batches whose process ended: they are found again, let go, given up or waited for by one alone."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from feedback_fakes import TinyRenderer, tiny_config, tiny_episode
from test_feedback_batch import GOOD, PRICE, Labelling, conserved, health

from rlaif_ray.errors import BudgetExhausted, JudgeError, StoreError
from rlaif_ray.feedback.batch import Batcher
from rlaif_ray.feedback.batches import Book
from rlaif_ray.feedback.budget import Account, Amount, Caps
from rlaif_ray.feedback.database import owner_id
from rlaif_ray.feedback.dataset import DataSet
from rlaif_ray.feedback.judge import ChatJudge
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.records import record_of
from rlaif_ray.feedback.store import LabelStore


def test_a_batch_begun_unheard_is_found_again(
    serve: Callable[..., str], store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server begins a batch, and the reply is lost with the process: the next one finds it by its name."""
    url = serve(batch={"latency_s": 0.3})
    config = tiny_config(url, **PRICE)
    with monkeypatch.context() as lost:
        lost.setattr(Batcher, "_sent", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Labelling(store, config).run()
    assert [batch.state for batch in Book(store, "set").open()] == ["sending"]
    assert store.account(Caps()).reserved.labels == 12
    again = Labelling(store, config)
    assert again.run() == "done"
    assert again.values() == GOOD
    assert (health(url)["answered"], len(again.rows("SELECT * FROM batches"))) == (12, 1)
    conserved(again, url)


def test_a_batch_that_was_never_begun_is_let_go(
    serve: Callable[..., str], store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlaif_ray.feedback.batch_wire import BatchEndpoint

    url = serve()
    config = tiny_config(url, **PRICE)
    with monkeypatch.context() as lost:
        lost.setattr(BatchEndpoint, "create", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Labelling(store, config).run()
    again = Labelling(store, config)
    assert again.run() == "done"
    assert again.values() == GOOD
    assert [end for (end,) in again.rows("SELECT detail FROM batches ORDER BY id")] == ["never begun", "completed"]
    assert health(url)["answered"] == 12
    conserved(again, url)


def test_a_batch_that_nobody_knows_any_more(serve: Callable[..., str], store: LabelStore) -> None:
    """Another key or server: nothing is asked twice by mistake, and giving it up charges the worst case."""
    url = serve(batch={"latency_s": 60.0})
    config = tiny_config(url, **PRICE)
    lost = Labelling(store, config, wanted=2)
    assert lost.run(stop=lambda: any(told.in_batches for told in lost.told)) == "in_flight"
    with store.writing() as db:
        db.execute("UPDATE batches SET remote_id = 'batch_elsewhere'")
    reserved = store.account(Caps()).reserved
    with pytest.raises(JudgeError, match=r"doesn't know batch batch_elsewhere .* --cancel gives it up"):
        Labelling(store, config, wanted=2).run()
    assert store.account(Caps()).reserved == reserved
    assert Labelling(store, config, wanted=2).run(cancel=True) == "cancelled"
    assert lost.spent == reserved
    conserved(lost, url)


def test_only_one_process_waits_for_a_data_sets_batches(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve(batch={"latency_s": 60.0})
    labelling = Labelling(store, tiny_config(url, **PRICE), wanted=2)
    assert labelling.run(stop=lambda: any(told.in_batches for told in labelling.told)) == "in_flight"
    with store.writing() as db:
        db.execute("UPDATE batches SET driver = 'elsewhere:1:1.0'")  # on another host, seen a moment ago
    with pytest.raises(StoreError, match=r"process elsewhere:1:1\.0 is waiting"):
        labelling.run()
    with store.writing() as db:
        db.execute("UPDATE batches SET lease_until = 0")
    assert labelling.run(cancel=True) == "cancelled"


def test_a_batch_whose_process_died_while_writing_it_is_forgotten(store: LabelStore) -> None:
    """No server has heard of it: whoever opens the store next sets its questions and its money free."""
    config = tiny_config("http://127.0.0.1:1/v1", **PRICE)
    data = DataSet(store, "set")
    data.add([tiny_episode(1)])
    judge = ChatJudge(config.judge)
    questions = Questionnaire.of(config.judge, TinyRenderer(), judge.identity)
    record = record_of(Asked(questions.about(data.episode(0)), data.episode(0), "set"))
    book = Book(store, "set")
    batch = book.begin()
    assert store.claim(record, batch.owner) == "claimed"
    book.put_in(batch, record, Amount(0.3, 1, 10), Caps(usd=0.3))
    with pytest.raises(BudgetExhausted):
        book.put_in(batch, record, Amount(0.3, 1, 10), Caps(usd=0.3))
    assert data.pending(1) == []
    store.recover()
    assert store.account(Caps()).reserved.labels == 1  # we are alive
    with store.writing() as db:
        db.execute("UPDATE batches SET driver = ?", (f"{socket.gethostname()}:1:1.0",))  # process 1 began later
    store.recover()
    assert store.account(Caps()) == Account()
    assert (book.open(), data.pending(1)) == ([], [0])
    assert store.claim(record, owner_id()) == "claimed"
