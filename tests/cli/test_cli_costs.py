"""``judge cost`` and ``judge compare`` from the words of a command to what is printed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from rlaif_ray import envs
from rlaif_ray.cli import main
from rlaif_ray.cli.sample import sample_episodes
from rlaif_ray.config import load_config
from rlaif_ray.feedback.ask import ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.judge import ChatJudge
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.store import LabelStore

READER = "rlaif_ray.envs.homegrid_reader:HomegridReader"
PERFECT = ["--judge.profile", "perfect"]


def test_cost_estimates_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "cost", "--episodes", "500"]) == 0
    told = capsys.readouterr().out
    assert "500 questions" in told
    assert "estimates; --probe measures" in told
    assert all(way in told for way in ("each frame", "every 4. and the last", "first, last, 4 between", "one sheet"))


def test_cost_measures_on_a_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["judge", "cost", "--probe", "--json", "--episodes", "10", *PERFECT, "--judge.frames_scale", "0.5"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["questions"] == 10
    assert [row["frames"] for row in found["framings"]] == ["each", "every", "spread", "sheet"]
    assert all(row["measured"] and row["answer"] == "verdict" for row in found["framings"])
    tokens = {row["frames"]: row["input_tokens"] for row in found["framings"]}
    assert tokens["each"] > tokens["every"] > tokens["sheet"]


def test_compare_needs_two_prompts_and_a_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["judge", "compare", str(tmp_path / "none"), "--prompt", "homegrid-align"]) == 2
    assert "expected two" in capsys.readouterr().err
    both = ["--prompt", "homegrid-align", "--prompt", "homegrid-violate"]
    assert main(["judge", "compare", str(tmp_path / "none"), *both]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_compare_asks_about_what_is_stored(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = load_config("homegrid", {"judge.profile": "perfect"})
    episodes = sample_episodes(config).episodes[:6]
    renderer = envs.env_spec(config.env.id).renderer
    assert renderer is not None
    path = tmp_path / "labels.sqlite"
    with BuiltinJudge() as server, LabelStore(path) as store:
        judging = config.judge.model_copy(update={"base_url": server.start("perfect", READER)})

        async def run() -> None:
            judge = ChatJudge(judging)
            questions = Questionnaire.of(judging, renderer({}), judge.identity)
            await ask_all(judge, store, Caps(), [Asked(questions.about(episode), episode) for episode in episodes])
            await judge.close()

        asyncio.run(run())
    words = ["judge", "compare", str(path), "--prompt", "homegrid-align", "--prompt", "homegrid-violate", *PERFECT]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["both"] == len({episode.states.tobytes() for episode in episodes if episode.states is not None})
    assert found["agreement"] == 1.0
    assert found["sides"][0]["replayed"] == found["both"]  # asked when it was stored
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "Cohen's kappa" in told
    assert "0 to bad, 0 to good" in told
