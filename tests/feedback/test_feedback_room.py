"""How many questions a budget has room for: by hand, and as what it is there for: estimates that stay unbiased."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_ray.errors import BudgetExhausted
from rlaif_ray.feedback.budget import Account, Amount, Caps
from rlaif_ray.feedback.estimate import estimated_mean
from rlaif_ray.feedback.room import RECENT, Room

LONG, SHORT = Amount(0.03, 1, 3_000), Amount(0.003, 1, 300)


def room(caps: Caps, *, parts: int = 1, spent: Amount | None = None, own: Amount | None = None) -> Room:
    made = Room(caps, parts)
    made.look(Account(spent=spent or Amount()), Account(spent=own or Amount()))
    return made


@pytest.mark.parametrize(
    ("caps", "labels"),
    [
        (Caps(), None),
        (Caps(labels=10), 6),
        (Caps(usd=0.14), 3),  # 0.1 left, 0.03 each
        (Caps(tokens=10_000), 3),  # 9,600 left
        (Caps(labels=5, usd=1.0, tokens=10_000), 1),
        (Caps(labels=10, run=Caps(labels=3)), 2),
        (Caps(usd=0.14, run=Caps(usd=0.05)), 1),
        (Caps(usd=0.04), 0),
    ],
)
def test_the_cap_that_is_nearest_counts(caps: Caps, labels: int | None) -> None:
    made = room(caps, spent=Amount(0.04, 4, 400), own=Amount(0.01, 1, 100))
    made.worst.extend([LONG, SHORT])
    assert made.labels() == labels


def test_before_a_question_has_a_price_labels_alone_count() -> None:
    assert room(Caps(usd=1e-6)).labels() is None
    assert room(Caps(usd=1e-6, labels=7)).labels() == 7


def test_long_episodes_of_the_beginning_are_forgotten() -> None:
    made = room(Caps(usd=0.3))
    made.worst.extend([LONG] + [SHORT] * (RECENT - 1))
    assert made.labels() == 10
    made.worst.append(SHORT)
    assert made.labels() == 100


def test_a_schedule_opens_part_of_each_cap_and_a_panel_takes_its_parts() -> None:
    made = room(Caps(labels=100, usd=3.0, run=Caps(labels=60)), parts=3)
    made.worst.append(LONG)
    assert (made.labels(), made.labels(0.5), made.labels(0.0)) == (20, 10, 0)  # the run's own cap; 0.09 a question
    assert room(Caps(usd=3.0), parts=3).labels(0.5) is None


def test_an_answer_counts_before_the_next_look() -> None:
    made = room(Caps(labels=10, run=Caps(labels=10)))
    made.hear(SHORT, billed=True)
    made.hear(SHORT, billed=False)  # somebody else had paid for it: the run alone is charged
    assert made.labels() == 8
    made.look(Account(spent=Amount(0.0, 1, 0)), Account(spent=Amount(0.0, 1, 0)))
    assert made.labels() == 9


def ending(rng: np.random.Generator, *, reckoned: bool) -> float:
    """What is estimated of a run whose money ends half-way: of forty episodes each time a fifth is drawn, and those
    that are rejected are long, hence dear."""
    account, made = Account(Caps(usd=1.0)), Room(Caps(usd=1.0), 1)
    values, chances = [], []
    for _ in range(100):
        drawn = rng.choice(40, 8, replace=False)
        made.look(account, Account())
        fit = made.labels()
        taken = 8 if fit is None or not reckoned else min(fit, 8)
        for i in drawn[:taken]:
            cost = LONG if i < 20 else SHORT
            try:
                account = account.reserve(cost).settle(cost, cost)
            except BudgetExhausted:
                assert not reckoned, "what was drawn and fits must not be turned away"
                continue
            made.worst.append(cost)
            values.append(float(i >= 20))
            chances.append(0.2 * (taken / 8))
    return estimated_mean(np.array(values), np.array(chances)).mean


def test_what_is_estimated_does_not_depend_on_what_the_last_money_is_enough_for() -> None:
    rng = np.random.default_rng(0)
    reckoned, as_it_comes = (np.array([ending(rng, reckoned=how) for _ in range(300)]) for how in (True, False))
    error = reckoned.std(ddof=1) / np.sqrt(len(reckoned))
    assert reckoned.mean() == pytest.approx(0.5, abs=3 * error)
    assert as_it_comes.mean() > 0.5 + 5 * error  # the short ones still fit, and are approved of
