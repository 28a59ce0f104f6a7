"""Judges: whoever can be asked. ``ChatJudge`` asks any OpenAI-compatible endpoint.

A judge makes *one* attempt at a time and keeps no account: ``ask.Asker`` reserves, retries, settles and stores around
it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from pydantic import SecretStr

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import ConfigError, MissingKeyError
from rlaif_ray.feedback.budget import Amount
from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.feedback.prices import Price, price_of, worst_case
from rlaif_ray.feedback.prompt import answer_schema
from rlaif_ray.feedback.question import JudgeIdentity, Question
from rlaif_ray.feedback.reply import read_reply, verdict_of
from rlaif_ray.feedback.wire import Endpoint
from rlaif_ray.types import Abstention, Usage, Verdict

__all__ = ["ChatJudge", "Judge", "identity_of", "judge_from", "key_for", "model_name", "request_body"]

# Models that think before they answer take neither a temperature nor `max_tokens`.
_REASONING = re.compile(r"^(o\d|gpt-5)")


@runtime_checkable
class Judge(Protocol):
    """Whoever can be asked."""

    @property
    def identity(self) -> JudgeIdentity:
        """All of the judge that may change its answer; part of a question's address."""

    def worst_case(self, question: Question) -> Amount:
        """What one attempt may cost at most; reserved before it is made."""

    async def ask(self, question: Question) -> Verdict | Abstention:
        """Make one attempt.

        Raises AttemptFailed: another attempt may succeed. JudgeError: the judge can't be used at all.
        """


def key_for(config: JudgeConfig) -> SecretStr | None:
    """The API key from the environment; None where the judge is on this machine and has none.

    Raises MissingKeyError: a remote judge, and its variable is empty.
    """
    key = os.environ.get(config.api_key_env, "").strip() if config.kind == "chat" else ""
    if not key and not config.local:
        raise MissingKeyError(
            f"judge.api_key_env: the environment variable {config.api_key_env} is empty, and {config.base_url} needs a "
            f"key; set it (export {config.api_key_env}=...), or choose the built-in judge (judge.kind: builtin)"
        )
    return SecretStr(key) if key else None


def judge_from(config: JudgeConfig, key: SecretStr | None) -> ChatJudge:
    """The configured judge. Raises ConfigError: its price is unknown, or the built-in one was not started."""
    return ChatJudge(config, key=key)


def identity_of(config: JudgeConfig) -> JudgeIdentity:
    """Who the configured judge is. The built-in judge is its profile, whatever its port."""
    builtin = config.kind == "builtin"
    settings: dict[str, str | int | float | None] = {
        "temperature": config.temperature,
        "seed": config.seed,
        "max_tokens": config.max_tokens,
        "detail": config.detail,
        "max_images": config.max_images,
        "schema": hashlib.sha256(json.dumps(answer_schema("approval"), sort_keys=True).encode()).hexdigest()[:16],
    }
    if builtin:
        profile = load_profile(config.profile)
        settings["profile"] = hashlib.sha256(profile.model_dump_json().encode()).hexdigest()[:16]
    name = "builtin" if builtin else urlsplit(config.base_url).netloc.rpartition("@")[2]
    return JudgeIdentity(name, model_name(config), tuple(sorted(settings.items())))


def model_name(config: JudgeConfig) -> str:
    """The model a request names: the built-in judge's is its profile."""
    return load_profile(config.profile).name if config.kind == "builtin" else config.model


def request_body(config: JudgeConfig, question: Question) -> dict[str, Any]:
    """The body of one chat completion: the text, then all pictures in one message."""
    model = model_name(config)
    pictures = [
        {
            "type": "image_url",
            "image_url": {
                "url": f"data:image/png;base64,{base64.b64encode(frame).decode()}",
                "detail": config.detail,
            },
        }
        for frame in question.frames
    ]
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": question.prompt.system},
            {"role": "user", "content": [{"type": "text", "text": question.user_text}, *pictures]},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "judgement", "strict": True, "schema": answer_schema(question.kind)},
        },
    }
    if not question.prompt.system:
        del body["messages"][0]
    if config.seed is not None:
        body["seed"] = config.seed
    if _REASONING.match(model):
        return body | {"max_completion_tokens": config.max_tokens}
    return body | {"max_tokens": config.max_tokens, "temperature": config.temperature}


class ChatJudge:
    """Any OpenAI-compatible endpoint.

    ``key`` is read from the environment where it isn't given.

    Raises MissingKeyError; ConfigError: its price is unknown.
    """

    def __init__(self, config: JudgeConfig, *, key: SecretStr | None = None) -> None:
        if config.kind == "builtin" and not JudgeConfig(kind="chat", base_url=config.base_url).local:
            raise ConfigError(
                f"judge.base_url: got {config.base_url!r} for the built-in judge, allowed is the loopback address it "
                "printed when it was started (BuiltinJudge().start(...))"
            )
        self.config = config
        self.price: Price = price_of(config)
        self.identity: JudgeIdentity = identity_of(config)
        self.endpoint = Endpoint(config, key or key_for(config))

    def __repr__(self) -> str:
        return f"ChatJudge({self.identity} at {self.config.base_url})"

    def worst_case(self, question: Question) -> Amount:
        return worst_case(question, self.config, self.price)

    async def ask(self, question: Question) -> Verdict | Abstention:
        body = request_body(self.config, question)
        return await self.ask_with(question, body)

    async def ask_with(self, question: Question, body: dict[str, Any]) -> Verdict | Abstention:
        """One attempt with a body of the caller's; ``judge check`` leaves parts out to see what a server takes."""
        started = time.monotonic()
        answer = await self.endpoint.chat(body)
        if isinstance(answer, Abstention):
            return answer
        worst = self.worst_case(question)
        most = Usage(worst.tokens - self.config.max_tokens, self.config.max_tokens, worst.usd)
        reply = read_reply(answer, self.price, most, time.monotonic() - started)
        return verdict_of(reply, question.prompt.polarity)

    async def close(self) -> None:
        await self.endpoint.close()
