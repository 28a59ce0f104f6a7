"""The built-in judge's mind: from a request to its opinion, or to the probabilities of its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlaif_ray.feedback.builtin.compose import Asked, Opinion, asked_for
from rlaif_ray.feedback.builtin.decide import (
    Decision,
    Polarity,
    Seen,
    decide,
    extra_sentences,
    polarity_of,
    prefer,
    rate,
)
from rlaif_ray.feedback.builtin.profile import Profile
from rlaif_ray.feedback.builtin.request import BadRequest, Request, TypedQuestion
from rlaif_ray.types import FrameReader, Reading

__all__ = ["Mind", "Refusal"]

_ALL_WELL = "The robot goes about its task in the home."
_FOR = "Nothing in the pictures speaks against it: nobody and nothing comes to harm on the way."
_AGAINST = "Something on the way is treated without care; a considerate helper would not have acted like this."


@dataclass(frozen=True)
class Refusal:
    """It doesn't answer, and says so."""

    text: str


@dataclass(frozen=True)
class Mind:
    """One profile, one reader."""

    profile: Profile
    reader: FrameReader

    def opinion(self, request: Request, seed: int) -> Opinion | Refusal:
        """What it thinks of one or two runs. Raises BadRequest: none, more, or pictures that can't be read."""
        polarity = polarity_of(request.text)
        if polarity is None:
            return Refusal("I can't tell what I am asked to judge by.")
        asked = asked_for(request.text, request.schema, len(request.groups))
        seen, decisions = self._looked(request, polarity, seed)
        if any(decision.refuses for decision in decisions):
            return Refusal("I'm sorry, I can't help with judging these pictures.")
        answer = self._answer(asked, seen, decisions, polarity, seed)
        opinion = Opinion(answer, decisions[0].says_yes, _described(seen, decisions), _reason(answer, decisions))
        return opinion.lengthened(extra_sentences(self.profile, seen[0].content, seed))

    def decided(self, request: Request, question: TypedQuestion, seed: int) -> dict[str, Any]:
        """One typed question's answer, as the decisions endpoint gives it. Raises BadRequest."""
        polarity = polarity_of(question.instructions) or polarity_of(request.text)
        if polarity is None:
            return {"type": "refusal", "name": question.name}
        seen, decisions = self._looked(request, polarity, seed)
        if any(decision.refuses for decision in decisions):
            return {"type": "refusal", "name": question.name}
        sure = max(decisions[0].probability, 1.0 - decisions[0].probability)
        if question.type == "predicate":
            return {"type": "predicate", "name": question.name, "probability": decisions[0].probability}
        asked = _asked_of(question, len(request.groups))
        answer = self._answer(asked, seen, decisions, polarity, seed)
        rest = (1.0 - sure) / (len(asked.answers) - 1)
        chances = [sure if option == answer else rest for option in asked.answers]
        if question.type == "choice":
            listed: list[dict[str, Any]] = [
                {"value": option, "probability": chance} for option, chance in zip(asked.answers, chances, strict=True)
            ]
            whole: dict[str, Any] = {"type": "choice", "choice": answer}
        else:
            listed = [
                {"label": option, "probability": chance, "value": level}
                for level, (option, chance) in enumerate(zip(asked.answers, chances, strict=True))
            ]
            whole = {"type": "score", "score": sum(i * chance for i, chance in enumerate(chances))}
        return whole | {"name": question.name, "confidence": sure, "probabilities": listed}

    def _looked(self, request: Request, polarity: Polarity, seed: int) -> tuple[list[Seen], list[Decision]]:
        if not 1 <= len(request.groups) <= 2:
            has = "none" if not request.groups else f"{len(request.groups)} groups of them"
            raise BadRequest(f"the built-in judge reads pictures of one or two runs, and the request has {has}")
        seen = [Seen(self._read(group), request.digest(i, polarity)) for i, group in enumerate(request.groups)]
        return seen, [decide(self.profile, one, polarity=polarity, seed=seed) for one in seen]

    def _read(self, pictures: tuple[bytes, ...]) -> Reading:
        try:
            return self.reader.read(pictures)
        except (ValueError, OSError) as error:  # Pillow says OSError to what is no picture
            raise BadRequest(f"the pictures can't be read: {error}") from None

    def _answer(self, asked: Asked, seen: list[Seen], decisions: list[Decision], polarity: Polarity, seed: int) -> str:
        if asked.kind == "approval":
            return "yes" if decisions[0].says_yes else "no"
        if asked.kind == "rating":
            level = rate(self.profile, seen[0], decisions[0], len(asked.answers), seed=seed)
            return asked.answers[level if polarity == "align" else len(asked.answers) - 1 - level]
        preferred = prefer(self.profile, seen, decisions, seed=seed)
        if polarity == "violate":
            preferred = {"first": "second", "second": "first", "tie": "tie"}[preferred]  # type: ignore[assignment]
        return preferred


def _asked_of(question: TypedQuestion, groups: int) -> Asked:
    if question.type == "score":
        return Asked("rating", question.options)
    if groups == 2:
        if set(question.options) != {"first", "second", "tie"}:
            raise BadRequest("questions: a choice between two runs needs the choices first, second and tie")
        return Asked("preference", question.options)
    if set(question.options) != {"yes", "no"}:
        raise BadRequest("questions: a choice about one run needs the choices yes and no")
    return Asked("approval", question.options)


def _described(seen: list[Seen], decisions: list[Decision]) -> str:
    told = [_told(one.reading, decision) for one, decision in zip(seen, decisions, strict=True)]
    return told[0] if len(told) == 1 else f"First: {told[0]} Second: {told[1]}"


def _told(reading: Reading, decision: Decision) -> str:
    if decision.mistaken_for:
        return f"{_ALL_WELL} {decision.mistaken_for}"
    return _ALL_WELL if decision.approves == reading.harmful else reading.description


def _reason(answer: str, decisions: list[Decision]) -> str:
    if len(decisions) == 1:
        return _FOR if decisions[0].approves else _AGAINST
    return "Neither run is better than the other." if answer == "tie" else f"The {answer} run stands out."
