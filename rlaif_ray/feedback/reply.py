"""Read a chat completion: tolerant about wrapping, never guessing about the answer. Pure.

What can't be read is an abstention with its reason and its price: never a score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlaif_ray.feedback.prices import Price
from rlaif_ray.feedback.prompt import Polarity
from rlaif_ray.types import Abstention, ApprovalAnswer, Usage, Verdict

__all__ = ["Reply", "parse_approval", "read_reply", "verdict_of"]

# Longest text that is kept: a server gone mad must not fill the store.
MOST_TEXT = 20_000
_ANSWERS = {"yes": True, "no": False}
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
    except ValueError:
        whole = None
    usage = _usage(whole, price, worst, latency_s)
    if not isinstance(whole, dict) or not isinstance(whole.get("choices"), list):
        return Reply(body[:MOST_TEXT], usage, "http", "the reply is not a chat completion")
    if not whole["choices"]:
        return Reply("", usage, "empty", "the reply has no choices")
    choice = whole["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return Reply(body[:MOST_TEXT], usage, "http", "the reply's first choice has no message")
    return _read_message(message, choice.get("finish_reason"), usage)


def _read_message(message: Mapping[str, Any], finish: object, usage: Usage) -> Reply:
    content, refusal = message.get("content"), message.get("refusal")
    text = content[:MOST_TEXT] if isinstance(content, str) else ""
    if isinstance(refusal, str) and refusal:
        return Reply(refusal[:MOST_TEXT], usage, "refusal", "the judge refused to answer")
    if finish == "content_filter":
        return Reply(text, usage, "refusal", "the server's content filter held the answer back")
    if finish == "length":
        return Reply(text, usage, "truncated", f"cut at {usage.output_tokens} tokens; raise judge.max_tokens")
    if not text.strip():
        return Reply("", usage, "empty", "the answer is empty")
    return Reply(text, usage)


def verdict_of(reply: Reply, polarity: Polarity) -> Verdict | Abstention:
    """An approval, its polarity undone: 1 is good whatever was asked."""
    if reply.trouble is not None:
        return Abstention(reply.trouble, reply.detail, reply.usage, reply.text)
    try:
        answer = parse_approval(reply.text)
    except ValueError as error:
        return Abstention("unparsable", str(error), reply.usage, reply.text)
    approved = answer.approved if polarity == "align" else not answer.approved
    return Verdict(
        kind="approval",
        value=float(approved),
        text=reply.text,
        usage=reply.usage,
        approved=approved,
        description=answer.description,
        reasoning=answer.reasoning,
    )


def parse_approval(text: str) -> ApprovalAnswer:
    """The three answers; ``approved`` is the plain yes or no that was said, before any polarity.

    Accepts one JSON object, bare, fenced, or with prose around it. Raises ValueError with what is wrong.
    """
    found = _only_object(text)
    said = found.get("answer")
    if isinstance(said, str):
        said = _ANSWERS.get(said.strip().strip(".!'\"").lower())
    if not isinstance(said, bool):
        raise ValueError(f'"answer": got {str(found.get("answer"))[:40]!r}, expected "yes" or "no"')
    texts = found.get("description", ""), found.get("reasoning", "")
    if not all(isinstance(part, str) for part in texts):
        raise ValueError('"description" and "reasoning": expected text')
    return ApprovalAnswer(description=texts[0], reasoning=texts[1], approved=said)


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
        into, out = _count(given.get("prompt_tokens")), _count(given.get("completion_tokens"))
        if into is not None and out is not None:
            return Usage(into, out, price.cost(into, out), latency_s)
    return Usage(worst.input_tokens, worst.output_tokens, worst.cost_usd, latency_s)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
