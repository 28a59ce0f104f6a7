"""A question: what is put to a judge, addressed by its content.

The same question, asked again after a restart or in another trial that shares the store, has the same ``key`` and
costs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from rlaif_ray.config import Config, JudgeConfig
from rlaif_ray.errors import ConfigError, ShapeError
from rlaif_ray.feedback.constitution import Constitution, load_constitution
from rlaif_ray.feedback.framing import Framing, subsample
from rlaif_ray.feedback.prompt import Prompt, load_prompt
from rlaif_ray.types import Draw, Episode, EpisodeRenderer, EpisodeTeller, QuestionKind, Unit, episode_key

__all__ = [
    "Asked",
    "JudgeIdentity",
    "Order",
    "Question",
    "Questionnaire",
    "question_about",
    "subsample",
    "unit_of",
    "words_of",
    "words_of_run",
]

Order = Literal["first", "swapped", "both"]
_SHEET = (
    "Each run's pictures are sent as one sheet: its tiles, read row by row from the top left and numbered from 1, are "
    "the pictures in the order in which they were taken."
)


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
    order: Order = "first"  # of two units ("both": put together of the two); of one, in which its two answers are named
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
        if any(unit.tiles for unit in self.units):
            digest.update(f"tiles {[unit.tiles for unit in self.units]}".encode())
        for part in (self.kind, self.prompt.hash, self.principle, self.order, str(self.replicate)):
            digest.update(f"{len(part)}:{part}".encode())
        digest.update(json.dumps([self.judge.name, self.judge.model, self.judge.settings]).encode())
        for unit in self.units:
            digest.update(
                f"unit {len(unit.frames)} {len(unit.caption)}:{unit.caption}".encode("utf-8", "surrogatepass")
            )
            for frame in unit.frames:
                digest.update(hashlib.sha256(frame).digest())
        return digest.hexdigest()[:32]

    @property
    def shown(self) -> tuple[Unit, ...]:
        """The units in the order in which they are shown."""
        return self.units[::-1] if self.order == "swapped" else self.units

    @property
    def user_text(self) -> str:
        """The text that goes before the pictures."""
        text = self.prompt.filled(
            num_frames=[unit.tiles or len(unit.frames) for unit in self.shown],
            caption=[unit.caption for unit in self.shown],
            principle=self.principle,
            swapped=self.order == "swapped",
        )
        return f"{text}\n\n{_SHEET}" if any(unit.tiles for unit in self.units) else text

    @property
    def frames(self) -> tuple[bytes, ...]:
        """All pictures, in the order in which they are sent."""
        return tuple(frame for unit in self.shown for frame in unit.frames)


@dataclass(frozen=True)
class Asked:
    """A question with why it was asked: what a label remembers beside the answer."""

    question: Question
    episode: Episode  # the first unit's
    run_id: str = ""
    step: int = 0  # environment steps of the run at the time
    inclusion_probability: float = 1.0
    second: Episode | None = None  # the second unit's, of a preference
    draw: Draw = "audit"  # how the episode was chosen

    @property
    def key(self) -> str:
        return self.question.key


def unit_of(episode: Episode, renderer: EpisodeRenderer, framing: Framing | int) -> Unit:
    """Draw an episode, or tell it. Only the pictures that are sent are drawn. ``framing``: a number means the most
    pictures.

    Raises ShapeError: the episode has no states to draw from. ConfigError: it is to be told, and the world can't, or
    not in this wording.
    """
    if episode.states is None:
        raise ShapeError(f"episode {episode.episode_id}: got no states, expected (T+1, K) states to draw from")
    if isinstance(framing, int):
        framing = Framing(most=framing)
    if framing.caption:
        if not isinstance(renderer, EpisodeTeller):
            raise ConfigError(
                f"judge.caption: got {framing.caption!r}, allowed for a world that can't tell its episodes is ''"
            )
        return Unit(key=episode_key(episode), caption=renderer.caption(episode.states, framing.caption))
    picks = framing.picks(len(episode.states))
    frames = framing.pictures(renderer.png(episode.states[list(picks)]))
    return Unit(key=episode_key(episode), frames=frames, tiles=len(picks) if framing.frames == "sheet" else 0)


def question_about(
    episode: Episode, *, renderer: EpisodeRenderer, prompt: Prompt, judge: JudgeIdentity, max_images: Framing | int
) -> Question:
    """Is this episode to be approved of, or how good is it? ``max_images``: the most, or all about how they are sent.

    Raises ConfigError: the prompt compares two episodes.
    """
    if prompt.kind == "preference":
        raise ConfigError(_compares(prompt))
    return Question(kind=prompt.kind, units=(unit_of(episode, renderer, max_images),), prompt=prompt, judge=judge)


def words_of(
    config: JudgeConfig, *, one_episode: bool = False, own_texts: bool = False
) -> tuple[Prompt, Constitution | None]:
    """A config's prompt and constitution. ``one_episode``: for questions about one; ``own_texts``: what is asked about
    brings its text along, no world tells it.

    Raises ConfigError: one of them isn't there, they don't fit together, or the prompt compares two episodes where that
    says nothing.
    """
    prompt = load_prompt(config.prompt)
    constitution = load_constitution(config.constitution) if config.constitution else None
    if prompt.needs_principle != (constitution is not None):
        raise ConfigError(
            f"judge.constitution: got {config.constitution!r} with prompt {prompt.name!r}, whose user part "
            + ("has the field {principle}: name a constitution" if prompt.needs_principle else "lacks {principle}")
        )
    if one_episode and prompt.kind == "preference":
        raise ConfigError(_compares(prompt))
    if not own_texts and prompt.needs_caption != bool(config.caption):
        raise ConfigError(
            f"judge.caption: got {config.caption!r} with prompt {prompt.name!r}, whose user part "
            + ("has the field {caption}: name a wording" if prompt.needs_caption else "lacks {caption}")
        )
    if any(member.kind == "logodds" for member in config.members) and prompt.kind != "approval":
        raise ConfigError(
            f"judge.prompt: got {prompt.name!r} of kind {prompt.kind!r}, allowed with judge.kind 'logodds' are prompts "
            "of kind 'approval'"
        )
    return prompt, constitution


def words_of_run(config: Config) -> tuple[Prompt, Constitution | None]:
    """Those of a run. Raises ConfigError: as ``words_of``; or the prompt compares two episodes where what becomes of
    the answers needs approvals or ratings of one."""
    prompt, constitution = words_of(config.judge)
    if prompt.kind != "preference" or not config.asks:
        return prompt, constitution
    given = f"with judge.prompt {prompt.name!r} of kind 'preference', allowed is"
    if config.mix.source != "distilled":
        raise ConfigError(
            f"mix.source: got {config.mix.source!r} {given} 'distilled': a preference says nothing of one episode by "
            "itself, a reward model learns from many"
        )
    if config.watch.action != "report":
        raise ConfigError(
            f"watch.action: got {config.watch.action!r} {given} 'report': the watch compares what was promised of an "
            "episode with the judge's approval or rating of it, and a preference says nothing of one by itself"
        )
    return prompt, constitution


def _compares(prompt: Prompt) -> str:
    return (
        f"judge.prompt: got {prompt.name!r} of kind 'preference', allowed for one episode are prompts of kind "
        "'approval' or 'rating'"
    )


@dataclass(frozen=True)
class Questionnaire:
    """How a config's questions are made: with its prompt, its frames and its constitution."""

    renderer: EpisodeRenderer
    prompt: Prompt
    judge: JudgeIdentity
    framing: Framing = field(default_factory=Framing)
    constitution: Constitution | None = None
    seed: int = 0  # of the draws of principles and orders

    @staticmethod
    def of(config: JudgeConfig, renderer: EpisodeRenderer, judge: JudgeIdentity, *, seed: int = 0) -> Questionnaire:
        """Raises ConfigError: a prompt or constitution that isn't there, or the two don't fit together."""
        prompt, constitution = words_of(config)
        framing = Framing.of(config)
        return Questionnaire(renderer, prompt, judge, framing, constitution, seed)

    def about(self, episode: Episode) -> Question:
        """The question about one episode. Raises ConfigError: the prompt compares two."""
        question = question_about(
            episode, renderer=self.renderer, prompt=self.prompt, judge=self.judge, max_images=self.framing
        )
        return replace(question, principle=self._principle(question.units))

    def between(self, first: Episode, second: Episode, order: Order = "first") -> Question:
        """Which of two episodes is to be preferred? Raises ConfigError: the prompt asks about one."""
        if self.prompt.kind != "preference":
            raise ConfigError(
                f"judge.prompt: got {self.prompt.name!r} of kind {self.prompt.kind!r}, allowed for two episodes are "
                "prompts of kind 'preference'"
            )
        units = unit_of(first, self.renderer, self.framing), unit_of(second, self.renderer, self.framing)
        return Question("preference", units, self.prompt, self.judge, self._principle(units), order)

    def _principle(self, units: Sequence[Unit]) -> str:
        """The same in both orders: the draw doesn't know which of two units comes first."""
        if self.constitution is None:
            return ""
        return self.constitution.draw(self.seed, "".join(sorted(unit.key for unit in units)))
