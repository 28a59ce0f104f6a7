"""What was made with other settings is not the arm's: its result isn't read, its run isn't gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import study_results
from homegrid_study.arms import Layout, Step, chosen, steps_of
from homegrid_study.settings import differing
from homegrid_study.shards import run_shard
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
        "ppo.gamma was the default, is 0.5"
    ]


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


def test_a_data_set_has_as_many_labels_as_its_run_says(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    steps = {step.key: step for step in steps_of(layout)}
    many, few = steps["published/labels-s20"], steps["published/labels_500-s20"]
    assert (many.labels, few.labels) == (10_000, 500)
    assert steps["published/published_500_2-s20"].before[-1] == few
    assert differing(many.settings, few.settings) == ["labels was 10000, is 500"]
    assert steps_of(Layout.of(smoke=True, folder=tmp_path))[1].labels == 48
