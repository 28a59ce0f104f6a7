"""The study's files, their order, what each arm begins with, and the plan of hours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import study_results
import yaml
from homegrid_study.arms import ORDER, STUDIES, Layout, Step, chosen, steps_of
from homegrid_study.hours import HOURS, plan, planned, write_plan
from homegrid_study.stored import HEADLINE

from rlaif_ray.config.sweeping import read_study
from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.sweep.plan import with_seed


@pytest.fixture(scope="module")
def steps() -> tuple[Step, ...]:
    return steps_of(Layout.of(smoke=False))


def test_every_file_of_the_study_is_in_its_order() -> None:
    assert {path.stem for path in STUDIES.glob("*.yaml")} == set(ORDER)


@pytest.mark.parametrize("smoke", [False, True], ids=["full", "smoke"])
@pytest.mark.parametrize("name", ORDER)
def test_every_file_is_a_sweep_too(name: str, smoke: bool) -> None:
    assert read_study(STUDIES / f"{name}.yaml", smoke=smoke).about.endswith("?")


def test_headline_arms_have_five_seeds_and_the_rest_three(steps: tuple[Step, ...]) -> None:
    seeds = {(step.study, step.arm): 0 for step in steps}
    for step in steps:
        seeds[step.study, step.arm] += 1
    for key, count in seeds.items():
        wanted = 5 if key in HEADLINE or key[0] in ("audit", "published", "published_full", "confirm", "budgets") else 3
        assert count == wanted, key


def test_each_seed_has_its_own_beginning_and_its_own_errors_of_the_judge(steps: tuple[Step, ...]) -> None:
    begun = [step for step in steps if step.config.run.init]
    assert begun
    for step in steps:
        assert step.config.run.seed == step.config.judge.seed == step.seed or step.kind == "audit"
    for step in begun:
        assert step.config.run.init.endswith(f"-s{step.seed}")
        assert "{" not in step.config.run.init


def test_no_arm_learns_from_anything_but_the_judge(steps: tuple[Step, ...]) -> None:
    for step in steps:
        config = step.config
        assert config.judge.kind == "builtin"
        assert Path(config.judge.profile).stem != "perfect"
        assert config.env.options["starts"] == "train"


@pytest.mark.parametrize("name", ["gpt-4o-mini-2024", "gpt-4o-mini-structured"])
def test_a_judge_that_answers_at_once_errs_as_the_one_that_does_not(name: str) -> None:
    shipped, at_once = load_profile(name), load_profile(f"tune_configs/profiles/{name}-at-once.yaml")
    differs = {
        field.name
        for field in dataclasses.fields(shipped)
        if getattr(shipped, field.name) != getattr(at_once, field.name)
    } if dataclasses.is_dataclass(shipped) else {
        key for key, value in shipped.model_dump().items() if at_once.model_dump()[key] != value
    }  # fmt: skip
    assert differs == {"name", "latency_median_s", "latency_sigma"}


def test_a_seed_is_filled_into_texts_only() -> None:
    assert with_seed({"run.init": "runs/x-s{seed}", "ppo.lr": 0.1}, 3) == {"run.init": "runs/x-s3", "ppo.lr": 0.1}


def test_named_arms_bring_what_they_begin_with(steps: tuple[Step, ...]) -> None:
    assert [step.key for step in chosen(steps, ["direct"], [22])] == [
        "task/task-s22",
        "direct/direct-s22",
        "direct/direct_structured-s22",
    ]
    assert [step.key for step in chosen(steps, ["audit/nets-s21"], [])] == ["online/online-s21", "audit/nets-s21"]
    assert {step.arm for step in chosen(steps, ["direct/direct"], [])} == {"task", "direct"}
    with pytest.raises(UnknownNameError, match="did you mean 'direct'"):
        chosen(steps, ["diretc"], [])
    with pytest.raises(ConfigError, match="--seeds: got 4"):
        chosen(steps, [], [4])


def test_an_arm_that_begins_with_what_nobody_makes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = yaml.safe_load((STUDIES / "direct.yaml").read_text())
    raw["base"] = str((STUDIES / raw["base"]).resolve())
    raw["set"]["run"]["init"] = "runs/study/task/tusk-s{seed}"
    (tmp_path / "direct.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.setattr("homegrid_study.arms.STUDIES", tmp_path)
    monkeypatch.setattr("homegrid_study.arms.ORDER", ("direct",))
    with pytest.raises(ConfigError, match="begins with 'task/tusk-s20', which no step before it makes"):
        steps_of(Layout.of(smoke=False))


def test_minutes_are_estimated_from_speeds_and_then_measured(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    steps = steps_of(layout)
    by_key = {row.key: row for row in plan(steps, layout, 1e9)}
    evaluated_s = 5 * 10_000 / 1_000
    task = by_key["task/task-s20"]
    assert task.minutes == pytest.approx((10 + 400_000 / 8_000 + evaluated_s) / 60)
    direct = by_key["direct/direct-s20"]
    steps_taken = 12.0 * 20_000
    assert direct.minutes == pytest.approx((10 + steps_taken / 8_000 + 20_000 / 50 + evaluated_s) / 60)
    assert "estimated: 0.24 M steps at 8,000/s (planning), 20,000 answers waited for at 50/s" in direct.basis
    first = next(step for step in steps if step.key == "direct/direct-s20")
    study_results.store(first, study_results.result(first, 1.0, 1.0, minutes=7.5))
    rows = {row.key: row for row in plan(steps, layout, 1e9)}
    assert rows["direct/direct-s23"].minutes == 7.5
    assert rows["direct/direct-s23"].basis == "measured, 1 run"
    assert rows["direct/direct-s20"].finished
    assert not rows["direct/direct-s23"].finished


def test_minutes_beside_others_count_by_their_part_until_one_had_the_machine_alone(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    steps = steps_of(layout)
    mine = [step for step in steps if (step.study, step.arm) == ("online", "online")]
    for step in mine[:2]:
        study_results.store(step, study_results.result(step, 1.0, 1.0, minutes=30.0, jobs=2))
    row = next(row for row in plan(steps, layout, 1e9) if row.key == mine[4].key)
    assert (row.minutes, row.basis) == (15.0, "measured, 2 runs, beside others: its part of the machine")
    study_results.store(mine[2], study_results.result(mine[2], 1.0, 1.0, minutes=20.0, jobs=1))
    row = next(row for row in plan(steps, layout, 1e9) if row.key == mine[4].key)
    assert (row.minutes, row.basis) == (20.0, "measured, 1 run")


def test_labels_bought_before_are_a_step_of_their_own(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    steps = steps_of(layout)
    keys = [step.key for step in steps]
    first, second = keys.index("published/labels-s22"), keys.index("published/published_1-s22")
    assert first < second
    assert keys.count("published/labels-s22") == 1  # two rounds learn from the same
    assert steps[second].needs == ("task/task-s22", "published/labels-s22")
    assert steps[keys.index("published/published_2-s22")].needs == ("published/published_1-s22", "published/labels-s22")
    full = next(step for step in steps if step.key == "published_full/full_labels-s22")
    assert full.needs == ("published_full/full_task-s22",)  # a data set is of the policy that its run begins with
    row = next(row for row in plan(steps, layout, 1e9) if row.key == "published/labels-s22")
    assert row.minutes == pytest.approx(10_000 / 50 / 60)
    first_round = next(row for row in plan(steps, layout, 1e9) if row.key == "published/published_1-s22")
    fit_s = 0.8 * 10_000 * 15 / 800
    assert first_round.minutes == pytest.approx((10 + 800_000 / 8_000 + fit_s + 5 * 10_000 / 1_000) / 60)


def test_what_does_not_fit_is_named_and_so_is_what_begins_with_it(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    steps = steps_of(layout)
    rows = plan(steps, layout, 0.1)
    kept = [row for row in rows if row.fits]
    assert sum(row.minutes for row in kept) <= 6.0 + 1e-9
    assert kept[0].key == "task/task-s20"
    fits = {row.key: row.fits for row in rows}
    assert not all(fits.values())
    for step in steps:
        assert not fits[step.key] or all(fits[key] for key in step.needs), step.key


def test_without_measured_speeds_there_is_no_plan(tmp_path: Path) -> None:
    layout = Layout(tmp_path, tmp_path / "results", tmp_path)
    with pytest.raises(ConfigError, match="plan --measure"):
        plan(steps_of(layout), layout, HOURS)


def test_speeds_measured_before_a_network_was_added_say_to_measure_again(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    speeds = json.loads(layout.speeds.read_text())
    del speeds["steps_per_s"]["planning"]
    layout.speeds.write_text(json.dumps(speeds))
    with pytest.raises(ConfigError, match="without the policy network 'planning'; measure again: "):
        plan(steps_of(layout), layout, HOURS)


def test_a_plan_says_what_is_run_and_one_of_other_arms_is_refused(tmp_path: Path) -> None:
    layout = study_results.layout(tmp_path)
    steps = steps_of(layout)
    rows = plan(steps, layout, 0.1)
    write_plan(rows, layout, 0.1)
    assert [step.key for step in planned(steps, layout)] == [row.key for row in rows if row.fits]
    write_plan(rows[2:], layout, 0.1)
    with pytest.raises(ConfigError, match=rf"plan.json doesn't know 'task/task-s20' \(2 of {len(steps)} steps\).*anew"):
        planned(steps, layout)
