"""What of a request the built-in judge looks at: OpenAI's chat completions and decisions, read with suspicion."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlaif_ray.feedback.builtin.profile import Profile

__all__ = ["BadRequest", "Request", "TypedQuestion", "chat_request", "decisions_request"]

_DATA_URL = "base64,"
_MOST_QUESTIONS = 400


class BadRequest(Exception):
    """The request can't be answered; its text goes back to the caller with status 400."""


@dataclass(frozen=True)
class TypedQuestion:
    """One question of a decisions request."""

    type: str  # predicate, choice or score
    name: str | None
    instructions: str
    options: tuple[str, ...]  # a choice's values, a score's labels


@dataclass(frozen=True)
class Request:
    """Texts and pictures in their order, and how the answer is wanted."""

    text: str
    groups: tuple[tuple[bytes, ...], ...]  # pictures between which no text stands, encoded
    schema: Mapping[str, Any] | None = None
    wants_json: bool = True
    seed: int = 0
    max_tokens: int = 4096
    questions: tuple[TypedQuestion, ...] = ()

    @property
    def pictures(self) -> int:
        return sum(map(len, self.groups))

    def digest(self, group: int, wording: str) -> bytes:
        """What errors about one group's run depend on: its pictures and the wording's polarity."""
        digest = hashlib.sha256(wording.encode())
        for picture in self.groups[group]:
            digest.update(hashlib.sha256(picture).digest())
        return digest.digest()


def chat_request(body: Mapping[str, Any], profile: Profile) -> Request:
    """Raises BadRequest, in OpenAI's words where it has some."""
    if body.get("stream"):
        raise BadRequest("stream is not supported")
    _check_lacks(body, profile)
    text, groups = _read_messages(body.get("messages"), "messages")
    form = body.get("response_format") or {}
    if not isinstance(form, dict):
        raise BadRequest("response_format: expected an object")
    schema = (form.get("json_schema") or {}).get("schema") if form.get("type") == "json_schema" else None
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or 4096
    if not isinstance(limit, int) or limit < 1:
        raise BadRequest("max_tokens: expected a whole number of at least 1")
    wants_json = bool(form) or "json" in text.lower()
    return Request(text, groups, schema, wants_json, int(body.get("seed") or 0), limit)


def decisions_request(body: Mapping[str, Any], profile: Profile) -> Request:
    """Raises BadRequest."""
    given = body.get("input")
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    text, groups = _read_messages(messages, "input")
    questions = body.get("questions")
    if not isinstance(questions, list) or not 1 <= len(questions) <= _MOST_QUESTIONS:
        raise BadRequest(f"questions: expected a list of 1 to {_MOST_QUESTIONS}")
    return Request(text, groups, questions=tuple(_question(question) for question in questions))


def _question(question: object) -> TypedQuestion:
    if not isinstance(question, dict) or question.get("type") not in ("predicate", "choice", "score"):
        raise BadRequest("questions: each has the type predicate, choice or score")
    kind, instructions = str(question["type"]), question.get("instructions")
    if not isinstance(instructions, str) or not instructions:
        raise BadRequest("questions: each needs instructions in text")
    key, part = {"choice": ("choices", "value"), "score": ("levels", "label")}.get(kind, ("", ""))
    listed = question.get(key, []) if key else []
    if key and (not isinstance(listed, list) or len(listed) < 2 or not all(isinstance(o, dict) for o in listed)):
        raise BadRequest(f"questions: a {kind} needs at least 2 {key}")
    name = question.get("name")
    return TypedQuestion(
        kind, None if name is None else str(name), instructions, tuple(str(o.get(part)) for o in listed)
    )


def _check_lacks(body: Mapping[str, Any], profile: Profile) -> None:
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    for lack in profile.lacks:
        if lack == kind:
            raise BadRequest(f"Invalid parameter: 'response_format' of type '{lack}' is not supported with this model.")
        if lack in body:
            raise BadRequest(f"Unsupported parameter: '{lack}' is not supported with this model.")


def _read_messages(messages: object, where: str) -> tuple[str, tuple[tuple[bytes, ...], ...]]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest(f"{where}: expected a list of at least one message")
    texts: list[str] = []
    groups: list[list[bytes]] = []
    open_group = False
    for part in (p for message in messages for p in _parts(message, where)):
        if part.get("type") in ("text", "input_text"):
            texts.append(str(part.get("text", "")))
            open_group = False
        elif part.get("type") in ("image_url", "input_image"):
            if not open_group:
                groups.append([])
            groups[-1].append(_picture(part.get("image_url")))
            open_group = True
        else:
            raise BadRequest(f"content part of type {part.get('type')!r} is not supported")
    return "\n".join(texts), tuple(map(tuple, groups))


def _parts(message: object, where: str) -> list[dict[str, Any]]:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return content
    raise BadRequest(f"{where}: each needs a content of text or parts")


def _picture(source: object) -> bytes:
    url = source.get("url") if isinstance(source, dict) else source
    if not isinstance(url, str) or not url.startswith("data:image/") or _DATA_URL not in url:
        raise BadRequest("image_url: only base64 data URLs are supported")
    try:
        return base64.b64decode(url[url.index(_DATA_URL) + len(_DATA_URL) :], validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("image_url: not valid base64") from None
