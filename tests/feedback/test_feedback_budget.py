"""The budget's invariants, and what prices it works with."""

from __future__ import annotations

import pytest
from feedback_fakes import asked_about, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from rlaif_ray.errors import BudgetExhausted, ConfigError
from rlaif_ray.feedback.budget import Account, Amount, Caps, Schedule, share_at
from rlaif_ray.feedback.judge import identity_of
from rlaif_ray.feedback.prices import image_tokens, picture_size, price_of, worst_case

amounts = st.builds(
    Amount, usd=st.integers(0, 40).map(lambda cents: cents / 100), labels=st.integers(0, 2), tokens=st.integers(0, 900)
)


@given(
    caps=st.builds(
        Caps,
        usd=st.none() | st.integers(0, 200).map(lambda cents: cents / 100),
        labels=st.none() | st.integers(0, 12),
        tokens=st.none() | st.integers(0, 5000),
    ),
    steps=st.lists(st.tuples(st.sampled_from(["reserve", "settle", "free", "write off"]), amounts), max_size=60),
)
def test_whatever_happens_spent_and_reserved_stay_within_the_caps(caps: Caps, steps: list[tuple[str, Amount]]) -> None:
    account = Account(caps)
    in_flight: list[Amount] = []
    charged = Amount()
    for what, amount in steps:
        if what == "reserve":
            try:
                account = account.reserve(amount)
                in_flight.append(amount)
            except BudgetExhausted:
                after = account.spent + account.reserved + amount
                pairs = ((caps.usd, after.usd), (caps.labels, after.labels), (caps.tokens, after.tokens))
                assert any(cap is not None and value > cap for cap, value in pairs)
        elif in_flight:
            worst = in_flight.pop(0)
            if what == "write off":
                account, used = account.write_off(worst), worst
            else:
                used = Amount() if what == "free" else Amount(worst.usd / 2, worst.labels, worst.tokens // 3)
                account = account.settle(worst, used)
            charged += used
        both = account.spent + account.reserved
        assert caps.usd is None or both.usd <= caps.usd + 1e-6
        assert caps.labels is None or both.labels <= caps.labels
        assert caps.tokens is None or both.tokens <= caps.tokens
    assert account.spent.usd == pytest.approx(charged.usd)
    assert (account.spent.labels, account.spent.tokens) == (charged.labels, charged.tokens)
    assert account.reserved.labels == sum(worst.labels for worst in in_flight)


def test_a_refusal_names_the_cap_and_the_numbers() -> None:
    account = Account(Caps(usd=1.0, labels=2), spent=Amount(0.5, 1, 10), reserved=Amount(0.4, 0, 0))
    with pytest.raises(BudgetExhausted, match=r"budget\.usd: 0\.5 of 1 spent and 0\.4 reserved, no room for 0\.2 more"):
        account.reserve(Amount(0.2, 1, 0))
    assert account.reserve(Amount(0.1, 1, 0)).labels_left == 0
    assert not account.empty
    assert account.settle(Amount(0.4), Amount(0.5)).empty


def test_many_small_prices_fill_a_cap_exactly() -> None:
    account = Account(Caps(usd=0.3))
    for _ in range(3):
        account = account.reserve(Amount(usd=0.1)).settle(Amount(usd=0.1), Amount(usd=0.1))
    assert account.spent.usd == pytest.approx(0.3)
    with pytest.raises(BudgetExhausted):
        account.reserve(Amount(usd=0.001))


def test_prices_from_the_table_the_user_the_profile_and_loopback() -> None:
    def price(url: str, **overrides: object) -> tuple[float, float]:
        found = price_of(tiny_config(url, **overrides).judge)
        return found.input_usd_per_mtok, found.output_usd_per_mtok

    openai = "https://api.openai.com/v1"
    assert price(openai, judge__model="gpt-4o-mini-2024-07-18") == (0.15, 0.6)
    assert price("https://proxy.example/v1", judge__model="gpt-4o-mini-2024-07-18") == (0.15, 0.6)
    mine = {"judge__input_usd_per_mtok": 1.0, "judge__output_usd_per_mtok": 2.0}
    assert price(openai, judge__model="gpt-4o-mini-2024-07-18", **mine) == (1.0, 2.0)
    assert price("http://localhost:8000/v1") == (0.0, 0.0)
    assert price("http://localhost:8000/v1", judge__kind="builtin", judge__profile="gpt-4o-mini-2024") == (0.15, 0.6)
    with pytest.raises(ConfigError, match=r"price of 'homemade' at https://api\.openai\.com/v1 is not known"):
        price(openai, judge__model="homemade")
    with pytest.raises(ConfigError, match="allowed are both or none"):
        price(openai, judge__input_usd_per_mtok=1.0)


def test_the_worst_case_by_hand() -> None:
    mine = {"judge__input_usd_per_mtok": 1.0, "judge__output_usd_per_mtok": 2.0, "judge__max_tokens": 500}
    judge = tiny_config("https://api.openai.com/v1", judge__model="gpt-4o-mini-2024-07-18", **mine).judge
    question = asked_about(1, identity_of(judge)).question
    assert picture_size(question.frames[0]) == (3, 2)
    text = len(question.prompt.system) + len(question.user_text)
    worst = worst_case(question, judge, price_of(judge))
    assert worst.tokens == text + 400 + 4 * 2833 + 500
    assert worst.labels == 1
    assert worst.usd == pytest.approx(((text + 400 + 4 * 2833) * 1.0 + 500 * 2.0) / 1e6)


def test_picture_tokens_by_the_makers_formula_and_by_patches_else() -> None:
    assert image_tokens("gpt-4o-mini-2024-07-18", "low", (448, 384)) == 2833
    assert image_tokens("gpt-4o-2024-08-06", "high", (448, 384)) == 85 + 170
    assert image_tokens("gpt-4o-2024-08-06", "high", (1024, 513)) == 85 + 4 * 170
    assert image_tokens("qwen-vl", "low", (448, 384)) == 32 * 28 + 64


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("none", [1.0, 1.0, 1.0, 1.0]),
        ("uniform", [0.0, 0.25, 0.5, 1.0]),
        ("front-loaded", [0.0, 0.4375, 0.75, 1.0]),
        ("hyperbolic", [0.0, 0.51188, 0.74036, 1.0]),  # log10(3.25), log10(5.5)
    ],
)
def test_schedules_by_hand(schedule: Schedule, shares: list[float]) -> None:
    found = [share_at(schedule, progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx(shares, abs=1e-5)
    assert share_at(schedule, 7.0) == share_at(schedule, 1.0) == 1.0
    assert share_at(schedule, -1.0) == share_at(schedule, 0.0)


@given(st.sampled_from(["uniform", "front-loaded", "hyperbolic"]), st.floats(0, 1), st.floats(0, 1))
def test_a_schedule_never_takes_back_what_it_opened(schedule: Schedule, p: float, q: float) -> None:
    assert share_at(schedule, min(p, q)) <= share_at(schedule, max(p, q)) + 1e-12


def test_caps_of_the_store_and_of_the_run_open_together() -> None:
    caps = Caps.of(tiny_config("http://127.0.0.1:1/v1", budget__usd=3.0, budget__run_labels=7).budget)
    assert caps == Caps(usd=3.0, run=Caps(labels=7))
    assert caps.at(0.5) == Caps(usd=1.5, run=Caps(labels=3))
    assert caps.at(1.0) is caps
    assert Caps.of(tiny_config("http://127.0.0.1:1/v1").budget).run is None
