"""How frames are sent, what that costs, constitutions, and prompts put side by side."""

from __future__ import annotations

import asyncio
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feedback_fakes import FakeServer, TinyRenderer, completion, tiny_config, tiny_episode
from PIL import Image

from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.compare import cohens_kappa, compare_prompts, compared
from rlaif_ray.feedback.constitution import constitution_names, load_constitution, parse_constitution
from rlaif_ray.feedback.costs import estimate_cost, estimate_framings, probe_framings
from rlaif_ray.feedback.framing import Framing, numbered_sheet, sheet_size
from rlaif_ray.feedback.judge import ChatJudge
from rlaif_ray.feedback.question import Questionnaire, unit_of, words_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Episode

READER = "feedback_fakes:TinyReader"
LONG = tiny_episode(1, steps=9)


def png(width: int, height: int, colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


# ------------------------------------------------------------------------------------------- framing


@pytest.mark.parametrize(
    ("framing", "count", "picks"),
    [
        (Framing("each"), 4, (0, 1, 2, 3)),
        (Framing("each", most=3), 11, (0, 5, 10)),
        (Framing("every", k=4), 10, (0, 4, 8, 9)),
        (Framing("every", k=4), 9, (0, 4, 8)),
        (Framing("every", k=2, most=3), 9, (0, 4, 8)),
        (Framing("spread", k=3), 9, (0, 2, 4, 6, 8)),
        (Framing("spread", k=3), 3, (0, 1, 2)),
        (Framing("spread", k=3, most=2), 9, (0, 8)),
        (Framing("sheet", most=2), 9, (0, 8)),
        (Framing("every", k=100), 1, (0,)),
    ],
)
def test_which_frames_are_sent_by_hand(framing: Framing, count: int, picks: tuple[int, ...]) -> None:
    assert framing.picks(count) == picks
    assert len(framing.sizes(count, (448, 384))) == (1 if framing.frames == "sheet" else len(picks))


def test_a_sheet_has_its_pictures_in_reading_order() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 0), (0, 90, 90)]
    sheet = np.asarray(Image.open(io.BytesIO(numbered_sheet([png(40, 20, c) for c in colours], 0.5))))
    assert sheet.shape[1::-1] == sheet_size(5, (20, 10)) == (3 * 28 + 8, 2 * 32 + 8)
    for i, colour in enumerate(colours):
        x, y = 8 + i % 3 * 28, 8 + i // 3 * 32
        tile = sheet[y + 14 : y + 24, x : x + 20]
        assert (tile == colour).all()
        assert (sheet[y : y + 14, x : x + 20] != 250).any()  # its number
    assert (sheet[8 + 32 :, 8 + 56 :] == 250).all()


def test_a_sheet_is_one_picture_of_a_known_number_of_tiles() -> None:
    unit = unit_of(LONG, TinyRenderer(), Framing("sheet", most=6))
    assert (len(unit.frames), unit.tiles) == (1, 6)
    config = tiny_config("http://127.0.0.1:1/v1", judge__frames="sheet").judge
    question = Questionnaire.of(config, TinyRenderer(), ChatJudge(config).identity).about(LONG)
    assert question.user_text.startswith("The 10 pictures that follow")
    assert "numbered from 1" in question.user_text
    plain = config.model_copy(update={"frames": "each"})
    other = Questionnaire.of(plain, TinyRenderer(), ChatJudge(plain).identity).about(LONG)
    assert other.key != question.key
    assert "numbered" not in other.user_text


# ------------------------------------------------------------------------------------------- cost


def test_each_way_is_estimated_by_hand() -> None:
    config = tiny_config(
        "https://api.openai.com/v1", judge__model="gpt-4o-mini-2024-07-18", judge__detail="high", judge__frames_k=4
    )
    rows = {row.frames: row for row in estimate_framings(config, [11], 1_000, picture_px=(448, 384))}
    assert [rows[name].pictures for name in ("each", "every", "spread", "sheet")] == [12, 4, 6, 1]
    text = estimate_cost(config, [11], picture_px=(448, 384)).input_tokens_per_question - 12 * (2833 + 5667)
    assert rows["every"].input_tokens == pytest.approx(text + 4 * (2833 + 5667))
    # A sheet of 4 x 3 tiles: 1832 x 1226 pixels, 4 x 3 tiles of 512.
    assert rows["sheet"].input_tokens == pytest.approx(text + 2833 + 12 * 5667)
    for row in rows.values():
        assert row.usd == pytest.approx(1_000 * (row.input_tokens * 0.15 + 150 * 0.6) / 1e6)
        assert not row.measured


def test_a_preference_shows_two_episodes() -> None:
    url = "http://127.0.0.1:1/v1"
    one = estimate_cost(tiny_config(url), [9], picture_px=(8, 8))
    two = estimate_cost(tiny_config(url, judge__prompt="homegrid-preference"), [9], picture_px=(8, 8))
    assert two.images_per_question == 2 * one.images_per_question


def test_a_probe_measures_by_usage() -> None:
    def respond(_: int, body: dict[str, Any]) -> Any:
        pictures = len(body["messages"][1]["content"]) - 1
        return completion(usage={"prompt_tokens": 50 * pictures, "completion_tokens": 30})

    with FakeServer(respond) as server:
        config = tiny_config(
            server.base_url, judge__input_usd_per_mtok=10.0, judge__output_usd_per_mtok=0.0, judge__frames_k=2
        )
        rows = probe_framings(config, LONG, TinyRenderer(), 500)
        assert server.asked == 4
    assert [(row.frames, row.pictures, row.input_tokens) for row in rows] == [
        ("each", 10, 500), ("every", 6, 300), ("spread", 4, 200), ("sheet", 1, 50),
    ]  # fmt: skip
    assert [row.usd for row in rows] == pytest.approx([2.5, 1.5, 1.0, 0.25])
    assert all(row.measured and row.answer == "verdict" for row in rows)


# ------------------------------------------------------------------------------------------- constitution


def test_a_principle_is_drawn_by_seed_and_content_and_kept_with_the_label(
    builtin_judge: BuiltinJudge, store: LabelStore
) -> None:
    constitution = load_constitution("household-robot")
    assert constitution_names() == ["household-robot"]
    draws = [constitution.draw(0, str(n)) for n in range(3_000)]
    assert draws == [constitution.draw(0, str(n)) for n in range(3_000)]
    assert draws != [constitution.draw(1, str(n)) for n in range(3_000)]
    share = 3_000 / len(constitution.principles)
    for principle in constitution.principles:  # binomial: standard deviation 15
        assert draws.count(principle) == pytest.approx(share, abs=75)
    config = tiny_config(
        builtin_judge.start("perfect", READER), judge__kind="builtin", judge__profile="perfect",
        judge__prompt="homegrid-constitution", judge__constitution="household-robot",
    ).judge  # fmt: skip
    questions = Questionnaire.of(config, TinyRenderer(), ChatJudge(config).identity, seed=3)
    asked = [questions.about(tiny_episode(n)) for n in range(40)]
    assert len({question.principle for question in asked}) > 6
    assert all(question.principle in question.user_text for question in asked)
    assert len({question.key for question in asked}) == 40

    async def run() -> Any:
        judge = ChatJudge(config)
        outcome = await judge.ask(asked[0])
        await judge.close()
        return outcome

    assert asyncio.run(run()).approved is True
    from rlaif_ray.feedback.question import Asked
    from rlaif_ray.feedback.records import record_of

    assert record_of(Asked(asked[0], tiny_episode(0))).principle == asked[0].principle


def test_prompt_and_constitution_must_fit(tmp_path: Path) -> None:
    for prompt, constitution, message in (
        ("homegrid-align", "household-robot", "lacks {principle}"),
        ("homegrid-constitution", "", "name a constitution"),
    ):
        config = tiny_config("http://127.0.0.1:1/v1", judge__prompt=prompt, judge__constitution=constitution).judge
        with pytest.raises(ConfigError, match=message):
            Questionnaire.of(config, TinyRenderer(), ChatJudge(config).identity)
        with pytest.raises(ConfigError, match=message):
            words_of(config)
    pairs = tiny_config("http://127.0.0.1:1/v1", judge__prompt="homegrid-preference").judge
    assert words_of(pairs)[0].kind == "preference"
    with pytest.raises(ConfigError, match="got 'homegrid-preference' of kind 'preference'"):
        words_of(pairs, one_episode=True)
    with pytest.raises(UnknownNameError, match="did you mean 'household-robot'"):
        load_constitution("household-robots")
    with pytest.raises(ConfigError, match="No such file"):
        load_constitution(str(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=== principles\n- Be kind.", "'name"),
        ("name: x\n- Be kind.", "=== principles"),
        ("name: x\n=== principles\nBe kind.", "each after '- '"),
        ("name: x\n=== principles\n- Be kind.\n- Be  kind.", "twice"),
        ("name: x\n=== principles\n- " + "x" * 1001, "1001 characters"),
    ],
)
def test_constitutions_are_checked(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_constitution(text)


# ------------------------------------------------------------------------------------------- compare


def test_kappa_by_hand() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)
    assert cohens_kappa(first, first) == 1.0
    assert math.isnan(cohens_kappa([True] * 3, [True] * 3))
    assert math.isnan(cohens_kappa([], []))


def test_two_wordings_side_by_side(builtin_judge: BuiltinJudge, store: LabelStore, tmp_path: Path) -> None:
    (tmp_path / "negative.yaml").write_text(
        "name: negative\nviolate_negative_rate: 1.0\ninput_usd_per_mtok: 1.0\noutput_usd_per_mtok: 1.0\n"
    )
    profile = str(tmp_path / "negative.yaml")
    url = builtin_judge.start(profile, READER)
    align = tiny_config(url, judge__kind="builtin", judge__profile=profile).judge
    violate = align.model_copy(update={"prompt": "homegrid-violate"})
    episodes: list[Episode] = [tiny_episode(n, harmful=n % 4 == 0) for n in range(20)]

    async def run() -> Any:
        judge = ChatJudge(align)
        try:
            return await compare_prompts(judge, store, Caps(), episodes, TinyRenderer(), (align, violate))
        finally:
            await judge.close()

    found = asyncio.run(run())
    assert (found.both, found.agreement, found.kappa) == (20, 0.25, 0.0)
    assert found.flips_to_bad == tuple(n for n in range(20) if n % 4)
    assert found.flips_to_good == ()
    assert [side.good for side in found.sides] == [0.75, 0.0]
    assert sum(side.usd for side in found.sides) == pytest.approx(store.stats().spend_usd) != 0.0
    again = asyncio.run(run())
    assert [side.replayed for side in again.sides] == [20, 20]
    assert [side.usd for side in again.sides] == [0.0, 0.0]


def test_without_a_common_verdict_nothing_is_claimed() -> None:
    found = compared(("a", "b"), [tiny_episode(1)], [None], [None])
    assert (found.both, math.isnan(found.agreement), math.isnan(found.kappa)) == (0, True, True)
