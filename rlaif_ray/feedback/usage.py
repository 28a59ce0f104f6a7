"""What a run cost as if it stood alone: every label that it used, whoever paid for it."""

from __future__ import annotations

from collections.abc import Mapping

from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.store import LabelStore

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


def stand_alone(store: LabelStore, run: str, inherited: Mapping[str, int] | None = None) -> Amount:
    """What the run bought, failed attempts included, and what it took from the store, at the price that was paid.

    ``inherited``: runs whose state this one was cloned from, and their last label (``label_id``) at that time. Each
    answer counts once.
    """
    own = store.account_of_run(run, Caps()).spent
    more: dict[int, Amount] = {}
    with store.reading() as db:
        for other, last in (inherited or {}).items():
            if other != run:
                rows = db.execute(_INHERITED, (other, last, run)).fetchall()
                more |= {row["id"]: Amount(row["cost_usd"], row["labels"], row["tokens"]) for row in rows}
    return sum(more.values(), own)
