"""What of a request a server takes: found out once, from what it refuses, and said.

A refused request (400, 422) is not billed, so finding out costs nothing. A server says what it doesn't take, or it
doesn't: then one part after the other is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from rlaif_ray.config import JudgeConfig
from rlaif_ray.feedback.prompt import Prompt, answer_schema

__all__ = ["AnswerForm", "Dialect", "first_dialect", "instruction", "loosenings"]

AnswerForm = Literal["schema", "json", "text"]
_LOOSER: dict[AnswerForm, AnswerForm] = {"schema": "json", "json": "text"}
# Models that think before they answer take neither a temperature nor `max_tokens`.
_REASONING = re.compile(r"^(o\d|gpt-5)")
# How servers call what they refuse. The order matters: a complaint about `max_tokens` names its successor too.
_NAMES: Sequence[tuple[str, re.Pattern[str]]] = (
    ("form", re.compile(r"response_format|json_schema|json_object|structured output|guided|grammar", re.IGNORECASE)),
    ("effort", re.compile(r"reasoning_effort|reasoning effort", re.IGNORECASE)),
    ("temperature", re.compile(r"temperature", re.IGNORECASE)),
    ("seed", re.compile(r"\bseed\b", re.IGNORECASE)),
    ("limit", re.compile(r"max_tokens|max_completion_tokens", re.IGNORECASE)),
)


@dataclass(frozen=True)
class Dialect:
    """How one server is talked to."""

    form: AnswerForm = "schema"
    temperature: bool = True  # whether it is sent
    seed: bool = True
    effort: bool = True
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    def sampling(self, config: JudgeConfig) -> dict[str, Any]:
        """What the request says about sampling and length."""
        body: dict[str, Any] = {self.limit: config.max_tokens}
        if self.temperature:
            body["temperature"] = config.temperature
        if self.seed and config.seed is not None:
            body["seed"] = config.seed
        if self.effort and config.reasoning_effort is not None:
            body["reasoning_effort"] = config.reasoning_effort
        return body

    def answer_format(self, prompt: Prompt) -> dict[str, Any]:
        """What the request says about the answer's form."""
        if self.form == "text":
            return {}
        if self.form == "json":
            return {"response_format": {"type": "json_object"}}
        schema = answer_schema(prompt.kind, prompt.levels or prompt.words)
        strict = {"name": "judgement", "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": strict}}

    def loosened(self, part: str) -> Dialect | None:
        """Without one part; None where there is nothing left to leave out."""
        if part == "form":
            return replace(self, form=_LOOSER[self.form]) if self.form in _LOOSER else None
        if part == "limit":
            other: Any = {"max_tokens": "max_completion_tokens"}.get(self.limit)
            return replace(self, limit=other) if other else None
        return replace(self, **{part: False}) if getattr(self, part) else None  # type: ignore[arg-type]

    def without(self, said: str) -> Dialect | None:
        """Without the part that a server's complaint names; None where it names none that can be left out."""
        for part, pattern in _NAMES:
            if pattern.search(said) and (looser := self.loosened(part)) is not None:
                return looser
        return None

    def told(self, config: JudgeConfig) -> str:
        """How the server is talked to, in words: the answer's form and what is left out."""
        form = {"schema": "a strict JSON schema", "json": "a JSON object", "text": "plain text"}[self.form]
        words = self.lacking(Dialect(self.form), config)
        return "; ".join([f"asks for {form}", *words])

    def lacking(self, wanted: Dialect, config: JudgeConfig) -> list[str]:
        """What ``wanted`` has and this lacks, in words."""
        words = []
        if self.form != wanted.form:
            instead = {"json": "a JSON object", "text": "plain text"}[self.form]
            words.append(f"asks for {instead} instead of a strict JSON schema")
        if self.temperature != wanted.temperature:
            words.append("sends no temperature")
        if self.seed != wanted.seed and config.seed is not None:
            words.append("sends no seed")
        if self.effort != wanted.effort and config.reasoning_effort is not None:
            words.append("sends no reasoning effort")
        if self.limit != wanted.limit:
            words.append(f"calls the longest answer {self.limit}")
        return words


def first_dialect(config: JudgeConfig, model: str) -> Dialect:
    """What is tried first."""
    form: AnswerForm = "schema" if config.answer_form == "auto" else config.answer_form
    if _REASONING.match(model):
        return Dialect(form, temperature=False, limit="max_completion_tokens")
    return Dialect(form)


def loosenings(dialect: Dialect, *, form: bool = True) -> Iterator[Dialect]:
    """What to try with a server that refuses without saying what: each part left out alone, then one after the other.

    ``form``: whether the answer's form may be left out too.
    """
    parts = [field.name for field in fields(Dialect) if form or field.name != "form"]
    for part in parts:
        looser = dialect.loosened(part)
        while looser is not None:
            yield looser
            looser = looser.loosened(part) if part == "form" else None
    for part in parts:
        while (looser := dialect.loosened(part)) is not None:
            dialect = looser
            yield dialect


def instruction(prompt: Prompt) -> str:
    """The schema in words, for a server that isn't sent it."""
    answers = " or ".join(f'"{answer}"' for answer in prompt.answers)
    return (
        'Reply with one JSON object and nothing else: {"description": text, "reasoning": text, "answer": '
        + answers
        + "}"
    )
