"""Preferences between two episodes, asked in both orders so that a judge's liking for a place shows and doesn't count.

======================  ========================  ==========================================================
asked first / swapped   the preference is         counted as
======================  ========================  ==========================================================
the same unit twice     that unit                 consistent
tie and a unit          a tie                     consistent (it has no liking for a place, only a doubt)
two different units     a tie                     position inconsistency
an abstention           an abstention             neither
identical units         a tie, without asking     neither
======================  ========================  ==========================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import ShapeError
from rlaif_ray.feedback.ask import AsyncStore, ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.judge import Judge
from rlaif_ray.feedback.question import Asked, Order, Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Abstention, Episode, Label, Usage, Verdict

__all__ = [
    "Pair",
    "PositionCounts",
    "Preferred",
    "ask_preferences",
    "combined",
    "drawn_order",
    "position_counts",
    "total_usage",
]


@dataclass(frozen=True)
class Pair:
    """Two episodes to choose between, with why."""

    first: Episode
    second: Episode
    run_id: str = ""
    step: int = 0
    inclusion_probability: float = 1.0


@dataclass(frozen=True)
class Preferred:
    """What came of one pair."""

    outcome: Verdict | Abstention | None  # None: the budget had no room for it
    labels: tuple[Label, ...] = ()  # as they were stored, one for each order that was asked; none for identical units
    orders: tuple[Order, ...] = ()
    inconsistent: bool = False  # the two orders prefer different units


@dataclass(frozen=True)
class PositionCounts:
    """How far a judge goes by the place."""

    both: int  # pairs answered in both orders
    inconsistent: int
    shown_first: int  # answers, of either order, for the unit shown first
    shown_second: int

    @property
    def inconsistency(self) -> float:
        """Share of pairs whose preference turned with the order; nan before the first."""
        return self.inconsistent / self.both if self.both else float("nan")

    @property
    def bias(self) -> float:
        """Share of decided answers for the unit shown first, less a half: in [-0.5, 0.5]; nan before the first."""
        decided = self.shown_first + self.shown_second
        return self.shown_first / decided - 0.5 if decided else float("nan")


def drawn_order(seed: int, first_key: str, second_key: str) -> Order:
    """One order for two units, at random but always the same for the same two, whichever is named first."""
    low, high = sorted((first_key, second_key))
    digest = hashlib.sha256(f"order|{seed}|{low}|{high}".encode()).digest()
    low_shown_first = digest[0] % 2 == 0
    return "first" if low_shown_first == (first_key == low) else "swapped"


def combined(outcomes: Sequence[Verdict | Abstention]) -> tuple[Verdict | Abstention, bool]:
    """One preference from one or two orders' (each already in terms of the same two units), and whether they disagree.

    Usage is the sum. Raises ShapeError: not one or two.
    """
    if len(outcomes) not in (1, 2):
        raise ShapeError(f"orders of a preference: got {len(outcomes)}, expected 1 or 2")
    usage = total_usage([outcome.usage for outcome in outcomes])
    for outcome in outcomes:
        if isinstance(outcome, Abstention):
            return replace(outcome, usage=usage), False
    verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
    said = {verdict.preference for verdict in verdicts}
    if len(verdicts) == 1:
        return verdicts[0], False
    agreed = verdicts[0].preference if len(said) == 1 else "tie"
    chances = [verdict.probability for verdict in verdicts if verdict.probability is not None]
    soft = sum(chances) / len(chances) if len(chances) == len(verdicts) else None  # a liking for a place cancels out
    whole = replace(
        verdicts[0],
        value={"first": 1.0, "second": 0.0}.get(agreed or "tie", 0.5) if soft is None else soft,
        preference=agreed,
        probability=soft,
        text="\n".join(verdict.text for verdict in verdicts),
        usage=usage,
    )
    return whole, said == {"first", "second"}


def position_counts(found: Sequence[Preferred]) -> PositionCounts:
    """Over many pairs."""
    both = [pair for pair in found if len(pair.labels) == 2 and isinstance(pair.outcome, Verdict)]
    shown = [
        (label.outcome.preference == "first") == (order == "first")
        for pair in found
        for label, order in zip(pair.labels, pair.orders, strict=True)
        if isinstance(label.outcome, Verdict) and label.outcome.preference in ("first", "second")
    ]
    return PositionCounts(len(both), sum(pair.inconsistent for pair in both), sum(shown), len(shown) - sum(shown))


async def ask_preferences(
    judge: Judge,
    store: LabelStore | AsyncStore,
    budget: Caps,
    pairs: Sequence[Pair],
    questions: Questionnaire,
    *,
    config: JudgeConfig | None = None,
) -> list[Preferred]:
    """Which of each two is to be preferred; in the order of the pairs. ``config.orders``: both, or one that is drawn.

    Raises ConfigError: the prompt is about one episode. JudgeError: the judge can't be used at all. StoreError.
    """
    config = config or JudgeConfig()
    asked: list[Asked] = []
    places: list[tuple[Order, ...]] = []
    for pair in pairs:
        question = questions.between(pair.first, pair.second)
        first, second = question.units
        if (first.frames, first.caption) == (second.frames, second.caption):
            orders: tuple[Order, ...] = ()
        elif config.orders == "random":
            orders = (drawn_order(questions.seed, first.key, second.key),)
        else:
            orders = ("first", "swapped")
        places.append(orders)
        asked += [
            Asked(
                replace(question, order=order),
                pair.first,
                pair.run_id,
                pair.step,
                pair.inclusion_probability,
                pair.second,
            )
            for order in orders
        ]
    labels = iter(await ask_all(judge, store, budget, asked, config=config))
    return [_preferred(orders, [next(labels) for _ in orders]) for orders in places]


def _preferred(orders: tuple[Order, ...], labels: Sequence[Label | None]) -> Preferred:
    if not orders:
        return Preferred(Verdict(kind="preference", value=0.5, text="", usage=Usage(attempts=0), preference="tie"))
    there = tuple(label for label in labels if label is not None)
    if len(there) < len(orders):  # half a pair would count its place
        return Preferred(None, there, orders[: len(there)])
    outcome, inconsistent = combined([label.outcome for label in there])
    return Preferred(outcome, there, orders, inconsistent)


def total_usage(usages: Sequence[Usage]) -> Usage:
    """Of several answers together; the time is that of the slowest: they were asked at once."""
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cost_usd=sum(usage.cost_usd for usage in usages),
        latency_s=max(usage.latency_s for usage in usages),
        attempts=sum(usage.attempts for usage in usages),
    )
