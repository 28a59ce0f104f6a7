"""A data set of episodes that is labelled apart from training: sampled once, kept in the store, known by its number.

An episode's place in the data set is its ``episode_id``. What is stored once is not sampled again: the same command
goes on with the same episodes, whatever became of the policy meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from rlaif_ray.errors import StoreError
from rlaif_ray.feedback.records import REPLAYED_REASONS, pack_episode
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Episode, episode_key

__all__ = ["DataSet"]

_ANSWERED = "(a.reason IS NULL OR a.reason IN (" + ", ".join(f"'{reason}'" for reason in REPLAYED_REASONS) + "))"
_LABELLED = (
    "SELECT 1 FROM labels l JOIN answers a ON a.id = l.answer_id WHERE l.run_id = s.run_id AND"
    f" l.episode_key = s.episode_key AND l.episode_id = s.episode_id AND {_ANSWERED}"
)
_IN_A_BATCH = (
    "SELECT 1 FROM batch_lines b JOIN attempts t ON t.id = b.attempt_id WHERE b.run_id = s.run_id AND"
    " b.episode_id = s.episode_id AND t.state = 'open'"
)


class DataSet:
    """The episodes stored under one ``run_id``, and which of them have their label."""

    def __init__(self, store: LabelStore, run_id: str) -> None:
        self.store, self.run_id = store, run_id

    def __len__(self) -> int:
        """Episodes stored."""
        with self.store.reading() as db:
            row = db.execute("SELECT count(*) FROM samples WHERE run_id = ?", (self.run_id,)).fetchone()
        return int(row[0])

    def add(self, episodes: Sequence[Episode]) -> None:
        """Store more episodes, all of them or none; they are numbered on from the last one."""
        packed = [(episode_key(one), pack_episode(one), one.policy_version) for one in episodes]
        with self.store.writing() as db:
            first = int(db.execute("SELECT count(*) FROM samples WHERE run_id = ?", (self.run_id,)).fetchone()[0])
            db.executemany("INSERT OR IGNORE INTO episodes VALUES (?, ?)", [(key, blob) for key, blob, _ in packed])
            db.executemany(
                "INSERT INTO samples VALUES (?, ?, ?, ?)",
                [(self.run_id, first + n, key, version) for n, (key, _, version) in enumerate(packed)],
            )

    def episode(self, episode_id: int) -> Episode:
        """One of them, under its number. Raises StoreError: it isn't there."""
        with self.store.reading() as db:
            row = db.execute(
                "SELECT episode_key, policy_version FROM samples WHERE run_id = ? AND episode_id = ?",
                (self.run_id, episode_id),
            ).fetchone()
        if row is None:
            raise StoreError(f"label store {self.store.path}: no episode {episode_id} in data set {self.run_id!r}")
        whole = self.store.episode(row["episode_key"])
        return replace(whole, episode_id=episode_id, policy_version=row["policy_version"])

    def labelled(self, most: int) -> int:
        """How many of the first ``most`` have an answer that stands: a verdict, or an abstention of the judge's own."""
        with self.store.reading() as db:
            return self._count(db, f"EXISTS ({_LABELLED})", most)

    def in_batches(self, most: int) -> int:
        """How many of the first ``most`` are in a batch that is not taken in yet."""
        with self.store.reading() as db:
            return self._count(db, f"EXISTS ({_IN_A_BATCH})", most)

    def pending(self, most: int) -> list[int]:
        """Which of the first ``most`` have neither such an answer nor a place in a batch, in order."""
        with self.store.reading() as db:
            rows = db.execute(
                "SELECT s.episode_id FROM samples s WHERE s.run_id = ? AND s.episode_id < ?"
                f" AND NOT EXISTS ({_LABELLED}) AND NOT EXISTS ({_IN_A_BATCH}) ORDER BY s.episode_id",
                (self.run_id, most),
            ).fetchall()
        return [int(row[0]) for row in rows]

    def _count(self, db: sqlite3.Connection, condition: str, most: int) -> int:
        row = db.execute(
            f"SELECT count(*) FROM samples s WHERE s.run_id = ? AND s.episode_id < ? AND {condition}",
            (self.run_id, most),
        ).fetchone()
        return int(row[0])
