"""Where a store stands, at a price that doesn't grow with it: a training step asks for it once an iteration."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.ledger import account_of, billed_to_run
from rlaif_ray.feedback.records import LabelStats

__all__ = ["Counts", "stats_of"]


@dataclass
class Counts:
    """Labels of each run that were replayed, answers that are abstentions, and preferences in both orders; counted on
    from the last look, since labels are only ever added, with growing numbers.

    What was put together of several answers is no answer of its own: neither billed nor an abstention.
    """

    _known: dict[str | None, tuple[int, ...]] = field(default_factory=dict)  # run -> last label, counts

    def of(self, db: sqlite3.Connection, run: str | None) -> tuple[int, ...]:
        """(replayed, abstained, both orders, inconsistent) of one run, or of all."""
        last, *before = self._known.get(run, (0, 0, 0, 0, 0))
        newest, *more = db.execute(
            "SELECT max(l.label_id), sum(l.replayed AND NOT l.part),"
            " sum(l.replayed = 0 AND a.reason IS NOT NULL AND a.made_of = '[]'),"
            " sum(l.replayed = 0 AND NOT l.part AND q.unit_order = 'both' AND a.made_of != '[]'),"
            " sum(l.replayed = 0 AND NOT l.part AND a.inconsistent)"
            " FROM labels l JOIN answers a ON a.id = l.answer_id JOIN questions q ON q.key = l.question_key"
            " WHERE l.label_id > ?1 AND (?2 IS NULL OR l.run_id = ?2)",
            (last, run),
        ).fetchone()
        if newest is not None:
            self._known[run] = (newest, *(a + b for a, b in zip(before, more, strict=True)))
        return self._known.get(run, (0, 0, 0, 0, 0))[1:]


def stats_of(db: sqlite3.Connection, run: str | None, counts: Counts) -> LabelStats:
    """Counts and spending of one run, or of everything in the store."""
    account = account_of(db, Caps()) if run is None else billed_to_run(db, run)
    replayed, abstained, both_orders, inconsistent = counts.of(db, run)
    cap = db.execute(
        "SELECT CASE WHEN ?1 IS NULL THEN cap_usd ELSE min(coalesce(cap_usd, run_cap_usd),"
        " coalesce(run_cap_usd, cap_usd)) END AS cap_usd"
        " FROM runs WHERE ?1 IS NULL OR run_id = ?1 ORDER BY opened_at DESC LIMIT 1",
        (run,),
    ).fetchone()
    return LabelStats(
        labels=account.spent.labels,
        abstained=abstained,
        replayed=replayed,
        spend_usd=account.spent.usd,
        reserved_usd=account.reserved.usd,
        cap_usd=None if cap is None else cap["cap_usd"],
        both_orders=both_orders,
        inconsistent=inconsistent,
    )
