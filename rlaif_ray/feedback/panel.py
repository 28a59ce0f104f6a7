"""Several judges as one: a panel that votes, a cascade that asks a strong judge where a cheap one is unsure.

Both are judges themselves: one attempt at them is one attempt at each member that is needed, reserved for all of them
and billed together.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlaif_ray.errors import AttemptFailed, ConfigError, JudgeError
from rlaif_ray.feedback.budget import Amount
from rlaif_ray.feedback.judge import Judge
from rlaif_ray.feedback.question import JudgeIdentity, Question
from rlaif_ray.types import Abstention, Usage, Verdict

__all__ = ["Cascade", "CascadeCounts", "Panel", "voted"]


class Panel:
    """Judges that vote. More than half of them have to give a verdict; a split panel abstains, or says tie.

    Raises ConfigError: fewer than two members.
    """

    def __init__(self, members: Sequence[Judge]) -> None:
        if len(members) < 2:
            raise ConfigError(f"panel: got {len(members)} members, allowed are 2 and more")
        self.members = tuple(members)
        self.identity = _joint("panel", [member.identity for member in members])
        self._broken: JudgeError | None = None

    def worst_case(self, question: Question) -> Amount:
        return _together([member.worst_case(question) for member in self.members])

    async def ask(self, question: Question) -> Verdict | Abstention:
        """Ask every member. One whose attempt fails has no vote and is charged at its worst where nobody knows.

        Raises AttemptFailed: no member answered. JudgeError: a member can't be used at all; told before the next
        question where others were already paid for this one.
        """
        if self._broken is not None:
            raise self._broken
        found = await asyncio.gather(*(member.ask(question) for member in self.members), return_exceptions=True)
        outcomes = [one for one in found if isinstance(one, Verdict | Abstention)]
        failures = [one for one in found if isinstance(one, BaseException)]
        for failure in failures:
            if isinstance(failure, JudgeError):
                self._broken = failure
            elif not isinstance(failure, AttemptFailed):
                raise failure
        if not outcomes:
            raise self._broken or _no_answer([f for f in failures if isinstance(f, AttemptFailed)])
        usages = [outcome.usage for outcome in outcomes]
        for member, one in zip(self.members, found, strict=True):
            if isinstance(one, AttemptFailed) and one.billed is None:
                worst = member.worst_case(question)
                usages.append(Usage(worst.tokens, 0, worst.usd))
        return replace(voted(outcomes, len(self.members)), usage=_added(usages))


def voted(outcomes: Sequence[Verdict | Abstention], members: int) -> Verdict | Abstention:
    """What a panel of so many says: the answer of most; ``value`` and ``probability`` are the mean of the votes'.

    An approval that is split evenly, or a panel of which half or less gave a verdict, is an abstention.
    """
    verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
    text = "\n".join(outcome.text for outcome in outcomes)
    if 2 * len(verdicts) <= members:
        detail = f"{len(verdicts)} of {members} judges gave a verdict"
        reasons = Counter(outcome.reason for outcome in outcomes if isinstance(outcome, Abstention))
        return Abstention(reasons.most_common(1)[0][0] if reasons else "unknown", detail, Usage(), text)
    value = sum(verdict.value for verdict in verdicts) / len(verdicts)
    if verdicts[0].kind == "approval":
        ayes = sum(bool(verdict.approved) for verdict in verdicts)
        if 2 * ayes == len(verdicts):
            return Abstention("unknown", f"the panel is split, {ayes} to {ayes}", Usage(), text)
        winner = next(v for v in verdicts if v.approved == (2 * ayes > len(verdicts)))
    elif verdicts[0].kind == "rating":
        winner = sorted(verdicts, key=lambda v: v.rating or 0)[len(verdicts) // 2]
    else:
        (preferred, most), *others = Counter(v.preference for v in verdicts).most_common()
        winner = next(v for v in verdicts if v.preference == preferred)
        if others and others[0][1] == most:
            winner = replace(winner, preference="tie")
    return replace(winner, value=value, probability=value, text=text)


@dataclass(frozen=True)
class CascadeCounts:
    """What a cascade saved so far."""

    asked: int
    escalated: int
    cheap_usd: float
    strong_usd: float

    @property
    def saved_usd(self) -> float:
        """Against asking the strong judge each time, at the mean of what it took; 0 before it was asked at all."""
        if not self.escalated:
            return 0.0
        return self.strong_usd / self.escalated * self.asked - self.cheap_usd - self.strong_usd


class Cascade:
    """A cheap judge first, a strong one where that is unsure: its probability is within ``margin`` of a half, it
    abstains, it prefers the other of two when they change places, or ``doubt`` says so (a reward model's ensemble that
    disagrees, say).

    Raises ConfigError: a margin outside of [0, 0.5].
    """

    def __init__(
        self, cheap: Judge, strong: Judge, *, margin: float = 0.2, doubt: Callable[[Question], bool] | None = None
    ) -> None:
        if not 0.0 <= margin <= 0.5:
            raise ConfigError(f"cascade margin: got {margin}, allowed are 0 to 0.5")
        self.cheap, self.strong, self.margin = cheap, strong, margin
        self._doubt = doubt
        self.identity = _joint(f"cascade {margin:g}", [cheap.identity, strong.identity])
        self._kept: dict[str, list[Verdict | Abstention]] = {}  # the cheap judge's, until the strong one has answered
        self._counts = CascadeCounts(0, 0, 0.0, 0.0)

    @property
    def counts(self) -> CascadeCounts:
        return self._counts

    def worst_case(self, question: Question) -> Amount:
        cheap = self.cheap.worst_case(question)
        return _together([cheap] * (2 if question.kind == "preference" else 1) + [self.strong.worst_case(question)])

    async def ask(self, question: Question) -> Verdict | Abstention:
        """Raises AttemptFailed: of unknown price where the cheap judge was paid; what it said is kept for the next
        attempt. JudgeError: one of the two can't be used at all."""
        first = self._kept.setdefault(question.key, [])
        for order in self._orders(question)[len(first) :]:
            try:
                first.append(await self.cheap.ask(order))
            except AttemptFailed as failure:
                raise _of_unknown_price(failure) if first else failure from None
        sure = first[0] if self._is_sure(question, first) else None
        try:
            outcome = sure or await self.strong.ask(question)
        except AttemptFailed as failure:
            raise _of_unknown_price(failure) from None
        del self._kept[question.key]
        self._count(first, None if sure else outcome)
        usages = [one.usage for one in first]
        return replace(outcome, usage=_added(usages if sure else [*usages, outcome.usage]))

    def _orders(self, question: Question) -> list[Question]:
        if question.kind != "preference":
            return [question]
        return [question, replace(question, order="swapped" if question.order == "first" else "first")]

    def _is_sure(self, question: Question, said: Sequence[Verdict | Abstention]) -> bool:
        verdicts = [one for one in said if isinstance(one, Verdict)]
        if len(verdicts) < len(said) or len({one.preference for one in verdicts}) > 1:
            return False
        chances = [one.probability for one in verdicts if one.probability is not None]
        if any(abs(chance - 0.5) <= self.margin for chance in chances):
            return False
        return self._doubt is None or not self._doubt(question)

    def _count(self, cheap: Sequence[Verdict | Abstention], strong: Verdict | Abstention | None) -> None:
        before = self._counts
        self._counts = CascadeCounts(
            before.asked + 1,
            before.escalated + (strong is not None),
            before.cheap_usd + sum(one.usage.cost_usd for one in cheap),
            before.strong_usd + (strong.usage.cost_usd if strong is not None else 0.0),
        )


def _joint(name: str, members: Sequence[JudgeIdentity]) -> JudgeIdentity:
    digest = hashlib.sha256(repr([(m.name, m.model, m.settings) for m in members]).encode()).hexdigest()[:16]
    return JudgeIdentity(name, "+".join(member.model for member in members), (("members", digest),))


def _together(amounts: Sequence[Amount]) -> Amount:
    return Amount(usd=sum(a.usd for a in amounts), labels=1, tokens=sum(a.tokens for a in amounts))


def _added(usages: Sequence[Usage]) -> Usage:
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cost_usd=sum(usage.cost_usd for usage in usages),
        latency_s=max(usage.latency_s for usage in usages),
    )


def _of_unknown_price(failure: AttemptFailed) -> AttemptFailed:
    return AttemptFailed(str(failure), reason=failure.reason, after_s=failure.after_s, reply=failure.reply)


def _no_answer(failures: Sequence[AttemptFailed]) -> AttemptFailed:
    """Not billed only where none was; nothing reached only where nothing was."""
    worst = next((failure for failure in failures if failure.billed is None), failures[0])
    waits = [failure.after_s for failure in failures if failure.after_s is not None]
    return AttemptFailed(
        str(worst), reason=worst.reason, billed=worst.billed, after_s=max(waits, default=None),
        reached=any(failure.reached for failure in failures), reply=worst.reply,
    )  # fmt: skip
