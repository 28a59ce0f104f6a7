"""Panels vote, cascades escalate, and both are billed for what their members took."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from feedback_fakes import TinyRenderer, asked_about, tiny_config, tiny_episode

from rlaif_ray.errors import AttemptFailed, ConfigError, JudgeError
from rlaif_ray.feedback.ask import Asker, LocalStore
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.judge import Judge
from rlaif_ray.feedback.panel import Cascade, Panel, voted
from rlaif_ray.feedback.question import JudgeIdentity, Question, Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Abstention, Usage, Verdict

USAGE = Usage(10, 5, 0.1, 2.0)
NOTHING = Abstention("refusal", "no", USAGE)


def says(approved: bool, probability: float | None = None) -> Verdict:
    value = float(approved) if probability is None else probability
    return Verdict("approval", value, "t", USAGE, approved=approved, probability=probability)


def prefers(preference: Any) -> Verdict:
    value = {"first": 1.0, "second": 0.0, "tie": 0.5}[preference]
    return Verdict("preference", value, "t", USAGE, preference=preference)


YES, NO = says(True), says(False)


class Member:
    """Says what it was told to, one thing after the other, the last for ever."""

    def __init__(self, *outcomes: Verdict | Abstention | BaseException, usd: float = 1.0) -> None:
        self.outcomes, self.usd, self.asked = list(outcomes), usd, 0
        self.identity = JudgeIdentity("fake", f"m{usd:g}")

    def worst_case(self, _: Question) -> Amount:
        return Amount(self.usd, 1, 100)

    async def ask(self, _: Question) -> Verdict | Abstention:
        self.asked += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def question(number: int = 1) -> Question:
    return asked_about(number, JudgeIdentity("a", "b")).question


def ask(judge: Judge, number: int = 1) -> Verdict | Abstention:
    return asyncio.run(judge.ask(question(number)))


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([YES, YES, NO], (True, 2 / 3)),
        ([NO, NO, YES], (False, 1 / 3)),
        ([YES, YES, NOTHING], (True, 1.0)),
        ([says(True, 0.6), says(True, 0.7), says(False, 0.1)], (True, 1.4 / 3)),
        ([YES, NO, NOTHING], "unknown"),
        ([YES, NOTHING, NOTHING], "refusal"),
    ],
)
def test_votes_by_hand(outcomes: Sequence[Verdict | Abstention], expected: Any) -> None:
    found = voted(outcomes, 3)
    if isinstance(found, Abstention):
        assert found.reason == expected
    else:
        assert (found.approved, found.value) == (expected[0], pytest.approx(expected[1]))


def test_votes_on_levels_and_between_two() -> None:
    levels = [Verdict("rating", level / 4, "", USAGE, rating=level) for level in (4, 0, 3)]
    found = voted(levels, 3)
    assert isinstance(found, Verdict)
    assert (found.rating, found.value) == (3, pytest.approx(7 / 12))
    split = voted([prefers("first"), prefers("second")], 2)
    assert isinstance(split, Verdict)
    assert (split.preference, split.value) == ("tie", 0.5)
    most = voted([prefers("first"), prefers("first"), prefers("tie")], 3)
    assert isinstance(most, Verdict)
    assert most.preference == "first"


def test_a_panel_is_billed_for_all_it_asked(store: LabelStore) -> None:
    unknown, free = AttemptFailed("gone"), AttemptFailed("429", billed=False)
    panel = Panel([Member(YES), Member(YES), Member(YES), Member(unknown, usd=7.0), Member(free)])
    assert isinstance(panel, Judge)
    assert panel.worst_case(question()) == Amount(11.0, 1, 500)
    asker = Asker(panel, LocalStore(store), Caps(usd=50.0))
    label = asyncio.run(asker.ask(asked_about(1, panel.identity)))
    assert label is not None
    assert label.value == 1.0
    assert store.account(Caps()).spent.usd == pytest.approx(3 * 0.1 + 7.0)
    assert store.account(Caps()).spent.labels == 1


def test_a_panel_nobody_of_which_answers_may_be_asked_again() -> None:
    with pytest.raises(AttemptFailed) as free:
        ask(Panel([Member(AttemptFailed("a", billed=False, after_s=3.0)), Member(AttemptFailed("b", billed=False))]))
    assert (free.value.billed, free.value.after_s) == (False, 3.0)
    with pytest.raises(AttemptFailed, match="b") as unknown:
        ask(Panel([Member(AttemptFailed("a", billed=False)), Member(AttemptFailed("b"))]))
    assert unknown.value.billed is None


def test_a_member_that_cannot_be_used_ends_asking_after_what_was_paid_is_counted() -> None:
    panel = Panel([Member(YES), Member(YES), Member(JudgeError("no key"))])
    outcome = ask(panel)
    assert isinstance(outcome, Verdict)
    with pytest.raises(JudgeError, match="no key"):
        ask(panel)
    assert panel.members[0].asked == 1  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="got 1 members"):
        Panel([Member(YES)])


def test_a_cascade_asks_the_strong_judge_where_the_cheap_one_is_unsure() -> None:
    cheap = Member(says(True, 0.95), says(True, 0.65), NOTHING, says(False, 0.05), usd=1.0)
    strong = Member(NO, usd=20.0)
    cascade = Cascade(cheap, strong, margin=0.2)
    assert isinstance(cascade, Judge)
    values = [getattr(ask(cascade, number), "approved", None) for number in range(4)]
    assert values == [True, False, False, False]
    assert (cheap.asked, strong.asked) == (4, 2)
    counts = cascade.counts
    assert (counts.asked, counts.escalated) == (4, 2)
    assert counts.cheap_usd == pytest.approx(0.4)
    # Four strong answers would have cost 0.4; two and four cheap ones cost 0.6.
    assert counts.saved_usd == pytest.approx(-0.2)
    assert cascade.worst_case(question()).usd == 21.0


def test_a_preference_that_turns_with_the_order_escalates() -> None:
    config = tiny_config("http://127.0.0.1:1/v1", judge__prompt="homegrid-preference").judge
    questions = Questionnaire.of(config, TinyRenderer(), JudgeIdentity("a", "b"))
    pair = questions.between(tiny_episode(1), tiny_episode(2, harmful=True))
    strong = Member(prefers("second"))
    cheap = Member(prefers("first"), prefers("second"), prefers("first"))
    cascade = Cascade(cheap, strong)
    found = [asyncio.run(cascade.ask(pair)), asyncio.run(cascade.ask(pair))]
    assert [getattr(outcome, "preference", None) for outcome in found] == ["second", "first"]
    assert (cheap.asked, strong.asked) == (4, 1)
    assert [outcome.usage.cost_usd for outcome in found] == pytest.approx([0.3, 0.2])
    assert cascade.worst_case(pair).usd == 3.0


def test_doubt_from_outside_escalates_too() -> None:
    strong = Member(NO)
    cascade = Cascade(Member(YES), strong, doubt=lambda asked: asked.key == question(2).key)
    assert [getattr(ask(cascade, n), "approved", None) for n in (1, 2)] == [True, False]
    assert strong.asked == 1
    with pytest.raises(ConfigError, match=r"got 0\.7"):
        Cascade(Member(YES), strong, margin=0.7)


def test_what_the_cheap_judge_said_is_not_paid_for_twice(store: LabelStore) -> None:
    cheap, strong = Member(says(True, 0.5)), Member(AttemptFailed("429", billed=False), NO, usd=3.0)
    cascade = Cascade(cheap, strong)
    asker = Asker(cascade, LocalStore(store), Caps(usd=50.0), backoff_s=0.001)
    label = asyncio.run(asker.ask(asked_about(1, cascade.identity)))
    assert label is not None
    assert label.value == 0.0
    assert (cheap.asked, strong.asked) == (1, 2)
    # The first attempt's price is not known in parts: it is written off at its worst, never below what was billed.
    assert store.account(Caps()).spent.usd == pytest.approx(4.0 + 0.2)
