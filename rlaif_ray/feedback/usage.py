"""What a run cost as if it stood alone: every label that it used, whoever paid for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.ledger import account_of_run

__all__ = ["stand_alone"]

# Answers behind another run's labels up to a position that this run hasn't bought or taken itself. One put together of
# several stands for them where that run took it as it was; where it put it together, they stand there themselves.
_INHERITED = """
    SELECT a.id, a.cost_usd, max(1, json_array_length(a.made_of)) AS labels, a.input_tokens + a.output_tokens AS tokens
    FROM answers a
    WHERE a.id IN (SELECT l.answer_id FROM labels l JOIN answers o ON o.id = l.answer_id
                   WHERE l.run_id = ? AND l.label_id <= ? AND (l.replayed = 1 OR o.made_of = '[]'))
    AND a.id NOT IN (SELECT answer_id FROM labels WHERE run_id = ?)
"""


def stand_alone(db: sqlite3.Connection, run: str, inherited: Mapping[str, int]) -> Amount:
    """See ``LabelStore.stand_alone``."""
    more: dict[int, Amount] = {}
    for other, last in inherited.items():
        if other != run:
            rows = db.execute(_INHERITED, (other, last, run)).fetchall()
            more |= {row["id"]: Amount(row["cost_usd"], row["labels"], row["tokens"]) for row in rows}
    return sum(more.values(), account_of_run(db, Caps(), run).spent)
