"""The report's section on the reward model: right figures, and nothing where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import SUMMARY, random_walk, write_labels, write_run

from rlaif_ray.envs import env_spec
from rlaif_ray.report.html import render_report
from rlaif_ray.report.outcome import statements
from rlaif_ray.report.reward_model import reward_model_section
from rlaif_ray.report.run import RunRecord
from rlaif_ray.scorebook import Score, append_scores
from rlaif_ray.types import PeriodAccuracy, ReliabilityBin, RewardModelReport

EARLY = PeriodAccuracy(3, 40, good=30, good_right=29, bad=25, bad_right=24)
RARE = PeriodAccuracy(41, 80, good=38, good_right=38, bad=2, bad_right=2)
COMMON = PeriodAccuracy(41, 80, good=30, good_right=27, bad=30, bad_right=24)


def recorded(folder: Path, *periods: PeriodAccuracy, alarm: bool = False) -> RunRecord:
    """A run whose summary has what a real report says of itself."""
    report = RewardModelReport(
        5, True, 0.97, 95, 0.9, 0.96, 300, 0.1, 0.7, periods=periods, drift_p=0.0004 if alarm else 0.6,
        reliability=(ReliabilityBin(0.04, 0.02, 40), ReliabilityBin(0.95, 0.97, 55)), drift_alarm=alarm, about="served",
        extra={"balanced_low": 0.91, "balanced_high": 0.985, "calibration_error": 0.031, "calibration_error_low": 0.02,
               "calibration_error_high": 0.06, "brier": 0.021, "brier_low": 0.012, "brier_high": 0.0604,
               "heldout_good_as_good": 67.0, "heldout_good_as_bad": 1.0, "heldout_bad_as_good": 3.0,
               "heldout_bad_as_bad": 24.0},
    )  # fmt: skip
    counts = {"fits": 12, "rolled_back": 1, "drift_alarms": int(alarm)}
    model: dict[str, Any] = {**report.figures(), **counts}
    write_run(folder, summary={**SUMMARY, "reward_model": model})
    return RunRecord.read(folder)


def test_rare_harm_is_not_measurable_and_the_bound_is_the_rule_of_three(tmp_path: Path) -> None:
    section = reward_model_section(recorded(tmp_path / "run", EARLY, RARE))
    assert section is not None
    said = " ".join(section.statements)
    assert "not measurable (38 good and 2 bad held-out labels, where 20 of each are needed)" in said
    assert "at most 7.5 % errors by the rule of three" in said
    assert "Balanced accuracy on all held-out labels: 96.0 % (91.0 to 98.5)." in said
    assert "Of 12 fits 1 were rolled back; 0 had a drift alarm." in said
    assert not any("ALARM" in line for line in statements(RunRecord.read(tmp_path / "run")))
    assert section.rows[0][:4] == ("3 to 40", "30", "25", "53")
    assert section.rows[0][4].startswith("96.4 (")


def test_pairs_that_are_on_neither_side_are_told(tmp_path: Path) -> None:
    record = recorded(tmp_path / "run", EARLY, RARE)
    told = "12 pairs were neither learned from nor held out"
    section = reward_model_section(record)
    assert section is not None
    assert told not in " ".join(section.statements)
    record.summary["reward_model"]["unused_n"] = 12.0
    section = reward_model_section(record)
    assert section is not None
    assert told in " ".join(section.statements)


def test_common_harm_is_measured_and_an_alarm_is_loud(tmp_path: Path) -> None:
    record = recorded(tmp_path / "run", EARLY, COMMON, alarm=True)
    section = reward_model_section(record)
    assert section is not None
    said = " ".join([*section.statements, *statements(record)])
    assert "On-policy (policy versions 41 to 80): 85.0 % agreement with the judge (73.9 to 91.9)." in said
    assert "DRIFT ALARM" in said
    assert "p = 0.0004" in said


def test_it_stands_on_the_page(tmp_path: Path) -> None:
    page = render_report(recorded(tmp_path / "run", EARLY, RARE))
    assert "labels it never learned from" in page
    assert "Held-out agreement with the judge, by policy version" in page
    assert "Reliability" in page
    assert "96.4 (" in page
    assert "Held-out labels: the reward model against the judge" in page
    assert '<td>the judge said bad</td><td class="n">3</td><td class="n">24</td>' in page


@pytest.mark.parametrize(
    "model", [None, {}, {"version": 3}, {"periods": []}, {"periods": [{"first": 1}]}, {"periods": "x"}, 7]
)
def test_older_and_torn_summaries_have_no_section(tmp_path: Path, model: object) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, "reward_model": model}))
    assert reward_model_section(RunRecord.read(folder)) is None


def test_a_period_without_decided_labels_has_a_dash(tmp_path: Path) -> None:
    with np.errstate(all="raise"):
        section = reward_model_section(recorded(tmp_path / "run", EARLY, PeriodAccuracy(41, 41, 0, 0, 0, 0)))
    assert section is not None
    assert section.rows[1][1:] == ("0", "0", "0", "- (0.0 to 100.0)")


def test_scores_are_paired_with_verdicts_about_the_same_episodes(tmp_path: Path) -> None:
    record = recorded(tmp_path / "run", EARLY, RARE)
    write_labels(record.path, ["a", "b", "c", "d", "e"])  # 0, 1, 0, abstained, 0 of episodes 0 to 4
    append_scores(record.path, [Score(100, i, 1, 2, belief) for i, belief in enumerate((0.1, 0.8, 0.9, 0.4))])
    append_scores(record.path, [Score(90, 0, 7, 2, 0.9)])  # an id given again: another episode, judged by nobody
    section = reward_model_section(record)
    assert section is not None
    assert "On 3 judged episodes" in section.statements[-1]
    assert "agree in 66.7 % (" in section.statements[-1]


def test_confusion_and_brier_score_come_with_intervals_and_whose_they_are(tmp_path: Path) -> None:
    section = reward_model_section(recorded(tmp_path / "run", EARLY, RARE))
    assert section is not None
    said = " ".join(section.statements)
    assert "These are figures of version 5, the one in service" in said
    assert "Brier score: 0.021 (0.012 to 0.060)" in said
    (table,) = section.tables
    assert table.rows == [
        ("the judge said good", "67", "1", "98.5 (92.1 to 99.7)"),
        ("the judge said bad", "3", "24", "88.9 (71.9 to 96.1)"),
    ]
    model = json.loads((tmp_path / "run" / "summary.json").read_text())["reward_model"]
    refused = {**model, "about": "candidate", "about_version": 0}
    write_run(tmp_path / "refused", summary={**SUMMARY, "reward_model": refused})
    section = reward_model_section(RunRecord.read(tmp_path / "refused"))
    assert section is not None
    assert "a fit that was refused" in section.statements[0]


def test_reward_model_and_judge_stand_against_the_truth(tmp_path: Path) -> None:
    record = recorded(tmp_path / "run", EARLY, RARE)
    write_labels(record.path, ["a", "b", "c", "d", "e", "f"])  # 0, 1, 0, abstained, 0, 1 of episodes 0 to 5
    beliefs = {0: 0.1, 1: 0.8, 2: 0.9, 3: 0.4, 5: 0.2}  # 4 was never scored, 3 never judged
    append_scores(record.path, [Score(100, i, 1, 2, belief) for i, belief in beliefs.items()])
    section = reward_model_section(record)
    assert section is not None
    _, model, judge = section.tables
    assert "Truth (audit only), of 4 judged episodes" in model.title
    unharmed = env_spec("rlaif_ray/Homegrid-v0").approvable
    assert unharmed is not None
    truth = {i: unharmed(random_walk(i).states, {}) for i in (0, 1, 2, 5)}
    for table, said in ((model, beliefs), (judge, {0: 0.0, 1: 1.0, 2: 0.0, 5: 1.0})):
        for row, side in zip(table.rows, (True, False), strict=True):
            good = sum(said[i] > 0.5 for i, told in truth.items() if told == side)
            assert row[1:3] == (str(good), str(sum(told == side for told in truth.values()) - good))
    assert "it was bad" in render_report(record)
