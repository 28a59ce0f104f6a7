"""Words of the command line: config keys, options, and one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from rlaif_ray.cli import main
from rlaif_ray.cli.options import Check, Evaluate, Serve, Train, parse
from rlaif_ray.cli.overrides import config_help, split_overrides
from rlaif_ray.config import Config, load_config
from rlaif_ray.errors import ConfigError

OWN = ("--resume", "--json")


def test_keys_are_taken_out_and_the_rest_stays_in_order() -> None:
    words = ["homegrid", "--ppo.lr", "3e-4", "--resume", "runs/x", "--judge.base-url=http://127.0.0.1:1/v1?a=b"]
    left, overrides = split_overrides(words, OWN)
    assert left == ["homegrid", "--resume", "runs/x"]
    assert set(overrides) == {"ppo.lr", "judge.base_url"}
    assert overrides["judge.base_url"] == "http://127.0.0.1:1/v1?a=b"


@pytest.mark.parametrize(
    ("words", "section", "key", "value"),
    [
        (["--ppo.lr", "3e-4"], "ppo", "lr", 3e-4),
        (["--ppo.lambda", "0.9"], "ppo", "lambda_", 0.9),
        (["--run.name", "007"], "run", "name", "007"),
        (["--run.total-steps=2_000_000"], "run", "total_steps", 2_000_000),
        (["--policy.hidden", "64,32"], "policy", "hidden", (64, 32)),
        (["--policy.hidden", "[64]"], "policy", "hidden", (64,)),
        (["--budget.usd", "none"], "budget", "usd", None),
        (["--judge.seed", "none"], "judge", "seed", None),
        (["--judge.model", "1.0"], "judge", "model", "1.0"),
        (["--env.options.starts", "all"], "env", "options", {"starts": "all"}),
        (["--env.options", "{clear_cat: true}"], "env", "options", {"starts": "train", "clear_cat": True}),
        (["--reward-model.net", "cnn-lstm"], "reward_model", "net", "cnn-lstm"),
        (["--budget.labels", "7", "--budget.labels", "9"], "budget", "labels", 9),
    ],
)
def test_a_value_reaches_the_config_with_its_type(words: list[str], section: str, key: str, value: object) -> None:
    _, overrides = split_overrides(words, OWN)
    config = load_config("homegrid", overrides)
    assert getattr(getattr(config, section), key) == value


def test_every_key_of_the_tree_can_be_given_on_the_command_line() -> None:
    """Each key, set to its own default as a word, gives the default config back."""
    words: list[str] = []
    for section, model in Config.model_fields.items():
        assert isinstance(model.annotation, type)
        assert issubclass(model.annotation, BaseModel)
        for key, field in model.annotation.model_fields.items():
            default = field.get_default(call_default_factory=True)
            if isinstance(default, tuple):
                default = ",".join(map(str, default))
            words += [f"--{section}.{key}".replace("_", "-").rstrip("-"), "none" if default is None else str(default)]
    left, overrides = split_overrides(words, OWN)
    assert left == []
    assert load_config("", overrides) == Config()


def test_help_lists_every_key_with_words() -> None:
    text = config_help()
    for section, model in Config.model_fields.items():
        assert isinstance(model.annotation, type)
        for key in model.annotation.model_fields:  # type: ignore[attr-defined]
            assert f"--{section}.{key}".replace("_", "-").rstrip("-") + " " in text
    assert "Environment steps of the whole run, all phases." in text
    assert "(default: 1024)" in text


def test_every_key_says_what_it_is_for() -> None:
    silent = [
        f"{section}.{key}"
        for section, model in Config.model_fields.items()
        for key, field in model.annotation.model_fields.items()  # type: ignore[union-attr]
        if not field.description
    ]
    assert silent == []


def test_commands_are_parsed() -> None:
    assert parse(["train"]) == Train()
    assert parse(["train", "my.yaml", "--json", "--ppo.lr=1"]) == Train("my.yaml", json=True, overrides={"ppo.lr": 1})
    assert parse(["train", "--resume", "quickstart"]) == Train(resume="quickstart")
    evaluate = parse(["evaluate", "runs/x", "--episodes", "10", "--deterministic", "--starts", "heldout"])
    assert evaluate == Evaluate("runs/x", episodes=10, deterministic=True, starts="heldout")
    assert parse(["judge", "serve", "--port", "0"]) == Serve(port=0)
    assert parse(["judge", "check", "homegrid-local", "--judge.model", "m"]) == Check(
        "homegrid-local", overrides={"judge.model": "m"}
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["unknown command 'trian'", "did you mean 'train'"]),
        (["judge", "chek"], ["unknown command 'judge chek'", "did you mean 'judge check'"]),
        (["judge"], ["needs a command", "serve, check"]),
        ([], ["needs a command", "train"]),
        (["evaluate"], ["evaluate needs CHECKPOINT"]),
        (["evaluate", "x", "--episods", "3"], ["'--episods'", "did you mean --episodes"]),
        (["evaluate", "x", "--episodes", "3x"], ["--episodes", "'3x'", "whole numbers"]),
        (["evaluate", "/", "--starts", "helout"], ["'helout'", "all", "train", "did you mean 'heldout'"]),
        (["train", "a.yaml", "b.yaml"], ["'b.yaml'"]),
        (["train", "--ppo.lr"], ["--ppo.lr needs a value"]),
        (["train", "--ppo.lr", "--json"], ["--ppo.lr needs a value"]),
        (["train", "homgrid"], ["'homgrid'", "did you mean 'homegrid'"]),
        (["train", "--ppo.lerning_rate", "1"], ["unknown key 'ppo.lerning_rate'", "did you mean"]),
        (["train", "--lr", "1"], ["unknown key 'lr'", "'ppo.lr'"]),
        (["train", "--ppo.lr", "fast"], ["ppo.lr", "'fast'", "number"]),
        (["train", "--budget.usd", "-1"], ["budget.usd", "-1", "greater than or equal to 0"]),
        (["train", "--mix.source", "hybird"], ["'hybird'", "did you mean 'hybrid'"]),
        (["train", "--resume", "nowhere"], ["'nowhere'", "no such folder"]),
        (["report", "nowhere"], ["'nowhere'", "no such folder"]),
        (["evaluate", "nowhere"], ["'nowhere'", "no such folder"]),
        (["labels", "stats", "nowhere"], ["'nowhere'", "no such folder"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


def test_a_run_that_goes_on_keeps_its_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("run: {name: x}\n")
    assert main(["train", "--resume", str(tmp_path), "--ppo.lr", "1"]) == 2
    assert "--run.total-steps" in capsys.readouterr().err
    assert main(["train", "homegrid", "--resume", str(tmp_path)]) == 2
    assert "'homegrid'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["judge", "--help"], ["judge", "check", "-h"]])
def test_help_is_no_mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    said = capsys.readouterr()
    assert "usage: rlaif-ray" in said.out
    assert said.err == ""


def test_an_unreadable_value_is_left_for_the_config_to_refuse() -> None:
    _, overrides = split_overrides(["--ppo.lr", "{a: "], OWN)
    with pytest.raises(ConfigError, match=r"ppo\.lr"):
        load_config("", overrides)
