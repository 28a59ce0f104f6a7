"""Judges: whoever can be asked. ``ChatJudge`` asks any OpenAI-compatible endpoint.

A judge makes *one* attempt at a time and keeps no account: ``ask.Asker`` reserves, retries, settles and stores around
it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from pydantic import SecretStr

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import ConfigError, JudgeRejectsRequest, MissingKeyError
from rlaif_ray.feedback.budget import Amount
from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.feedback.dialect import Dialect, first_dialect, instruction, loosenings
from rlaif_ray.feedback.prices import Price, price_of, worst_case
from rlaif_ray.feedback.prompt import answer_schema
from rlaif_ray.feedback.question import JudgeIdentity, Question
from rlaif_ray.feedback.reply import read_reply, verdict_of
from rlaif_ray.feedback.wire import Endpoint
from rlaif_ray.types import Abstention, Usage, Verdict

__all__ = [
    "ChatJudge",
    "Judge",
    "complaint_of",
    "data_url",
    "gives_probability",
    "identity_of",
    "judge_from",
    "judges_from",
    "key_for",
    "keys_for",
    "model_name",
    "question_messages",
    "refuse_several",
    "request_body",
    "titles",
]

logger = logging.getLogger(__name__)


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
    ours = config.kind == "builtin" or config.gguf  # served by us: it asks for no key and is given none
    key = "" if ours else os.environ.get(config.api_key_env, "").strip()
    if not key and not config.local:
        raise MissingKeyError(
            f"judge.api_key_env: the environment variable {config.api_key_env} is empty, and {config.base_url} needs a "
            f"key; set it (export {config.api_key_env}=...), or choose the built-in judge (judge.kind: builtin)"
        )
    return SecretStr(key) if key else None


def keys_for(config: JudgeConfig) -> tuple[SecretStr | None, ...]:
    """The keys of all its judges. Raises MissingKeyError."""
    return tuple(key_for(member) for member in config.members)


def judge_from(config: JudgeConfig, key: SecretStr | None) -> ChatJudge:
    """The configured judge. Raises ConfigError: its price is unknown, the built-in one was not started, or there are
    several."""
    refuse_several(config)
    if answers_decisions(config):
        from rlaif_ray.feedback.decisions import DecisionsJudge

        return DecisionsJudge(config, key=key)
    if config.kind == "logodds":
        from rlaif_ray.feedback.logodds import LogOddsJudge

        return LogOddsJudge(config, key=key)
    return ChatJudge(config, key=key)


def refuse_several(config: JudgeConfig) -> None:
    """Raises ConfigError: several judges, where one is to answer."""
    if config.panel or config.cascade is not None:
        which = "panel" if config.panel else "cascade"
        raise ConfigError(
            f"judge.{which}: got {len(config.members)} judges, allowed here is one; several are asked by a run (train)"
        )


def judges_from(config: JudgeConfig, keys: Sequence[SecretStr | None]) -> tuple[ChatJudge, ...]:
    """The configured judges, in the order of ``config.members``. Raises ConfigError, as ``judge_from``, and where a
    cascade waits for a probability that its cheap judge doesn't give."""
    cascade, members = config.cascade, config.members
    if cascade is not None and cascade.when == ("unsure",) and not gives_probability(members[0]):
        raise ConfigError(
            f"judge.cascade.when: got 'unsure' with the cheap judge {model_name(members[0])!r}, which gives no "
            "probability; allowed are profiles with endpoint: decisions, such as cheap-nano"
        )
    return tuple(judge_from(member, key) for member, key in zip(members, keys, strict=True))


def answers_decisions(config: JudgeConfig) -> bool:
    """Whether typed questions are put to it, which are answered with probabilities."""
    if config.kind == "builtin":
        return load_profile(config.profile).endpoint == "decisions"
    return config.kind == "decisions"


def gives_probability(config: JudgeConfig) -> bool:
    """Whether its verdicts come with one."""
    return config.kind == "logodds" or answers_decisions(config)


def identity_of(config: JudgeConfig) -> JudgeIdentity:
    """Who the configured judge is. The built-in judge is its profile, whatever its port."""
    builtin = config.kind == "builtin"
    if config.kind == "decisions":
        return JudgeIdentity(
            urlsplit(config.base_url).netloc.rpartition("@")[2],
            config.model,
            (("detail", config.detail), ("endpoint", "decisions"), ("max_images", config.max_images)),
        )
    if config.kind == "logodds":
        return _identity_of_odds(config)
    settings: dict[str, str | int | float | None] = {
        "temperature": config.temperature,
        "seed": config.seed,
        "max_tokens": config.max_tokens,
        "detail": config.detail,
        "max_images": config.max_images,
        "schema": hashlib.sha256(json.dumps(answer_schema("approval"), sort_keys=True).encode()).hexdigest()[:16],
    }
    if config.reasoning_effort is not None:
        settings["reasoning_effort"] = config.reasoning_effort
    if builtin and answers_decisions(config):
        settings["endpoint"] = "decisions"
    if config.answer_form != "auto":
        settings["answer_form"] = config.answer_form
    if builtin:
        profile = load_profile(config.profile)
        settings["profile"] = profile.digest
    return JudgeIdentity(_name_of(config), model_name(config), tuple(sorted(settings.items())))


def _identity_of_odds(config: JudgeConfig) -> JudgeIdentity:
    from rlaif_ray.feedback.logodds import top_logprobs

    slope, shift = config.calibration
    settings: dict[str, str | int | float | None] = {
        "detail": config.detail,
        "endpoint": "logodds",
        "max_images": config.max_images,
        "orders": config.orders,
        "shift": shift,
        "slope": slope,
        "top_logprobs": top_logprobs(config),
    }
    return JudgeIdentity(_name_of(config), config.model, tuple(sorted(settings.items())))


def _name_of(config: JudgeConfig) -> str:
    """Who answers. What we serve ourselves is the same at whatever port."""
    if config.kind == "builtin":
        return "builtin"
    return "gguf" if config.gguf else urlsplit(config.base_url).netloc.rpartition("@")[2]


def model_name(config: JudgeConfig) -> str:
    """The model a request names: the built-in judge's is its profile."""
    return load_profile(config.profile).name if config.kind == "builtin" else config.model


def request_body(config: JudgeConfig, question: Question, dialect: Dialect | None = None) -> dict[str, Any]:
    """The body of one chat completion: the text, then all pictures in one message. Of a pair, each unit's pictures
    stand below a line that says which run they are of."""
    model = model_name(config)
    dialect = dialect or first_dialect(config, model)
    prompt, text = question.prompt, question.user_text
    if dialect.form != "schema":
        text = f"{text}\n\n{instruction(prompt)}"
    return {
        "model": model,
        "messages": question_messages(config, question, text),
        **dialect.answer_format(prompt),
        **dialect.sampling(config),
    }


def question_messages(config: JudgeConfig, question: Question, text: str) -> list[dict[str, Any]]:
    """The system's message, where the prompt has one, and the user's: the text, then all pictures."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for title, unit in zip(titles(question), question.shown, strict=True):
        content += [{"type": "text", "text": title}] if title else []
        content += [_picture(frame, config.detail) for frame in unit.frames]
    system = question.prompt.system
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": content}]


def titles(question: Question) -> tuple[str, ...]:
    """The line above each unit's pictures; empty where there is but one unit."""
    return ("The first run:", "The second run:") if question.kind == "preference" else ("",)


def _picture(frame: bytes, detail: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(frame), "detail": detail}}


def data_url(png: bytes) -> str:
    """A picture as it goes over the wire."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


class ChatJudge:
    """Any OpenAI-compatible endpoint.

    What it doesn't take (a strict schema, a temperature ...) is found out once, by the first question it refuses: its
    ``dialect`` from then on. ``said`` tells what that was. ``key`` is read from the environment where it isn't given.

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
        self.dialect = first_dialect(config, model_name(config))
        self.said: tuple[str, ...] = ()
        self.settled = False  # it has answered: its dialect is known
        self._negotiating = asyncio.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.identity} at {self.config.base_url})"

    def worst_case(self, question: Question) -> Amount:
        return worst_case(question, self.config, self.price)

    async def ask(self, question: Question) -> Verdict | Abstention:
        dialect = self.dialect
        try:
            outcome = await self.ask_in(question, dialect)
        except JudgeRejectsRequest as error:
            if "(413)" in str(error):  # too large, however it is said
                raise
            return await self._settle(question, dialect, error)
        self.settled = True
        return outcome

    async def ask_in(self, question: Question, dialect: Dialect) -> Verdict | Abstention:
        """One attempt, said in this dialect."""
        return await self.ask_with(question, request_body(self.config, question, dialect))

    async def ask_with(self, question: Question, body: dict[str, Any]) -> Verdict | Abstention:
        """One attempt with a body of the caller's; ``judge check`` leaves pictures out to see what a server takes."""
        started = time.monotonic()
        answer = await self.endpoint.chat(body)
        if isinstance(answer, Abstention):
            return answer
        worst = self.worst_case(question)
        most = Usage(worst.tokens - self.config.max_tokens, self.config.max_tokens, worst.usd)
        reply = read_reply(answer, self.price, most, time.monotonic() - started)
        return self.keyless(verdict_of(reply, question))

    def keyless(self, outcome: Verdict | Abstention) -> Verdict | Abstention:
        """The body was searched for the key as it came; a server may have spelt it in escapes, which are read now."""
        clean = self.endpoint.redacted
        if isinstance(outcome, Abstention):
            return replace(outcome, detail=clean(outcome.detail), text=clean(outcome.text))
        description, reasoning = clean(outcome.description), clean(outcome.reasoning)
        return replace(outcome, text=clean(outcome.text), description=description, reasoning=reasoning)

    async def _settle(self, question: Question, refused: Dialect, error: JudgeRejectsRequest) -> Verdict | Abstention:
        """Find out, once for all questions, what the server takes. A refused request is not billed: all of this is one
        attempt."""
        async with self._negotiating:
            if self.dialect != refused:  # somebody else has found out meanwhile
                return await self.ask_in(question, self.dialect)
            if self.settled:  # it has answered in this dialect: what it refuses is this question
                raise error
            try:
                dialect, outcome = await self._negotiated(question, refused, error)
            except JudgeRejectsRequest:
                self.settled = True  # nothing helps: the others needn't try again
                raise
            words = dialect.lacking(refused, self.config)
            self.dialect, self.settled = dialect, True
            self.said = (f"{self.config.base_url} doesn't take all that was sent: {'; '.join(words)} ({error})",)
            logger.warning("%s", self.said[0])
            return outcome

    async def _negotiated(
        self, question: Question, dialect: Dialect, error: JudgeRejectsRequest
    ) -> tuple[Dialect, Verdict | Abstention]:
        complaint, any_form = error, self.config.answer_form == "auto"
        while (named := dialect.without(complaint_of(complaint))) is not None and (
            any_form or named.form == dialect.form
        ):
            dialect = named
            try:
                return dialect, await self.ask_in(question, dialect)
            except JudgeRejectsRequest as again:
                complaint = again
        for looser in loosenings(dialect, form=any_form):
            try:
                return looser, await self.ask_in(question, looser)
            except JudgeRejectsRequest:
                continue
        raise error

    @property
    def manner(self) -> str:
        """How it is talked to, in one line, once it has answered; empty before."""
        if not self.settled:
            return ""
        return f"{self.identity}: {self.dialect.told(self.config)}"

    async def close(self) -> None:
        await self.endpoint.close()


def complaint_of(error: JudgeRejectsRequest) -> str:
    """What the server said, without our own words around it (``wire.Endpoint``)."""
    return str(error).partition("): ")[2]
