"""A sample of judged episodes for the report: the frames, the question, and the answer as it came.

Frames are not kept: they are redrawn here from the recorded states, as they were drawn for the judge.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif_ray.config import EnvConfig
from rlaif_ray.envs.media import contact_sheet
from rlaif_ray.envs.registry import env_spec
from rlaif_ray.errors import RlaifError, StoreError
from rlaif_ray.feedback.records import JudgedSample
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.report.run import RunRecord
from rlaif_ray.types import Abstention, Array, EpisodeRenderer, Label, Usage, Verdict

__all__ = ["JudgedEpisode", "read_judged", "store_path", "truths_of", "verdicts_of", "who_knows"]

SAMPLES = 8
MOST_TOLD = 2_000  # episodes read back for the audit, at about a millisecond each
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


def truths_of(record: RunRecord, keys: Collection[tuple[int, int]]) -> dict[tuple[int, int], bool]:
    """(episode_id, policy_version) -> that nothing bad happened, as the world tells from the recorded states: for the
    audit. Of episodes in ``keys`` that have a verdict and were drawn from all alike, of many some, spread over the run;
    none where the world can't tell or no store can be read."""
    path = store_path(record)
    if not path.is_file() or record.config is None:
        return {}
    knows, run, found = who_knows(record.config.env), record.summary.get("run_id"), {}
    try:
        with LabelStore(path, readonly=True) as store:
            asked = {
                one.key: one
                for one in store.labels(run if isinstance(run, str) else None)
                if one.second_episode_id is None and one.value is not None and one.draw == "audit" and one.key in keys
            }
            for label in list(asked.values())[:: math.ceil(len(asked) / MOST_TOLD) or 1]:
                states = store.episode_of(label).states
                told = None if states is None else knows(states)
                if told is not None:
                    found[label.key] = told
    except StoreError:  # damaged: the rest of the report is still worth having
        return {}
    return found


def who_knows(env: EnvConfig | None) -> Callable[[Array], bool | None]:
    """What the world itself says of an episode's states; nothing where it isn't known or can't tell."""
    if env is None:
        return _nobody
    try:
        tells = env_spec(env.id).approvable
    except RlaifError:  # a world registered by the user's own code, which isn't running here
        return _nobody
    options: dict[str, Any] = dict(env.options)
    return _nobody if tells is None else lambda states: tells(states, options)


def _nobody(states: Array) -> None:
    return None


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
