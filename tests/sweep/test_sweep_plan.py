"""A sweep's file and what becomes of it: arms, pairs, points, budgets; mistakes are told before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif_ray.config import load_config
from rlaif_ray.config.sweeping import Study, dump_study, read_study, study_from
from rlaif_ray.errors import ConfigError
from rlaif_ray.sweep.place import Place
from rlaif_ray.sweep.plan import cells_of, config_of, in_words, suggested
from rlaif_ray.sweep.run import check_sweep, sweep

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "tune_configs").glob("*.yaml"))
MIX: dict[str, Any] = {
    "name": "mix",
    "arms": [
        {"name": "task", "mix.source": "none"},
        {"name": "hybrid", "mix.source": "hybrid", "feedback.fraction": [0.02, 0.1], "mix.weight": [0.5, 1.0]},
    ],
    "seeds": [3, 5],
}
SPACE = {
    "mix.weight": {"uniform": [0.5, 2.0]},
    "mix.ramp_steps": {"randint": [10, 12]},
    "ppo.lr": {"loguniform": [1e-4, 1e-2]},
    "mix.credit": {"choice": ["terminal", "potential"]},
}


@pytest.mark.parametrize("smoke", [False, True], ids=["full", "smoke"])
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_can_be_begun(
    path: Path, smoke: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # profiles are named from there
    place = Place.new(read_study(path, smoke=smoke), {}, tmp_path, smoke=smoke)
    check_sweep(place)
    assert len({cell.name for cell in place.cells}) == len(place.cells) >= 2
    assert place.folder.name == path.stem + ("-smoke" if smoke else "")
    steps = {place.config_of(cell).run.total_steps for cell in place.cells}
    assert max(steps) <= 20_000 if smoke else min(steps) >= 1_000_000
    if path.stem == "reward_mix" and not smoke:
        assert len({cell.arm for cell in place.cells}) >= 4
        assert len(place.study.seeds) >= 5


def test_arms_are_every_combination_and_seeds_are_pairs() -> None:
    cells = cells_of(study_from(MIX))
    names = ["task", *(f"hybrid-fraction{f}-weight{w}" for f in ("0.02", "0.1") for w in ("0.5", "1"))]
    assert [cell.name for cell in cells] == [f"{name}-s{seed}" for seed in (3, 5) for name in names]
    assert [cell.seed for cell in cells] == [3] * 5 + [5] * 5  # a sweep stopped half-way has whole pairs
    assert cells[2].set == {"mix.source": "hybrid", "feedback.fraction": 0.02, "mix.weight": 1.0}
    with pytest.raises(ConfigError, match="'task' twice"):
        cells_of(study_from({"arms": [{"name": "task"}, {"name": "task"}]}))


def test_a_value_that_is_a_list_is_told_how_to_be_written(tmp_path: Path) -> None:
    arms = {"name": "widths", "arms": [{"name": "wide", "policy.network": "mlp", "policy.hidden": [512, 256]}]}
    wanted = r"arm 'wide-hidden512': policy\.hidden: got 512; .*is a list itself is written \[\[512, 256\]\] for policy"
    with pytest.raises(ConfigError, match=wanted):
        Place.new(study_from(arms), {}, tmp_path)
    drawn = {"name": "widths", "search": {"space": {"policy.hidden": {"choice": [64]}}, "samples": 1}}
    with pytest.raises(ConfigError, match=r"got 64; .*written \[\[64\]\]"):
        Place.new(study_from(drawn), {}, tmp_path)
    as_told = {**arms, "arms": [{**arms["arms"][0], "policy.hidden": [[512, 256]]}]}
    place = Place.new(study_from(as_told), {}, tmp_path)
    assert [place.config_of(cell).policy.hidden for cell in place.cells] == [(512, 256)]
    other = {"name": "other", "arms": [{"name": "rates", "ppo.lr": [-1.0, 0.1]}, {"name": "one", "policy.hidden": 5}]}
    with pytest.raises(ConfigError) as told:  # what was no list taken apart has no such hint
        Place.new(study_from(other), {}, tmp_path)
    assert "is written" not in str(told.value)


def test_points_are_drawn_from_their_space_and_the_same_each_time() -> None:
    raw = {"search": {"space": SPACE, "samples": 40}, "seeds": [0, 1]}
    cells = cells_of(study_from(raw))
    assert cells == cells_of(study_from(raw))
    assert len(cells) == 80
    assert [cell.set for cell in cells[:40]] == [cell.set for cell in cells[40:]]  # the pairs
    drawn = {key: [cell.set[key] for cell in cells[:40]] for key in SPACE}
    assert all(0.5 <= value <= 2.0 for value in drawn["mix.weight"])
    assert set(drawn["mix.ramp_steps"]) == {10, 11, 12}
    assert sum(value < 1e-3 for value in drawn["ppo.lr"]) in range(10, 31)
    assert set(drawn["mix.credit"]) == {"terminal", "potential"}


def test_each_member_of_a_population_has_a_seed_of_its_own() -> None:
    study = study_from({"search": {"space": SPACE, "samples": 3}, "pbt": {"every_steps": 10}, "seeds": [4]})
    assert [(cell.name, cell.seed) for cell in cells_of(study)] == [(f"member-00{i}", 4 + i) for i in range(3)]


def test_a_searcher_chooses_as_it_goes() -> None:
    study = study_from({"search": {"space": SPACE, "algorithm": "optuna"}, "seeds": [7, 8]})
    assert cells_of(study) == ()
    first, again, other = (suggested(study, {"mix.weight": w}, i) for w, i in ((0.5, 0), (0.5, 1), (0.6, 1)))
    assert (first.seed, again.seed) == (7, 8)
    assert first.arm == again.arm != other.arm
    assert len({first.name, again.name, other.name}) == 3


def test_a_trial_has_the_sweeps_caps_its_own_share_and_its_own_noise(tmp_path: Path) -> None:
    raw = MIX | {"set": {"budget": {"run_tokens": 7}}, "budget": {"usd": 3.0}}
    place = Place.new(study_from(raw), {"mix.ramp_steps": 12}, tmp_path)
    config = place.config_of(place.cells[-1])
    assert (config.run.seed, config.judge.seed, config.mix.ramp_steps, config.mix.weight) == (5, 5, 12, 1.0)
    assert config.run.name == "hybrid-fraction0.1-weight1-s5"
    assert config.run.dir == str(place.folder / "trials")
    # The preset's own caps (500 labels, 5 USD) are the trial's share; the sweep's hold over all of them.
    assert (config.budget.usd, config.budget.labels, config.budget.tokens) == (3.0, None, None)
    assert (config.budget.run_usd, config.budget.run_labels, config.budget.run_tokens) == (5.0, 500, 7)
    assert config.feedback.store == str(place.folder / "labels.sqlite")
    assert config.resources.learner_threads == 1  # of two cores: the other is the runner's


def test_what_was_to_be_done_reads_back(tmp_path: Path) -> None:
    place = Place.new(study_from(MIX), {}, tmp_path)
    place.write()
    assert Place.read(place.folder) == place
    (place.folder / "plan.json").write_text('{"cells": ')
    with pytest.raises(ConfigError, match=r"without a whole plan\.json"):
        Place.read(place.folder)
    study = study_from(MIX)
    (tmp_path / "again.yaml").write_text(dump_study(study))
    assert read_study(tmp_path / "again.yaml") == study


def test_smoke_stays_apart_from_what_counts(tmp_path: Path) -> None:
    raw = MIX | {"smoke": {"seeds": [0], "set": {"feedback": {"store": str(tmp_path / "precious.sqlite")}}}}
    smoke = Place.new(study_from(raw, smoke=True), {}, tmp_path, smoke=True)
    assert smoke.folder != Place.new(study_from(raw), {}, tmp_path).folder
    assert smoke.store.parent == smoke.folder
    assert [cell.seed for cell in smoke.cells] == [0] * 5
    with pytest.raises(ConfigError, match="no section `smoke`"):
        study_from(MIX, smoke=True)


WRONG = [
    ({"metric": "truth/found"}, "ground truth, which is for the audit only"),
    ({"metric": "eval/heldout/cat_survived"}, "ground truth"),
    ({"metric": "audit/scor"}, "did you mean 'audit/score'"),
    ({"arm": []}, "did you mean 'arms'"),
    ({"search": {"space": SPACE}}, "one of the two"),
    ({"seeds": [1, 1]}, "each once"),
    ({"arms": [{"mix.weight": 1}]}, "expected a name"),
    ({"arms": [{"name": "a", "mix.wieght": 1}]}, "arm 'a': unknown key 'mix.wieght'.*did you mean 'weight'|mix.weight"),
    ({"arms": [{"name": "a", "mix.weight": -1}]}, "arm 'a': mix.weight: got -1"),
    ({"arms": [], "search": {"space": {"mix.weight": {"uniform": [2, 1]}}}}, "low < high"),
    ({"pbt": {"every_steps": 5}}, "pbt: goes with a search space"),
    ({"loggers": ["wandb"]}, r"not installed; pip install 'rlaif_ray\[wandb\]'"),
    ({"loggers": ["mlflow"]}, r"rlaif_ray\[mlflow\]"),
    ({"arms": [], "search": {"space": SPACE, "algorithm": "optuna"}}, r"rlaif_ray\[optuna\]"),
    ({"base": "homegird"}, "did you mean 'homegrid'"),
    ({"name": "../out"}, "letters, digits"),
    (
        {"arms": [{"name": "a", "mix.source": "distilled", "judge.prompt": "homegrid-preference"}]},
        r"metric: got 'audit/score', which is made of approvals, with judge\.prompt 'homegrid-preference' .*; allowed "
        "then are 'audit/task_return', 'task/episode_return_mean'",
    ),
    (
        {
            "arms": [],
            "search": {"space": {"judge.prompt": {"choice": ["homegrid-align", "homegrid-preference"]}}},
            "metric": "feedback/approval_rate",
        },
        "metric: got 'feedback/approval_rate', which is made of approvals",
    ),
    (
        {
            "arms": [
                {
                    "name": "a",
                    "mix.source": "distilled",
                    "judge.prompt": "homegrid-preference",
                    "watch.action": ["report", "stop"],
                }
            ],
            "metric": "audit/task_return",
        },
        "watch.action: got 'stop' with judge.prompt 'homegrid-preference'",
    ),
    ({"asha": {"grace_steps": 5}}, "needs a judge's verdicts, but mix.source is 'none' in some trial"),
    (
        {"set": {"judge": {"kind": "chat", "base_url": "https://judge.invalid/v1"}}},
        "a sweep needs a cap|OPENAI_API_KEY",
    ),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_mistakes_are_told_before_anything_starts(
    change: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=told) as caught:
        sweep(Place.new(study_from(MIX | change), {}, tmp_path))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("plan.json"))


def test_a_file_that_is_no_sweep_says_so(tmp_path: Path) -> None:
    for text, told in (("a: [", "not YAML"), ("- 1", "expected a mapping"), ("{}", "one of the two")):
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(ConfigError, match=told):
            read_study(tmp_path / "s.yaml")
    with pytest.raises(ConfigError, match="No such file"):
        read_study(tmp_path / "none.yaml")


def test_a_base_may_lie_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"extends": "homegrid", "run": {"total_steps": 800_000}}))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "arms": [{"name": "a"}]}))
    study = read_study(tmp_path / "s.yaml")
    assert load_config(study.base).run.total_steps == 800_000
    assert isinstance(study, Study)


def test_points_in_words() -> None:
    assert in_words({"mix.weight": 0.51234567, "mix.credit": "terminal"}) == "weight 0.5123, credit terminal"


def test_a_sweep_can_not_go_back():
    study = study_from(
        {"base": "homegrid", "arms": [{"name": "a", "watch.action": "rollback", "mix.source": "hybrid"}]}
    )
    with pytest.raises(ConfigError, match=r"arm 'a': watch\.action: got 'rollback', allowed in a sweep"):
        config_of(load_config("homegrid"), study, cells_of(study)[0], Path("x"))
