"""Ask: claim a question, reserve, attempt, settle, store. The same path with and without Ray.

::

    claim ─ stored? ─► replayed label
      │ claimed
      ▼
    wait for the rate ► reserve the worst case ► attempt ─ answer ─► settle + store ► label
                ▲                                   │ failed
                └── back off ◄── settle at 0 / write off at worst

Identical questions are never in flight twice: who finds one claimed waits for its answer. Without Ray::

    judge = ChatJudge(config.judge)
    with LabelStore("labels.sqlite") as store:
        question = question_about(episode, renderer=renderer, prompt=prompt, judge=judge.identity, max_images=20)
        labels = asyncio.run(ask_all(judge, store, Caps(usd=1.0), [Asked(question, episode)]))
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import AttemptFailed, BudgetExhausted, JudgeError, JudgeUnreachable
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.database import owner_id
from rlaif_ray.feedback.judge import Judge
from rlaif_ray.feedback.limits import RateLimits
from rlaif_ray.feedback.question import Asked
from rlaif_ray.feedback.records import Record, record_of
from rlaif_ray.feedback.store import ClaimState, LabelStore
from rlaif_ray.types import Abstention, Label, Usage, Verdict

__all__ = ["Asker", "AsyncStore", "LocalStore", "ask_all"]

# How often somebody else's claim on the same question is looked at again.
_BUSY_POLL_S = 0.2
_MOST_BACKOFF_S = 30.0


class AsyncStore(Protocol):
    """The store as an asker sees it: in this process, or behind an actor."""

    async def claim(
        self, record: Record, owner: str, replay: Literal["prefer", "only", "off"]
    ) -> Label | ClaimState: ...
    async def unclaim(self, question_key: str, owner: str) -> None: ...
    async def reserve(self, record: Record, worst: Amount, caps: Caps, owner: str) -> int: ...
    async def settle(self, ticket: int, used: Amount, detail: str) -> None: ...
    async def write_off(self, ticket: int, detail: str) -> None: ...
    async def answer(
        self, record: Record, outcome: Verdict | Abstention, ticket: int | None, used: Amount
    ) -> Label: ...


class LocalStore:
    """A ``LabelStore`` of this process. Its transactions take a tenth of a millisecond: no thread is worth it."""

    def __init__(self, store: LabelStore) -> None:
        self._store = store

    async def claim(self, record: Record, owner: str, replay: Literal["prefer", "only", "off"]) -> Label | ClaimState:
        return self._store.claim(record, owner, replay)

    async def unclaim(self, question_key: str, owner: str) -> None:
        self._store.unclaim(question_key, owner)

    async def reserve(self, record: Record, worst: Amount, caps: Caps, owner: str) -> int:
        return self._store.reserve(record, worst, caps, owner)

    async def settle(self, ticket: int, used: Amount, detail: str) -> None:
        self._store.settle(ticket, used, detail)

    async def write_off(self, ticket: int, detail: str) -> None:
        self._store.write_off(ticket, detail)

    async def answer(self, record: Record, outcome: Verdict | Abstention, ticket: int | None, used: Amount) -> Label:
        return self._store.answer(record, outcome, ticket, used)


@dataclass
class _Tally:
    """What the attempts at one question came to."""

    attempts: int = 0
    charged_usd: float = 0.0


@dataclass
class Asker:
    """Puts questions to one judge, within one budget, into one store."""

    judge: Judge
    store: AsyncStore
    caps: Caps
    config: JudgeConfig = field(default_factory=JudgeConfig)  # replay, retries, rate limits
    rate_share: float = 1.0
    backoff_s: float = 1.0  # of the first wait; doubles

    def __post_init__(self) -> None:
        self._limits = RateLimits(self.config, self.rate_share)
        self._backoff = wait_exponential(multiplier=self.backoff_s, max=_MOST_BACKOFF_S) + wait_random(
            0.0, self.backoff_s
        )
        self._owner = owner_id()

    async def ask(self, asked: Asked) -> Label | None:
        """The label of one question; None where the budget has no room for it.

        Raises JudgeError: the judge can't be used at all. ReplayMissError: ``replay`` is ``only``. StoreError.
        """
        record = record_of(asked)
        claimed = await self._claim(record)
        record = record.without_episode()
        if isinstance(claimed, Label):
            return claimed
        try:
            return await self._attempts(asked, record)
        except BaseException as error:  # storing an answer frees the question by itself; nothing else does
            await self.store.unclaim(record.question_key, self._owner)
            if isinstance(error, BudgetExhausted):
                return None
            raise

    async def _claim(self, record: Record) -> Label | ClaimState:
        state = await self.store.claim(record, self._owner, self.config.replay)
        record = record.without_episode()
        while state == "busy":
            await asyncio.sleep(_BUSY_POLL_S)
            state = await self.store.claim(record, self._owner, self.config.replay)
        return state

    async def _attempts(self, asked: Asked, record: Record) -> Label:
        tally = _Tally()
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(self.config.retries + 1),
                wait=self._patience,
                retry=retry_if_exception_type(AttemptFailed),
                reraise=True,
            ):
                with attempt:
                    return await self._attempt(asked, record, tally)
        except AttemptFailed as failure:
            if not failure.reached:
                raise JudgeUnreachable(f"{failure}; {tally.attempts} attempts") from None
            usage = Usage(cost_usd=tally.charged_usd, attempts=tally.attempts)
            return await self.store.answer(record, Abstention(failure.reason, str(failure), usage), None, Amount())
        raise AssertionError("tenacity ends with a return or a raise")

    async def _attempt(self, asked: Asked, record: Record, tally: _Tally) -> Label:
        worst = self.judge.worst_case(asked.question)
        await self._limits.wait(worst.tokens)
        ticket = await self.store.reserve(record, worst, self.caps, self._owner)
        tally.attempts += 1
        try:
            outcome = await self.judge.ask(asked.question)
        except AttemptFailed as failure:
            if failure.billed is False:
                await self.store.settle(ticket, Amount(), str(failure))
            else:
                await self.store.write_off(ticket, str(failure))
                tally.charged_usd += worst.usd
            raise
        except JudgeError as error:
            await self.store.settle(ticket, Amount(), type(error).__name__)
            raise
        except BaseException as error:
            await self.store.write_off(ticket, type(error).__name__)
            raise
        used = Amount(outcome.usage.cost_usd, 1, outcome.usage.input_tokens + outcome.usage.output_tokens)
        usage = replace(outcome.usage, attempts=tally.attempts, cost_usd=outcome.usage.cost_usd + tally.charged_usd)
        return await self.store.answer(record, replace(outcome, usage=usage), ticket, used)

    def _patience(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome is not None else None
        asked_for = failure.after_s if isinstance(failure, AttemptFailed) else None
        return max(self._backoff(state), asked_for or 0.0)


async def ask_all(
    judge: Judge,
    store: LabelStore | AsyncStore,
    budget: Caps,
    questions: Sequence[Asked],
    *,
    config: JudgeConfig | None = None,
    concurrency: int = 64,
) -> list[Label | None]:
    """Ask everything, at most ``concurrency`` at once; labels in the order of the questions.

    None stands for a question the budget had no room for. ``config`` gives replay, retries and rate limits.

    Raises JudgeError: the judge can't be used at all (what was answered until then is stored). StoreError.
    """
    asker = Asker(judge, LocalStore(store) if isinstance(store, LabelStore) else store, budget, config or JudgeConfig())
    gate = asyncio.Semaphore(concurrency)

    async def one(asked: Asked) -> Label | None:
        async with gate:
            return await asker.ask(asked)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(asked)) for asked in questions]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
