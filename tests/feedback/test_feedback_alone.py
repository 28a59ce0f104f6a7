"""The feedback room by itself, and the very lines that the documentation shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from feedback_fakes import FakeServer, TinyRenderer, completion, tiny_config, tiny_episode

import rlaif_ray
import rlaif_ray.feedback
from rlaif_ray import Judge, LabelStore, Unit, ask_about
from rlaif_ray.cli.sample import renderer_of, sample_episodes
from rlaif_ray.config import load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.judge import identity_of
from rlaif_ray.feedback.question import JudgeIdentity, Question
from rlaif_ray.types import Abstention, Usage, Verdict

README = Path(rlaif_ray.__file__).parents[1] / "README.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHOWN = [
    block
    for text in (rlaif_ray.feedback.__doc__ or "", README.read_text() if README.is_file() else "")
    for block in BLOCK.findall(text)
    if "ask_about" in block
]


def unit(number: int) -> Unit:
    states = tiny_episode(number).states
    assert states is not None
    return Unit(f"run {number}", TinyRenderer().png(states))


@pytest.mark.parametrize("shown", SHOWN)
def test_the_documented_lines_run(shown: str, tmp_path: Path) -> None:
    """Against the built-in server, with nothing of Ray or torch; the second time for nothing."""
    config = load_config("homegrid")
    episodes = sorted(sample_episodes(config).episodes, key=len)[:3]
    for number, episode in enumerate(episodes):
        folder = tmp_path / "pictures" / f"run-{number}"
        folder.mkdir(parents=True)
        assert episode.states is not None
        for step, png in enumerate(renderer_of(config).png(episode.states)):
            (folder / f"{step:03}.png").write_bytes(png)
    heavy = 'import sys\nprint(sorted({"ray", "torch"} & set(sys.modules)))'
    with BuiltinJudge() as judge:
        url = judge.start("perfect", "rlaif_ray.envs.homegrid_reader:HomegridReader")
        script = shown.replace("http://127.0.0.1:8000/v1", url).replace("gpt-4o-mini-2024", "perfect") + heavy
        assert script.count(url) == 1
        said = [
            subprocess.run(
                [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
            ).stdout.splitlines()
            for _ in range(2)
        ]
    assert said[0] == said[1]
    assert said[0][-1] == "[]"
    assert [line.split()[0] for line in said[0][:-1]] == ["run-0", "run-1", "run-2"]
    assert all("Verdict(kind='approval'" in line for line in said[0][:-1])
    with LabelStore(tmp_path / "labels.sqlite") as store:
        assert (store.stats().labels, store.stats().replayed) == (3, 3)


PROMPT = """name: harm
kind: approval
polarity: align
=== system
You judge what robots do.
=== user
A run: {caption} ({num_frames} pictures). Is it in line with human values? Answer as JSON.
"""


def test_units_of_ones_own(store: LabelStore, tmp_path: Path) -> None:
    def respond(_: int, body: dict[str, object]) -> object:
        return completion(answer="no" if "burns" in json.dumps(body) else "yes")

    with FakeServer(respond) as server:
        config = tiny_config(server.base_url, feedback__keep_frames_mb=10, budget__labels=3)
        with pytest.raises(ConfigError, match=r"'homegrid-align' for unit 'a', .* part lacks \{caption\}"):
            ask_about([Unit("a", caption="It fetches the fruit.")], config, store)
        (tmp_path / "harm.txt").write_text(PROMPT)
        prompt = {"judge__prompt": str(tmp_path / "harm.txt")}
        config = tiny_config(server.base_url, feedback__keep_frames_mb=10, budget__labels=3, **prompt)
        texts = [Unit("a", caption="It fetches the fruit."), Unit("b", caption="It burns the house down.")]
        labels = ask_about([*texts, unit(1), unit(2)], config, store)
    assert [None if one is None else one.value for one in labels] == [1.0, 0.0, 1.0, None]  # the cap is three
    assert labels[2] is not None
    assert (labels[2].episode_id, store.frames_of(labels[2])) == (2, unit(1).frames)
    assert len(store.episode_of(labels[2]).obs) == len(unit(1).frames)


def test_a_judge_of_ones_own(store: LabelStore) -> None:
    class Dice:
        """Says yes to all but refuses the second."""

        identity = JudgeIdentity("dice", "one")

        def worst_case(self, question: Question) -> Amount:
            return Amount(0.01, 1, 10)

        async def ask(self, question: Question) -> Verdict | Abstention:
            usage = Usage(5, 1, 0.004)
            if question.units[0].key == "run 2":
                return Abstention("refusal", "not that one", usage)
            return Verdict("approval", 1.0, "yes", usage, approved=True)

    assert isinstance(Dice(), Judge)
    labels = ask_about([unit(1), unit(2)], tiny_config("http://127.0.0.1:1/v1"), store, judge=Dice())
    assert [one and one.value for one in labels] == [1.0, None]
    assert store.account(Caps()).spent.usd == pytest.approx(0.008)


def test_two_units_are_not_one(store: LabelStore) -> None:
    config = tiny_config("http://127.0.0.1:1/v1", judge__prompt="homegrid-preference")
    with pytest.raises(ConfigError, match="allowed for one episode"):
        ask_about([unit(1)], config, store)
    assert identity_of(config.judge).model == "tiny"
