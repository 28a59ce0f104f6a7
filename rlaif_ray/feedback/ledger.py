"""The ledger's rows: what was reserved and charged, and at what pace. Functions of a connection in a transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import asdict, replace

from rlaif_ray.errors import BudgetExhausted, StoreError
from rlaif_ray.feedback.budget import Account, Amount, Caps
from rlaif_ray.feedback.database import batch_owner, owner_gone
from rlaif_ray.feedback.limits import Heard, Pace, Traffic, Wait
from rlaif_ray.feedback.records import Record
from rlaif_ray.types import Label

__all__ = [
    "LEASE_S",
    "account_of",
    "account_of_run",
    "billed_to_run",
    "check_caps",
    "close_attempt",
    "close_batch",
    "dearest",
    "draw",
    "drawable",
    "forget_unsent",
    "hear",
    "may_take",
    "open_attempt",
    "reserved_already",
    "room_in_caps",
    "take_turn",
]

# A claim or reservation of a process on another host, which can't be looked at, is given up this long after its last
# sign of life. Longer than any attempt and any Retry-After that is honoured.
LEASE_S = 600.0
# Looking whether what others had in flight cost less than was set aside for it.
_BUDGET_WAIT_S = 0.2

_RESERVED = (
    "SELECT coalesce(sum(worst_usd), 0.0), coalesce(sum(worst_labels), 0), coalesce(sum(worst_tokens), 0)"
    " FROM attempts WHERE state = 'open'"
)


def account_of(db: sqlite3.Connection, caps: Caps) -> Account:
    """Everything in the store against its caps."""
    spent = db.execute("SELECT spent_usd, spent_labels, spent_tokens FROM account").fetchone()
    return Account(caps, spent=Amount(*spent), reserved=Amount(*db.execute(_RESERVED).fetchone()))


# Answers that a run took from the store and others had paid for: each counts once, at the price of its answer; one put
# together of several counts for as many labels as were asked for.
_TAKEN = (
    "SELECT coalesce(sum(cost_usd), 0.0), coalesce(sum(max(1, json_array_length(made_of))), 0),"
    " coalesce(sum(input_tokens + output_tokens), 0) FROM answers"
    " WHERE id IN (SELECT answer_id FROM labels WHERE run_id = ?1 AND replayed = 1)"
    " AND coalesce((SELECT run_id FROM attempts WHERE id = answers.attempt_id), '') != ?1"
)


def account_of_run(db: sqlite3.Connection, caps: Caps, run_id: str) -> Account:
    """One run against the caps of its own: as if it stood alone, so what it took from the store counts as bought."""
    alone = billed_to_run(db, run_id)
    taken = Amount(*db.execute(_TAKEN, (run_id,)).fetchone())
    return Account(caps, alone.spent + taken, alone.reserved, prefix="run_")


def billed_to_run(db: sqlite3.Connection, run_id: str) -> Account:
    """What one run itself was charged and has reserved."""
    spent = db.execute(
        "SELECT spent_usd, spent_labels, spent_tokens FROM run_accounts WHERE run_id = ?", (run_id,)
    ).fetchone()
    # The plus keeps SQLite to the index of what is open: a run has thousands of attempts, and few in flight.
    reserved = db.execute(_RESERVED + " AND +run_id = ?", (run_id,)).fetchone()
    return Account(spent=Amount(*spent) if spent is not None else Amount(), reserved=Amount(*reserved))


def dearest(db: sqlite3.Connection, run_id: str, recent: int) -> Amount:
    """The most that was reserved for one of so many newest attempts of the run's."""
    newest = "SELECT worst_usd, worst_tokens FROM attempts WHERE run_id = ? ORDER BY id DESC LIMIT ?"
    most = f"SELECT coalesce(max(worst_usd), 0.0), 1, coalesce(max(worst_tokens), 0) FROM ({newest})"
    return Amount(*db.execute(most, (run_id, recent)).fetchone())


def may_take(db: sqlite3.Connection, run_id: str, label: Label) -> bool:
    """Whether the run's own caps have room for an answer that somebody else paid for."""
    row = db.execute("SELECT run_cap_usd, run_cap_labels, run_cap_tokens FROM runs WHERE run_id = ?", (run_id,))
    caps = Caps(*(row.fetchone() or (None, None, None)))
    again = "SELECT 1 FROM labels WHERE run_id = ? AND answer_id = (SELECT answer_id FROM labels WHERE label_id = ?)"
    if caps == Caps() or db.execute(again, (run_id, label.label_id)).fetchone() is not None:
        return True
    (labels,) = db.execute(
        "SELECT max(1, json_array_length(made_of)) FROM answers"
        " WHERE id = (SELECT answer_id FROM labels WHERE label_id = ?)",
        (label.label_id,),
    ).fetchone()
    usage = label.outcome.usage
    worst = Amount(usage.cost_usd, labels, usage.input_tokens + usage.output_tokens)
    try:
        account_of_run(db, caps, run_id).reserve(worst)
    except BudgetExhausted:
        return False
    return True


def room_in_caps(db: sqlite3.Connection, caps: Caps, run_id: str, worst: Amount) -> Wait | None:
    """None where the caps of the store and of the run have room for the worst case; a wait where they would have, but
    for worst cases of what others have in flight. Raises BudgetExhausted: they have none, whatever comes of those."""
    accounts = [account_of(db, caps)]
    if caps.run is not None:
        accounts.append(account_of_run(db, caps.run, run_id))
    try:
        for account in accounts:
            account.reserve(worst)
    except BudgetExhausted as error:
        for account in accounts:
            replace(account, reserved=Amount()).reserve(worst)
        return Wait(_BUDGET_WAIT_S, str(error), for_budget=True)
    return None


def check_caps(db: sqlite3.Connection, caps: Caps, run_id: str, worst: Amount) -> None:
    """Raises BudgetExhausted: a cap of the store or of the run has no room for the worst case at this moment."""
    wait = room_in_caps(db, caps, run_id, worst)
    if wait is not None:
        raise BudgetExhausted(wait.why)


def drawable(db: sqlite3.Connection, hold: int | None, worst: Amount) -> Amount:
    """How much of one attempt's worst case was set aside already, with that of the whole question it is part of."""
    row = db.execute(
        "SELECT worst_usd, worst_labels, worst_tokens FROM attempts WHERE id = ? AND state = 'open'", (hold,)
    ).fetchone()
    if row is None:
        return Amount()
    left = Amount(*row)
    return Amount(min(left.usd, worst.usd), min(left.labels, worst.labels), min(left.tokens, worst.tokens))


def draw(db: sqlite3.Connection, hold: int | None, amount: Amount) -> None:
    """Take so much out of what was set aside for a whole question."""
    db.execute(
        "UPDATE attempts SET worst_usd = worst_usd - ?, worst_labels = worst_labels - ?,"
        " worst_tokens = worst_tokens - ? WHERE id = ? AND state = 'open'",
        (amount.usd, amount.labels, amount.tokens, hold),
    )


def reserved_already(db: sqlite3.Connection, record: Record) -> int | None:
    """The reservation that an earlier call for the same attempt made, whose reply was lost."""
    row = db.execute("SELECT id FROM attempts WHERE request = ?", (_number(record),)).fetchone()
    return None if row is None else int(row["id"])


def open_attempt(db: sqlite3.Connection, record: Record, worst: Amount, owner: str) -> int:
    """Write a reservation down; its number."""
    now = time.time()
    db.execute("UPDATE claims SET lease_until = ? WHERE question_key = ?", (now + LEASE_S, record.question_key))
    ticket = db.execute(
        "INSERT INTO attempts (question_key, run_id, owner, state, worst_usd, worst_labels, worst_tokens, reserved_at,"
        " lease_until, judge, request, whole) VALUES (?, ?, ?, 'open', ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.question_key,
            record.run_id,
            owner,
            worst.usd,
            worst.labels,
            worst.tokens,
            now,
            now + LEASE_S,
            record.judge,
            _number(record),
            int(record.whole),
        ),
    ).lastrowid
    if ticket is None:
        raise StoreError("a reservation got no number")
    return ticket


def close_attempt(db: sqlite3.Connection, ticket: int, state: str, used: Amount | None, detail: str) -> None:
    """Settle a reservation, or (``used`` None) charge it at its worst case. What was settled stays settled."""
    row = db.execute("SELECT * FROM attempts WHERE id = ?", (ticket,)).fetchone()
    if row is None:
        raise StoreError(f"reservation {ticket} is not in the store")
    if row["state"] == "settled" or row["state"] == state:
        return
    charged = Amount(row["worst_usd"], row["worst_labels"], row["worst_tokens"]) if used is None else used
    if row["whole"]:  # nothing was sent for it
        charged = Amount()
    before = Amount(row["used_usd"], row["used_labels"], row["used_tokens"])  # not 0 where it was written off
    more = charged - before
    db.execute(
        "UPDATE attempts SET state = ?, used_usd = ?, used_labels = ?, used_tokens = ?, closed_at = ?, detail = ?"
        " WHERE id = ?",
        (state, charged.usd, charged.labels, charged.tokens, time.time(), detail, ticket),
    )
    added = (more.usd, more.labels, more.tokens)
    db.execute(
        "UPDATE account SET spent_usd = spent_usd + ?, spent_labels = spent_labels + ?,"
        " spent_tokens = spent_tokens + ?",
        added,
    )
    db.execute(
        "INSERT INTO run_accounts VALUES (?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET"
        " spent_usd = spent_usd + excluded.spent_usd, spent_labels = spent_labels + excluded.spent_labels,"
        " spent_tokens = spent_tokens + excluded.spent_tokens",
        (row["run_id"], *added),
    )


def close_batch(db: sqlite3.Connection, batch_id: int, detail: str, *, billed: bool | None = False) -> None:
    """A batch is over. What it still holds is charged nothing, or (``billed`` None) its worst case, and freed."""
    owner, free = batch_owner(batch_id), billed is False
    for (ticket,) in db.execute("SELECT id FROM attempts WHERE state = 'open' AND owner = ?", (owner,)).fetchall():
        close_attempt(db, ticket, "settled" if free else "written_off", Amount() if free else None, detail)
    db.execute("DELETE FROM claims WHERE owner = ?", (owner,))
    db.execute(
        "UPDATE batches SET state = 'closed', closed_at = ?, detail = ? WHERE id = ?", (time.time(), detail, batch_id)
    )


def forget_unsent(db: sqlite3.Connection) -> None:
    """Close batches that a process was still writing down when it died: no server has heard of them."""
    now = time.time()
    for row in db.execute("SELECT id, driver, lease_until FROM batches WHERE state = 'preparing'").fetchall():
        if owner_gone(row["driver"], row["lease_until"], now):
            close_batch(db, row["id"], "never sent")


def take_turn(db: sqlite3.Connection, judge: str, pace: Pace, tokens: int) -> Wait | None:
    """One attempt's turn at a judge, kept for all who share the store; or how long to wait for it."""
    turn = _traffic(db, judge).turn(pace, tokens, _in_flight(db, judge), time.time())
    if isinstance(turn, Wait):
        return turn
    _keep(db, judge, turn)
    return None


def hear(db: sqlite3.Connection, ticket: int, heard: Heard, pace: Pace, used_tokens: int) -> None:
    """Let everybody learn what a reply said about the judge's limits."""
    row = db.execute("SELECT judge, worst_tokens FROM attempts WHERE id = ?", (ticket,)).fetchone()
    if row is None:
        return
    before, judge = _traffic(db, row["judge"]), str(row["judge"])
    after = before.after(heard, pace, _in_flight(db, judge) + 1, row["worst_tokens"] - used_tokens, time.time())
    if after != before:
        _keep(db, judge, after)


def _number(record: Record) -> str | None:
    return None if record.request is None else f"{record.request}/{record.attempt}"


def _in_flight(db: sqlite3.Connection, judge: str) -> int:
    row = db.execute(
        "SELECT count(*) FROM attempts WHERE state = 'open' AND judge = ? AND NOT whole", (judge,)
    ).fetchone()
    return int(row[0])


def _traffic(db: sqlite3.Connection, judge: str) -> Traffic:
    row = db.execute("SELECT state FROM traffic WHERE judge = ?", (judge,)).fetchone()
    return Traffic() if row is None else Traffic(**json.loads(row["state"]))


def _keep(db: sqlite3.Connection, judge: str, traffic: Traffic) -> None:
    db.execute("INSERT OR REPLACE INTO traffic VALUES (?, ?)", (judge, json.dumps(asdict(traffic))))
