"""The store: answers on disk, an account that survives, questions asked once, errors that say what is wrong."""

from __future__ import annotations

import multiprocessing
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from feedback_fakes import asked_about, tiny_config, tiny_episode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif_ray.errors import BudgetExhausted, ReplayMissError, StoreError
from rlaif_ray.feedback import database
from rlaif_ray.feedback.budget import Account, Amount, Caps
from rlaif_ray.feedback.database import owner_id
from rlaif_ray.feedback.judge import identity_of
from rlaif_ray.feedback.records import Record, pack_episode, record_of, unpack_episode
from rlaif_ray.feedback.schema import SCHEMA_VERSION
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Abstention, Label, Usage, Verdict, episode_key

JUDGE = identity_of(tiny_config("http://127.0.0.1:1/v1").judge)
ME = owner_id()
WORST = Amount(0.10, 1, 1000)
USED = Amount(0.04, 1, 400)
VERDICT = Verdict(
    kind="approval",
    value=1.0,
    text="{}",
    usage=Usage(300, 100, 0.04, 1.5, 2),
    approved=True,
    description="d",
    reasoning="r",
)
REFUSAL = Abstention("refusal", "no", Usage(300, 10, 0.04, 1.0), "I can't")
spawned = multiprocessing.get_context("spawn")


def record(number: int, run: str = "run") -> Record:
    asked = asked_about(number, JUDGE)
    return record_of(asked.__class__(asked.question, asked.episode, run, asked.step, asked.inclusion_probability))


def answered(store: LabelStore, number: int, outcome: Verdict | Abstention = VERDICT, run: str = "run") -> Label:
    row = record(number, run)
    assert store.claim(row, ME) == "claimed"
    return store.answer(row, outcome, store.reserve(row, WORST, Caps(), ME), USED)


def test_what_went_in_comes_out(store: LabelStore) -> None:
    label = answered(store, 3)
    assert store.labels() == [label]
    assert label.outcome == VERDICT
    assert (label.episode_id, label.policy_version, label.asked_at_step, label.inclusion_probability) == (3, 7, 30, 0.5)
    assert (label.judge, label.replayed, label.value) == ("127.0.0.1:1/tiny", False, 1.0)
    refused = answered(store, 4, REFUSAL)
    assert refused.outcome == REFUSAL
    assert refused.value is None
    assert store.labels(after=label.label_id) == [refused]
    assert store.labels(run="another") == []
    assert store.find(label.question_key) == label
    assert store.find("nothing") is None


def test_episodes_come_back_as_they_were(store: LabelStore) -> None:
    label = answered(store, 3)
    episode = tiny_episode(3)
    for found in (store.episode(episode_key(episode)), store.episode_of(label)):
        assert episode_key(found) == episode_key(episode)
        assert found.obs.dtype == episode.obs.dtype
        assert (found.episode_id, found.task_return, found.terminated) == (3, 1.0, True)
    with pytest.raises(StoreError, match="no episode 'x'"):
        store.episode("x")
    stateless = unpack_episode(pack_episode(episode.__class__(**(vars(episode) | {"states": None}))))
    assert stateless.states is None
    np.testing.assert_array_equal(stateless.actions, episode.actions)


def test_an_answer_is_on_disk_when_it_is_returned(store: LabelStore) -> None:
    label = answered(store, 3)
    with LabelStore(store.path, readonly=True) as other:
        assert other.labels() == [label]


def test_the_same_question_is_billed_once(store: LabelStore) -> None:
    first = answered(store, 3)
    again = store.claim(record(3, run="another"), ME)
    assert isinstance(again, Label)
    assert again.replayed
    assert again.outcome == first.outcome
    assert store.stats().labels == 1
    assert store.stats().replayed == 1
    assert store.stats("another").spend_usd == 0.0
    assert store.stats("run").spend_usd == pytest.approx(0.04)
    assert len(store.labels()) == 2


def test_replay_off_asks_again_and_only_never_does(store: LabelStore) -> None:
    answered(store, 3)
    assert store.claim(record(3), ME, "off") == "claimed"
    assert isinstance(store.claim(record(3), ME, "only"), Label)
    with pytest.raises(ReplayMissError, match="no answer to question"):
        store.claim(record(4), ME, "only")


def test_an_answer_that_never_came_is_asked_for_again(store: LabelStore) -> None:
    answered(store, 3, Abstention("timeout", "no answer within 60 s", Usage()))
    assert store.claim(record(3), ME) == "claimed"
    answered(store, 4, REFUSAL)
    assert isinstance(store.claim(record(4), ME), Label)


def test_a_question_is_never_in_flight_twice(store: LabelStore) -> None:
    assert store.claim(record(3), ME) == "claimed"
    with LabelStore(store.path) as other:
        assert other.claim(record(3), ME) == "busy"
        store.unclaim(record(3).question_key, ME)
        assert other.claim(record(3), ME) == "claimed"


def test_stats_have_exactly_these_keys_and_numbers(store: LabelStore) -> None:
    store.open_run("run", Caps(usd=2.0))
    answered(store, 1)
    answered(store, 2, REFUSAL)
    store.claim(record(2), ME)
    row = record(3)
    store.claim(row, ME)
    store.reserve(row, WORST, Caps(), ME)
    assert vars(store.stats("run")) == {
        "labels": 2,
        "abstained": 1,
        "replayed": 1,
        "spend_usd": pytest.approx(0.08),
        "reserved_usd": pytest.approx(0.10),
        "cap_usd": 2.0,
        "both_orders": 0,
        "inconsistent": 0,
    }
    assert store.stats().cap_usd == 2.0


def test_answering_twice_is_answering_once(store: LabelStore) -> None:
    row = record(3)
    store.claim(row, ME)
    ticket = store.reserve(row, WORST, Caps(), ME)
    first = store.answer(row, VERDICT, ticket, USED)
    assert store.answer(row, VERDICT, ticket, USED) == first
    assert store.account(Caps()).spent == USED


def test_an_answer_after_the_write_off_replaces_it(store: LabelStore) -> None:
    row = record(3)
    store.claim(row, ME)
    ticket = store.reserve(row, WORST, Caps(), ME)
    store.write_off(ticket)
    store.write_off(ticket)
    assert store.account(Caps()).spent == WORST
    store.answer(row, VERDICT, ticket, USED)
    spent = store.account(Caps()).spent
    assert (spent.labels, spent.tokens) == (USED.labels, USED.tokens)
    assert spent.usd == pytest.approx(USED.usd)
    assert len(store.labels()) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels_cap=st.integers(0, 6),
    usd_cap=st.integers(0, 9).map(lambda cents: cents / 10),
    steps=st.lists(st.sampled_from(["ask", "settle", "release", "write off", "reopen"]), max_size=25),
)
def test_the_account_on_disk_is_the_account_of_the_decider(
    tmp_path_factory: pytest.TempPathFactory, labels_cap: int, usd_cap: float, steps: list[str]
) -> None:
    caps = Caps(usd=usd_cap, labels=labels_cap)
    path = tmp_path_factory.mktemp("account") / "labels.sqlite"
    store, model, tickets = LabelStore(path), Account(caps), []
    for number, step in enumerate(steps):
        row = record(number)
        if step == "ask":
            try:
                model = model.reserve(WORST)
            except BudgetExhausted:
                with pytest.raises(BudgetExhausted):
                    store.reserve(row, WORST, caps, ME)
            else:
                tickets.append(store.reserve(row, WORST, caps, ME))
        elif step == "reopen":
            store.close()
            store = LabelStore(path)  # this process lives: what it has in flight stays in flight
        elif tickets and step == "write off":
            store.write_off(tickets.pop())
            model = model.write_off(WORST)
        elif tickets:
            used = USED if step == "settle" else Amount()
            store.settle(tickets.pop(), used)
            model = model.settle(WORST, used)
        found = store.account(caps)
        assert (found.spent.labels, found.spent.tokens) == (model.spent.labels, model.spent.tokens)
        assert found.spent.usd == pytest.approx(model.spent.usd)
        assert (found.reserved.labels, found.reserved.tokens) == (model.reserved.labels, model.reserved.tokens)
        assert found.spent.usd + found.reserved.usd <= usd_cap + 1e-6
    store.close()


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be read as one" * 40, b"SQLite format 3\0" + b"x" * 4096]
)
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.sqlite").write_bytes(content)
    for readonly in (False, True):
        with pytest.raises(StoreError, match=r"labels\.sqlite") as error:
            LabelStore(tmp_path / "labels.sqlite", readonly=readonly)
        assert "\n" not in str(error.value)
    assert (tmp_path / "labels.sqlite").read_bytes() == content


def test_a_truncated_store_is_damaged(store: LabelStore) -> None:
    for number in range(30):
        answered(store, number)
    path = store.path
    store.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(StoreError, match=r"damaged|malformed"), LabelStore(path) as broken:
        broken.labels()


def test_other_files_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = sqlite3.connect(tmp_path / "foreign.sqlite")
    foreign.execute("CREATE TABLE t (x)")
    foreign.commit()
    foreign.close()
    with pytest.raises(StoreError, match="made by another program"):
        LabelStore(tmp_path / "foreign.sqlite")
    with pytest.raises(StoreError, match="no such file"):
        LabelStore(tmp_path / "missing.sqlite", readonly=True)
    assert not (tmp_path / "missing.sqlite").exists()
    with pytest.raises(StoreError, match="unable to open"):
        LabelStore(tmp_path)
    LabelStore(tmp_path / "new.sqlite").close()
    monkeypatch.setattr(database, "SCHEMA_VERSION", 1)
    with pytest.raises(
        StoreError, match=f"got schema version {SCHEMA_VERSION}, expected at most 1; a newer rlaif_ray made it"
    ):
        LabelStore(tmp_path / "new.sqlite")


def test_a_locked_store_says_so(store: LabelStore) -> None:
    holder = sqlite3.connect(store.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StoreError, match=r"kept it locked for 0\.2 s"):
            LabelStore(store.path, busy_timeout_s=0.2)
        with LabelStore(store.path, readonly=True, busy_timeout_s=0.2) as reader:
            assert reader.labels() == []
    finally:
        holder.close()


def test_the_sample_for_a_report_shows_both_sides(store: LabelStore) -> None:
    bad = Verdict(kind="approval", value=0.0, text="{}", usage=Usage(), approved=False)
    for number in range(20):
        answered(store, number, bad if number == 13 else VERDICT)
    sample = store.sample_of_judged(4)
    assert len(sample) == 4
    assert [s.label.episode_id for s in sample if s.label.value == 0.0] == [13]
    assert sample[0].question_text.startswith("The 4 pictures")
    assert sample[0].prompt_name == "homegrid-align"
    assert all(s.episode.episode_id == s.label.episode_id for s in sample)
    assert store.sample_of_judged(0) == []
    assert len(store.sample_of_judged(100)) == 20


def test_a_run_has_caps_of_its_own(store: LabelStore) -> None:
    caps = Caps(labels=3, run=Caps(labels=2, usd=0.25))
    for number in (1, 2):
        store.settle(store.reserve(record(number), WORST, caps, ME), USED)
    with pytest.raises(BudgetExhausted, match=r"budget\.run_labels: 2 of 2 spent and 0 reserved"):
        store.reserve(record(3), WORST, caps, ME)
    store.reserve(record(3, "another"), WORST, caps, ME)
    with pytest.raises(BudgetExhausted, match=r"budget\.labels: 2 of 3 spent and 1 reserved"):
        store.reserve(record(4, "another"), WORST, caps, ME)
    own, others = (store.standing(run, Caps(run=Caps(labels=2)))[2] for run in ("run", "another"))
    assert own.labels_left == 0
    assert others.reserved == WORST
    store.open_run("run", caps)
    store.open_run("another", Caps(usd=0.2, run=Caps(usd=0.25)))
    assert (store.stats("run").cap_usd, store.stats("another").cap_usd) == (0.25, 0.2)


def test_a_call_repeated_because_its_reply_was_lost_does_nothing_twice(store: LabelStore) -> None:
    row = record(3)
    assert store.claim(row, ME) == store.claim(row, ME) == "claimed"
    assert store.claim(record(3), ME) == "busy"  # the same question, but another asking
    ticket = store.reserve(row, WORST, Caps(), ME)
    assert store.reserve(row, WORST, Caps(), ME) == ticket
    store.write_off(ticket)
    failed = Abstention("timeout", "no answer within 60 s", Usage())
    assert store.answer(row, failed, None, Amount()) == store.answer(row, failed, None, Amount())
    assert len(store.labels()) == 1
    answered(store, 4)
    again = record(4)
    assert store.claim(again, ME) == store.claim(again, ME)
    assert store.stats().replayed == 1
    second = replace(record(5), attempt=1)
    assert store.reserve(record(5), WORST, Caps(), ME) != store.reserve(second, WORST, Caps(), ME)


def framed(number: int) -> Record:
    return record_of(asked_about(number, JUDGE), keep_frames=True)


def test_pictures_are_kept_once_and_never_beyond_their_cap(store: LabelStore) -> None:
    row = framed(1)
    png = max(len(frame) for frame in row.frames)
    store.claim(row, ME, keep_frames_mb=1)
    label = store.answer(row, VERDICT, store.reserve(row, WORST, Caps(), ME), USED)
    assert store.frames_of(label) == row.frames
    again = framed(1)
    store.claim(again, ME, keep_frames_mb=1)
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT count(*) FROM frames").fetchone() == (len(set(row.frames)),)
    most = 10 * png / 1e6
    for number in range(2, 30):
        store.claim(framed(number), ME, keep_frames_mb=most)
        size, counted = db.execute("SELECT sum(length(png)), (SELECT bytes FROM kept) FROM frames").fetchone()
        assert size == counted <= 10 * png
    db.close()
    assert store.frames_of(label) is None  # the oldest went first
    assert store.episode_of(label).states is not None
    assert store.frames_of(answered(store, 40)) is None  # not asked to keep any


def test_pruning_drops_pictures_and_what_nobody_asked(store: LabelStore) -> None:
    label = answered(store, 1)
    for number in (2, 3):
        row = framed(number)
        store.claim(row, ME, keep_frames_mb=1)
        store.unclaim(row.question_key, ME)
    pruned = store.prune(frames_mb=0)
    assert (pruned.questions, pruned.episodes, pruned.frames_mb) == (2, 2, 0.0)
    assert pruned.frames >= 4
    assert store.labels() == [label]
    assert store.episode_of(label).episode_id == 1
    assert vars(store.prune(frames_mb=0)) == {"frames": 0, "questions": 0, "episodes": 0, "frames_mb": 0.0}


def test_replay_only_repeats_what_happened_failures_included(store: LabelStore) -> None:
    timeout = Abstention("timeout", "no answer within 60 s", Usage())
    answered(store, 3, timeout)
    again = store.claim(record(3), ME, "only")
    assert isinstance(again, Label)
    assert again.outcome == timeout
    row = record(4)
    store.claim(row, ME)
    store.unclaim(row.question_key, ME)  # the budget had no room for it
    assert store.claim(record(4), ME, "only") == "unanswered"


def test_a_label_remembers_the_reward_model_of_its_time(store: LabelStore) -> None:
    row = record_of(asked_about(1, JUDGE), reward_model_version=5)
    store.claim(row, ME)
    store.answer(row, VERDICT, store.reserve(row, WORST, Caps(), ME), USED)
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT reward_model_version FROM labels").fetchall() == [(5,)]
    db.close()
