"""Batches as the store knows them: what was reserved for each, where it is, and which questions it holds.

::

    preparing ► sending ► sent ► closed
        │          └── it may or may not exist at the server: looked for by its name
        └── nobody has heard of it yet

A batch's claims and reservations are held in its own name (``database.batch_owner``), not in that of the process that
sent it: whoever comes next takes it in. ``driver`` is the process that is at it now.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace

from rlaif_ray.errors import StoreError
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.database import batch_owner, owner_gone, owner_id
from rlaif_ray.feedback.ledger import LEASE_S, check_caps, close_attempt, close_batch, open_attempt
from rlaif_ray.feedback.records import Record
from rlaif_ray.feedback.store import LabelStore

__all__ = ["Book", "OpenBatch", "OpenLine"]


@dataclass(frozen=True)
class OpenBatch:
    """One that is not closed."""

    batch_id: int
    name: str
    state: str
    file_id: str | None
    remote_id: str | None

    @property
    def owner(self) -> str:
        return batch_owner(self.batch_id)


@dataclass(frozen=True)
class OpenLine:
    """A question of a batch that has no answer yet, with what was reserved for it."""

    record: Record
    ticket: int
    worst: Amount


class Book:
    """The batches of one data set. Each method is one transaction. Raises StoreError."""

    def __init__(self, store: LabelStore, run_id: str) -> None:
        self.store, self.run_id = store, run_id

    def open(self) -> list[OpenBatch]:
        """Those not closed, the oldest first."""
        with self.store.reading() as db:
            rows = db.execute(
                "SELECT * FROM batches WHERE run_id = ? AND state != 'closed' ORDER BY id", (self.run_id,)
            ).fetchall()
        return [OpenBatch(row["id"], row["name"], row["state"], row["file_id"], row["remote_id"]) for row in rows]

    def take_over(self) -> list[OpenBatch]:
        """Become the driver of those not closed. Raises StoreError: another process is at one of them."""
        with self.store.writing() as db:
            rows = db.execute(
                "SELECT id, driver, lease_until FROM batches WHERE run_id = ? AND state != 'closed'", (self.run_id,)
            ).fetchall()
            for row in rows:
                gone = owner_gone(row["driver"], row["lease_until"], time.time())
                if row["driver"] != owner_id() and not gone:
                    raise StoreError(
                        f"label store {self.store.path}: process {row['driver']} is waiting for this data set's "
                        "batches; end it, or wait for it"
                    )
            db.execute(
                "UPDATE batches SET driver = ?, lease_until = ? WHERE run_id = ? AND state != 'closed'",
                (owner_id(), time.time() + LEASE_S, self.run_id),
            )
        return self.open()

    def begin(self) -> OpenBatch:
        """A new batch, under a name of its own."""
        name, now = f"rlaif-ray-{uuid.uuid4().hex}", time.time()
        with self.store.writing() as db:
            number = db.execute(
                "INSERT INTO batches (name, run_id, driver, lease_until, state, begun_at) VALUES (?, ?, ?, ?,"
                " 'preparing', ?)",
                (name, self.run_id, owner_id(), now + LEASE_S, now),
            ).lastrowid
        return OpenBatch(int(number or 0), name, "preparing", None, None)

    def put_in(self, batch: OpenBatch, record: Record, worst: Amount, caps: Caps) -> None:
        """Reserve the worst case of one more question of a batch that claimed it. Raises BudgetExhausted."""
        with self.store.writing() as db:
            check_caps(db, caps, record.run_id, worst)
            # Not by the judge's name: rates and questions in flight are those of the other way of asking.
            ticket = open_attempt(db, replace(record, judge="", request=None), worst, batch.owner)
            db.execute(
                "INSERT INTO batch_lines VALUES (?, ?, ?, ?, ?)",
                (ticket, batch.batch_id, record.question_key, record.run_id, record.episode_id),
            )

    def note(
        self, batch: OpenBatch, state: str, *, file_id: str | None = None, remote_id: str | None = None
    ) -> OpenBatch:
        """Write down how far it got."""
        with self.store.writing() as db:
            db.execute(
                "UPDATE batches SET state = ?, file_id = coalesce(?, file_id), remote_id = coalesce(?, remote_id),"
                " lease_until = ? WHERE id = ?",
                (state, file_id, remote_id, time.time() + LEASE_S, batch.batch_id),
            )
        return replace(batch, state=state, file_id=file_id or batch.file_id, remote_id=remote_id or batch.remote_id)

    def lines(self, batch: OpenBatch) -> dict[str, OpenLine]:
        """Its questions without an answer, by their key."""
        with self.store.reading() as db:
            rows = db.execute(
                "SELECT q.*, q.key AS question_key, s.episode_id, s.episode_key, s.policy_version, t.id AS ticket,"
                " t.worst_usd, t.worst_labels, t.worst_tokens FROM batch_lines b JOIN attempts t ON t.id = b.attempt_id"
                " JOIN questions q ON q.key = b.question_key JOIN samples s ON s.run_id = b.run_id AND"
                " s.episode_id = b.episode_id WHERE b.batch_id = ? AND t.state = 'open'",
                (batch.batch_id,),
            ).fetchall()
        return {
            row["question_key"]: OpenLine(
                _record(dict(row), self.run_id),
                row["ticket"],
                Amount(row["worst_usd"], row["worst_labels"], row["worst_tokens"]),
            )
            for row in rows
        }

    def let_go(self, batch: OpenBatch, line: OpenLine, *, billed: bool | None, detail: str) -> None:
        """A question came back without an answer: charge nothing where it is known not to be billed, else the worst
        case, and free it."""
        with self.store.writing() as db:
            free = billed is False
            close_attempt(db, line.ticket, "settled" if free else "written_off", Amount() if free else None, detail)
            db.execute(
                "DELETE FROM claims WHERE question_key = ? AND owner = ?", (line.record.question_key, batch.owner)
            )

    def close(self, batch: OpenBatch, detail: str, *, billed: bool | None = False) -> None:
        """It is over. What it still holds is charged nothing, or (``billed`` None) its worst case, and freed."""
        with self.store.writing() as db:
            close_batch(db, batch.batch_id, detail, billed=billed)


def _record(row: dict[str, object], run_id: str) -> Record:
    """A question of a data set as it was written down, from its rows."""
    same = (
        "question_key", "kind", "prompt_name", "prompt_hash", "polarity", "system_text", "user_text", "judge",
        "judge_settings", "principle", "replicate", "unit_keys", "frame_hashes", "episode_key", "episode_id",
        "policy_version",
    )  # fmt: skip
    known = {name: row[name] for name in same}
    return Record(**known, order=row["unit_order"], episode_blob=b"", run_id=run_id, step=0, inclusion_probability=1.0)  # type: ignore[arg-type]
