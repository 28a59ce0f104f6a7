"""Typed questions answered with probabilities: soft labels, through the built-in server's own endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feedback_fakes import TinyRenderer, tiny_config, tiny_episode

from rlaif_ray.errors import JudgeRejectsModel
from rlaif_ray.feedback.ask import ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.builtin.profile import Profile
from rlaif_ray.feedback.check import check_judge
from rlaif_ray.feedback.decisions import DecisionsJudge, decisions_body, soft_verdict
from rlaif_ray.feedback.judge import identity_of, judge_from, key_for
from rlaif_ray.feedback.preference import Pair, ask_preferences
from rlaif_ray.feedback.question import Asked, Question, Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Abstention, Usage, Verdict

READER = "feedback_fakes:TinyReader"
GOOD, BAD = tiny_episode(1), tiny_episode(2, harmful=True)


@pytest.fixture
def serve(builtin_judge: BuiltinJudge, tmp_path: Path) -> Callable[..., str]:
    def started(**habits: Any) -> str:
        path = tmp_path / "sure.yaml"
        path.write_text(json.dumps(Profile(name="sure", **habits).model_dump(mode="json")))
        return builtin_judge.start(str(path), READER)

    return started


def config_of(url: str, **more: Any) -> Any:
    return tiny_config(url, judge__kind="decisions", judge__model="sure", **more)


def judged(url: str, store: LabelStore, prompt: str) -> list[Verdict | Abstention]:
    config = config_of(url, judge__prompt=prompt, judge__input_usd_per_mtok=1.0, judge__output_usd_per_mtok=2.0).judge

    async def run() -> list[Verdict | Abstention]:
        judge = judge_from(config, key_for(config))
        assert isinstance(judge, DecisionsJudge)
        questions = Questionnaire.of(config, TinyRenderer(), judge.identity)
        asked = [Asked(questions.about(episode), episode) for episode in (GOOD, BAD)]
        try:
            return [label.outcome for label in await ask_all(judge, store, Caps(), asked) if label is not None]
        finally:
            await judge.close()

    return asyncio.run(run())


@pytest.mark.parametrize("prompt", ["homegrid-align", "homegrid-violate", "homegrid-rating"])
def test_probabilities_become_soft_labels(serve: Callable[..., str], store: LabelStore, prompt: str) -> None:
    good, bad = judged(serve(confidence=0.9), store, prompt)
    assert isinstance(good, Verdict)
    assert isinstance(bad, Verdict)
    assert 0.5 < good.value < 1.0
    assert 0.0 < bad.value < 0.5
    assert good.probability == good.value
    if prompt == "homegrid-rating":
        assert (good.rating, bad.rating) == (4, 0)
    else:
        assert (good.approved, bad.approved) == (True, False)
    assert good.usage.output_tokens == 1
    assert good.usage.cost_usd == pytest.approx((good.usage.input_tokens + 2) / 1e6)
    assert [label.outcome for label in store.labels()] in ([good, bad], [bad, good])


def test_preferences_with_probabilities_in_both_orders(serve: Callable[..., str], store: LabelStore) -> None:
    config = config_of(serve(), judge__prompt="homegrid-preference").judge

    async def run() -> Any:
        judge = DecisionsJudge(config)
        questions = Questionnaire.of(config, TinyRenderer(), judge.identity)
        found = await ask_preferences(
            judge, store, Caps(), [Pair(GOOD, BAD), Pair(BAD, GOOD)], questions, config=config
        )
        await judge.close()
        return found

    one, other = asyncio.run(run())
    assert (one.outcome.preference, other.outcome.preference) == ("first", "second")
    assert 0.6 < one.outcome.value < 1.0
    assert 0.0 < other.outcome.value < 0.4
    assert one.outcome.value == pytest.approx(sum(label.outcome.value for label in one.labels) / 2)


def test_refusals_and_a_wrong_model(serve: Callable[..., str], store: LabelStore) -> None:
    url = serve(refusal_rate=1.0)
    outcomes = judged(url, store, "homegrid-align")
    assert all(isinstance(outcome, Abstention) and outcome.reason == "refusal" for outcome in outcomes)
    judge = DecisionsJudge(tiny_config(url, judge__kind="decisions", judge__model="unsure").judge)

    async def run() -> None:
        questions = Questionnaire.of(judge.config, TinyRenderer(), judge.identity)
        with pytest.raises(JudgeRejectsModel, match="'unsure'"):
            await judge.ask(questions.about(GOOD))
        await judge.close()

    asyncio.run(run())


def test_a_check_of_it(serve: Callable[..., str]) -> None:
    found = check_judge(config_of(serve()), GOOD, BAD, TinyRenderer())
    assert [probe.answer for probe in found.probes] == ["approved", "rejected"]
    assert found.usable


def question(prompt: str = "homegrid-align", order: Any = "first") -> Question:
    config = config_of("http://127.0.0.1:1/v1", judge__prompt=prompt).judge
    questions = Questionnaire.of(config, TinyRenderer(), identity_of(config))
    return questions.between(GOOD, BAD, order) if questions.prompt.kind == "preference" else questions.about(GOOD)


def choice(first: float, second: float, tie: float) -> dict[str, Any]:
    chances = {"first": first, "second": second, "tie": tie}
    return {"type": "choice", "probabilities": [{"value": k, "probability": v} for k, v in chances.items()]}


def test_soft_values_by_hand() -> None:
    def soft(asked: Question, answer: dict[str, Any]) -> Verdict:
        return soft_verdict(asked, answer, Usage(), "")

    yes = {"type": "predicate", "probability": 0.7}
    assert soft(question(), yes).value == pytest.approx(0.7)
    undone = soft(question("homegrid-violate"), yes)
    assert (undone.value, undone.approved) == (pytest.approx(0.3), False)
    there = soft(question("homegrid-preference"), choice(0.6, 0.1, 0.3))
    assert (there.value, there.preference) == (pytest.approx(0.75), "first")
    back = soft(question("homegrid-preference", "swapped"), choice(0.6, 0.1, 0.3))
    assert (back.value, back.preference) == (pytest.approx(0.25), "second")
    levels = ["terrible", "poor", "fair", "good", "excellent"]
    score = {"type": "score", "probabilities": [
        {"label": level, "probability": chance} for level, chance in zip(levels, [0, 0.5, 0, 0.5, 0], strict=True)
    ]}  # fmt: skip
    assert soft(question("homegrid-rating"), score).value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        ("homegrid-align", choice(1, 0, 0), "expected 'predicate'"),
        ("homegrid-align", {"type": "predicate", "probability": 1.5}, "outside"),
        ("homegrid-align", {"type": "predicate", "probability": float("nan")}, "outside"),
        ("homegrid-preference", choice(0.9, 0.9, 0.9), "add up to 2.7"),
        ("homegrid-preference", {"type": "choice", "probabilities": []}, "expected .'first', 'second', 'tie'"),
    ],
)
def test_what_is_no_probability_is_no_verdict(prompt: str, answer: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft_verdict(question(prompt), answer, Usage(), "")


def test_the_request_is_typed() -> None:
    body = decisions_body("m", "low", question("homegrid-preference"))
    assert [choice["value"] for choice in body["questions"][0]["choices"]] == ["first", "second", "tie"]
    kinds = [part["type"] for part in body["input"][1]["content"]]
    assert kinds == ["input_text", "input_text", *["input_image"] * 4, "input_text", *["input_image"] * 4]
