"""Ask: claim a question, reserve, attempt, settle, store. The same path with and without Ray.

::

    claim ─ stored? ─► replayed label
      │ claimed
      ▼
    wait for its turn and reserve the worst case ► attempt ─ answer ─► settle + store ► label
                ▲                                      │ failed
                └── back off ◄───── settle at 0 / write off at worst

Identical questions are never in flight twice: who finds one claimed waits for its answer. Without Ray::

    judge = ChatJudge(config.judge)
    with LabelStore("labels.sqlite") as store:
        question = question_about(episode, renderer=renderer, prompt=prompt, judge=judge.identity, max_images=20)
        labels = asyncio.run(ask_all(judge, store, Caps(usd=1.0), [Asked(question, episode)]))
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
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
from rlaif_ray.errors import AttemptFailed, BudgetExhausted, JudgeError, JudgeUnreachable, RlaifError
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.database import owner_id
from rlaif_ray.feedback.judge import Judge
from rlaif_ray.feedback.limits import Heard, Pace, Wait, heard_in
from rlaif_ray.feedback.question import Asked
from rlaif_ray.feedback.records import Record, record_of
from rlaif_ray.feedback.store import ClaimState, LabelStore
from rlaif_ray.types import Abstention, Label, Usage, Verdict

Replay = Literal["prefer", "only", "off"]

__all__ = ["Asker", "AsyncStore", "Circumstances", "LocalStore", "ask_all"]

# How often somebody else's claim on the same question is looked at again.
_BUSY_POLL_S = 0.2
_MOST_BACKOFF_S = 30.0
_NOTHING_HEARD = Heard()


class AsyncStore(Protocol):
    """The store as an asker sees it: in this process, or behind an actor."""

    async def claim(self, record: Record, owner: str, replay: Replay, keep_frames_mb: float) -> Label | ClaimState: ...
    async def unclaim(self, question_key: str, owner: str) -> None: ...
    async def admit(self, record: Record, worst: Amount, caps: Caps, owner: str, pace: Pace) -> int | Wait: ...
    async def hear(self, ticket: int, heard: Heard, pace: Pace, used_tokens: int) -> None: ...
    async def settle(self, ticket: int, used: Amount, detail: str) -> None: ...
    async def write_off(self, ticket: int, detail: str) -> None: ...
    async def answer(
        self, record: Record, outcome: Verdict | Abstention, ticket: int | None, used: Amount
    ) -> Label: ...


class LocalStore:
    """A ``LabelStore`` of this process. Its transactions take a tenth of a millisecond: no thread is worth it."""

    def __init__(self, store: LabelStore) -> None:
        self._store = store

    async def claim(self, record: Record, owner: str, replay: Replay, keep_frames_mb: float) -> Label | ClaimState:
        return self._store.claim(record, owner, replay, keep_frames_mb)

    async def unclaim(self, question_key: str, owner: str) -> None:
        self._store.unclaim(question_key, owner)

    async def admit(self, record: Record, worst: Amount, caps: Caps, owner: str, pace: Pace) -> int | Wait:
        return self._store.admit(record, worst, caps, owner, pace)

    async def hear(self, ticket: int, heard: Heard, pace: Pace, used_tokens: int) -> None:
        self._store.hear(ticket, heard, pace, used_tokens)

    async def settle(self, ticket: int, used: Amount, detail: str) -> None:
        self._store.settle(ticket, used, detail)

    async def write_off(self, ticket: int, detail: str) -> None:
        self._store.write_off(ticket, detail)

    async def answer(self, record: Record, outcome: Verdict | Abstention, ticket: int | None, used: Amount) -> Label:
        return self._store.answer(record, outcome, ticket, used)


class _SetAside(RlaifError):
    """What is left of the budget is set aside for what others have in flight: it may yet come free."""


@dataclass(frozen=True)
class Circumstances:
    """Under which a question is put."""

    share: float = 1.0  # of the caps that may be spent so far (``budget.share_at``)
    reward_model_version: int = 0
    doubt: float = 0.0  # how far the reward model disagrees with itself about it: a standard deviation


_ALONE = Circumstances()


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
    concurrency: int | None = None  # questions in flight, of everything that shares the store
    keep_frames_mb: float = 0.0
    backoff_s: float = 1.0  # of the first wait; doubles

    def __post_init__(self) -> None:
        self._pace = Pace(self.config.requests_per_minute, self.config.tokens_per_minute, self.concurrency)
        self._door = asyncio.Lock()  # one asker of a process looks whether it is its turn; the others stand in line
        self._line = asyncio.Lock()  # of those whom the budget has no room for at the moment: one looks again
        self._backoff = wait_exponential(multiplier=self.backoff_s, max=_MOST_BACKOFF_S) + wait_random(
            0.0, self.backoff_s
        )
        self._owner = owner_id()
        self.batched: set[str] = set()  # questions met that a batch has in flight
        self._slowed = False  # a refusal was met: answers are told too, which makes room again

    @property
    def owner(self) -> str:
        """In whose name questions are claimed and money is reserved: this process."""
        return self._owner

    async def ask(
        self, asked: Asked, circumstances: Circumstances = _ALONE, *, part_of: int | None = None
    ) -> Label | None:
        """The label of one question; None where the budget has no room for it, or it is in a batch (``batched``).

        ``part_of``: the reservation of a whole question, where this is one judge's or one order's share in it.

        Raises JudgeError: the judge can't be used at all. ReplayMissError: ``replay`` is ``only``. StoreError.
        """
        record = record_of(
            asked, keep_frames=self.keep_frames_mb > 0, reward_model_version=circumstances.reward_model_version
        )
        record, tally = replace(record, part=part_of is not None, hold=part_of), _Tally()
        caps = self.caps.at(circumstances.share)
        while True:
            claimed = await self.claim(record)
            record = record.without_episode()
            if isinstance(claimed, Label):
                return claimed
            if claimed == "batched":
                self.batched.add(record.question_key)
                return None
            if claimed == "unanswered":
                return None
            try:
                return await self._attempts(asked, record, caps, tally)
            except BaseException as error:  # storing an answer frees the question by itself; nothing else does
                await self.store.unclaim(record.question_key, self._owner)
                if isinstance(error, BudgetExhausted):
                    return None
                if not isinstance(error, _SetAside):
                    raise
            async with self._line:
                await asyncio.sleep(_BUSY_POLL_S)

    async def ask_all(self, questions: Sequence[Asked], at_once: int) -> list[Label | None]:
        """``ask`` for each, at most ``at_once`` together; labels in the order of the questions."""
        gate = asyncio.Semaphore(at_once)

        async def one(asked: Asked) -> Label | None:
            async with gate:
                return await self.ask(asked)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(asked)) for asked in questions]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def hold(self, record: Record, worst: Amount, caps: Caps) -> int:
        """Set the worst case of a whole question aside, of which its parts take theirs; the number to settle it by.

        Raises BudgetExhausted: there is no room for it, whatever comes of what is in flight.
        """
        record = replace(record, whole=True)
        while True:
            try:
                return await self._turn(record, worst, caps)
            except _SetAside:
                async with self._line:
                    await asyncio.sleep(_BUSY_POLL_S)

    async def claim(self, record: Record) -> Label | ClaimState:
        state = await self.store.claim(record, self._owner, self.config.replay, self.keep_frames_mb)
        record = record.without_episode()
        while state == "busy":
            await asyncio.sleep(_BUSY_POLL_S)
            state = await self.store.claim(record, self._owner, self.config.replay, 0.0)
        return state

    async def _attempts(self, asked: Asked, record: Record, caps: Caps, tally: _Tally) -> Label:
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(self.config.retries + 1),
                wait=self._patience,
                retry=retry_if_exception_type(AttemptFailed),
                reraise=True,
            ):
                with attempt:
                    return await self._attempt(asked, record, caps, tally)
        except AttemptFailed as failure:
            if not failure.reached:
                raise JudgeUnreachable(f"{failure}; {tally.attempts} attempts") from None
            usage = Usage(cost_usd=tally.charged_usd, attempts=tally.attempts)
            return await self.store.answer(record, Abstention(failure.reason, str(failure), usage), None, Amount())
        raise AssertionError("tenacity ends with a return or a raise")

    async def _turn(self, record: Record, worst: Amount, caps: Caps) -> int:
        """Wait for its turn, and have the worst case reserved.

        Raises _SetAside: others' worst cases fill the budget. Who waits for them lets the question go meanwhile, which
        one of them may be waiting for. BudgetExhausted.
        """
        async with self._door:
            while True:
                admitted = await self.store.admit(record, worst, caps, self._owner, self._pace)
                if not isinstance(admitted, Wait):
                    return admitted
                if admitted.for_budget:
                    raise _SetAside(admitted.why)
                await asyncio.sleep(admitted.seconds)

    async def _attempt(self, asked: Asked, record: Record, caps: Caps, tally: _Tally) -> Label:
        worst = self.judge.worst_case(asked.question)
        ticket = await self._turn(replace(record, attempt=tally.attempts), worst, caps)
        tally.attempts += 1
        try:
            outcome = await self.judge.ask(asked.question)
        except AttemptFailed as failure:
            if failure.billed is False:
                await self.store.settle(ticket, Amount(), str(failure))
            else:
                await self.store.write_off(ticket, str(failure))
                tally.charged_usd += worst.usd
            await self._hear(ticket, failure, 0 if failure.billed is False else worst.tokens)
            raise
        except JudgeError as error:
            await self.store.settle(ticket, Amount(), type(error).__name__)
            raise
        except BaseException as error:
            await self.store.write_off(ticket, type(error).__name__)
            raise
        used = Amount(outcome.usage.cost_usd, 1, outcome.usage.input_tokens + outcome.usage.output_tokens)
        usage = replace(outcome.usage, attempts=tally.attempts, cost_usd=outcome.usage.cost_usd + tally.charged_usd)
        label = await self.store.answer(record, replace(outcome, usage=usage), ticket, used)
        await self._hear(ticket, None, used.tokens)
        return label

    async def _hear(self, ticket: int, failure: AttemptFailed | None, used_tokens: int) -> None:
        """Pass on what a reply said about the judge's limits, where it said anything or limits are kept."""
        if failure is None:
            refused, heard = False, heard_in(_headers(self.judge))
        else:
            refused = failure.reply is not None and failure.reply.status == 429
            headers = failure.reply.headers if failure.reply is not None else {}
            heard = heard_in(headers, refused=refused, after_s=failure.after_s)
        if heard != _NOTHING_HEARD or refused or self._slowed or self._pace.tokens_per_minute is not None:
            self._slowed = self._slowed or refused
            await self.store.hear(ticket, heard, self._pace, used_tokens)

    def _patience(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome is not None else None
        asked_for = failure.after_s if isinstance(failure, AttemptFailed) else None
        return max(self._backoff(state), asked_for or 0.0)


def _headers(judge: Judge) -> Mapping[str, str]:
    """Of the newest reply, where the judge is an endpoint that has any."""
    headers = getattr(getattr(judge, "endpoint", None), "headers", None)
    return headers if isinstance(headers, Mapping) else {}


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
    shared = LocalStore(store) if isinstance(store, LabelStore) else store
    return await Asker(judge, shared, budget, config or JudgeConfig(), concurrency).ask_all(questions, concurrency)
