"""What votes come to, and when a cascade's cheap judge is unsure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rlaif_ray.config.asking import CascadeConfig
from rlaif_ray.feedback.panel import doubtful, voted
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
    assert found.usage.cost_usd == pytest.approx(0.3)
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


@pytest.mark.parametrize(
    ("said", "more", "expected"),
    [
        (says(True, 0.95), {}, {"unsure": False, "order-disagrees": False, "rm-disagrees": False}),
        (says(True, 0.7), {}, {"unsure": True, "order-disagrees": False, "rm-disagrees": False}),
        (says(False, 0.29), {}, {"unsure": False, "order-disagrees": False, "rm-disagrees": False}),
        (YES, {}, {"unsure": False, "order-disagrees": False, "rm-disagrees": False}),
        (prefers("tie"), {"turned": True}, {"unsure": False, "order-disagrees": True, "rm-disagrees": False}),
        (says(True, 0.95), {"spread": 0.1}, {"unsure": False, "order-disagrees": False, "rm-disagrees": True}),
        (says(True, 0.95), {"spread": 0.09}, {"unsure": False, "order-disagrees": False, "rm-disagrees": False}),
        (NOTHING, {}, {"unsure": True, "order-disagrees": True, "rm-disagrees": True}),
    ],
)
def test_each_doubt_counts_where_it_is_asked_for(said: Any, more: Any, expected: dict[Any, bool]) -> None:
    found = {when: doubtful(said, CascadeConfig(strong={}, when=(when,)), **more) for when in expected}
    assert found == expected
    assert doubtful(said, CascadeConfig(strong={}, when=tuple(expected)), **more) is any(expected.values())
