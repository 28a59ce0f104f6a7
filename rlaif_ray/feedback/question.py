"""A question: what is put to a judge, addressed by its content.

The same question, asked again after a restart or in another trial that shares the store, has the same ``key`` and
costs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np

from rlaif_ray.errors import ShapeError
from rlaif_ray.feedback.prompt import Prompt
from rlaif_ray.types import Episode, EpisodeRenderer, QuestionKind, Unit, episode_key

__all__ = ["Asked", "JudgeIdentity", "Order", "Question", "question_about", "subsample", "unit_of"]

Order = Literal["first", "swapped"]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class JudgeIdentity:
    """All of a judge that may change its answer. Holds no key and no secret."""

    name: str  # who answers, e.g. "api.openai.com" or "builtin"
    model: str  # dated snapshot, or the profile of the built-in judge
    settings: tuple[tuple[str, str | int | float | None], ...] = ()  # sampling, images and schema, sorted by name

    def __str__(self) -> str:
        return f"{self.name}/{self.model}"


@dataclass(frozen=True)
class Question:
    """One or two units, a prompt and who is asked."""

    kind: QuestionKind
    units: tuple[Unit, ...]  # one; two for a preference
    prompt: Prompt
    judge: JudgeIdentity
    principle: str = ""  # of the constitution, where one is in use
    order: Order = "first"  # of two units
    replicate: int = 0  # 0, 1, ...: the same thing asked again on purpose

    def __post_init__(self) -> None:
        want = 2 if self.kind == "preference" else 1
        if len(self.units) != want:
            raise ShapeError(f"units of a question of kind {self.kind!r}: got {len(self.units)}, expected {want}")
        if self.prompt.kind != self.kind:
            raise ShapeError(f"prompt {self.prompt.name!r}: got kind {self.prompt.kind!r}, expected {self.kind!r}")

    @cached_property
    def key(self) -> str:
        """Content address: 32 hex digits of everything that may change the answer."""
        digest = hashlib.sha256()
        for part in (self.kind, self.prompt.hash, self.principle, self.order, str(self.replicate)):
            digest.update(f"{len(part)}:{part}".encode())
        digest.update(json.dumps([self.judge.name, self.judge.model, self.judge.settings]).encode())
        for unit in self.units:
            digest.update(f"unit {len(unit.frames)} {len(unit.caption)}:{unit.caption}".encode())
            for frame in unit.frames:
                digest.update(hashlib.sha256(frame).digest())
        return digest.hexdigest()[:32]

    @property
    def user_text(self) -> str:
        """The text that goes before the pictures."""
        return self.prompt.filled(
            num_frames=sum(len(unit.frames) for unit in self.units),
            caption="\n".join(unit.caption for unit in self.units),
            principle=self.principle,
        )

    @property
    def frames(self) -> tuple[bytes, ...]:
        """All pictures, in the order in which they are sent."""
        return tuple(frame for unit in self.units for frame in unit.frames)


@dataclass(frozen=True)
class Asked:
    """A question with why it was asked: what a label remembers beside the answer."""

    question: Question
    episode: Episode
    run_id: str = ""
    step: int = 0  # environment steps of the run at the time
    inclusion_probability: float = 1.0

    @property
    def key(self) -> str:
        return self.question.key


def subsample(items: Sequence[_Item], most: int) -> tuple[_Item, ...]:
    """At most ``most`` of the items: the first, the last and evenly spaced ones between, in order."""
    if most < 1:
        raise ShapeError(f"subsample: got at most {most}, expected >= 1")
    if len(items) <= most:
        return tuple(items)
    if most == 1:
        return (items[-1],)
    picks = np.linspace(0, len(items) - 1, most).round().astype(int)
    return tuple(items[i] for i in picks)


def unit_of(episode: Episode, renderer: EpisodeRenderer, max_images: int) -> Unit:
    """Draw an episode. Only the pictures that are sent are drawn.

    Raises ShapeError: the episode has no states to draw from.
    """
    if episode.states is None:
        raise ShapeError(f"episode {episode.episode_id}: got no states, expected (T+1, K) states to draw from")
    picks = subsample(range(len(episode.states)), max_images)
    return Unit(key=episode_key(episode), frames=renderer.png(episode.states[list(picks)]))


def question_about(
    episode: Episode, *, renderer: EpisodeRenderer, prompt: Prompt, judge: JudgeIdentity, max_images: int
) -> Question:
    """Is this episode to be approved of?"""
    return Question(kind="approval", units=(unit_of(episode, renderer, max_images),), prompt=prompt, judge=judge)
