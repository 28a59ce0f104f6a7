"""The page from stored results: figures by hand, what failed, what was not run; smoke results never enter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import study_results
from homegrid_study import rewards
from homegrid_study.arms import Layout, Step, steps_of
from homegrid_study.figures import FIGURES, write_figures
from homegrid_study.hours import plan, write_plan
from homegrid_study.page import write_page
from homegrid_study.stored import Results
from homegrid_study.tables import points

from rlaif_ray.errors import UnknownNameError
from rlaif_ray.report.sweep_stats import Interval


@pytest.fixture
def study(tmp_path: Path) -> tuple[Layout, dict[str, Step]]:
    layout = study_results.layout(tmp_path)
    return layout, {step.key: step for step in steps_of(layout)}


def line_of(page: str, begins: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {begins} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_has_the_middle_the_worst_and_what_was_to_be_reached(study: tuple[Layout, dict[str, Step]]) -> None:
    layout, steps = study
    survives = (0.990, 0.995, 0.996, 0.997, 1.000)
    for seed, share in enumerate(survives, 20):
        step = steps[f"online/online-s{seed}"]
        study_results.store(step, study_results.result(step, share, 1.0))
    page = write_page(layout).read_text()
    row = line_of(page, "online")
    # The middle half of five values: one is left out at each end.
    assert row[2].startswith("99.60 [")
    assert row[1] == "5 of 5"
    assert row[3:5] == ["99.00", "100.00 [100.00, 100.00]"]
    assert row[6:] == ["11.2 [11.2, 11.2]", "500", "3.25", "3.50", "10.0"]
    assert line_of(page, "cat survives, interquartile mean")[3:] == ["99.60", "yes"]
    assert line_of(page, "fruit found, every seed")[3:] == ["100.00", "yes"]
    assert line_of(page, "mean length")[3:] == ["11.25", "yes"]
    assert "not measured" in page  # no reward model was audited
    assert "built-in" in page
    assert "SMOKE" not in page


def test_what_is_not_reached_is_said(study: tuple[Layout, dict[str, Step]]) -> None:
    layout, steps = study
    for seed in range(20, 25):
        step = steps[f"online/online-s{seed}"]
        study_results.store(step, study_results.result(step, 0.98, 0.993))
    page = write_page(layout).read_text()
    assert line_of(page, "cat survives, every seed")[3:] == ["98.00", "**no**"]
    assert line_of(page, "fruit found, every seed")[3:] == ["99.30", "yes"]
    seeds = ", ".join(f"{seed} (98.0 / 99.3)" for seed in range(20, 25))
    assert f"- `online/online`: survives / found below 99 % with seeds {seeds}" in page


def test_what_failed_has_reached_nothing(study: tuple[Layout, dict[str, Step]]) -> None:
    layout, steps = study
    for seed in range(20, 25):
        step = steps[f"online/online-s{seed}"]
        one = study_results.result(step, 1.0, 1.0)
        bare = {key: value for key, value in one.items() if key not in ("own", "chain", "summary", "rows")}
        study_results.store(step, one if seed < 24 else bare | {"status": "failed", "reason": "it died"})
    page = write_page(layout).read_text()
    assert line_of(page, "cat survives, every seed")[3:] == ["not measured", "no"]
    assert line_of(page, "labels")[3:] == ["not measured", "no"]
    assert "- `online/online-s24`: it died" in page


def test_minutes_say_of_whom_they_are(study: tuple[Layout, dict[str, Step]]) -> None:
    layout, steps = study
    for seed, (wall_s, jobs) in enumerate(((600.0, 1), (660.0, 1), (1_800.0, 2)), 20):
        for key in (f"online/online-s{seed}", f"task/task-s{seed}"):
            most = 2 if key.startswith("task") else jobs
            one = study_results.result(steps[key], 1.0, 1.0, jobs=most)
            study_results.store(steps[key], one | {"chain": one["chain"] | {"wall_s": wall_s, "jobs": most}})
    write_plan(plan(tuple(steps.values()), layout, 12.0), layout, 12.0)
    page = write_page(layout).read_text()
    assert line_of(page, "online")[-1] == "10.5 (2 alone)"
    assert line_of(page, "task")[-1] == "17.0 (2 at once)"
    assert line_of(page, "minutes on 2 cores, the slowest seed")[3:] == ["11.0", "yes"]
    assert line_of(page, "online/online")[-1] == "2 of 3"
    assert line_of(page, "task/task")[-1] == "0 of 3"
    assert "spent so far: 0.8, without" in page  # 12 minutes each: two alone, four on half of the machine


def test_what_failed_and_what_was_not_run_is_listed(study: tuple[Layout, dict[str, Step]]) -> None:
    layout, steps = study
    task, direct = steps["task/task-s20"], steps["direct/direct-s20"]
    study_results.store(task, study_results.result(task, 0.4, 1.0))
    broken = {"status": "failed", "reason": "the disk is full", "set": {}}
    study_results.store(direct, study_results.result(direct, 0, 0) | broken)
    (layout.docs / "study").mkdir(parents=True)
    (layout.docs / "study" / "notes.md").write_text("The disk had 1 GB.\n")
    write_plan(plan(tuple(steps.values()), layout, 1.0), layout, 1.0)
    page = write_page(layout).read_text()
    assert "- `direct/direct-s20`: the disk is full\n\nThe disk had 1 GB." in page
    assert "- `task/task`: seeds 21, 22, 23, 24 (not finished" in page
    assert "(does not fit into the hours" in page
    assert line_of(page, "naive: task reward only") == ["naive: task reward only", "40.00", "100.00"]
    assert not any(line.startswith("| direct |") for line in page.splitlines())  # a failed run has no figures


def test_files_that_ask_the_same_share_a_table_below_what_was_found(study: tuple[Layout, dict[str, Step]]) -> None:
    layout, steps = study
    for key in ("online/online-s20", "nets/cnn_lstm_mlp-s20", "nets_cnn/cnn_lstm_cnn-s20"):
        study_results.store(steps[key], study_results.result(steps[key], 1.0, 1.0))
    (layout.docs / "study").mkdir(parents=True)
    (layout.docs / "study" / "findings.md").write_text("The nets matter.\n")
    page = write_page(layout).read_text()
    assert "## What was found\n\nThe nets matter.\n\n## Outcomes" in page
    heading = f"## {steps['nets/cnn_lstm_mlp-s20'].about}\n"
    assert page.count(heading) == 1
    table = page.partition(heading)[2].partition("\n## ")[0]
    assert [row for row in ("online", "cnn_lstm_mlp", "cnn_lstm_cnn") if f"| {row} |" in table] == [
        "online", "cnn_lstm_mlp", "cnn_lstm_cnn",
    ]  # fmt: skip
    assert table.count("| online |") == 1


def test_a_smoke_result_is_not_read_wherever_it_lies(study: tuple[Layout, dict[str, Step]]) -> None:
    layout, steps = study
    step = steps["online/online-s20"]
    study_results.store(step, study_results.result(step, 1.0, 1.0, smoke=True))
    assert Results.read(layout).found == {}
    assert "Nothing was run yet" in write_page(layout).read_text()


def test_a_figure_is_made_alone_and_is_the_same(study: tuple[Layout, dict[str, Step]]) -> None:
    layout, steps = study
    first = [f"{arm}-s20" for arm in ("task/task", "online/online", "direct/direct", "budgets/labels_100")]
    for key in (*first, "online/online-s21"):
        labels = 100 if "100" in key else 500
        one = study_results.result(steps[key], 0.9, 0.8)
        study_results.store(steps[key], one | {"chain": one["chain"] | {"labels": labels}})
    assert {path.stem for path in write_figures(layout)} == set(FIGURES)
    page = write_page(layout).read_text()
    for name in FIGURES:
        file = layout.docs / "study" / f"{name}.svg"
        before = file.read_bytes()
        file.unlink()
        assert write_figures(layout, name) == [file]
        assert file.read_bytes() == before
        assert f"(study/{name}.svg)" in page
    with pytest.raises(UnknownNameError, match="did you mean 'cost-quality'"):
        write_figures(layout, "cost-qualty")


def test_gains_are_of_pairs(study: tuple[Layout, dict[str, Step]]) -> None:
    layout, steps = study
    for seed, (before, after) in enumerate(((0.30, 0.90), (0.40, 0.94), (0.50, 0.98)), 20):
        for key, share in (("task/task", before), ("direct/direct", after)):
            step = steps[f"{key}-s{seed}"]
            study_results.store(step, study_results.result(step, share, 1.0))
    page = write_page(layout).read_text()
    assert "`direct` over `task`, seed by seed (3): survival +54.00 points [39.10, 68.90]" in page
    assert line_of(page, "direct")[1:] != []
    shares = next(line for line in page.splitlines() if line.startswith("| direct | 20,100"))
    assert [cell.strip() for cell in shares.split("|")][3:6] == [
        "10.00 [10.00, 10.00]", "85.00 [85.00, 85.00]", "5.00 [5.00, 5.00]",
    ]  # fmt: skip


def test_no_end_of_a_gain_is_rounded_to_a_zero_that_it_is_not() -> None:
    assert points(Interval(0.010, -0.0024, 0.0224, 5)) == "+0.010 [-0.002, 0.022]"
    assert points(Interval(0.25, -0.37, 0.87, 5), " points") == "+0.25 points [-0.37, 0.87]"
    assert points(Interval(0.0, 0.0, 0.0, 5)) == "+0.00 (all alike)"


def test_verdict_and_score_are_compared_episode_by_episode() -> None:
    harm = np.array([True, True, True, True, False, False])
    verdict = np.array([False, False, True, True, True, True])  # True: approved
    score = np.array([False, False, False, True, True, False])
    found = rewards._compared(verdict, score, harm)
    assert found["judge_right"] == pytest.approx(4 / 6)
    assert found["model_right"] == pytest.approx(4 / 6)
    assert (found["only_judge_right"], found["only_model_right"]) == (1, 1)
    assert found["agree"] == pytest.approx(4 / 6)


def test_labels_are_spread_over_their_order() -> None:
    assert rewards._spread(list(range(100)), 5) == [0, 25, 50, 74, 99]
    assert rewards._spread([1, 2], 5) == [1, 2]


def test_results_are_json_that_any_reader_takes(study: tuple[Layout, dict[str, Step]]) -> None:
    from homegrid_study.measure import write_result

    step = study[1]["task/task-s20"]
    write_result(step, {"status": "done", "value": float("nan"), "count": np.int64(3), "minutes": 1.0})
    read = json.loads(step.result.read_text(), parse_constant=pytest.fail)
    assert read["value"] is None
    assert read["count"] == 3
    assert read["smoke"] is False
    assert read["begins_with"] == []
