"""Panels, cascades and both orders over real HTTP: each judge's answer is a question of its own, paid for once."""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from feedback_fakes import FakeServer, TinyRenderer, completion, tiny_config, tiny_episode

from rlaif_ray.config import Config, JudgeConfig, load_config
from rlaif_ray.errors import ConfigError, JudgeRejectsModel
from rlaif_ray.feedback.ask import Circumstances, LocalStore
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.judge import judges_from
from rlaif_ray.feedback.jury import Jury, check_words
from rlaif_ray.feedback.prompt import load_prompt
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.records import record_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.surroundings import judge_served
from rlaif_ray.types import Label, Verdict

PRICED = {"input_usd_per_mtok": 1000.0, "output_usd_per_mtok": 1000.0}  # 0.12 for each of the fake's answers
THREE = [{"model": "a"}, {"model": "b"}, {"model": "c"}]
CHEAP_AND_STRONG = {"strong": {"model": "strong"}, "when": ["order-disagrees"]}


def judge_config(url: str, **more: Any) -> JudgeConfig:
    config = tiny_config(url, **{f"judge__{key}": value for key, value in (PRICED | more).items()})
    check_words(config.judge, load_prompt(config.judge.prompt))
    return config.judge


async def _asked(
    config: JudgeConfig, store: LabelStore, about: Sequence[Any], caps: Caps, doubt: float
) -> list[Label | None]:
    judges = judges_from(config, [None] * len(config.members))
    jury = Jury(judges, LocalStore(store), caps, config, concurrency=8, backoff_s=0.001)
    questions = Questionnaire.of(config, TinyRenderer(), jury.identity)

    async def one(given: Any) -> Label | None:
        if isinstance(given, tuple):
            asked = Asked(questions.between(*given), given[0], "run", second=given[1])
        else:
            asked = Asked(questions.about(given), given, "run")
        return await jury.ask(asked, Circumstances(doubt=doubt))

    try:
        return list(await asyncio.gather(*(one(given) for given in about)))
    finally:
        for judge in judges:
            await judge.close()


def ask(
    config: JudgeConfig, store: LabelStore, *about: Any, caps: Caps | None = None, doubt: float = 0.0
) -> list[Label | None]:
    return asyncio.run(_asked(config, store, about, caps or Caps(), doubt))


def votes(**answers: str) -> Any:
    return lambda _, body: completion(answer=answers[body["model"]])


def test_a_panel_votes_and_each_answer_is_stored_and_replayed(store: LabelStore) -> None:
    with FakeServer(votes(a="yes", b="no", c="yes", d="no")) as server:
        config = judge_config(server.base_url, panel=THREE)
        (label,) = ask(config, store, tiny_episode(1))
        assert label is not None
        assert label.value == pytest.approx(2 / 3)
        assert label.judge == "panel/a+b+c"
        assert label.outcome.usage.cost_usd == pytest.approx(0.36)
        parts = [one for one in store.labels(parts=True) if one != label]
        assert sorted((one.judge.rpartition("/")[2], one.value) for one in parts) == [
            ("a", 1.0),
            ("b", 0.0),
            ("c", 1.0),
        ]
        assert store.labels() == [label]
        stats = store.stats("run")
        assert (stats.labels, stats.abstained, stats.replayed, stats.reserved_usd) == (3, 0, 0, 0.0)
        assert stats.spend_usd == pytest.approx(0.36)
        # Again: the whole is replayed. In another panel: two of its three answers are.
        (again,) = ask(config, store, tiny_episode(1))
        assert again is not None
        assert again.replayed
        assert server.asked == 3
        (other,) = ask(judge_config(server.base_url, panel=[*THREE[:2], {"model": "d"}]), store, tiny_episode(1))
        assert other is not None
        assert (other.value, server.asked) == (pytest.approx(1 / 3), 4)
        assert store.stats("run").spend_usd == pytest.approx(0.48)


def test_a_member_that_fails_has_no_vote_and_one_that_is_missing_ends_asking(store: LabelStore) -> None:
    def respond(_: int, body: dict[str, Any]) -> Any:
        if body["model"] == "b":
            return web.json_response({"error": {"message": "over"}}, status=503)
        if body["model"] == "gone":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        return completion()

    with FakeServer(respond) as server:
        (label,) = ask(judge_config(server.base_url, panel=THREE, retries=1), store, tiny_episode(1))
        assert label is not None
        assert (label.value, server.asked) == (1.0, 4)
        assert store.stats("run").labels == 2
        gone = judge_config(server.base_url, panel=[*THREE, {"model": "gone"}])
        with pytest.raises(JudgeRejectsModel):
            ask(gone, store, tiny_episode(2))
        account = store.account(Caps())
        assert (account.reserved.labels, account.spent.usd) == (0, pytest.approx(0.48))  # a and c again


def test_no_question_is_begun_whose_parts_find_no_room(store: LabelStore) -> None:
    """Ten labels: three panels of three, whatever the order; what the tenth could pay for is not begun."""
    with FakeServer(votes(a="yes", b="yes", c="no")) as server:
        config = judge_config(server.base_url, panel=THREE)
        labels = ask(config, store, *(tiny_episode(n) for n in range(8)), caps=Caps(labels=10))
        assert sum(label is not None for label in labels) == 3
        assert server.asked == 9
        assert store.account(Caps()).reserved.labels == 0
        (worst,) = ask(config, store, tiny_episode(50), caps=Caps(usd=store.account(Caps()).spent.usd + 3.0))
        assert worst is None
        assert server.asked == 9


def test_a_cascade_asks_the_strong_judge_where_the_cheap_one_turns_with_the_order(store: LabelStore) -> None:
    harm = tiny_episode(2, harmful=True)

    def respond(_: int, body: dict[str, Any]) -> Any:
        if body["model"] == "strong":
            frames = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
            return completion(answer="first" if frames[0]["image_url"]["url"] == first_frame else "second")
        return completion(answer="first")  # whatever is shown first

    with FakeServer(respond) as server:
        words = {"prompt": "homegrid-preference", "cascade": CHEAP_AND_STRONG}
        config = judge_config(server.base_url, **words)
        questions = Questionnaire.of(config, TinyRenderer(), judges_from(config, [None, None])[0].identity)
        question = questions.between(tiny_episode(1), harm)
        from rlaif_ray.feedback.judge import data_url

        first_frame = data_url(question.frames[0])
        (label,) = ask(config, store, (tiny_episode(1), harm))
        assert label is not None
        assert isinstance(label.outcome, Verdict)
        assert (label.outcome.preference, label.second_episode_id) == ("first", 2)
        assert [body["model"] for body in server.bodies] == ["tiny", "tiny", "strong", "strong"]
        assert (store.stats().both_orders, store.stats().inconsistent) == (1, 1)
        first, second = store.units_of(label)  # type: ignore[misc]
        assert (first.episode_id, second.episode_id, second.policy_version) == (1, 2, 7)


def test_what_looks_the_same_is_a_tie_for_nothing(store: LabelStore) -> None:
    with FakeServer(lambda *_: completion(answer="first")) as server:
        config = judge_config(server.base_url, prompt="homegrid-preference")
        twin = tiny_episode(1)
        (label,) = ask(config, store, (tiny_episode(1), twin), caps=Caps(labels=0))
        assert label is not None
        assert (label.value, label.outcome.usage.cost_usd, server.asked) == (0.5, 0.0, 0)
        assert store.stats().labels == 0
        # One drawn order: one question, and no whole beside it.
        one = judge_config(server.base_url, prompt="homegrid-preference", orders="random")
        (drawn,) = ask(one, store, (tiny_episode(1), tiny_episode(2)))
        assert drawn is not None
        assert (server.asked, len(store.labels(parts=True))) == (1, 2)


def test_a_reward_models_doubt_is_part_of_the_address(store: LabelStore) -> None:
    with FakeServer(votes(tiny="yes", strong="no")) as server:
        cascade = {"strong": {"model": "strong"}, "when": ["rm-disagrees"]}
        mix = {"mix.source": "hybrid", "reward_model.ensemble": 2}
        given = {"judge.kind": "chat", "judge.base_url": server.base_url, "judge.model": "tiny"}
        config = load_config("", given | mix | {"judge.cascade": cascade}).judge
        (sure,) = ask(config, store, tiny_episode(1), doubt=0.05)
        (unsure,) = ask(config, store, tiny_episode(1), doubt=0.2)
        assert sure is not None
        assert unsure is not None
        assert (sure.value, unsure.value) == (1.0, 0.0)
        assert [body["model"] for body in server.bodies] == ["tiny", "strong"]  # the cheap one is asked once
        (again,) = ask(config, store, tiny_episode(1), doubt=0.3)
        assert again is not None
        assert again.replayed


def test_the_built_in_judge_as_both_members(store: LabelStore, tiny_world_importable: None, tmp_path: Path) -> None:
    """A cheap one that is wrong half the time and knows it, and one that makes no mistake."""
    cheap = tmp_path / "cheap.yaml"
    cheap.write_text(
        "{name: cheap, miss_rate: 0.5, false_alarm_rate: 0.5, confidence: 0.99, confidence_wrong: 0.52,"
        " endpoint: decisions, input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.1}"
    )
    cascade = {"strong": {"profile": "perfect"}, "margin": 0.3}
    given = load_config("", {"judge.profile": str(cheap), "judge.cascade": cascade, "judge.max_tokens": 50}).judge
    with BuiltinJudge() as one, BuiltinJudge() as other:
        servers = (one, other)
        urls = [
            server.start(m.profile, "feedback_fakes:TinyReader")
            for server, m in zip(servers, given.members, strict=True)
        ]
        ready = [m.model_copy(update={"base_url": url}) for m, url in zip(given.members, urls, strict=True)]
        config = given.served(ready)
        assert len({member.base_url for member in config.members}) == 2
        harmful = [number % 3 == 0 for number in range(40)]
        labels = ask(config, store, *(tiny_episode(n, harmful=harm) for n, harm in enumerate(harmful)))
    right = [label is not None and label.value is not None and (label.value > 0.5) != harm
             for label, harm in zip(labels, harmful, strict=True)]  # fmt: skip
    wholes = [len(parts) for parts in _parts_of(store)]
    assert sum(right) >= 34  # alone the cheap one would be right in about 20
    assert 10 < wholes.count(2) < 35
    assert wholes.count(1) + wholes.count(2) == 40


def test_built_in_judges_of_a_panel_err_apart(
    store: LabelStore, tiny_world_importable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three that are wrong in three of ten questions each, and each in others."""
    erring = "miss_rate: 0.3, false_alarm_rate: 0.3"
    profiles = [tmp_path / f"{name}.yaml" for name in "abc"]
    for profile in profiles:
        profile.write_text(f"{{name: {profile.stem}, {erring}}}")
    tiny = types.SimpleNamespace(reader_for=lambda options: "feedback_fakes:TinyReader")
    monkeypatch.setattr("rlaif_ray.surroundings.envs.env_spec", lambda name: tiny)
    harmful = [number % 2 == 0 for number in range(120)]
    config = load_config("", {"judge.panel": [{"profile": str(one)} for one in profiles]})
    with judge_served(config) as served:
        about = [tiny_episode(number, harmful=harm) for number, harm in enumerate(harmful)]
        voted = ask(served.judge, store, *about)
        alone = [ask(member, store, *about) for member in served.judge.members]
    wrong = [
        {
            i
            for i, label in enumerate(labels)
            if label is None or label.value is None or (label.value > 0.5) is harmful[i]
        }
        for labels in (voted, *alone)
    ]
    assert all(20 <= len(one) <= 52 for one in wrong[1:])
    assert all(
        len(one & other) < 20 for one, other in itertools.combinations(wrong[1:], 2)
    )  # 11 by chance, 36 if alike
    assert wrong[0] == {i for i in range(120) if sum(i in one for one in wrong[1:]) >= 2}


def _parts_of(store: LabelStore) -> list[list[int]]:
    import json

    with store.reading() as db:
        rows = db.execute("SELECT a.made_of FROM labels l JOIN answers a ON a.id = l.answer_id WHERE l.part = 0")
        return [json.loads(row["made_of"]) for row in rows]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"panel": [{"model": "a"}]}, "judge.panel: got 1 judge, allowed are none (one judge) or 2 and more"),
        ({"panel": THREE, "cascade": CHEAP_AND_STRONG}, "got one with a judge.cascade too"),
        ({"panel": [{"modl": "a"}, {}]}, "unknown key in judge.panel.0 'modl'"),
        ({"panel": [{"prompt": "x"}, {}]}, "unknown key in judge.panel.0 'prompt'"),
        ({"panel": [{}, {"max_tokens": 0}]}, "judge.panel.1.max_tokens: got 0; input should be greater than"),
        ({"cascade": {"strong": {"model": "s"}}}, "kind 'chat', which gives no probability"),
        ({"cascade": {"strong": {"model": "s"}, "when": ["unsur"]}}, "did you mean 'unsure'?"),
        ({"cascade": {"strong": {}, "when": []}}, "allowed is one of unsure"),
        ({"cascade": {"strnog": {}}}, "unknown key 'judge.cascade.strnog'"),
        ({"cascade": {"strong": {}, "when": ["rm-disagrees"]}}, "'rm-disagrees' with an ensemble of 0"),
        ({"cascade": CHEAP_AND_STRONG}, "'order-disagrees' with prompt 'homegrid-align' of kind 'approval'"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        judge_config("http://127.0.0.1:1/v1", **given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cheap_profile_without_probabilities_is_told(tiny_world_importable: None) -> None:
    config = Config.model_validate({"judge": {"cascade": {"strong": {"profile": "perfect"}}}}).judge
    with pytest.raises(ConfigError, match="'gpt-4o-mini-2024', which gives no probability"):
        judges_from(config, [None, None])


def test_members_inherit_what_they_do_not_change() -> None:
    config = judge_config("http://127.0.0.1:1/v1", panel=[{"model": "a"}, {"temperature": 0.5}], temperature=0.25)
    assert [(m.model, m.temperature, m.panel) for m in config.members] == [("a", 0.25, ()), ("tiny", 0.5, ())]
    moved = [m.model_copy(update={"base_url": f"http://127.0.0.1:{i}/v1"}) for i, m in enumerate(config.members)]
    assert config.served(moved).members == tuple(moved)


def test_what_is_set_aside_for_others_is_waited_for(store: LabelStore) -> None:
    """Room for one worst case at a time, and for far more answers: none of twelve questions is dropped."""

    async def slowly(*_: Any) -> Any:
        await asyncio.sleep(0.05)
        return completion()

    with FakeServer(slowly) as server:
        config = judge_config(server.base_url)
        worst = judges_from(config, [None])[0].worst_case(
            Questionnaire.of(config, TinyRenderer(), judges_from(config, [None])[0].identity).about(tiny_episode(1))
        )
        caps = Caps(usd=worst.usd + 11 * 0.12 + 0.01)
        labels = ask(config, store, *(tiny_episode(n) for n in range(13)), caps=caps)
        assert (
            sum(label is not None for label in labels) == 12
        )  # the thirteenth finds no room, whatever comes of others
        assert server.asked == 12
        assert store.account(caps).spent.usd <= caps.usd  # type: ignore[operator]


def test_panels_that_share_a_member_and_a_tight_budget_end(store: LabelStore) -> None:
    """Wholes that hold money, parts that wait for each other's answers, and single questions that wait for money."""

    async def slowly(_: int, body: dict[str, Any]) -> Any:
        await asyncio.sleep(0.02)
        return completion(answer="no" if body["model"] == "c" else "yes")

    with FakeServer(slowly) as server:
        panel = judge_config(server.base_url, panel=THREE)
        other = judge_config(server.base_url, panel=[*THREE[1:], {"model": "d"}])
        alone = judge_config(server.base_url, model="b")
        episodes = [tiny_episode(n) for n in range(6)]

        async def all_of_them() -> list[Any]:
            caps = Caps(labels=24)
            return await asyncio.wait_for(
                asyncio.gather(*(_asked(config, store, episodes, caps, 0.0) for config in (panel, other, alone))), 60.0
            )

        found = asyncio.run(all_of_them())
        assert all(label is not None for label in found[2])
        assert server.asked <= 24
        account = store.account(Caps())
        assert (account.spent.labels, account.reserved.labels) == (server.asked, 0)


def test_a_process_that_dies_with_a_whole_in_hand_is_charged_for_what_it_sent(store: LabelStore) -> None:
    config = judge_config("http://127.0.0.1:1/v1", panel=THREE)
    judges = judges_from(config, [None] * 3)
    jury = Jury(judges, LocalStore(store), Caps(), config)
    question = Questionnaire.of(config, TinyRenderer(), jury.identity).about(tiny_episode(1))
    record = record_of(Asked(question, tiny_episode(1), "run"))
    store.claim(record, "elsewhere:1:0.0")
    hold = store.reserve(replace(record, whole=True), Amount(3.0, 3, 300), Caps(), "elsewhere:1:0.0")
    store.reserve(replace(record, hold=hold, request="part"), Amount(1.0, 1, 100), Caps(usd=3.0), "elsewhere:1:0.0")
    assert store.account(Caps()).reserved == Amount(3.0, 3, 300)  # the part's is out of the whole's
    assert store.write_off_owner("elsewhere:1:0.0") == 2
    assert store.account(Caps()).spent == Amount(1.0, 1, 100)
