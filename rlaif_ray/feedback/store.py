"""The label store: questions, episodes, attempts, answers and labels in one SQLite file.

An answer is on disk before anything uses it. The budget's numbers live here too, outside any checkpoint: restoring an
old checkpoint rolls no spending back. Several processes may use one file; each write is one transaction.

::

    with LabelStore("runs/quickstart/labels.sqlite") as store:
        for label in store.labels():
            print(label.value, store.episode_of(label))
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rlaif_ray.errors import ReplayMissError, StoreError
from rlaif_ray.feedback.budget import Account, Amount, Caps
from rlaif_ray.feedback.database import Database, owner_alive
from rlaif_ray.feedback.records import (
    REPLAYED_REASONS,
    JudgedSample,
    LabelStats,
    Record,
    label_from_row,
    outcome_row,
    unpack_episode,
)
from rlaif_ray.types import Abstention, Episode, Label, Verdict

__all__ = ["LEASE_S", "ClaimState", "LabelStore"]

ClaimState = Literal["claimed", "busy"]
Replay = Literal["prefer", "only", "off"]

# A claim or reservation of a process on another host, which can't be looked at, is given up this long after its last
# sign of life. Longer than any attempt and any Retry-After that is honoured.
LEASE_S = 600.0

_LABEL = """
    SELECT l.label_id, l.question_key, l.episode_id, l.policy_version, l.step, l.replayed, l.inclusion_probability,
           l.episode_key, q.judge, q.prompt_hash, q.prompt_name, q.system_text, q.user_text, a.*
    FROM labels l JOIN answers a ON a.id = l.answer_id JOIN questions q ON q.key = l.question_key
"""


class LabelStore:
    """Labels on disk. ``readonly`` opens an existing store and changes nothing in it.

    Opening for writing writes off, at their worst case, attempts that a dead process left in flight.

    Raises StoreError: no such file (``readonly``), no label store, damaged, another schema version, or locked.
    """

    def __init__(self, path: str | Path, *, readonly: bool = False, busy_timeout_s: float = 30.0) -> None:
        self._db = Database(path, readonly=readonly, busy_timeout_s=busy_timeout_s)
        if not readonly:
            self.recover()

    @property
    def path(self) -> Path:
        return self._db.path

    def close(self) -> None:
        self._db.close()

    def fold(self) -> None:
        """Take the write-ahead log into the file: a copy of the file alone is whole then. Done at every close as well,
        where nobody else has the store open. Raises StoreError."""
        self._db.fold()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------- reading

    def labels(self, run: str | None = None, after: int = 0) -> list[Label]:
        """Labels with ``label_id > after`` in the order in which they came; of one run, or of all."""
        with self._db.reading() as db:
            rows = db.execute(
                _LABEL + " WHERE l.label_id > ? AND (? IS NULL OR l.run_id = ?) ORDER BY l.label_id", (after, run, run)
            ).fetchall()
        return [label_from_row(row) for row in rows]

    def episode(self, key: str) -> Episode:
        """The episode with this content key (``types.episode_key``). Raises StoreError: it isn't stored."""
        with self._db.reading() as db:
            row = db.execute("SELECT blob FROM episodes WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise StoreError(f"label store {self.path}: no episode {key!r}")
        return unpack_episode(row["blob"])

    def episode_of(self, label: Label) -> Episode:
        """The episode a label is about, under the id and policy version it had then. Raises StoreError: not here."""
        with self._db.reading() as db:
            row = db.execute("SELECT episode_key FROM labels WHERE label_id = ?", (label.label_id,)).fetchone()
        if row is None:
            raise StoreError(f"label store {self.path}: no label {label.label_id}")
        episode = self.episode(row["episode_key"])
        return replace(episode, episode_id=label.episode_id, policy_version=label.policy_version)

    def find(self, question_key: str) -> Label | None:
        """The newest label of a question that would be replayed, or None."""
        reasons = ", ".join(f"'{reason}'" for reason in REPLAYED_REASONS)
        with self._db.reading() as db:
            row = db.execute(
                _LABEL + f" WHERE l.question_key = ? AND (a.reason IS NULL OR a.reason IN ({reasons}))"
                " ORDER BY a.id DESC, l.label_id LIMIT 1",
                (question_key,),
            ).fetchone()
        return None if row is None else label_from_row(row)

    def stats(self, run: str | None = None) -> LabelStats:
        """Counts and spending of one run, or of everything in the store."""
        with self._db.reading() as db:
            billed = db.execute(
                "SELECT coalesce(sum(used_labels), 0) AS labels, coalesce(sum(used_usd), 0.0) AS usd,"
                " coalesce(sum(CASE state WHEN 'open' THEN worst_usd ELSE 0.0 END), 0.0) AS reserved"
                " FROM attempts WHERE ? IS NULL OR run_id = ?",
                (run, run),
            ).fetchone()
            counted = db.execute(
                "SELECT coalesce(sum(l.replayed), 0) AS replayed,"
                " coalesce(sum(l.replayed = 0 AND a.reason IS NOT NULL), 0) AS abstained"
                " FROM labels l JOIN answers a ON a.id = l.answer_id WHERE ? IS NULL OR l.run_id = ?",
                (run, run),
            ).fetchone()
            cap = db.execute(
                "SELECT cap_usd FROM runs WHERE ? IS NULL OR run_id = ? ORDER BY opened_at DESC LIMIT 1", (run, run)
            ).fetchone()
        return LabelStats(
            labels=billed["labels"],
            abstained=counted["abstained"],
            replayed=counted["replayed"],
            spend_usd=billed["usd"],
            reserved_usd=billed["reserved"],
            cap_usd=None if cap is None else cap["cap_usd"],
        )

    def sample_of_judged(self, n: int, run: str | None = None) -> list[JudgedSample]:
        """Up to ``n`` judged episodes for a report: approved and rejected alike, spread over the run."""
        with self._db.reading() as db:
            rows = db.execute(
                _LABEL + " WHERE l.replayed = 0 AND (? IS NULL OR l.run_id = ?) ORDER BY l.label_id", (run, run)
            ).fetchall()
        groups: dict[bool | None, list[sqlite3.Row]] = {}
        for row in rows:
            groups.setdefault(None if row["value"] is None else row["value"] > 0.5, []).append(row)
        chosen = sorted(_spread(list(groups.values()), n), key=lambda row: int(row["label_id"]))
        samples = []
        for row in chosen:
            label = label_from_row(row)
            samples.append(
                JudgedSample(label, row["prompt_name"], row["system_text"], row["user_text"], self.episode_of(label))
            )
        return samples

    def account(self, caps: Caps) -> Account:
        """What everything that shares this store has spent and reserved, against ``caps``."""
        with self._db.reading() as db:
            return _account(db, caps)

    # ------------------------------------------------------------------------------------------- writing

    def open_run(self, run_id: str, caps: Caps) -> None:
        """Note a run and its caps; a run that is resumed keeps its numbers."""
        with self._db.writing() as db:
            db.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET"
                " opened_at = excluded.opened_at, cap_usd = excluded.cap_usd, cap_labels = excluded.cap_labels,"
                " cap_tokens = excluded.cap_tokens",
                (run_id, time.time(), caps.usd, caps.labels, caps.tokens),
            )

    def claim(self, record: Record, owner: str, replay: Replay = "prefer") -> Label | ClaimState:
        """Take a question on: a label if its answer is stored, ``claimed`` if it may now be asked, ``busy`` if somebody
        else is asking it at this moment.

        Raises ReplayMissError: ``replay`` is ``only`` and its answer isn't stored.
        """
        with self._db.writing() as db:
            db.execute("INSERT OR IGNORE INTO episodes VALUES (?, ?)", (record.episode_key, record.episode_blob))
            _insert_question(db, record)
            known = self.find(record.question_key) if replay != "off" else None
            if known is not None:
                (answer_id,) = db.execute(
                    "SELECT answer_id FROM labels WHERE label_id = ?", (known.label_id,)
                ).fetchone()
                return _insert_label(db, record, answer_id, replayed=True)
            if replay == "only":
                raise ReplayMissError(
                    f"judge.replay is 'only' and label store {self.path} has no answer to question "
                    f"{record.question_key} (prompt {record.prompt_name}, judge {record.judge})"
                )
            return self._claim(db, record.question_key, owner)

    def unclaim(self, question_key: str, owner: str) -> None:
        """Give a question back unanswered."""
        with self._db.writing() as db:
            db.execute("DELETE FROM claims WHERE question_key = ? AND owner = ?", (question_key, owner))

    def reserve(self, record: Record, worst: Amount, caps: Caps, owner: str) -> int:
        """Set the worst case of one attempt aside; the number returned is settled or written off later.

        Raises BudgetExhausted: a cap is in the way.
        """
        now = time.time()
        with self._db.writing() as db:
            _account(db, caps).reserve(worst)
            db.execute("UPDATE claims SET lease_until = ? WHERE question_key = ?", (now + LEASE_S, record.question_key))
            cursor = db.execute(
                "INSERT INTO attempts (question_key, run_id, owner, state, worst_usd, worst_labels, worst_tokens,"
                " reserved_at, lease_until) VALUES (?, ?, ?, 'open', ?, ?, ?, ?, ?)",
                (record.question_key, record.run_id, owner, worst.usd, worst.labels, worst.tokens, now, now + LEASE_S),
            )
            ticket = cursor.lastrowid
        if ticket is None:
            raise StoreError(f"label store {self.path}: a reservation got no number")
        return ticket

    def settle(self, ticket: int, used: Amount, detail: str = "") -> None:
        """Replace a reservation by what was used: nothing, where it is known that nothing was billed."""
        with self._db.writing() as db:
            _close_attempt(db, ticket, "settled", used, detail)

    def write_off(self, ticket: int, detail: str = "") -> None:
        """Charge an attempt whose fate is unknown at its worst case."""
        with self._db.writing() as db:
            _close_attempt(db, ticket, "written_off", None, detail)

    def answer(self, record: Record, outcome: Verdict | Abstention, ticket: int | None, used: Amount) -> Label:
        """Store an answer and its label, settle its attempt and free the question, all or nothing.

        Called again for the same ticket it returns the label of the first time: a caller that got no reply may repeat
        it. An answer that arrives after its attempt was written off replaces what was written off.
        """
        with self._db.writing() as db:
            if ticket is not None:
                done = db.execute(_LABEL + " WHERE a.attempt_id = ? ORDER BY l.label_id LIMIT 1", (ticket,)).fetchone()
                if done is not None:
                    return label_from_row(done)
                _close_attempt(db, ticket, "settled", used, "")
            row = {
                "question_key": record.question_key, "attempt_id": ticket, "answered_at": time.time(),
                **outcome_row(outcome),
            }  # fmt: skip
            columns, marks = ", ".join(row), ", ".join("?" * len(row))
            cursor = db.execute(f"INSERT INTO answers ({columns}) VALUES ({marks})", tuple(row.values()))
            label = _insert_label(db, record, cursor.lastrowid, replayed=False)
            db.execute("DELETE FROM claims WHERE question_key = ?", (record.question_key,))
            return label

    def write_off_owner(self, owner: str) -> int:
        """A process is known to be dead: write off what it had in flight and free its questions; how many."""
        with self._db.writing() as db:
            tickets = db.execute("SELECT id FROM attempts WHERE state = 'open' AND owner = ?", (owner,)).fetchall()
            for (ticket,) in tickets:
                _close_attempt(db, ticket, "written_off", None, "its process ended")
            db.execute("DELETE FROM claims WHERE owner = ?", (owner,))
        return len(tickets)

    def recover(self) -> int:
        """Write off what dead processes left in flight; how many attempts that was."""
        now = time.time()
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT owner, max(lease_until) AS lease_until FROM (SELECT owner, lease_until FROM attempts WHERE"
                " state = 'open' UNION ALL SELECT owner, lease_until FROM claims) GROUP BY owner"
            ).fetchall()
        return sum(self.write_off_owner(row["owner"]) for row in rows if _gone(row["owner"], row["lease_until"], now))

    def _claim(self, db: sqlite3.Connection, key: str, owner: str) -> ClaimState:
        now = time.time()
        held = db.execute("SELECT owner, lease_until FROM claims WHERE question_key = ?", (key,)).fetchone()
        if held is not None and not _gone(held["owner"], held["lease_until"], now):
            return "busy"
        if held is not None:
            for (ticket,) in db.execute(
                "SELECT id FROM attempts WHERE state = 'open' AND question_key = ? AND owner = ?", (key, held["owner"])
            ).fetchall():
                _close_attempt(db, ticket, "written_off", None, "its process ended")
        db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (key, owner, now + LEASE_S))
        return "claimed"


def _gone(owner: str, lease_until: float, now: float) -> bool:
    alive = owner_alive(owner)
    return now > lease_until if alive is None else not alive


def _account(db: sqlite3.Connection, caps: Caps) -> Account:
    spent = db.execute("SELECT spent_usd, spent_labels, spent_tokens FROM account").fetchone()
    reserved = db.execute(
        "SELECT coalesce(sum(worst_usd), 0.0), coalesce(sum(worst_labels), 0), coalesce(sum(worst_tokens), 0)"
        " FROM attempts WHERE state = 'open'"
    ).fetchone()
    return Account(caps, spent=Amount(*spent), reserved=Amount(*reserved))


def _close_attempt(db: sqlite3.Connection, ticket: int, state: str, used: Amount | None, detail: str) -> None:
    row = db.execute("SELECT * FROM attempts WHERE id = ?", (ticket,)).fetchone()
    if row is None:
        raise StoreError(f"reservation {ticket} is not in the store")
    if row["state"] == "settled" or row["state"] == state:
        return
    charged = Amount(row["worst_usd"], row["worst_labels"], row["worst_tokens"]) if used is None else used
    before = Amount(row["used_usd"], row["used_labels"], row["used_tokens"])  # not 0 where it was written off
    more = charged - before
    db.execute(
        "UPDATE attempts SET state = ?, used_usd = ?, used_labels = ?, used_tokens = ?, closed_at = ?, detail = ?"
        " WHERE id = ?",
        (state, charged.usd, charged.labels, charged.tokens, time.time(), detail, ticket),
    )
    db.execute(
        "UPDATE account SET spent_usd = spent_usd + ?, spent_labels = spent_labels + ?,"
        " spent_tokens = spent_tokens + ?",
        (more.usd, more.labels, more.tokens),
    )


def _insert_question(db: sqlite3.Connection, record: Record) -> None:
    db.execute(
        "INSERT OR IGNORE INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.question_key,
            record.kind,
            record.prompt_name,
            record.prompt_hash,
            record.polarity,
            record.system_text,
            record.user_text,
            record.judge,
            record.judge_settings,
            record.principle,
            record.order,
            record.replicate,
            record.unit_keys,
        ),
    )


def _insert_label(db: sqlite3.Connection, record: Record, answer_id: Any, *, replayed: bool) -> Label:
    cursor = db.execute(
        "INSERT INTO labels (answer_id, question_key, episode_key, episode_id, run_id, policy_version, step,"
        " inclusion_probability, replayed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            answer_id,
            record.question_key,
            record.episode_key,
            record.episode_id,
            record.run_id,
            record.policy_version,
            record.step,
            record.inclusion_probability,
            int(replayed),
        ),
    )
    return label_from_row(db.execute(_LABEL + " WHERE l.label_id = ?", (cursor.lastrowid,)).fetchone())


def _spread(groups: list[list[sqlite3.Row]], n: int) -> list[sqlite3.Row]:
    """``n`` rows in all, shared out as evenly as the groups allow, evenly spaced within each."""
    chosen: list[sqlite3.Row] = []
    for i, group in enumerate(sorted(groups, key=len)):
        share = min(len(group), (n - len(chosen)) // (len(groups) - i))
        chosen += [group[int((k + 0.5) * len(group) / share)] for k in range(share)]
    return chosen
