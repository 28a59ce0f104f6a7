"""The log-odds judge: how much likelier one of two answers is than the other, read off the next word's probabilities.

A small model asked "good or bad?" says the same word whatever it reads; how *much* likelier it finds that word still
depends on what it read. For answers a (yes) and b (no), named in the orders "a or b" and "b or a",

    z = mean over orders of log p(a | order) - log p(b | order),    P(a) = sigmoid(slope z + shift)

with ``judge.calibration`` = (slope, shift). Slope 1 and shift -z0, where z0 is the answer to a report without content,
is contextual calibration (Zhao et al. 2021, "Calibrate Before Use"); a fit of both on labels is Platt scaling (1999).

Any endpoint will do that gives ``logprobs`` with chat completions (llama.cpp, vLLM, OpenAI's models without reasoning).
A prompt with a beginning of the answer needs one that goes on from a last message of the assistant's (llama.cpp, vLLM).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import SecretStr

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import AttemptFailed, ConfigError, JudgeError
from rlaif_ray.feedback.budget import Amount
from rlaif_ray.feedback.dialect import Dialect
from rlaif_ray.feedback.judge import ChatJudge, question_messages
from rlaif_ray.feedback.prices import worst_case
from rlaif_ray.feedback.question import Order, Question
from rlaif_ray.feedback.reply import MOST_TEXT, read_usage, verdict_on
from rlaif_ray.types import Abstention, Usage, Verdict

__all__ = ["LogOddsJudge", "Odds", "logodds_body", "odds_in", "soft_approval", "top_logprobs"]

# What hosted endpoints and vLLM give at most; our own server gives more, so that an unlikely answer is rarely missing.
_TOP, _TOP_OWN = 20, 100
# Letters by which a first token shorter than its answer is known ("harm" of "harmful").
_FEWEST_LETTERS = 3
_AROUND = " \t\r\n\"'*_`.▁Ġ"


def top_logprobs(config: JudgeConfig) -> int:
    """How many of the likeliest tokens are asked for."""
    return _TOP_OWN if config.gguf else _TOP


def logodds_body(config: JudgeConfig, question: Question) -> dict[str, Any]:
    """One chat completion of a single token, with the probabilities of the likeliest ones."""
    body: dict[str, Any] = {
        "model": config.model,
        "messages": question_messages(config, question, question.user_text),
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": top_logprobs(config),
    }
    if question.prompt.begins:
        body["messages"].append({"role": "assistant", "content": question.prompt.begins})
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return body


@dataclass(frozen=True)
class Odds:
    """What one order came to."""

    log_odds: float  # natural log of p(yes word) / p(no word)
    mass: float  # probability of the two together
    bounded: bool  # one of the two isn't among the tokens listed: the least likely of those stands for it


def odds_in(listed: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> Odds:
    """The odds of two answers from ``top_logprobs`` (each with ``token`` and ``logprob``).

    A token counts for the answer that it is, or of which it is the beginning and of the other not.

    Raises ValueError: not such a list, or neither answer is in it.
    """
    chances = [0.0, 0.0]
    logprobs = []
    for entry in listed:
        token, logprob = str(entry["token"]).strip(_AROUND).lower(), float(entry["logprob"])
        if math.isnan(logprob):
            raise ValueError(f"got a logprob that is no number for {token!r}")
        logprobs.append(logprob)
        begun = [_begins(token, answer.lower()) for answer in answers]
        if sum(begun) == 1:
            chances[begun.index(True)] += math.exp(logprob)
    found = [chance > 0.0 for chance in chances]
    if not any(found):
        raise ValueError(f"neither {answers[0]!r} nor {answers[1]!r} is among the {len(listed)} likeliest tokens")
    least = math.exp(min(logprobs))
    yes, no = (chance if there else least for chance, there in zip(chances, found, strict=True))
    return Odds(math.log(yes) - math.log(no), sum(chances), not all(found))


def _begins(token: str, answer: str) -> bool:
    return token == answer or (len(token) >= _FEWEST_LETTERS and answer.startswith(token))


def soft_approval(
    question: Question, found: Mapping[Order, Odds], calibration: tuple[float, float], usage: Usage
) -> Verdict:
    """The calibrated probability as an approval, its polarity undone."""
    slope, shift = calibration
    z = slope * sum(odds.log_odds for odds in found.values()) / len(found) + shift
    chance = 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))
    yes, no = question.prompt.answers
    value = chance if question.prompt.polarity == "align" else 1.0 - chance
    told = {
        "answers": [yes, no],
        "log_odds": {order: round(odds.log_odds, 5) for order, odds in found.items()},
        "mass": {order: round(odds.mass, 5) for order, odds in found.items()},
        "bounded": [order for order, odds in found.items() if odds.bounded],
    }
    verdict = verdict_on(question, yes if chance >= 0.5 else no, usage, json.dumps(told))
    by_order = " and ".join(f"{odds.log_odds:+.2f}" for odds in found.values())
    named = {"first": f'"{yes} or {no}"', "swapped": f'"{no} or {yes}"'}
    orders = " and ".join(named[order] for order in found)
    reasoning = f'log-odds of "{yes}" against "{no}": {by_order}, asked {orders}'
    return replace(verdict, value=value, probability=value, reasoning=reasoning)


class LogOddsJudge(ChatJudge):
    """An endpoint that tells how likely each next token is. Its verdicts are soft and have no description.

    Raises MissingKeyError; ConfigError: its price is unknown.
    """

    def __init__(self, config: JudgeConfig, *, key: SecretStr | None = None) -> None:
        super().__init__(config, key=key)
        self._broken: JudgeError | None = None

    def worst_case(self, question: Question) -> Amount:
        """Of one attempt, which is one request for each order."""
        one = worst_case(question, self.config.model_copy(update={"max_tokens": 1}), self.price)
        times = len(self._orders(question))
        return Amount(usd=times * one.usd, labels=1, tokens=times * one.tokens)

    async def ask_in(self, question: Question, dialect: Dialect) -> Verdict | Abstention:
        """One attempt. There is nothing in the request that might be left out."""
        return await self.ask(question)

    async def ask(self, question: Question) -> Verdict | Abstention:
        """One attempt: the answers in both orders, or in the one drawn.

        Raises AttemptFailed: of unknown price where one order was answered. JudgeError: it can't be used at all; told
        before the next question where something was paid for this one.
        """
        if self._broken is not None:
            raise self._broken
        if question.kind != "approval":
            raise ConfigError(f"question of kind {question.kind!r}: a 'logodds' judge answers 'approval' alone")
        found: dict[Order, Odds] = {}
        usages: list[Usage] = []
        for order in self._orders(question):
            try:
                answer = await self._one(replace(question, order=order))
            except AttemptFailed as failure:
                raise _of_unknown_price(failure) if usages else failure from None
            except JudgeError as error:
                if not usages:
                    raise
                answer = Abstention("http", str(error), Usage())
                self._broken = error
            if isinstance(answer, Abstention):
                return replace(answer, usage=_added([*usages, answer.usage]))
            odds, usage = answer
            found[order] = odds
            usages.append(usage)
        return soft_approval(question, found, self.config.calibration, _added(usages))

    def _orders(self, question: Question) -> tuple[Order, ...]:
        if self.config.orders == "both":
            return ("first", "swapped")
        drawn = hashlib.sha256(f"order of answers|{question.units[0].key}".encode()).digest()[0] % 2
        return ("swapped" if drawn else "first",)

    async def _one(self, question: Question) -> tuple[Odds, Usage] | Abstention:
        started = time.monotonic()
        body = await self.endpoint.chat(logodds_body(self.config, question))
        if isinstance(body, Abstention):
            return body
        one = worst_case(question, self.config.model_copy(update={"max_tokens": 1}), self.price)
        usage = read_usage(body, self.price, Usage(one.tokens - 1, 1, one.usd), time.monotonic() - started)
        try:
            listed = json.loads(body)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        except (ValueError, KeyError, IndexError, TypeError):
            self._broken = JudgeError(
                f"{self.config.base_url} gives no logprobs, which a judge of kind 'logodds' needs; use kind 'chat', or "
                "a server and model that give them (llama.cpp, vLLM, models without reasoning)"
            )
            return Abstention("http", "the reply has no logprobs", usage, body[:MOST_TEXT])
        try:
            return odds_in(listed, question.prompt.answers), usage
        except (ValueError, KeyError, TypeError) as error:
            return Abstention("unparsable", str(error), usage, json.dumps(listed)[:MOST_TEXT])


def _of_unknown_price(failure: AttemptFailed) -> AttemptFailed:
    return AttemptFailed(str(failure), reason=failure.reason, after_s=failure.after_s, reached=True)


def _added(usages: Sequence[Usage]) -> Usage:
    """The orders are asked one after the other: latencies add up."""
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cost_usd=sum(usage.cost_usd for usage in usages),
        latency_s=sum(usage.latency_s for usage in usages),
    )
