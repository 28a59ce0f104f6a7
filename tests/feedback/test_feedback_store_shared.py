"""One store, several processes: who died is written off, a budget is shared, a claim has its end."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.synchronize import Event as ProcessEvent
from pathlib import Path

import pytest
from test_feedback_store import ME, USED, VERDICT, WORST, record, spawned

from rlaif_ray.errors import BudgetExhausted
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.database import owner_alive, owner_id
from rlaif_ray.feedback.store import LabelStore


def _reserve_and_hang(path: Path, reserved: ProcessEvent) -> None:
    store = LabelStore(path)
    for number in (1, 2):
        row = record(number)
        assert store.claim(row, owner_id()) == "claimed"
        store.reserve(row, WORST, Caps(labels=3), owner_id())
    reserved.set()
    time.sleep(300)


def test_a_killed_process_is_written_off_at_worst_and_the_cap_holds(tmp_path: Path) -> None:
    path, reserved = tmp_path / "labels.sqlite", spawned.Event()
    process = spawned.Process(target=_reserve_and_hang, args=(path, reserved))
    process.start()
    assert reserved.wait(150)
    with LabelStore(path) as store:  # it lives: nothing is written off, its questions are its own
        assert store.account(Caps()).reserved.labels == 2
        assert store.claim(record(1), ME) == "busy"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert store.claim(record(1), ME) == "claimed"
    with LabelStore(path) as store:
        account = store.account(Caps(labels=3))
        assert account.reserved.labels == 0
        assert account.spent.labels == 2
        assert account.spent.usd == pytest.approx(2 * WORST.usd)
        store.reserve(record(1), WORST, Caps(labels=3), ME)
        with pytest.raises(BudgetExhausted, match=r"budget\.labels: 2 of 3 spent and 1 reserved"):
            store.reserve(record(2), WORST, Caps(labels=3), ME)


def _ask_many(path: Path, first: int) -> None:
    with LabelStore(path) as store:
        for number in range(first, first + 40):
            row = record(number)
            state = store.claim(row, owner_id())
            if state != "claimed":
                continue
            try:
                ticket = store.reserve(row, WORST, Caps(labels=45), owner_id())
            except BudgetExhausted:
                store.unclaim(row.question_key, owner_id())
                continue
            store.answer(row, VERDICT, ticket, USED)


def test_processes_that_share_a_file_share_its_budget(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    processes = [spawned.Process(target=_ask_many, args=(path, first)) for first in (0, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)
        assert process.exitcode == 0
    with LabelStore(path) as store:
        billed = [label for label in store.labels() if not label.replayed]
        assert len(billed) == len({label.question_key for label in billed}) == 45
        assert store.stats().labels == 45


def test_another_hosts_claim_is_given_up_when_its_lease_ends(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert owner_alive("elsewhere:1:0.00") is None
    store.claim(record(3), "elsewhere:1:0.00")
    store.reserve(record(3), WORST, Caps(), "elsewhere:1:0.00")
    assert store.recover() == 0
    assert store.claim(record(3), ME) == "busy"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 601.0)
    assert store.claim(record(3), ME) == "claimed"
    assert store.account(Caps()).spent == WORST


def test_a_number_used_again_by_another_process_is_not_the_owner() -> None:
    assert owner_alive(owner_id())
    host, pid, created = owner_id().rsplit(":", 2)
    assert owner_alive(f"{host}:{pid}:{float(created) - 100:.2f}") is False
