"""Rows of questions and labels: written and found. Functions of a connection, those that write in a transaction."""

from __future__ import annotations

import sqlite3
from typing import Any

from rlaif_ray.feedback.records import Record, label_from_row
from rlaif_ray.types import Label

__all__ = ["SELECT_LABEL", "answer_id", "insert_label", "insert_question", "label_of_request", "spread"]

SELECT_LABEL = """
    SELECT l.label_id, l.question_key, l.episode_id, l.policy_version, l.step, l.replayed, l.inclusion_probability,
           l.episode_key, q.judge, q.prompt_hash, q.prompt_name, q.system_text, q.user_text, a.*
    FROM labels l JOIN answers a ON a.id = l.answer_id JOIN questions q ON q.key = l.question_key
"""


def answer_id(db: sqlite3.Connection, label: Label) -> int:
    row = db.execute("SELECT answer_id FROM labels WHERE label_id = ?", (label.label_id,)).fetchone()
    return int(row["answer_id"])


def label_of_request(db: sqlite3.Connection, record: Record, ticket: int | None) -> Label | None:
    """The label that an earlier call for the same attempt or request stored, whose reply was lost."""
    # Two look-ups by index: one OR over two tables would read all labels.
    row = db.execute(
        SELECT_LABEL + " WHERE l.label_id = (SELECT min(label_id) FROM (SELECT label_id FROM labels WHERE request = ?1"
        " UNION ALL SELECT label_id FROM labels WHERE answer_id = (SELECT id FROM answers WHERE attempt_id = ?2)))",
        (record.request, ticket),
    ).fetchone()
    return None if row is None else label_from_row(row)


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
    cursor = db.execute(
        "INSERT INTO labels (answer_id, question_key, episode_key, episode_id, run_id, policy_version, step,"
        " inclusion_probability, replayed, request, reward_model_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
        ),
    )
    return label_from_row(db.execute(SELECT_LABEL + " WHERE l.label_id = ?", (cursor.lastrowid,)).fetchone())


def spread(groups: list[list[sqlite3.Row]], n: int) -> list[sqlite3.Row]:
    """``n`` rows in all, shared out as evenly as the groups allow, evenly spaced within each."""
    chosen: list[sqlite3.Row] = []
    for i, group in enumerate(sorted(groups, key=len)):
        share = min(len(group), (n - len(chosen)) // (len(groups) - i))
        chosen += [group[int((k + 0.5) * len(group) / share)] for k in range(share)]
    return chosen
