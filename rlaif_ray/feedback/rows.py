"""Rows of questions and labels: written and found. Functions of a connection, those that write in a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from rlaif_ray.errors import StoreError
from rlaif_ray.feedback.records import REPLAYED_REASONS, Record, label_from_row
from rlaif_ray.types import Label

__all__ = [
    "SELECT_LABEL",
    "answer_id",
    "drop_unasked",
    "find_answered",
    "insert_episodes",
    "insert_label",
    "insert_question",
    "judged_among",
    "label_of_request",
    "sample_of",
    "second_row",
    "spread",
]

SELECT_LABEL = """
    SELECT l.label_id, l.question_key, l.episode_id, l.policy_version, l.step, l.replayed, l.inclusion_probability,
           l.episode_key, l.second_key, l.second_id, l.second_version, l.draw,
           q.judge, q.prompt_hash, q.prompt_name, q.system_text, q.user_text, a.*
    FROM labels l JOIN answers a ON a.id = l.answer_id JOIN questions q ON q.key = l.question_key
"""


def answer_id(db: sqlite3.Connection, label: Label) -> int:
    row = db.execute("SELECT answer_id FROM labels WHERE label_id = ?", (label.label_id,)).fetchone()
    return int(row["answer_id"])


def second_row(db: sqlite3.Connection, label: Label) -> sqlite3.Row:
    """Key and policy version of a label's second episode. Raises StoreError: there is no such label."""
    row: sqlite3.Row | None = db.execute(
        "SELECT second_key, second_version FROM labels WHERE label_id = ?", (label.label_id,)
    ).fetchone()
    if row is None:
        raise StoreError(f"no label {label.label_id}")
    return row


def judged_among(db: sqlite3.Connection, episode_keys: Sequence[str]) -> set[str]:
    """Those of these episodes that somebody has asked about."""
    marks = ", ".join("?" * len(episode_keys))
    rows = db.execute(f"SELECT DISTINCT episode_key FROM labels WHERE episode_key IN ({marks})", list(episode_keys))
    return {row["episode_key"] for row in rows}


def label_of_request(db: sqlite3.Connection, record: Record, ticket: int | None) -> Label | None:
    """The label that an earlier call for the same attempt or request stored, whose reply was lost."""
    # Two look-ups by index: one OR over two tables would read all labels.
    row = db.execute(
        SELECT_LABEL + " WHERE l.label_id = (SELECT min(label_id) FROM (SELECT label_id FROM labels WHERE request = ?1"
        " UNION ALL SELECT label_id FROM labels WHERE answer_id = (SELECT id FROM answers WHERE attempt_id = ?2)))",
        (record.request, ticket),
    ).fetchone()
    return None if row is None else label_from_row(row)


def drop_unasked(db: sqlite3.Connection) -> tuple[int, int]:
    """Drop questions and episodes that nobody asks about or has an answer to; how many of each."""
    questions = db.execute(
        "DELETE FROM questions WHERE key NOT IN (SELECT question_key FROM labels UNION SELECT question_key FROM"
        " claims UNION SELECT question_key FROM attempts)"
    ).rowcount
    episodes = db.execute(
        "DELETE FROM episodes WHERE key NOT IN (SELECT episode_key FROM labels UNION SELECT second_key FROM labels"
        " WHERE second_key IS NOT NULL UNION SELECT episode_key FROM samples) AND NOT EXISTS (SELECT 1 FROM claims)"
    ).rowcount
    return questions, episodes


def find_answered(db: sqlite3.Connection, question_key: str, *, any_answer: bool) -> sqlite3.Row | None:
    """The newest label of a question whose answer would be replayed; ``any_answer``: else of any other."""
    replayed = "(a.reason IS NULL OR a.reason IN (" + ", ".join(f"'{reason}'" for reason in REPLAYED_REASONS) + "))"
    row: sqlite3.Row | None = db.execute(
        SELECT_LABEL + f" WHERE l.question_key = ? AND ({replayed} OR ?)"
        f" ORDER BY {replayed} DESC, a.id DESC, l.label_id LIMIT 1",
        (question_key, any_answer),
    ).fetchone()
    return row


def insert_episodes(db: sqlite3.Connection, record: Record) -> None:
    """What a question is about, once each."""
    db.execute("INSERT OR IGNORE INTO episodes VALUES (?, ?)", (record.episode_key, record.episode_blob))
    if record.second is not None:
        db.execute("INSERT OR IGNORE INTO episodes VALUES (?, ?)", (record.second.key, record.second.blob))


def insert_question(db: sqlite3.Connection, record: Record) -> None:
    db.execute(
        "INSERT OR IGNORE INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            record.frame_hashes,
        ),
    )


def insert_label(db: sqlite3.Connection, record: Record, answer_id: Any, *, replayed: bool) -> Label:
    done = label_of_request(db, record, None)
    if done is not None:
        return done
    second = (None, None, None)
    if record.second is not None:
        second = (record.second.key, record.second.episode_id, record.second.policy_version)  # type: ignore[assignment]
    cursor = db.execute(
        "INSERT INTO labels (answer_id, question_key, episode_key, episode_id, run_id, policy_version, step,"
        " inclusion_probability, replayed, request, reward_model_version, part, draw, second_key, second_id,"
        " second_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            record.request,
            record.reward_model_version,
            int(record.part),
            record.draw,
            *second,
        ),
    )
    return label_from_row(db.execute(SELECT_LABEL + " WHERE l.label_id = ?", (cursor.lastrowid,)).fetchone())


def sample_of(db: sqlite3.Connection, n: int, run: str | None) -> list[sqlite3.Row]:
    """Up to ``n`` labels that were bought: approvals and rejections alike, spread over the run."""
    rows = db.execute(
        SELECT_LABEL + " WHERE l.replayed = 0 AND l.part = 0 AND (? IS NULL OR l.run_id = ?) ORDER BY l.label_id",
        (run, run),
    ).fetchall()
    groups: dict[bool | None, list[sqlite3.Row]] = {}
    for row in rows:
        groups.setdefault(None if row["value"] is None else row["value"] > 0.5, []).append(row)
    return sorted(spread(list(groups.values()), n), key=lambda row: int(row["label_id"]))


def spread(groups: list[list[sqlite3.Row]], n: int) -> list[sqlite3.Row]:
    """``n`` rows in all, shared out as evenly as the groups allow, evenly spaced within each."""
    chosen: list[sqlite3.Row] = []
    for i, group in enumerate(sorted(groups, key=len)):
        share = min(len(group), (n - len(chosen)) // (len(groups) - i))
        chosen += [group[int((k + 0.5) * len(group) / share)] for k in range(share)]
    return chosen
