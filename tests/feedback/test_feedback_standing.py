"""What a store's calls cost must not grow with it: counted in SQLite's instructions, which no busy machine changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from feedback_fakes import asked_about

from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.question import JudgeIdentity
from rlaif_ray.feedback.records import LabelStats, Record, record_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Abstention, Usage, Verdict

JUDGE = JudgeIdentity("judge", "model")
CAPS = Caps(usd=1e6, labels=10**6, run=Caps(usd=1e6))
WORST, USED = Amount(1.0, 1, 100), Amount(0.25, 1, 40)
VERDICT = Verdict("approval", 1.0, "yes", Usage(cost_usd=0.25), approved=True)
REFUSAL = Abstention("refusal", "no", Usage(cost_usd=0.25))
BASE = record_of(asked_about(1, JUDGE))


def record(number: int, run: str = "run") -> Record:
    return replace(
        BASE, question_key=f"{number:032x}", episode_id=number, request=f"request {run} {number}", run_id=run
    )


def label(store: LabelStore, number: int, run: str = "run") -> None:
    one = record(number, run)
    if store.claim(one, "owner") == "claimed":
        ticket = store.reserve(one, WORST, CAPS, "owner")
        store.answer(one.without_episode(), REFUSAL if number % 5 == 0 else VERDICT, ticket, USED)


def instructions(store: LabelStore, call: Callable[[], object]) -> int:
    """Of SQLite's virtual machine, in tens."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    with store.reading() as db:
        db.set_progress_handler(tick, 10)
        call()
        db.set_progress_handler(None, 0)
    return count


def test_a_question_costs_the_same_in_a_large_store(store: LabelStore) -> None:
    def cost(first: int, last: int) -> list[int]:
        for number in range(first, last):
            label(store, number)
        store.standing("run", CAPS)
        calls = (lambda: label(store, last), lambda: store.standing("run", CAPS))
        return [instructions(store, call) for call in calls]

    small, large = cost(1, 60), cost(61, 1_500)
    assert min(small) > 0
    assert all(after < 2 * before for before, after in zip(small, large, strict=True)), (small, large)


def test_stats_count_on_from_the_last_look_and_keep_runs_apart(store: LabelStore) -> None:
    def stats(run: str | None) -> LabelStats:
        return store.stats(run)

    store.open_run("run", CAPS)
    assert stats("run") == LabelStats(0, 0, 0, 0.0, 0.0, 1e6)
    for number in range(1, 11):
        label(store, number)
    assert stats("run") == stats(None) == LabelStats(10, 2, 0, 2.5, 0.0, 1e6)
    for number in range(8, 14):  # three of them are known, one of those a refusal
        label(store, number, "other")
    store.reserve(record(99, "other"), WORST, CAPS, "owner")
    assert stats("run") == LabelStats(10, 2, 0, 2.5, 0.0, 1e6)
    assert stats("other") == LabelStats(3, 0, 3, 0.75, 1.0, None)
    assert stats(None) == LabelStats(13, 2, 3, 3.25, 1.0, 1e6)
    with LabelStore(store.path, readonly=True) as fresh:
        for run in ("run", "other", None):
            assert fresh.stats(run) == stats(run)


def test_an_answer_told_twice_is_one_label_by_its_ticket_and_by_its_request(store: LabelStore) -> None:
    for number in range(1, 5):
        label(store, number)
    one = record(9)
    store.claim(one, "owner")
    ticket = store.reserve(one, WORST, CAPS, "owner")
    first = store.answer(one, VERDICT, ticket, USED)
    assert store.answer(replace(one, request=None), VERDICT, ticket, USED) == first
    assert store.answer(one, VERDICT, None, USED) == first
    assert len(store.labels()) == 5
