"""``judge check`` and ``judge cost`` on several judges."""

from __future__ import annotations

import json

import pytest

from rlaif_ray.cli import main
from rlaif_ray.config import load_config

CASCADE = ["--judge.profile", "cheap-nano", "--judge.cascade.strong", "{profile: perfect}"]
PANEL = ["--judge.panel", "[{profile: perfect}, {profile: gpt-4o-mini-2024}, {profile: perfect, seed: 1}]"]


def test_check_asks_every_judge(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "check", *CASCADE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] is True
    assert [one["judge"] for one in found["judges"]] == ["builtin/cheap-nano", "builtin/perfect"]
    assert [len(one["probes"]) for one in found["judges"]] == [2, 2]
    assert main(["judge", "check", *CASCADE]) == 0
    told = capsys.readouterr().out
    assert told.count("Ready to be asked.") == 2
    assert "builtin/cheap-nano" in told


def test_check_compares_the_two_episodes_for_a_preference(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--judge.profile", "perfect", "--judge.prompt", "homegrid-preference", "--judge.frames", "spread"]
    assert main(["judge", "check", *words]) == 0
    told = capsys.readouterr().out
    assert "a typical episode, then a longest one" in told
    assert "the same two, swapped" in told


def costs(capsys: pytest.CaptureFixture[str], *words: str) -> list[float]:
    assert main(["judge", "cost", "--episodes", "100", "--json", *words]) == 0
    return [row["usd_per_question"] for row in json.loads(capsys.readouterr().out)["framings"]]


def test_cost_is_that_of_all_judges(capsys: pytest.CaptureFixture[str]) -> None:
    strong, cheap = costs(capsys), costs(capsys, "--judge.profile", "cheap-nano")
    both = costs(
        capsys, "--judge.profile", "cheap-nano", "--judge.cascade.strong", "{profile: gpt-4o-mini-2024}"
    )  # fmt: skip
    assert both == pytest.approx([a + b for a, b in zip(strong, cheap, strict=True)])
    assert costs(capsys, *PANEL) == pytest.approx(strong)  # the other two charge nothing
    assert main(["judge", "cost", "--episodes", "100", *CASCADE]) == 0
    told = capsys.readouterr().out
    assert "Each question goes to 2 judges: sums over all of them; at most so" in told
    assert "nothing is paid" in told


def test_the_shipped_cascade_is_one() -> None:
    config = load_config("homegrid-cascade")
    assert [member.profile for member in config.judge.members] == ["cheap-nano", "gpt-4o-mini-2024"]
    assert config.judge.as_if
    assert load_config("homegrid-cascade", {"judge.cascade": None}).judge.members[0].profile == "cheap-nano"


def test_a_tree_with_judges_in_it_is_read_back_as_it_was() -> None:
    from rlaif_ray.config import dump_config

    for preset, overrides in (("homegrid-cascade", {}), ("homegrid", {"judge.panel": [{"seed": 1}, {"seed": None}]})):
        config = load_config(preset, overrides)
        import yaml

        again = load_config(yaml.safe_load(dump_config(config)))
        assert again == config
        assert again.judge.members == config.judge.members
