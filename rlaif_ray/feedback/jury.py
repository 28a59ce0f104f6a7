"""A question that several answers are given to: by a panel, by a cascade, or in both orders of two episodes.

::

    whole ─ stored? ─► replayed label
      │ claimed
      ▼
    set the worst case of all parts aside ─► ask the parts, each as a question of its own ─► put together ─► label

Each part (one judge's, one order's) is claimed, paid for, stored and replayed like any other question: nothing is paid
twice, whoever asked before and whatever became of the rest. What they come to is stored as an answer of its own, which
costs nothing. Where all parts' worst cases find no room in the budget, none is asked: what was begun can be ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import BudgetExhausted, ConfigError
from rlaif_ray.feedback.ask import Asker, AsyncStore, Circumstances
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.judge import Judge
from rlaif_ray.feedback.panel import doubtful, voted
from rlaif_ray.feedback.preference import combined, drawn_order, total_usage
from rlaif_ray.feedback.prompt import Prompt
from rlaif_ray.feedback.question import Asked, JudgeIdentity, Order, Question
from rlaif_ray.feedback.records import record_of
from rlaif_ray.types import Abstention, Label, QuestionKind, Usage, Verdict

__all__ = ["Jury", "check_words", "joint_identity", "parts_at_most"]

_Result = TypeVar("_Result")


def parts_at_most(config: JudgeConfig, kind: QuestionKind) -> int:
    """Billed questions behind one label, at most: judges times orders."""
    orders = 2 if kind == "preference" and config.orders == "both" else 1
    return orders * len(config.members)


def check_words(config: JudgeConfig, prompt: Prompt) -> None:
    """Raises ConfigError: the cascade waits for what this prompt's answers can't show."""
    if config.cascade is None or "order-disagrees" not in config.cascade.when:
        return
    if prompt.kind != "preference" or config.orders != "both":
        raise ConfigError(
            f"judge.cascade.when: got 'order-disagrees' with prompt {prompt.name!r} of kind {prompt.kind!r} and "
            f"judge.orders {config.orders!r}; allowed with preferences that are asked in both orders"
        )


def joint_identity(config: JudgeConfig, judges: Sequence[JudgeIdentity], *, doubted: bool = False) -> JudgeIdentity:
    """Who answers a whole question: all of its judges, and how their answers are put together."""
    if len(judges) == 1:
        return judges[0]
    name, how = "panel", ""
    if (cascade := config.cascade) is not None:
        name, how = "cascade", f"{sorted(cascade.when)} {cascade.margin:g} {doubted}"
    parts = [how, *((one.name, one.model, one.settings) for one in judges)]
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return JudgeIdentity(name, "+".join(one.model for one in judges), (("members", digest),))


@dataclass(frozen=True)
class _Said:
    """What one judge said, in one order or in both."""

    outcome: Verdict | Abstention
    labels: tuple[Label, ...]
    turned: bool = False  # its preference turned with the order


@dataclass
class Jury:
    """Puts questions to one or several judges, within one budget, into one store.

    ``judges`` are those of ``config.members``. Where a question has one judge and one order, there is no whole beside
    it: it is asked as it is.
    """

    judges: Sequence[Judge]
    store: AsyncStore
    caps: Caps
    config: JudgeConfig
    concurrency: int | None = None
    keep_frames_mb: float = 0.0
    backoff_s: float = 1.0
    seed: int = 0  # of the draw of an order
    _askers: list[Asker] = field(init=False)
    _whole: Asker = field(init=False)

    def __post_init__(self) -> None:
        def asker(judge: Judge, config: JudgeConfig) -> Asker:
            more = {"keep_frames_mb": self.keep_frames_mb, "backoff_s": self.backoff_s}
            return Asker(judge, self.store, self.caps, config, self.concurrency, **more)

        self._askers = [asker(*member) for member in zip(self.judges, self.config.members, strict=True)]
        self._whole = asker(self.judges[0], self.config)

    @property
    def identity(self) -> JudgeIdentity:
        return joint_identity(self.config, [judge.identity for judge in self.judges])

    async def ask(self, asked: Asked, circumstances: Circumstances | None = None) -> Label | None:
        """The label of one question; None where the budget has no room for it.

        Raises JudgeError: one of the judges can't be used at all. ReplayMissError: ``replay`` is ``only``. StoreError.
        """
        now = circumstances or Circumstances()
        orders = self._orders(asked.question)
        if len(self.judges) == 1 and len(orders) == 1:
            return await self._askers[0].ask(_put(asked, self.judges[0].identity, orders[0]), now)
        whole = _put(asked, self._identity(now), orders[0] if len(orders) == 1 else "both")
        record = record_of(whole, keep_frames=self.keep_frames_mb > 0, reward_model_version=now.reward_model_version)
        claimed = await self._whole.claim(record)
        if isinstance(claimed, Label):
            return claimed
        if claimed == "unanswered":
            return None
        record = record.without_episode()
        hold: int | None = None
        try:
            if not orders:
                return await self.store.answer(record, _tie(), None, Amount())
            hold = await self._whole.hold(record, self._worst(asked, orders), self.caps.at(now.share))
            said = await self._said(asked, orders, now, hold)
            outcome = said[-1].outcome if self.config.panel == () else voted([s.outcome for s in said], len(said))
            usage = total_usage([label.outcome.usage for each in said for label in each.labels])
            record = replace(
                record,
                made_of=json.dumps([label.label_id for each in said for label in each.labels]),
                inconsistent=any(each.turned for each in said),
            )
            return await self.store.answer(record, replace(outcome, usage=usage), hold, Amount())
        except BaseException as error:
            if hold is not None:
                await self.store.settle(hold, Amount(), type(error).__name__)
            await self.store.unclaim(record.question_key, self._whole.owner)
            if isinstance(error, BudgetExhausted):
                return None
            raise

    def _identity(self, now: Circumstances) -> JudgeIdentity:
        """A reward model's doubt is part of a question's address: it decides who has the last word."""
        cascade = self.config.cascade
        doubted = cascade is not None and "rm-disagrees" in cascade.when and now.doubt >= cascade.spread
        return joint_identity(self.config, [judge.identity for judge in self.judges], doubted=doubted)

    def _orders(self, question: Question) -> tuple[Order, ...]:
        """In which a question is asked; none where its two units look the same."""
        if question.kind != "preference":
            return ("first",)
        first, second = question.units
        if (first.frames, first.caption) == (second.frames, second.caption):
            return ()
        return ("first", "swapped") if self.config.orders == "both" else (
            drawn_order(self.seed, first.key, second.key),
        )  # fmt: skip

    def _worst(self, asked: Asked, orders: Sequence[Order]) -> Amount:
        worst = Amount()
        for judge in self.judges:
            for order in orders:
                worst += judge.worst_case(_put(asked, judge.identity, order).question)
        return worst

    async def _said(self, asked: Asked, orders: Sequence[Order], now: Circumstances, hold: int) -> list[_Said]:
        """By every judge of a panel; by the cheap one of a cascade and, where that is unsure, the strong one."""
        cascade = self.config.cascade
        if cascade is None:
            return await _all_of([self._one(i, asked, orders, now, hold) for i in range(len(self.judges))])
        cheap = await self._one(0, asked, orders, now, hold)
        if not doubtful(cheap.outcome, cascade, turned=cheap.turned, spread=now.doubt):
            return [cheap]
        return [cheap, await self._one(1, asked, orders, now, hold)]

    async def _one(self, i: int, asked: Asked, orders: Sequence[Order], now: Circumstances, hold: int) -> _Said:
        parts = [_put(asked, self.judges[i].identity, order) for order in orders]
        labels = await _all_of([self._askers[i].ask(part, now, part_of=hold) for part in parts])
        there = tuple(label for label in labels if label is not None)
        if len(there) < len(orders):
            raise BudgetExhausted("no room for all of a question's parts")
        outcome, turned = combined([label.outcome for label in there]) if len(there) > 1 else (there[0].outcome, False)
        return _Said(outcome, there, turned)


def _put(asked: Asked, judge: JudgeIdentity, order: Order) -> Asked:
    return replace(asked, question=replace(asked.question, judge=judge, order=order))


def _tie() -> Verdict:
    """Two episodes that look the same: nobody is asked."""
    return Verdict(kind="preference", value=0.5, text="", usage=Usage(attempts=0), preference="tie")


async def _all_of(asking: Sequence[Awaitable[_Result]]) -> list[_Result]:
    """All of them at once. Where one fails the others are waited for: what is paid for is to be stored."""
    found = await asyncio.gather(*asking, return_exceptions=True)
    failures = [one for one in found if isinstance(one, BaseException)]
    for failure in sorted(failures, key=lambda one: isinstance(one, BudgetExhausted)):
        raise failure
    return [one for one in found if not isinstance(one, BaseException)]
