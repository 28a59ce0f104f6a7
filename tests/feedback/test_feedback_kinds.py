"""Ratings and preferences from question to verdict, in both orders, through the built-in judge."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feedback_fakes import FakeServer, TinyRenderer, completion, tiny_config, tiny_episode

from rlaif_ray.errors import ConfigError, ShapeError
from rlaif_ray.feedback.ask import ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.builtin.decide import Seen, decide, extra_sentences, prefer, rate
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.builtin.profile import Failures, Profile, load_profile
from rlaif_ray.feedback.dialect import Dialect
from rlaif_ray.feedback.judge import ChatJudge, request_body
from rlaif_ray.feedback.preference import (
    Pair,
    Preferred,
    ask_preferences,
    combined,
    drawn_order,
    position_counts,
)
from rlaif_ray.feedback.prompt import load_prompt, parse_prompt
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Abstention, Label, Reading, Usage, Verdict

READER = "feedback_fakes:TinyReader"
GOOD, BAD = tiny_episode(1), tiny_episode(2, harmful=True)
STRUCTURED = load_profile("gpt-4o-mini-structured")


def seen(content: bytes, harmful: bool = True, **facts: float) -> Seen:
    return Seen(Reading(harmful, True, "it did something", facts), content)


def contents(count: int) -> list[bytes]:
    return [hashlib.sha256(str(number).encode()).digest() for number in range(count)]


def served(judge: BuiltinJudge, folder: Path, **habits: Any) -> str:
    """The built-in judge with a profile of its own."""
    path = folder / "mine.yaml"
    path.write_text(json.dumps(Profile(name="mine", **habits).model_dump(mode="json")))
    return judge.start(str(path), READER)


def asking(url: str, store: LabelStore, folder: Path, prompt: str, pairs: list[Pair], **more: Any) -> list[Preferred]:
    config = tiny_config(
        url, judge__kind="builtin", judge__profile=str(folder / "mine.yaml"), judge__prompt=prompt, **more
    ).judge

    async def run() -> list[Preferred]:
        judge = ChatJudge(config)
        try:
            questions = Questionnaire.of(config, TinyRenderer(), judge.identity)
            return await ask_preferences(judge, store, Caps(), pairs, questions, config=config)
        finally:
            await judge.close()

    return asyncio.run(run())


# ------------------------------------------------------------------------------------------- ratings


def test_ratings_on_named_levels(builtin_judge: BuiltinJudge, store: LabelStore, tmp_path: Path) -> None:
    upside_down = load_prompt("homegrid-rating")
    text = (
        "name: worse\nkind: rating\npolarity: violate\nlevels: not at all, partly, wholly\n=== system\n=== user\n"
        "How far does it violate human values? From the lowest to the highest: {levels}."
    )
    (tmp_path / "worse.txt").write_text(text)
    url = served(builtin_judge, tmp_path)
    for prompt, levels in (("homegrid-rating", upside_down.levels), (str(tmp_path / "worse.txt"), ("", "", ""))):
        for form in ("schema", "json"):
            config = tiny_config(
                url, judge__kind="builtin", judge__profile=str(tmp_path / "mine.yaml"), judge__prompt=prompt,
                judge__answer_form=form,
            ).judge  # fmt: skip

            async def run(config: Any = config) -> list[Label | None]:
                judge = ChatJudge(config)
                questions = Questionnaire.of(config, TinyRenderer(), judge.identity)
                asked = [Asked(questions.about(episode), episode) for episode in (GOOD, BAD)]
                labels = await ask_all(judge, store, Caps(), asked, config=config)
                await judge.close()
                return labels

            good, bad = (label.outcome for label in asyncio.run(run()) if label is not None)
            assert isinstance(good, Verdict)
            assert isinstance(bad, Verdict)
            assert (good.value, bad.value) == (1.0, 0.0)
            worst, best = (0, len(levels) - 1) if "worse" not in prompt else (len(levels) - 1, 0)
            assert (good.rating, bad.rating) == (best, worst)
    assert sorted(label.value or 0.0 for label in store.labels()) == [0.0] * 4 + [1.0] * 4


def test_a_rating_between_the_ends(store: LabelStore) -> None:
    with FakeServer(
        lambda *_: completion(json.dumps({"answer": "Fair", "description": "", "reasoning": ""}))
    ) as server:
        config = tiny_config(server.base_url, judge__prompt="homegrid-rating").judge

        async def run() -> Verdict | Abstention:
            judge = ChatJudge(config)
            outcome = await judge.ask(Questionnaire.of(config, TinyRenderer(), judge.identity).about(GOOD))
            await judge.close()
            return outcome

        verdict = asyncio.run(run())
        enum = server.bodies[0]["response_format"]["json_schema"]["schema"]["properties"]["answer"]["enum"]
    assert isinstance(verdict, Verdict)
    assert (verdict.rating, verdict.value, verdict.approved) == (2, 0.5, None)
    assert enum == ["terrible", "poor", "fair", "good", "excellent"]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("levels: good\n", "at least two"),
        ("", "at least two"),
        ("levels: a, A\n", "different"),
        ("levels: a, {b}\n", "level"),
    ],
)
def test_levels_are_checked(levels: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_prompt(f"name: x\nkind: rating\npolarity: align\n{levels}=== system\n=== user\nHow far?")
    with pytest.raises(ConfigError, match="allowed with kind 'rating'"):
        parse_prompt("name: x\nkind: approval\npolarity: align\nlevels: a, b\n=== system\n=== user\nHow far?")


# ------------------------------------------------------------------------------------------- preferences


def test_a_fair_judge_prefers_the_same_in_both_orders(
    builtin_judge: BuiltinJudge, store: LabelStore, tmp_path: Path
) -> None:
    url = served(builtin_judge, tmp_path)
    again = tiny_episode(9)
    pairs = [Pair(GOOD, BAD), Pair(BAD, GOOD), Pair(GOOD, again), Pair(GOOD, GOOD)]
    found = asking(url, store, tmp_path, "homegrid-preference", pairs)
    outcomes = [pair.outcome for pair in found]
    assert [getattr(o, "preference", None) for o in outcomes] == ["first", "second", "tie", "tie"]
    assert [getattr(o, "value", None) for o in outcomes] == [1.0, 0.0, 0.5, 0.5]
    assert [len(pair.labels) for pair in found] == [2, 2, 2, 0]  # identical units cost nothing
    counts = position_counts(found)
    assert (counts.both, counts.inconsistent, counts.shown_first, counts.shown_second) == (3, 0, 2, 2)
    assert (counts.inconsistency, counts.bias) == (0.0, 0.0)
    assert store.stats().labels == 6
    first = outcomes[0]
    assert isinstance(first, Verdict)
    assert first.usage.input_tokens == sum(label.outcome.usage.input_tokens for label in found[0].labels)


def test_a_liking_for_the_first_place_becomes_ties_and_is_counted(
    builtin_judge: BuiltinJudge, store: LabelStore, tmp_path: Path
) -> None:
    url = served(builtin_judge, tmp_path, position_bias=1.0)
    found = asking(url, store, tmp_path, "homegrid-preference", [Pair(GOOD, BAD), Pair(BAD, GOOD)])
    assert [getattr(pair.outcome, "preference", None) for pair in found] == ["tie", "tie"]
    counts = position_counts(found)
    assert (counts.both, counts.inconsistency, counts.bias) == (2, 1.0, 0.5)


def test_one_random_order_costs_half(builtin_judge: BuiltinJudge, store: LabelStore, tmp_path: Path) -> None:
    url = served(builtin_judge, tmp_path)
    pairs = [Pair(tiny_episode(n), tiny_episode(100 + n, harmful=True)) for n in range(20)]
    found = asking(url, store, tmp_path, "homegrid-preference", pairs, judge__orders="random")
    assert store.stats().labels == 20
    assert {pair.orders for pair in found} == {("first",), ("swapped",)}
    assert all(getattr(pair.outcome, "preference", None) == "first" for pair in found)


def test_a_drawn_order_shows_the_same_unit_first_whichever_is_named_first() -> None:
    orders = [(drawn_order(0, f"a{n}", f"b{n}"), drawn_order(0, f"b{n}", f"a{n}")) for n in range(400)]
    assert all(one != other for one, other in orders)
    assert sum(one == "first" for one, _ in orders) == pytest.approx(200, abs=50)  # five standard deviations


def verdict(preference: Any, probability: float | None = None) -> Verdict:
    value = {"first": 1.0, "second": 0.0, "tie": 0.5}[preference] if probability is None else probability
    return Verdict("preference", value, "t", Usage(10, 5, 0.5, 2.0), preference=preference, probability=probability)


@pytest.mark.parametrize(
    ("one", "other", "preference", "value", "inconsistent"),
    [
        (verdict("first"), verdict("first"), "first", 1.0, False),
        (verdict("second"), verdict("second"), "second", 0.0, False),
        (verdict("first"), verdict("second"), "tie", 0.5, True),
        (verdict("tie"), verdict("second"), "tie", 0.5, False),
        (verdict("first", 0.9), verdict("first", 0.7), "first", 0.8, False),
        (verdict("first", 0.9), verdict("second", 0.3), "tie", 0.6, True),
    ],
)
def test_two_orders_by_hand(one: Verdict, other: Verdict, preference: str, value: float, inconsistent: bool) -> None:
    whole, disagree = combined([one, other])
    assert isinstance(whole, Verdict)
    assert (whole.preference, disagree) == (preference, inconsistent)
    assert whole.value == pytest.approx(value)
    assert whole.usage == Usage(20, 10, 1.0, 2.0, 2)


def test_an_abstention_in_one_order_is_one_of_both() -> None:
    whole, disagree = combined([verdict("first"), Abstention("refusal", "no", Usage(1, 1, 0.25))])
    assert isinstance(whole, Abstention)
    assert (whole.usage.cost_usd, disagree) == (0.75, False)
    with pytest.raises(ShapeError, match="got 0"):
        combined([])


def test_swapped_pictures_and_captions_change_places_and_nothing_else() -> None:
    config = tiny_config("http://127.0.0.1:1/v1", judge__prompt="homegrid-preference").judge
    questions = Questionnaire.of(config, TinyRenderer(), ChatJudge(config).identity)
    long = tiny_episode(3, steps=5)
    there, back = questions.between(GOOD, long), questions.between(GOOD, long, order="swapped")
    assert there.units == back.units
    assert there.key != back.key
    assert "first 4 of the\nfirst run, then 6" in there.user_text
    assert "first 6 of the\nfirst run, then 4" in back.user_text
    assert back.frames == (*there.frames[4:], *there.frames[:4])
    content = request_body(config, back, Dialect())["messages"][1]["content"]
    assert [part.get("text", "picture")[:10] for part in content] == [
        "The pictur", "The first ", *["picture"] * 6, "The second", *["picture"] * 4,
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="kind 'preference'"):
        questions.about(GOOD)


# ------------------------------------------------------------------------------------- how it errs


def test_structured_errors_have_the_published_totals_on_the_population_they_were_set_for() -> None:
    early = contents(60_000)[: round(60_000 * 0.2714)]
    late = contents(60_000)[len(early) :]
    missed_early = sum(decide(STRUCTURED, seen(c, squash_step=2), polarity="align", seed=0).approves for c in early)
    missed_late = sum(decide(STRUCTURED, seen(c, squash_step=5), polarity="align", seed=0).approves for c in late)
    # Binomial: standard deviation 42; four of them.
    assert missed_early + missed_late == pytest.approx(60_000 * 188 / 6240, abs=170)
    assert missed_early / (missed_early + missed_late) == pytest.approx(0.9, abs=0.03)
    decision = next(
        d for c in early if (d := decide(STRUCTURED, seen(c, squash_step=2), polarity="align", seed=0)).approves
    )
    assert "red spill" in decision.mistaken_for


def test_false_alarms_grow_with_length_and_refusals_with_blood() -> None:
    def rejected(steps: float) -> int:
        return sum(
            not decide(STRUCTURED, seen(c, harmful=False, steps=steps), polarity="align", seed=0).approves
            for c in contents(30_000)
        )

    def refused(pictures: float) -> int:
        return sum(
            decide(STRUCTURED, seen(c, stained_pictures=pictures), polarity="align", seed=0).refuses
            for c in contents(10_000)
        )

    assert rejected(9.762) == pytest.approx(30_000 * 12 / 3760, abs=40)
    assert rejected(97.62) == pytest.approx(300_000 * 12 / 3760, abs=125)
    assert refused(0.0) == 0
    assert refused(5.414) == pytest.approx(100, abs=40)
    assert refused(54.14) == pytest.approx(1_000, abs=120)


def test_ratings_slip_by_one_level_and_places_bias_and_words_pile_up() -> None:
    profile = Profile(name="x", rating_slip_rate=0.3, position_bias=0.2, verbosity=2.0)
    levels = []
    for content in contents(5_000):
        decision = decide(profile, seen(content), polarity="align", seed=0)
        levels.append(rate(profile, seen(content), decision, 5, seed=0))
    assert set(levels) == {0, 1}  # harm is level 0; half of the slips go up, the others stay at the end
    assert np.mean(levels) == pytest.approx(0.15, abs=0.025)
    firsts = []
    for content in contents(5_000):
        pair = [seen(content), seen(content + b"2", harmful=False)]
        decisions = [decide(profile, one, polarity="align", seed=0) for one in pair]
        firsts.append(prefer(profile, pair, decisions, seed=0))
    assert firsts.count("first") == pytest.approx(1_000, abs=115)
    assert firsts.count("tie") == 0
    assert np.mean([extra_sentences(profile, c, 0) for c in contents(5_000)]) == pytest.approx(2.0, abs=0.15)


def test_failures_of_a_profile_are_failures_on_the_wire(
    builtin_judge: BuiltinJudge, store: LabelStore, tmp_path: Path
) -> None:
    failures = Failures(status_500=0.1, status_503=0.1, hang_up=0.1, cut_body=0.1, invalid_json=0.1, empty=0.1)
    failures = failures.model_copy(update={"wrong_shape": 0.1, "truncated": 0.1})
    url = served(builtin_judge, tmp_path, failures=failures, lacks=("json_schema", "seed"))
    config = tiny_config(
        url, judge__kind="builtin", judge__profile=str(tmp_path / "mine.yaml"), judge__retries=20
    ).judge

    async def run() -> tuple[ChatJudge, list[Label | None]]:
        from rlaif_ray.feedback.ask import Asker, LocalStore

        judge = ChatJudge(config)
        asker = Asker(judge, LocalStore(store), Caps(), config, backoff_s=0.001)
        questions = Questionnaire.of(config, TinyRenderer(), judge.identity)
        episodes = [tiny_episode(number) for number in range(60)]
        try:
            return judge, [await asker.ask(Asked(questions.about(episode), episode)) for episode in episodes]
        finally:
            await judge.close()

    judge, labels = asyncio.run(run())
    assert judge.dialect == Dialect("json", seed=False)
    reasons = {getattr(label.outcome, "reason", "verdict") for label in labels if label is not None}
    assert reasons == {"verdict", "unparsable", "empty", "truncated"}
    assert sum(label.outcome.usage.attempts for label in labels if label is not None) > 70


def test_a_limit_on_tokens_is_kept(builtin_judge: BuiltinJudge, tmp_path: Path) -> None:
    from rlaif_ray.errors import AttemptFailed

    url = served(builtin_judge, tmp_path, tokens_per_minute=100)
    config = tiny_config(url, judge__kind="builtin", judge__profile=str(tmp_path / "mine.yaml")).judge

    async def run() -> None:
        judge = ChatJudge(config)
        questions = Questionnaire.of(config, TinyRenderer(), judge.identity)
        await judge.ask(questions.about(GOOD))
        with pytest.raises(AttemptFailed, match="429") as refused:
            await judge.ask(questions.about(BAD))
        assert 50 <= (refused.value.after_s or 0) <= 60
        await judge.close()

    asyncio.run(run())
