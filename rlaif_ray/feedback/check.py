"""Look before spending: does the judge answer, what does it take, how fast, and what will it cost?"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from rlaif_ray.config import Config, JudgeConfig
from rlaif_ray.errors import (
    AttemptFailed,
    JudgeError,
    JudgeRejectsModel,
    JudgeRejectsRequest,
    JudgeUnreachable,
)
from rlaif_ray.feedback.costs import CostEstimate, estimate_cost
from rlaif_ray.feedback.judge import ChatJudge, judge_from, key_for, model_name, request_body
from rlaif_ray.feedback.prices import Price
from rlaif_ray.feedback.question import Order, Question, Questionnaire
from rlaif_ray.types import Abstention, Episode, EpisodeRenderer, Verdict

__all__ = ["CostEstimate", "JudgeCheck", "Probe", "check_judge", "estimate_cost", "patiently", "ping"]

_PING_S = 15.0
_PING_RETRIES = 2
_MOST_NAMES = 3  # of models, in an error's one line
_Body = dict[str, Any]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Probe:
    """One episode put to the judge."""

    name: Literal["median", "longest"]
    steps: int
    images: int
    answer: str  # "approved", "rejected", "rated 0.75 (0 to 1)" or "abstained (reason)"
    description: str
    reasoning: str
    input_tokens: int
    output_tokens: int
    cost_usd: float
    latency_s: float


@dataclass(frozen=True)
class JudgeCheck:
    """What ``judge check`` found out, from two real answers."""

    judge: str
    base_url: str
    price: Price
    probes: tuple[Probe, ...]
    takes_schema: bool
    takes_images: bool  # as many as the longest episode sends
    takes_parameters: bool  # temperature, seed and reasoning effort; a run leaves out what isn't taken, as here
    notes: tuple[str, ...]  # what it said about what it doesn't take
    labels_per_minute: float
    limited_by: str  # what holds the rate down
    budget_labels: int | None
    budget_minutes: float | None  # until the run's label budget is answered; None: no cap
    budget_usd: float | None  # what these labels would cost, at the mean of the probes; an estimate

    @property
    def usable(self) -> bool:
        """Whether a run with this config would get answers."""
        return self.takes_images and any(not probe.answer.startswith("abstained") for probe in self.probes)


def ping(config: Config) -> None:
    """Is the judge there, does it take the key, does it have the model? Asks no question and costs nothing.

    Raises JudgeUnreachable (also where something else than an OpenAI-compatible server answers), JudgeRejectsKey,
    JudgeRejectsModel; ConfigError, MissingKeyError.
    """
    asyncio.run(_ping(config))


def check_judge(
    config: Config, median_episode: Episode, longest_episode: Episode, renderer: EpisodeRenderer
) -> JudgeCheck:
    """Put two real episodes to the configured judge. Costs what two questions cost; stores nothing.

    Raises JudgeError: it can't be used at all; ConfigError, MissingKeyError.
    """
    return asyncio.run(_check(config, {"median": median_episode, "longest": longest_episode}, renderer))


async def _ping(config: Config) -> None:
    hurried = config.judge.model_copy(update={"timeout_s": min(_PING_S, config.judge.timeout_s)})
    judge = judge_from(hurried, key_for(hurried))
    try:
        models = await patiently(judge.endpoint.models, _PING_RETRIES)
        model = model_name(config.judge)
        if model in (models or ()):
            return
        if config.judge.local and config.judge.kind in ("chat", "logodds"):
            await _answers_to(judge, model, models or [])
        elif models:
            raise _no_such_model(config.judge, model, models)
    finally:
        await judge.close()


async def _answers_to(judge: ChatJudge, model: str, models: Sequence[str]) -> None:
    """Servers on this machine often answer under any name: only asking tells. One token, at no price."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        await patiently(lambda: judge.endpoint.chat(body), _PING_RETRIES)
    except JudgeRejectsModel as error:
        if models:
            raise _no_such_model(judge.config, model, models) from None
        raise error from None


def _no_such_model(judge: JudgeConfig, model: str, models: Sequence[str]) -> JudgeRejectsModel:
    near = difflib.get_close_matches(model, models, n=_MOST_NAMES, cutoff=0.5)
    allowed = ", ".join(repr(name) for name in (near or models)[:_MOST_NAMES])
    said = f"nearest of the {len(models)} it lists" if near else f"it lists {len(models)}, such as"
    return JudgeRejectsModel(f"judge.model: got {model!r}, which {judge.base_url} doesn't have; {said}: {allowed}")


async def _check(config: Config, episodes: Mapping[Any, Episode], renderer: EpisodeRenderer) -> JudgeCheck:
    judge = judge_from(config.judge, key_for(config.judge))
    questions = Questionnaire.of(config.judge, renderer, judge.identity, seed=config.run.seed)
    probes: list[Probe] = []
    too_many: list[str] = []
    try:
        for name, steps, question in _questions(questions, episodes):
            outcome, refused = await _probe(judge, question, config.judge.retries)
            too_many += [refused] if refused else []
            probes.append(_as_probe(name, steps, question, outcome))
        rate, limited_by = _rate(config, judge.endpoint.headers, probes)
    finally:
        await judge.close()
    labels = config.budget.labels
    return JudgeCheck(
        judge=str(judge.identity),
        base_url=config.judge.base_url,
        price=judge.price,
        probes=tuple(probes),
        takes_schema=judge.dialect.form == "schema",
        takes_images=not too_many,
        takes_parameters=judge.dialect.temperature and judge.dialect.seed and judge.dialect.effort,
        notes=(*judge.said, *too_many),
        labels_per_minute=rate,
        limited_by=limited_by,
        budget_labels=labels,
        budget_minutes=None if labels is None else labels / rate,
        budget_usd=None if labels is None else labels * sum(probe.cost_usd for probe in probes) / len(probes),
    )


def _questions(questions: Questionnaire, episodes: Mapping[Any, Episode]) -> list[tuple[Any, int, Question]]:
    """(which, steps, question) of each probe; a preference's prompt compares the two, in both orders."""
    if questions.prompt.kind != "preference":
        return [(name, len(episode), questions.about(episode)) for name, episode in episodes.items()]
    first, second = episodes.values()
    orders: tuple[Order, Order] = ("first", "swapped")
    steps = len(first) + len(second)
    return [
        (name, steps, questions.between(first, second, order)) for name, order in zip(episodes, orders, strict=True)
    ]


async def _probe(judge: ChatJudge, question: Question, retries: int) -> tuple[Verdict | Abstention, str]:
    """The outcome, and what the server said where it doesn't take so many pictures."""
    try:
        return await patiently(lambda: judge.ask(question), retries), ""
    except JudgeRejectsRequest as error:
        if judge.config.kind in ("decisions", "logodds") or not question.frames:
            raise
        whole = error
    fewer = _with_two_images(request_body(judge.config, question, judge.dialect))
    try:
        return await patiently(lambda: judge.ask_with(question, fewer), retries), str(whole)
    except JudgeRejectsRequest:
        raise whole from None


def _with_two_images(body: _Body) -> _Body:
    *before, user = body["messages"]
    text, *pictures = user["content"]
    return body | {"messages": [*before, user | {"content": [text, *pictures[:1], *pictures[-1:]]}]}


async def patiently(call: Callable[[], Awaitable[_Result]], retries: int) -> _Result:
    """Call until an attempt succeeds. Raises JudgeUnreachable after so many further ones."""
    try:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(retries + 1),
            wait=wait_exponential(multiplier=0.5, max=10.0) + wait_random(0.0, 0.5),
            retry=retry_if_exception(lambda error: isinstance(error, AttemptFailed) and error.reached),
            reraise=True,
        ):
            with attempt:
                return await call()
    except AttemptFailed as failure:
        raise JudgeUnreachable(f"the judge doesn't answer: {failure}; check judge.base_url") from None
    raise JudgeError("no attempt was made")


def _as_probe(name: Any, steps: int, question: Question, outcome: Verdict | Abstention) -> Probe:
    usage = outcome.usage
    if isinstance(outcome, Abstention):
        answer, description, reasoning = f"abstained ({outcome.reason})", outcome.detail, ""
    else:
        answer = _in_a_word(outcome)
        description, reasoning = outcome.description, outcome.reasoning
    images = len(question.frames)
    return Probe(
        name, steps, images, answer, description, reasoning,
        usage.input_tokens, usage.output_tokens, usage.cost_usd, usage.latency_s,
    )  # fmt: skip


def _in_a_word(verdict: Verdict) -> str:
    if verdict.kind == "approval":
        return "approved" if verdict.approved else "rejected"
    return f"rated {verdict.value:.2f} (0 to 1)" if verdict.kind == "rating" else f"prefers {verdict.preference}"


def _rate(config: Config, headers: Mapping[str, str], probes: Sequence[Probe]) -> tuple[float, str]:
    """Labels a minute, and what holds them down."""
    latency_s = max(sum(probe.latency_s for probe in probes) / len(probes), 1e-3)
    tokens = max(sum(probe.input_tokens + probe.output_tokens for probe in probes) / len(probes), 1.0)
    rates = {"feedback.concurrency and its latency": 60.0 * config.feedback.concurrency / latency_s}
    limits = {
        "judge.requests_per_minute": (config.judge.requests_per_minute, 1.0),
        "judge.tokens_per_minute": (config.judge.tokens_per_minute, tokens),
        "the server's request limit": (_number(headers.get("x-ratelimit-limit-requests")), 1.0),
        "the server's token limit": (_number(headers.get("x-ratelimit-limit-tokens")), tokens),
    }
    rates |= {name: limit / each for name, (limit, each) in limits.items() if limit}
    slowest = min(rates, key=lambda name: rates[name])
    return rates[slowest], slowest


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
