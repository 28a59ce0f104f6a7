"""What asking would cost: estimated from episode lengths, or measured on a sample by what the judge says it used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from rlaif_ray.config import Config
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.feedback.framing import Frames, Framing
from rlaif_ray.feedback.judge import answers_decisions, judge_from, key_for
from rlaif_ray.feedback.prices import Price, image_tokens, price_of
from rlaif_ray.feedback.prompt import load_prompt
from rlaif_ray.feedback.question import Questionnaire
from rlaif_ray.types import Abstention, Episode, EpisodeRenderer

__all__ = ["CostEstimate", "FramingCost", "estimate_cost", "estimate_framings", "probe_framings"]

# Three short answers in JSON. What a judge really writes is known from `usage` once it was asked.
_ANSWER_TOKENS = 150


@dataclass(frozen=True)
class CostEstimate:
    """What asking would cost. An estimate: a judge bills by its own count of tokens."""

    questions: int
    images_per_question: float
    input_tokens_per_question: float
    output_tokens_per_question: float
    usd_per_question: float
    usd: float
    price: Price


@dataclass(frozen=True)
class FramingCost:
    """One way of sending frames."""

    frames: Frames
    pictures: float  # sent in one question
    input_tokens: float  # of one question
    output_tokens: float
    usd_per_question: float
    usd: float  # of all questions
    measured: bool  # by the judge's own usage; an estimate else
    answer: str = ""  # of the probe: "verdict" or why it abstained
    latency_s: float = 0.0  # of the probe


def estimate_cost(config: Config, lengths: Sequence[int], *, picture_px: tuple[int, int]) -> CostEstimate:
    """What judging would cost, from episode lengths in steps and the (width, height) of a frame as the world's renderer
    draws it: the label budget's number of questions about episodes like these, or one about each where there is no such
    cap. A preference's question shows two of them; asked in both orders it is two questions. A question to several
    judges costs what all of them cost (a cascade's strong one may not be asked), and is as many labels.

    Raises ConfigError: no lengths, or the price is unknown.
    """
    if not lengths:
        raise ConfigError("estimate_cost: got no episode lengths, expected at least one")
    if len(config.judge.members) > 1:
        return _of_all([estimate_cost(one, lengths, picture_px=picture_px) for one in _each_judge(config)])
    judge, price, prompt, framing = (
        config.judge,
        price_of(config.judge),
        load_prompt(config.judge.prompt),
        Framing.of(config.judge),
    )
    profile = load_profile(judge.profile) if judge.kind == "builtin" else None
    images, tokens = 0, 0.0
    for length in lengths:
        sizes = framing.sizes(length + 1, picture_px)
        images += len(sizes)
        tokens += sum(profile.image_tokens if profile else image_tokens(judge.model, judge.detail, s) for s in sizes)
    units = 2 if prompt.kind == "preference" else 1
    times = 2 if judge.kind == "logodds" and judge.orders == "both" else 1  # requests of one question
    into = times * ((len(prompt.system) + len(prompt.user)) / 4 + units * tokens / len(lengths))
    short = judge.kind == "logodds" or answers_decisions(judge)  # a word, or none
    out = float(times) if short else float(min(_ANSWER_TOKENS, judge.max_tokens))
    questions = len(lengths) if config.budget.labels is None else config.budget.labels
    usd = price.cost(1, 0) * into + price.cost(0, 1) * out
    return CostEstimate(questions, units * images / len(lengths), into, out, usd, usd * questions, price)


def _each_judge(config: Config) -> list[Config]:
    return [config.model_copy(update={"judge": member}) for member in config.judge.members]


def _of_all(costs: Sequence[CostEstimate]) -> CostEstimate:
    """One question to all of several judges."""
    usd = sum(cost.usd_per_question for cost in costs)
    questions = max(1, costs[0].questions // len(costs))
    return CostEstimate(
        questions=questions,
        images_per_question=costs[0].images_per_question,
        input_tokens_per_question=sum(cost.input_tokens_per_question for cost in costs),
        output_tokens_per_question=sum(cost.output_tokens_per_question for cost in costs),
        usd_per_question=usd,
        usd=usd * questions,
        price=costs[0].price,
    )


def estimate_framings(
    config: Config, lengths: Sequence[int], questions: int, *, picture_px: tuple[int, int]
) -> list[FramingCost]:
    """What each way of sending frames would cost for so many questions about episodes of these lengths."""
    found = []
    for frames, one in _each_way(config).items():
        cost = estimate_cost(one, lengths, picture_px=picture_px)
        found.append(
            FramingCost(
                frames, cost.images_per_question, cost.input_tokens_per_question, cost.output_tokens_per_question,
                cost.usd_per_question, cost.usd_per_question * questions, measured=False,
            )
        )  # fmt: skip
    return found


def probe_framings(config: Config, episode: Episode, renderer: EpisodeRenderer, questions: int) -> list[FramingCost]:
    """The same, measured: one question about this episode in each way, which is paid for and not stored.

    Raises JudgeError: it can't be used at all; ConfigError, MissingKeyError.
    """
    return asyncio.run(_probed(config, episode, renderer, questions))


async def _probed(config: Config, episode: Episode, renderer: EpisodeRenderer, questions: int) -> list[FramingCost]:
    from rlaif_ray.feedback.check import patiently

    if len(config.judge.members) > 1:
        of_each = [await _probed(one, episode, renderer, questions) for one in _each_judge(config)]
        return [_probe_of_all(rows) for rows in zip(*of_each, strict=True)]
    found = []
    for frames, one in _each_way(config).items():
        judge = judge_from(one.judge, key_for(one.judge))
        question = Questionnaire.of(one.judge, renderer, judge.identity, seed=config.run.seed).about(episode)
        try:
            outcome = await patiently(lambda judge=judge, question=question: judge.ask(question), one.judge.retries)  # type: ignore[misc]
        finally:
            await judge.close()
        usage = outcome.usage
        answer = f"abstained ({outcome.reason})" if isinstance(outcome, Abstention) else "verdict"
        found.append(
            FramingCost(
                frames, len(question.frames), usage.input_tokens, usage.output_tokens, usage.cost_usd,
                usage.cost_usd * questions, measured=True, answer=answer, latency_s=usage.latency_s,
            )
        )  # fmt: skip
    return found


def _probe_of_all(rows: Sequence[FramingCost]) -> FramingCost:
    """One way of sending frames, to all of several judges."""
    return replace(
        rows[0],
        input_tokens=sum(row.input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        usd_per_question=sum(row.usd_per_question for row in rows),
        usd=sum(row.usd for row in rows),
        answer=next((row.answer for row in rows if row.answer != "verdict"), "verdict"),
        latency_s=max(row.latency_s for row in rows),
    )


def _each_way(config: Config) -> Mapping[Frames, Config]:
    return {
        frames: config.model_copy(update={"judge": config.judge.model_copy(update={"frames": frames})})
        for frames in get_args(Frames)
    }
