"""A sample of judged episodes for the report: the frames, the question, and the answer as it came.

Frames are not kept: they are redrawn here from the recorded states, as they were drawn for the judge.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif_ray.envs.media import contact_sheet
from rlaif_ray.envs.registry import env_spec
from rlaif_ray.errors import RlaifError, StoreError
from rlaif_ray.feedback.records import JudgedSample
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.report.run import RunRecord
from rlaif_ray.types import Abstention, EpisodeRenderer, Label, Usage, Verdict

__all__ = ["JudgedEpisode", "read_judged", "store_path", "verdicts_of"]

SAMPLES = 8
LONG = 24  # frames; beyond it tiles shrink, so that the page stays one that can be mailed


@dataclass(frozen=True)
class JudgedEpisode:
    """One judged episode, ready to print; every text is as the judge or the prompt had it."""

    label: Label
    verdict: str  # "approved", "rejected", "rated 0.75", "prefers the first" or "abstained"
    steps: int
    question: str
    sheet: str | None  # data URI of all frames as numbered tiles; None where the world can't be drawn

    @property
    def is_long(self) -> bool:
        """Its frames are shown folded."""
        return self.steps + 1 > LONG

    @property
    def usage(self) -> Usage:
        return self.label.outcome.usage

    @property
    def description(self) -> str:
        return self.label.outcome.description if isinstance(self.label.outcome, Verdict) else ""

    @property
    def reasoning(self) -> str:
        return self.label.outcome.reasoning if isinstance(self.label.outcome, Verdict) else ""

    @property
    def reason(self) -> str:
        """Why there is no usable answer; empty where there is."""
        outcome = self.label.outcome
        return f"{outcome.reason}: {outcome.detail}" if isinstance(outcome, Abstention) else ""


def store_path(record: RunRecord) -> Path:
    """The label store a run wrote to: its own, or the one its config names."""
    named = record.config.feedback.store if record.config else ""
    return Path(named) if named else record.path / "labels.sqlite"


def read_judged(record: RunRecord) -> list[JudgedEpisode]:
    """A few judged episodes of every kind of answer, spread over the run; none where there is no store to read."""
    path = store_path(record)
    if not path.is_file():
        return []
    renderer = _renderer(record)
    try:
        with LabelStore(path, readonly=True) as store:
            run = record.summary.get("run_id")  # of a sweep's trial, which shares its store
            samples = store.sample_of_judged(SAMPLES, run if isinstance(run, str) else None)
    except StoreError:  # damaged: the rest of the report is still worth having
        return []
    return [
        JudgedEpisode(
            label=sample.label,
            verdict=_word(sample.label),
            steps=len(sample.episode),
            question=f"{sample.system_text.strip()}\n\n{sample.question_text.strip()}",
            sheet=_sheet(_frames(renderer, sample)),
        )
        for sample in samples
    ]


def verdicts_of(record: RunRecord) -> list[tuple[tuple[int, int], float]]:
    """((episode_id, policy_version), value) of every verdict about one episode, in order; none where no store can be
    read."""
    path = store_path(record)
    if not path.is_file():
        return []
    run = record.summary.get("run_id")  # of a sweep's trial, which shares its store
    try:
        with LabelStore(path, readonly=True) as store:
            labels = store.labels(run if isinstance(run, str) else None)
    except StoreError:  # damaged: the rest of the report is still worth having
        return []
    about_one = (one for one in labels if one.second_episode_id is None)
    return [(one.key, one.value) for one in about_one if one.value is not None]


def _word(label: Label) -> str:
    if label.value is None:
        return "abstained"
    kind = label.outcome.kind if isinstance(label.outcome, Verdict) else ""
    if kind == "rating":
        return f"rated {label.value:.2f}"
    if kind == "preference":
        return "a tie" if label.value == 0.5 else f"prefers the {'first' if label.value > 0.5 else 'second'}"
    return "approved" if label.value >= 0.5 else "rejected"


def _renderer(record: RunRecord) -> EpisodeRenderer | None:
    if record.config is None:
        return None
    try:
        make = env_spec(record.config.env.id).renderer
        return make(dict(record.config.env.options)) if make else None
    except RlaifError:  # a world registered by the user's own code, which isn't running here
        return None


def _frames(renderer: EpisodeRenderer | None, sample: JudgedSample) -> tuple[bytes, ...]:
    """Of the episode, or of both that were compared; none where the world can't be drawn."""
    if renderer is None:
        return ()
    drawn: list[bytes] = []
    for episode in (sample.episode, sample.second):
        if episode is not None and episode.states is not None:
            drawn += renderer.png(episode.states)
    return tuple(drawn)


def _sheet(frames: Sequence[bytes]) -> str | None:
    if not frames:
        return None
    columns, width = (6, 168) if len(frames) <= LONG else (10, 100)
    return "data:image/png;base64," + base64.b64encode(contact_sheet(frames, columns, width)).decode()
