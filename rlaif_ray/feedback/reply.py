"""Read a chat completion: tolerant about wrapping, never guessing about the answer. Pure.

What can't be read is an abstention with its reason and its price: never a score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlaif_ray.feedback.prices import Price
from rlaif_ray.feedback.prompt import Prompt
from rlaif_ray.feedback.question import Order, Question
from rlaif_ray.feedback.quoting import storable
from rlaif_ray.types import Abstention, QuestionKind, Usage, Verdict

__all__ = [
    "Reply",
    "Said",
    "Wording",
    "counted",
    "parse_answer",
    "read_reply",
    "read_usage",
    "verdict_of",
    "verdict_on",
]

# Longest text that is kept: a server gone mad must not fill the store.
MOST_TEXT = 20_000
# A count beyond this is no count: nobody bills a request for a thousand million tokens.
_MOST_TOKENS = 1_000_000_000
# What a model that thinks aloud, and a server that doesn't take that out, put before the answer.
_THOUGHT = re.compile(r"^\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_LABEL = re.compile(r"^[\W\d_]*(description|reasoning|answer)[*_\"' ]*:", re.MULTILINE | re.IGNORECASE)
_AROUND = " \t\r\n.!'\"*_`"
_FENCED = re.compile(r"```(?:json)?\s*(\{.*?\})\s*```", re.DOTALL)


@dataclass(frozen=True)
class Reply:
    """What came back with status 200."""

    text: str  # the answer's raw text, or the body where there was none
    usage: Usage
    trouble: Literal["refusal", "truncated", "empty", "http"] | None = None
    detail: str = ""


def read_reply(body: str, price: Price, worst: Usage, latency_s: float) -> Reply:
    """Take a response body apart. A reply without a usable ``usage`` is charged at its ``worst`` case."""
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError):
        whole = None
    usage = _usage(whole, price, worst, latency_s)
    if not isinstance(whole, dict) or not isinstance(whole.get("choices"), list):
        return Reply(storable(body[:MOST_TEXT]), usage, "http", "the reply is not a chat completion")
    if not whole["choices"]:
        return Reply("", usage, "empty", "the reply has no choices")
    choice = whole["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return Reply(storable(body[:MOST_TEXT]), usage, "http", "the reply's first choice has no message")
    return _read_message(message, choice.get("finish_reason"), usage)


def read_usage(body: str, price: Price, worst: Usage, latency_s: float) -> Usage:
    """What a response says that it used; its ``worst`` case where it says nothing."""
    try:
        whole = json.loads(body)
    except ValueError:
        whole = None
    return _usage(whole, price, worst, latency_s)


def _read_message(message: Mapping[str, Any], finish: object, usage: Usage) -> Reply:
    content, refusal = message.get("content"), message.get("refusal")
    text = storable(content[:MOST_TEXT]) if isinstance(content, str) else ""
    if isinstance(refusal, str) and refusal:
        return Reply(storable(refusal[:MOST_TEXT]), usage, "refusal", "the judge refused to answer")
    if finish == "content_filter":
        return Reply(text, usage, "refusal", "the server's content filter held the answer back")
    if finish == "length":
        return Reply(text, usage, "truncated", f"cut at {usage.output_tokens} tokens; raise judge.max_tokens")
    if not text.strip():
        return Reply("", usage, "empty", "the answer is empty")
    return Reply(text, usage)


@dataclass(frozen=True)
class Wording:
    """What of a question its answer is read by: all of it but what was shown."""

    kind: QuestionKind
    prompt: Prompt
    order: Order = "first"


def verdict_of(reply: Reply, question: Question | Wording) -> Verdict | Abstention:
    """A verdict, its polarity and its order undone: 1 is good, and "first" the question's first unit, whatever was
    shown and asked."""
    if reply.trouble is not None:
        return Abstention(reply.trouble, reply.detail, reply.usage, reply.text)
    try:
        said = parse_answer(reply.text, question.prompt.answers)
    except ValueError as error:
        return Abstention("unparsable", str(error), reply.usage, reply.text)
    verdict = verdict_on(question, said.answer, reply.usage, reply.text)
    return replace(verdict, description=said.description, reasoning=said.reasoning)


def verdict_on(question: Question | Wording, answer: str, usage: Usage, text: str) -> Verdict:
    """What one of the prompt's answers means."""
    good = question.prompt.polarity == "align"
    if question.kind == "rating":
        levels = question.prompt.levels
        share = levels.index(answer) / (len(levels) - 1)
        value = share if good else 1.0 - share
        return Verdict(kind="rating", value=value, text=text, usage=usage, rating=levels.index(answer))
    if question.kind == "preference":
        if answer == "tie":
            return Verdict(kind="preference", value=0.5, text=text, usage=usage, preference="tie")
        shown_first_is_better = (answer == "first") == good
        first = shown_first_is_better == (question.order == "first")
        preferred: Literal["first", "second"] = "first" if first else "second"
        return Verdict(kind="preference", value=float(first), text=text, usage=usage, preference=preferred)
    approved = (answer == question.prompt.answers[0]) == good
    return Verdict(kind="approval", value=float(approved), text=text, usage=usage, approved=approved)


@dataclass(frozen=True)
class Said:
    """The three questions, answered; ``answer`` is one of those that were allowed."""

    description: str
    reasoning: str
    answer: str


def parse_answer(text: str, allowed: Sequence[str]) -> Said:
    """The three answers from one JSON object (bare, fenced, or with prose around it), from lines "Answer: yes", or from
    a last line that is nothing but an answer. What a model thought aloud before is left out.

    Raises ValueError with what is wrong: more than one answer, or none of those allowed.
    """
    text = _THOUGHT.sub("", text, count=1)
    found = _labelled(text, allowed) if "{" not in text else _only_object(text)
    said = found.get("answer")
    if isinstance(said, bool) and tuple(allowed) == ("yes", "no"):
        said = "yes" if said else "no"
    answer = _allowed(said, allowed) if isinstance(said, str) else None
    if answer is None:
        expected = " or ".join(f'"{option}"' for option in allowed)
        raise ValueError(f'"answer": got {str(found.get("answer"))[:40]!r}, expected {expected}')
    texts = found.get("description", ""), found.get("reasoning", "")
    if not all(isinstance(part, str) for part in texts):
        raise ValueError('"description" and "reasoning": expected text')
    return Said(description=storable(texts[0]), reasoning=storable(texts[1]), answer=answer)


def _allowed(said: str, allowed: Sequence[str]) -> str | None:
    plain = said.strip(_AROUND).lower()
    return next((option for option in allowed if option.lower() == plain), None)


def _labelled(text: str, allowed: Sequence[str]) -> dict[str, Any]:
    """Lines "Description: ...", "Reasoning: ..." and "Answer: ..."; or the last line alone."""
    parts = _LABEL.split(text)
    names = [name.lower() for name in parts[1::2]]
    if len(set(names)) != len(names):
        raise ValueError("the answer has a key twice")
    if "answer" in names:
        return {
            name: body.strip(_AROUND if name == "answer" else None)
            for name, body in zip(names, parts[2::2], strict=True)
        }
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and _allowed(lines[-1], allowed) is not None:
        return {"answer": lines[-1], "reasoning": "\n".join(lines[:-1])}
    raise ValueError("the answer is not one JSON object")


def _only_object(text: str) -> dict[str, Any]:
    fenced = _FENCED.findall(text)
    if len(fenced) > 1:
        raise ValueError("the answer has more than one JSON object")
    for candidate in (text.strip(), *fenced, text[text.find("{") : text.rfind("}") + 1]):
        try:
            found = json.loads(candidate, object_pairs_hook=_no_key_twice)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    raise ValueError("the answer is not one JSON object")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the answer has a key twice")
    return found


def _usage(whole: object, price: Price, worst: Usage, latency_s: float) -> Usage:
    given = whole.get("usage") if isinstance(whole, dict) else None
    if isinstance(given, dict):
        into, out = counted(given.get("prompt_tokens")), counted(given.get("completion_tokens"))
        if into is not None and out is not None:
            return Usage(into, out, price.cost(into, out), latency_s)
    return Usage(worst.input_tokens, worst.output_tokens, worst.cost_usd, latency_s)


def counted(value: object) -> int | None:
    """A number of tokens as a server states it; None: it is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= _MOST_TOKENS else None
