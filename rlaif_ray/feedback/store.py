"""The label store: questions, episodes, attempts, answers and labels in one SQLite file.

An answer is on disk before anything uses it. The budget's numbers live here too, outside any checkpoint: restoring an
old checkpoint rolls no spending back. Several processes may use one file; each write is one transaction.

::

    with LabelStore("runs/quickstart/labels.sqlite") as store:
        for label in store.labels():
            print(label.value, store.episode_of(label))
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from rlaif_ray.errors import BudgetExhausted, ReplayMissError, StoreError
from rlaif_ray.feedback import rows as stored
from rlaif_ray.feedback.budget import Account, Amount, Caps
from rlaif_ray.feedback.database import BATCH_OWNER, Database, owner_gone
from rlaif_ray.feedback.ledger import (
    LEASE_S,
    account_of,
    account_of_run,
    close_attempt,
    dearest,
    draw,
    drawable,
    forget_unsent,
    hear,
    may_take,
    open_attempt,
    reserved_already,
    room_in_caps,
    take_turn,
)
from rlaif_ray.feedback.limits import Heard, Pace, Wait
from rlaif_ray.feedback.pictures import keep_frames, megabytes_of_frames, shrink_frames, stored_frames
from rlaif_ray.feedback.records import (
    JudgedSample,
    LabelStats,
    Pruned,
    Record,
    label_from_row,
    outcome_row,
    unpack_episode,
)
from rlaif_ray.feedback.standing import Counts, stats_of
from rlaif_ray.feedback.usage import stand_alone
from rlaif_ray.types import Abstention, Episode, Label, Units, Verdict

__all__ = ["LEASE_S", "ClaimState", "LabelStore"]

ClaimState = Literal["claimed", "busy", "batched", "unanswered"]
Replay = Literal["prefer", "only", "off"]

# Nobody dies so often that looking for the dead at every full house or empty purse would pay.
_RECOVER_EVERY_S = 2.0


class LabelStore:
    """Labels on disk. ``readonly`` opens an existing store and changes nothing in it.

    Opening for writing writes off, at their worst case, attempts that a dead process left in flight.

    Raises StoreError: no such file (``readonly``), no label store, damaged, another schema version, or locked.
    """

    def __init__(self, path: str | Path, *, readonly: bool = False, busy_timeout_s: float = 30.0) -> None:
        self._db = Database(path, readonly=readonly, busy_timeout_s=busy_timeout_s)
        self._counts = Counts()
        self._recovered_at = time.monotonic()
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

    def reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """The connection, for what else reads rows."""
        return self._db.reading()

    def writing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """The connection in a transaction, for what else writes rows."""
        return self._db.writing()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------- reading

    def labels(self, run: str | None = None, after: int = 0, *, parts: bool = False) -> list[Label]:
        """Labels with ``label_id > after`` in the order in which they came; of one run, or of all.

        ``parts``: also those that an answer was put together of (one judge's, one order's).
        """
        with self._db.reading() as db:
            rows = db.execute(
                stored.SELECT_LABEL + " WHERE l.label_id > ? AND (? IS NULL OR l.run_id = ?) AND (l.part = 0 OR ?)"
                " ORDER BY l.label_id",
                (after, run, run, parts),
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

    def second_of(self, label: Label) -> Episode | None:
        """The second episode of a preference, likewise; None where the label is about one."""
        if label.second_episode_id is None:
            return None
        with self._db.reading() as db:
            row = stored.second_row(db, label)
        second = self.episode(row["second_key"])
        return replace(second, episode_id=label.second_episode_id, policy_version=row["second_version"])

    def units_of(self, label: Label) -> Units:
        """What a label is about: the episode, or the two that were compared. Raises StoreError."""
        first, second = self.episode_of(label), self.second_of(label)
        return first if second is None else (first, second)

    def judged(self, episode_keys: Sequence[str]) -> set[str]:
        """Those of these episodes (``types.episode_key``) that somebody has asked about."""
        with self._db.reading() as db:
            return stored.judged_among(db, episode_keys)

    def find(self, question_key: str, *, any_answer: bool = False) -> Label | None:
        """The newest label of a question that would be replayed, or None.

        ``any_answer``: also one that would be asked for again, such as a time-out, where there is no other.
        """
        with self._db.reading() as db:
            row = stored.find_answered(db, question_key, any_answer=any_answer)
        return None if row is None else label_from_row(row)

    def frames_of(self, label: Label) -> tuple[bytes, ...] | None:
        """The PNG pictures that were sent, in order; None where they aren't kept (redraw them from the episode)."""
        with self._db.reading() as db:
            return stored_frames(db, label.question_key)

    def stats(self, run: str | None = None) -> LabelStats:
        """Counts and spending of one run, or of everything in the store."""
        with self._db.reading() as db:
            return stats_of(db, run, self._counts)

    def standing(self, run_id: str, caps: Caps) -> tuple[LabelStats, Account, Account]:
        """One run's stats, and the accounts of the store and of the run: what a pool needs to know, in one call."""
        with self._db.reading() as db:
            own = account_of_run(db, caps.run or Caps(), run_id)
        return self.stats(run_id), self.account(caps), own

    def sample_of_judged(self, n: int, run: str | None = None) -> list[JudgedSample]:
        """Up to ``n`` judged episodes for a report: approved and rejected alike, spread over the run."""
        with self._db.reading() as db:
            chosen = stored.sample_of(db, n, run)
        samples = []
        for row in chosen:
            label = label_from_row(row)
            about, second = self.episode_of(label), self.second_of(label)
            samples.append(JudgedSample(label, row["prompt_name"], row["system_text"], row["user_text"], about, second))
        return samples

    def account(self, caps: Caps) -> Account:
        """What everything that shares this store has spent and reserved, against ``caps``."""
        with self._db.reading() as db:
            return account_of(db, caps)

    def dearest(self, run_id: str, recent: int) -> Amount:
        """The most that was reserved for one of so many newest attempts of a run's."""
        with self._db.reading() as db:
            return dearest(db, run_id, recent)

    def stand_alone(self, run: str, inherited: Mapping[str, int] = MappingProxyType({})) -> Amount:
        """What the run bought, failed attempts included, and took from the store, each answer once, at the price that
        was paid. ``inherited``: runs whose state it was cloned from, and their last label (``label_id``) at that time.
        """
        with self._db.reading() as db:
            return stand_alone(db, run, inherited)

    # ------------------------------------------------------------------------------------------- writing

    def open_run(self, run_id: str, caps: Caps) -> None:
        """Note a run and its caps; a run that is resumed keeps its numbers."""
        run = caps.run or Caps()
        with self._db.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO runs (run_id, opened_at, cap_usd, cap_labels, cap_tokens, run_cap_usd,"
                " run_cap_labels, run_cap_tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (run_id, time.time(), caps.usd, caps.labels, caps.tokens, run.usd, run.labels, run.tokens),
            )

    def claim(
        self, record: Record, owner: str, replay: Replay = "prefer", keep_frames_mb: float = 0.0
    ) -> Label | ClaimState:
        """Take a question on: a label if its answer is stored, ``claimed`` if it may now be asked, ``busy`` if somebody
        else is asking it at this moment, ``batched`` if it is in a batch, whose answer may take a day, ``unanswered``
        if the run's own caps have no room for a stored answer, or with ``replay`` ``only`` it was put and never
        answered.

        ``keep_frames_mb``: pictures that the record carries are kept, up to so many megabytes in the whole store.

        Raises ReplayMissError: ``replay`` is ``only`` and the question isn't stored.
        """
        with self._db.writing() as db:
            if replay == "only":
                return self._replayed(db, record)
            stored.insert_episodes(db, record)
            stored.insert_question(db, record)
            keep_frames(db, record.frame_hashes, record.frames, keep_frames_mb)
            known = self.find(record.question_key) if replay == "prefer" else None
            if known is not None:
                if not may_take(db, record.run_id, known):
                    return "unanswered"
                return stored.insert_label(db, record, stored.answer_id(db, known), replayed=True)
            return self._claim(db, record, owner)

    def unclaim(self, question_key: str, owner: str) -> None:
        """Give a question back unanswered."""
        with self._db.writing() as db:
            db.execute("DELETE FROM claims WHERE question_key = ? AND owner = ?", (question_key, owner))

    def reserve(self, record: Record, worst: Amount, caps: Caps, owner: str) -> int:
        """Set the worst case of one attempt aside; the number returned is settled or written off later.

        Raises BudgetExhausted: a cap is in the way.
        """
        ticket = self.admit(record, worst, caps, owner, Pace())
        if isinstance(ticket, Wait):
            raise BudgetExhausted(ticket.why)
        return ticket

    def admit(self, record: Record, worst: Amount, caps: Caps, owner: str, pace: Pace) -> int | Wait:
        """``reserve``, once it is this attempt's turn at the judge and what others have in flight leaves room in the
        budget; until then how long to wait.

        Budget, rates and questions in flight are looked at and taken in one transaction: they hold over everything
        that shares the file. Where the record names a ``hold``, its share is taken out of that.

        Raises BudgetExhausted: a cap is in the way, whatever comes of what is in flight.
        """
        admitted = self._admit(record, worst, caps, owner, pace)
        if isinstance(admitted, int) or not self._recover_sometimes():
            return admitted
        return self._admit(record, worst, caps, owner, pace)

    def settle(self, ticket: int, used: Amount, detail: str = "") -> None:
        """Replace a reservation by what was used: nothing, where it is known that nothing was billed."""
        with self._db.writing() as db:
            close_attempt(db, ticket, "settled", used, detail)

    def write_off(self, ticket: int, detail: str = "") -> None:
        """Charge an attempt whose fate is unknown at its worst case."""
        with self._db.writing() as db:
            close_attempt(db, ticket, "written_off", None, detail)

    def hear(self, ticket: int, heard: Heard, pace: Pace, used_tokens: int) -> None:
        """Let all who share the file learn what a reply said about the judge's limits."""
        with self._db.writing() as db:
            hear(db, ticket, heard, pace, used_tokens)

    def answer(self, record: Record, outcome: Verdict | Abstention, ticket: int | None, used: Amount) -> Label:
        """Store an answer and its label, settle its attempt and free the question, all or nothing.

        Called again for the same ticket or request it returns the label of the first time: a caller that got no reply
        may repeat it. An answer that arrives after its attempt was written off replaces what was written off.
        """
        with self._db.writing() as db:
            done = stored.label_of_request(db, record, ticket)
            if done is not None:
                return done
            if ticket is not None:
                close_attempt(db, ticket, "settled", used, "")
            row = {
                "question_key": record.question_key, "attempt_id": ticket, "answered_at": time.time(),
                "made_of": record.made_of, "inconsistent": int(record.inconsistent),
                **outcome_row(outcome),
            }  # fmt: skip
            columns, marks = ", ".join(row), ", ".join("?" * len(row))
            cursor = db.execute(f"INSERT INTO answers ({columns}) VALUES ({marks})", tuple(row.values()))
            label = stored.insert_label(db, record, cursor.lastrowid, replayed=False)
            db.execute("DELETE FROM claims WHERE question_key = ?", (record.question_key,))
            return label

    def write_off_owner(self, owner: str) -> int:
        """A process is known to be dead: write off what it had in flight and free its questions; how many."""
        with self._db.writing() as db:
            tickets = db.execute("SELECT id FROM attempts WHERE state = 'open' AND owner = ?", (owner,)).fetchall()
            for (ticket,) in tickets:
                close_attempt(db, ticket, "written_off", None, "its process ended")
            db.execute("DELETE FROM claims WHERE owner = ?", (owner,))
        return len(tickets)

    def recover(self) -> int:
        """Write off what dead processes left in flight; how many attempts that was."""
        self._recovered_at, now = time.monotonic(), time.time()
        with self._db.writing() as db:
            forget_unsent(db)
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT owner, max(lease_until) AS lease_until FROM (SELECT owner, lease_until FROM attempts WHERE"
                " state = 'open' UNION ALL SELECT owner, lease_until FROM claims) GROUP BY owner"
            ).fetchall()
        return sum(
            self.write_off_owner(row["owner"]) for row in rows if owner_gone(row["owner"], row["lease_until"], now)
        )

    def prune(self, frames_mb: float) -> Pruned:
        """Drop the oldest pictures until the rest fit into so many megabytes, and questions and episodes that nobody
        asks about or has an answer to; then give the space back to the disk.

        Raises StoreError: somebody else is using the file.
        """
        with self._db.writing() as db:
            frames = shrink_frames(db, frames_mb)
            questions, episodes = stored.drop_unasked(db)
            left = megabytes_of_frames(db)
        with self._db.reading() as db:
            db.execute("VACUUM")
        return Pruned(frames=frames, questions=questions, episodes=episodes, frames_mb=left)

    def _recover_sometimes(self) -> bool:
        """Look for the dead, unless that was done just now; whether something was freed."""
        return time.monotonic() - self._recovered_at >= _RECOVER_EVERY_S and self.recover() > 0

    def _admit(self, record: Record, worst: Amount, caps: Caps, owner: str, pace: Pace) -> int | Wait:
        with self._db.writing() as db:
            known = reserved_already(db, record)
            if known is not None:
                return known
            held = drawable(db, record.hold, worst)
            room = room_in_caps(db, caps, record.run_id, worst - held)
            if room is not None and record.hold is not None:  # two that hold and wait for each other wait for ever
                raise BudgetExhausted(room.why)
            wait = room if record.whole else room or take_turn(db, record.judge, pace, worst.tokens)
            if wait is not None:
                return wait
            draw(db, record.hold, held)
            return open_attempt(db, record, worst, owner)

    def _replayed(self, db: sqlite3.Connection, record: Record) -> Label | ClaimState:
        known = self.find(record.question_key, any_answer=True)
        if known is not None:
            stored.insert_episodes(db, record)
            return stored.insert_label(db, record, stored.answer_id(db, known), replayed=True)
        if db.execute("SELECT 1 FROM questions WHERE key = ?", (record.question_key,)).fetchone() is not None:
            return "unanswered"
        raise ReplayMissError(
            f"judge.replay is 'only' and label store {self.path} has no answer to question "
            f"{record.question_key} (prompt {record.prompt_name}, judge {record.judge})"
        )

    def _claim(self, db: sqlite3.Connection, record: Record, owner: str) -> ClaimState:
        now, key = time.time(), record.question_key
        held = db.execute("SELECT * FROM claims WHERE question_key = ?", (key,)).fetchone()
        mine = held is not None and held["owner"] == owner and held["request"] == (record.request or "?")
        if held is not None and not mine and not owner_gone(held["owner"], held["lease_until"], now):
            return "batched" if held["owner"].startswith(BATCH_OWNER) else "busy"
        if held is not None and not mine:
            for (ticket,) in db.execute(
                "SELECT id FROM attempts WHERE state = 'open' AND question_key = ? AND owner = ?", (key, held["owner"])
            ).fetchall():
                close_attempt(db, ticket, "written_off", None, "its process ended")
        db.execute(
            "INSERT OR REPLACE INTO claims (question_key, owner, lease_until, request) VALUES (?, ?, ?, ?)",
            (key, owner, now + LEASE_S, record.request or ""),
        )
        return "claimed"
