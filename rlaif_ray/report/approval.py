"""What the judge's answers to some episodes say of all of them: an estimate with its interval, for a report."""

from __future__ import annotations

from rlaif_ray.errors import StoreError
from rlaif_ray.feedback.estimate import Estimate, approval_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.report.figures import count
from rlaif_ray.report.judged import store_path
from rlaif_ray.report.run import RunRecord

__all__ = ["approval_statement", "read_approval"]

# Of the answers, in the order in which they came: the newest say how things stand at the end.
NEWEST = 0.25


def read_approval(record: RunRecord) -> tuple[Estimate, Estimate] | None:
    """Estimated approval among all episodes, over the run and in its newest part; None where nobody answered."""
    path = store_path(record)
    if not path.is_file():
        return None
    run = record.summary.get("run_id")  # of a sweep's trial, which shares its store
    try:
        with LabelStore(path, readonly=True) as store:
            labels = store.labels(run if isinstance(run, str) else None)
    except StoreError:  # damaged: the rest of the report is still worth having
        return None
    whole = approval_of(labels)
    newest = approval_of(labels[-max(1, round(NEWEST * len(labels))) :]) if labels else whole
    return (whole, newest) if whole.answers else None


def approval_statement(record: RunRecord) -> list[str]:
    """In a sentence; none where there is nothing to say."""
    found = read_approval(record)
    if found is None:
        return []
    whole, newest = found
    late = f"; by the newest quarter of its answers {newest}" if newest.answers else ""
    return [
        f"The judge approves of {whole} of all episodes that ended while it was asked, estimated from "
        f"{count(float(whole.answers))} answers, each of which counts for as many episodes as it stands for{late} "
        "(95 % intervals; abstentions left out)."
    ]
