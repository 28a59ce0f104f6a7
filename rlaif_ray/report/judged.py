"""A sample of judged episodes for the report: the frames that were sent, the question, the answer as it came."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from rlaif_ray.envs.media import contact_sheet
from rlaif_ray.report.run import RunRecord
from rlaif_ray.types import Label, Verdict

__all__ = ["JudgedSample", "choose_labels", "read_judged"]


@dataclass(frozen=True)
class JudgedSample:
    """One judged episode, ready to print; every text is as the judge or the prompt had it."""

    verdict: str  # "approved", "rejected" or "abstained"
    asked_at_step: int
    policy_version: int
    replayed: bool
    frames: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    latency_s: float
    description: str
    reasoning: str
    reason: str  # why it abstained
    question: str
    answer: str
    sheet: str | None  # data URI of the frames


def verdict_word(label: Label) -> str:
    if not isinstance(label.outcome, Verdict):
        return "abstained"
    return "approved" if label.outcome.value >= 0.5 else "rejected"


def choose_labels(labels: Sequence[Label], each: int = 3) -> list[Label]:
    """A few of each kind of answer, spread evenly from first to last, in the order they came."""
    chosen: list[Label] = []
    for word in ("approved", "rejected", "abstained"):
        kind = [label for label in labels if verdict_word(label) == word]
        few = min(each if word != "abstained" else 1, len(kind))
        chosen += [kind[round(i * (len(kind) - 1) / max(1, few - 1))] for i in range(few)]
    return sorted(chosen, key=lambda label: label.label_id)


def sheet_uri(frames: Sequence[bytes]) -> str | None:
    if not frames:
        return None
    # Long episodes get narrower tiles: the whole page should stay one that mails.
    columns, width = (6, 160) if len(frames) <= 24 else (10, 96)
    return "data:image/png;base64," + base64.b64encode(contact_sheet(frames, columns, width)).decode()


def read_judged(record: RunRecord) -> list[JudgedSample]:
    return []
