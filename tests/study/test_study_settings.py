"""What was made with other settings is not the arm's: its result isn't read, its run isn't gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import study_results
from homegrid_study.__main__ import standing
from homegrid_study.arms import Layout, Step, chosen, steps_of
from homegrid_study.settings import differing
from homegrid_study.shards import Clock, Shard, run_shard
from homegrid_study.stored import Results

from rlaif_ray.config import dump_config, load_config
from rlaif_ray.errors import ConfigError


def with_settings(step: Step, settings: dict[str, object]) -> Step:
    return replace(step, config=load_config(step.config.model_dump(mode="json"), settings))


def test_a_result_of_other_settings_is_not_read(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    steps = {step.key: step for step in steps_of(layout)}
    today, other = steps["online/online-s20"], steps["online/online-s21"]
    study_results.store(today, study_results.result(today, 1.0, 1.0))
    before = with_settings(other, {"feedback.labels_per_iteration": 7})
    study_results.store(other, study_results.result(before, 1.0, 1.0))
    assert (today.finished, other.finished) == (True, False)
    third = steps["online/online-s22"]
    assert [standing(one) for one in (today, other, third)] == ["finished", "of other settings", "-"]
    assert list(Results.read(layout).found) == [today.key]


def test_a_result_is_not_read_where_what_it_began_with_was_made_otherwise(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    steps = {step.key: step for step in steps_of(layout)}
    task, direct = steps["task/task-s20"], steps["direct/direct-s20"]
    study_results.store(direct, study_results.result(direct, 1.0, 1.0))
    assert direct.finished
    otherwise = replace(direct, before=(with_settings(task, {"ppo.lr": 0.5}),))
    assert not otherwise.finished
    assert differing(direct.settings, otherwise.settings)[0].startswith("begins with task/task-s20 was '")


def test_places_and_machines_are_no_settings(tmp_path: Path) -> None:
    here, there = (
        {step.key: step for step in steps_of(study_results.layout(tmp_path / name))} for name in ("here", "there")
    )
    key = "published/published_1-s20"
    assert here[key].settings == there[key].settings
    assert not differing(here[key].settings, with_settings(here[key], {"resources.env_runners": 0}).settings)
    bought = with_settings(here[key], {"budget.labels": 7})  # it learns from labels that were bought before
    assert bought.settings == here[key].settings
    online = here["online/online-s20"]
    assert differing(online.settings, with_settings(online, {"budget.labels": 7}).settings) == [
        "budget.labels was 500, is 7"
    ]
    assert differing(online.settings, with_settings(online, {"ppo.gamma": 0.5}).settings) == [
        "ppo.gamma was 0.99, is 0.5"
    ]
    assert differing(online.settings, with_settings(online, {"resources.overlap": True}).settings)
    without = {name: value for name, value in online.settings.items() if name != "watch.action"}
    assert differing(without, online.settings) == []  # as if the product had got it since
    assert differing({"old": 1} | dict(online.settings), online.settings) == ["old was 1, is 'not there'"]


def test_who_is_asked_is_told_by_what_its_files_say(tmp_path: Path) -> None:
    step = next(one for one in steps_of(study_results.layout(tmp_path)) if one.key == "online/online-s20")
    files = {name: tmp_path / f"{name}.yaml" for name in ("one", "same", "other")}
    for name, file in files.items():
        file.write_text(f"{{name: mine, miss_rate: {0.2 if name == 'other' else 0.1}}}")
    found = {name: with_settings(step, {"judge.profile": str(file)}).settings for name, file in files.items()}
    assert [one.split()[0] for one in differing(found["one"], found["same"])] == ["judge.profile"]
    assert [one.split()[0] for one in differing(found["one"], found["other"])] == ["judge.profile", "profiles"]
    worded = with_settings(step, {"judge.prompt": "homegrid-violate"}).settings
    assert [one.split()[0] for one in differing(step.settings, worded)] == ["judge.prompt", "prompt"]


@pytest.mark.parametrize("key", ["task/task-s0", "published/labels-s0"])
def test_a_run_that_was_begun_with_other_settings_is_left_alone(tmp_path: Path, key: str) -> None:
    layout = Layout.of(smoke=True, folder=tmp_path)
    steps = chosen(steps_of(layout), ["published/published_1-s0"], [])
    step = next(one for one in steps if one.key == key)
    step.folder.mkdir(parents=True)
    other = with_settings(step, {"judge.seed": 9})
    (step.folder / "config.yaml").write_text(dump_config(other.config))
    with pytest.raises(ConfigError, match=rf"-s0: begun with other settings than {key} .*judge.seed was 9, is .*move"):
        run_shard(steps, layout, 1.0, lambda line: None)
    assert not step.result.exists()
    assert (step.folder / "config.yaml").is_file()
    (step.folder / "config.yaml").write_text(dump_config(with_settings(step, {"resources.env_runners": 0}).config))
    assert step.of_other_settings() == []


def test_a_run_that_began_with_another_is_left_alone(tmp_path: Path) -> None:
    """Whatever its own config says: what it began with has been moved away, and is made anew."""
    layout = Layout.of(smoke=True, folder=tmp_path)
    steps = chosen(steps_of(layout), ["direct/direct-s0"], [])
    task, direct = steps
    direct.folder.mkdir(parents=True)
    (direct.folder / "config.yaml").write_text(dump_config(direct.config))
    before = replace(direct, before=(with_settings(task, {"ppo.lr": 0.5}),))
    direct.begun_with.write_text(json.dumps(before.settings))
    with pytest.raises(ConfigError, match=r"direct-s0: begun with other settings .*begins with task/task-s0 was"):
        run_shard(steps, layout, 1.0, lambda line: None)
    assert not task.folder.exists()


def test_a_data_set_is_not_made_smaller(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    many = next(one for one in steps_of(layout) if one.key == "published/labels-s20")
    many.folder.mkdir(parents=True)
    (many.folder / "config.yaml").write_text(dump_config(many.config))
    many.begun_with.write_text(json.dumps(many.settings))
    assert many.of_other_settings() == []
    assert with_settings(many, {"budget.labels": 20}).of_other_settings() == ["labels was 10000, is 20"]


def test_what_was_measured_by_other_files_is_nobodys_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the study change while a shard runs: the process that measures says so, and nothing is written."""
    layout = Layout.of(smoke=True, folder=tmp_path)
    (step,) = chosen(steps_of(layout), ["task/task-s0"], [])
    changed, said = with_settings(step, {"ppo.lr": 0.5}), list[str]()

    def _begin(shard: Shard, step: Step, clock: Clock) -> int:
        step.folder.mkdir(parents=True)
        (step.folder / "summary.json").write_text('{"status": "done"}')
        return 0

    monkeypatch.setattr(Shard, "_begin", _begin)
    done = run_shard([changed], layout, 1.0, said.append)
    assert done == {"finished": [], "failed": [], "left": [step.key]}
    assert any("files have changed" in line for line in said)
    assert not step.result.exists()
    assert json.loads(step.begun_with.read_text())["ppo.lr"] == 0.5


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    step = next(one for one in steps_of(layout) if one.key == "online/online-s20")
    step.result.parent.mkdir(parents=True)
    step.result.write_text("<<<<<<< HEAD\n{}")
    with pytest.raises(ConfigError, match=r"online-s20\.json: not a whole result; restore it, or remove it"):
        Results.read(layout)


def test_a_data_set_has_as_many_labels_as_its_run_says(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    steps = {step.key: step for step in steps_of(layout)}
    many, few = steps["published/labels-s20"], steps["published/labels_500-s20"]
    assert (many.labels, few.labels) == (10_000, 500)
    assert steps["published/published_500_2-s20"].before[-1] == few
    assert differing(many.settings, few.settings) == ["labels was 10000, is 500"]
    assert steps_of(Layout.of(smoke=True, folder=tmp_path))[1].labels == 48
