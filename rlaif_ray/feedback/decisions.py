"""The decisions judge: typed questions answered with probabilities (``client.decisions.create``), as soft labels.

An approval is a predicate, a rating a score on the prompt's levels, a preference a choice between first, second and
tie. The probability itself is the verdict's ``value``: 0.5 says that the judge doesn't know.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from openai.types import Decision
from pydantic import ValidationError

from rlaif_ray.feedback.dialect import Dialect
from rlaif_ray.feedback.judge import ChatJudge, data_url, model_name, titles
from rlaif_ray.feedback.question import Question
from rlaif_ray.feedback.quoting import storable
from rlaif_ray.feedback.reply import MOST_TEXT, counted, verdict_on
from rlaif_ray.types import Abstention, Usage, Verdict

__all__ = ["DecisionsJudge", "decisions_body", "soft_verdict"]


def decisions_body(model: str, detail: str, question: Question) -> dict[str, Any]:
    """The arguments of ``client.decisions.create``: the prompt and the pictures as input, one typed question."""
    content: list[dict[str, Any]] = [{"type": "input_text", "text": question.user_text}]
    for title, unit in zip(titles(question), question.shown, strict=True):
        content += [{"type": "input_text", "text": title}] if title else []
        content += [{"type": "input_image", "image_url": data_url(frame), "detail": detail} for frame in unit.frames]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if question.prompt.system:
        messages.insert(0, {"role": "system", "content": question.prompt.system})
    return {"model": model, "input": messages, "questions": [_typed(question)]}


def _typed(question: Question) -> dict[str, Any]:
    asked = 'the last of the questions in the input, the one called "answer"'
    if question.kind == "rating":
        levels = [{"label": level} for level in question.prompt.levels]
        return {"type": "score", "name": "answer", "instructions": f"Answer {asked}.", "levels": levels}
    if question.kind == "preference":
        choices = [{"value": answer} for answer in question.prompt.answers]
        return {"type": "choice", "name": "answer", "instructions": f"Answer {asked}.", "choices": choices}
    return {
        "type": "predicate",
        "name": "answer",
        "instructions": f'The right answer to {asked}, is "{question.prompt.answers[0]}".',
    }


class DecisionsJudge(ChatJudge):
    """An endpoint that answers typed questions with probabilities. Its answers have no description and no reasoning.

    Raises MissingKeyError; ConfigError: its price is unknown.
    """

    async def ask_in(self, question: Question, dialect: Dialect) -> Verdict | Abstention:
        """One attempt. There is nothing in the request that might be left out."""
        return await self.ask_with(question, decisions_body(model_name(self.config), self.config.detail, question))

    async def ask(self, question: Question) -> Verdict | Abstention:
        outcome = await self.ask_in(question, self.dialect)
        self.settled = True
        return outcome

    @property
    def manner(self) -> str:
        return f"{self.identity}: asks typed questions, answered with probabilities" if self.settled else ""

    async def ask_with(self, question: Question, body: dict[str, Any]) -> Verdict | Abstention:
        started = time.monotonic()
        answer = await self.endpoint.decide(body)
        if isinstance(answer, Abstention):
            return answer
        worst = self.worst_case(question)
        most = Usage(worst.tokens - self.config.max_tokens, self.config.max_tokens, worst.usd)
        return self.keyless(self._read(answer, question, most, time.monotonic() - started))

    def _read(self, body: str, question: Question, worst: Usage, latency_s: float) -> Verdict | Abstention:
        usage = Usage(worst.input_tokens, worst.output_tokens, worst.cost_usd, latency_s)
        try:
            whole = json.loads(body)
            used = whole["usage"]
            into, out = counted(used["input_tokens"]), counted(used["output_tokens"])
            if into is not None and out is not None:
                usage = Usage(into, out, self.price.cost(into, out), latency_s)
            decision = Decision.model_validate(whole)
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
            return Abstention("http", "the reply is not a decision", usage, storable(body[:MOST_TEXT]))
        if len(decision.answers) != 1:
            return Abstention(
                "http", f"got {len(decision.answers)} answers to one question", usage, storable(body[:MOST_TEXT])
            )
        found = decision.answers[0].model_dump()
        text = json.dumps(found)[:MOST_TEXT]
        if found["type"] == "refusal":
            return Abstention("refusal", "the judge refused to answer", usage, text)
        try:
            return soft_verdict(question, found, usage, text)
        except ValueError as error:
            return Abstention("unparsable", str(error), usage, text)


def soft_verdict(question: Question, answer: Mapping[str, Any], usage: Usage, text: str) -> Verdict:
    """Probabilities as a verdict, its polarity and its order undone.

    ``value`` of an approval is the probability of approval, of a rating the mean level (0 the lowest, 1 the highest),
    of a preference the probability that the first unit is preferred, half of that of a tie included.

    Raises ValueError: not an answer to this question, or no probabilities.
    """
    wanted = {"approval": "predicate", "rating": "score", "preference": "choice"}[question.kind]
    if answer["type"] != wanted:
        raise ValueError(f"got an answer of type {answer['type']!r}, expected {wanted!r}")
    chances = _chances(question, answer)
    if not all(math.isfinite(chance) and 0.0 <= chance <= 1.0 for chance in chances.values()):
        raise ValueError("got probabilities outside of [0, 1]")
    total = sum(chances.values())
    if not 0.9 <= total <= 1.1:
        raise ValueError(f"got probabilities that add up to {total:.3g}, expected 1")
    best = max(chances, key=lambda option: chances[option])
    value = sum(chance / total * verdict_on(question, option, usage, text).value for option, chance in chances.items())
    verdict = verdict_on(question, best, usage, text)
    return Verdict(
        kind=question.kind,
        value=min(max(value, 0.0), 1.0),
        text=text,
        usage=usage,
        approved=verdict.approved,
        rating=verdict.rating,
        preference=verdict.preference,
        probability=min(max(value, 0.0), 1.0),
    )


def _chances(question: Question, answer: Mapping[str, Any]) -> dict[str, float]:
    if question.kind == "approval":
        chance = float(answer["probability"])
        return dict(zip(question.prompt.answers, (chance, 1.0 - chance), strict=True))
    key = "label" if question.kind == "rating" else "value"
    given = {str(listed[key]): float(listed["probability"]) for listed in answer["probabilities"]}
    if sorted(given) != sorted(question.prompt.answers):
        raise ValueError(f"got options {sorted(given)}, expected {list(question.prompt.answers)}")
    return given
