"""A store of an earlier version goes on: nothing of it is lost, and what it couldn't hold is added."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from feedback_fakes import asked_about, tiny_config, tiny_episode

from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.database import owner_id
from rlaif_ray.feedback.judge import identity_of
from rlaif_ray.feedback.records import record_of
from rlaif_ray.feedback.schema import SCHEMA_VERSION
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Abstention, Verdict, episode_key

# Written by version 1: two runs; an approval, a rejection, a refusal, a replay, one attempt written off, one open.
V1 = Path(__file__).parent / "stores" / "v1.sqlite"
V1_PROMPT = V1.with_name("v1-homegrid-align.txt")  # the words it asked with


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copy(V1, tmp_path / "labels.sqlite"))


def schema(path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(path) as db:
        found = db.execute(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
        ).fetchall()
    db.close()
    return found


def test_everything_in_an_old_store_is_still_there(old: Path) -> None:
    with LabelStore(old) as store:
        labels = store.labels()
        assert [(one.episode_id, one.value, one.replayed) for one in labels] == [
            (1, 1.0, False), (2, 0.0, False), (3, None, False), (1, 1.0, True),
        ]  # fmt: skip
        assert {one.draw for one in labels} == {"audit"}  # all had the same chance then
        assert isinstance(labels[0].outcome, Verdict)
        assert (labels[0].outcome.description, labels[0].outcome.usage.attempts) == ("d", 2)
        assert isinstance(labels[2].outcome, Abstention)
        assert labels[2].outcome.reason == "refusal"
        assert episode_key(store.episode_of(labels[1])) == episode_key(tiny_episode(2))
        both = store.account(Caps()).spent + store.account(Caps()).reserved
        assert (both.labels, both.tokens) == (5, 3_200)
        assert both.usd == pytest.approx(0.32)
        first = store.standing("first", Caps())[2]
        assert (first.spent.usd, first.spent.labels) == (pytest.approx(0.18), 3)
        assert store.stats("first").cap_usd == 2.0
        assert store.frames_of(labels[0]) is None


def test_an_old_store_goes_on_being_used(old: Path) -> None:
    judge = identity_of(tiny_config("http://127.0.0.1:1/v1").judge)
    with LabelStore(old) as store:
        ticket = store.reserve(record_of(asked_about(6, judge)), Amount(0.1, 1, 10), Caps(), owner_id())
        store.write_off(ticket)
        assert store.account(Caps()).spent.usd >= 0.32 - 1e-9
        again = store.claim(record_of(asked_about(2, judge, prompt=str(V1_PROMPT))), owner_id())
        assert not isinstance(again, str)
        assert again.replayed
    with sqlite3.connect(old) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


def test_a_migrated_file_looks_like_a_new_one(old: Path, tmp_path: Path) -> None:
    LabelStore(old).close()
    LabelStore(tmp_path / "new.sqlite").close()
    assert schema(old) == schema(tmp_path / "new.sqlite")
    LabelStore(old).close()  # and once is enough
    assert schema(old) == schema(tmp_path / "new.sqlite")


def test_reading_an_old_store_does_not_change_it(old: Path) -> None:
    before = old.read_bytes()
    with LabelStore(old, readonly=True) as store:
        assert len(store.labels()) == 4
        assert store.standing("second", Caps())[2].spent.labels == 2  # one bought, one taken from the store
        assert store.stats("second").labels == 1
    assert old.read_bytes() == before


def test_a_migration_that_fails_leaves_the_file_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlaif_ray.errors import StoreError
    from rlaif_ray.feedback import schema as schema_module

    before = schema(old)
    broken = schema_module.MIGRATIONS[1] + "CREATE TABLE labels (x);"
    monkeypatch.setitem(schema_module.MIGRATIONS, 1, broken)
    with pytest.raises(StoreError, match="already exists"):
        LabelStore(old)
    assert schema(old) == before
