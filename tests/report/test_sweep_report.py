"""A sweep's report, of a made-up folder with known figures: what it compares, charges, picks, and leaves out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlaif_ray.cli import main
from rlaif_ray.config import dump_config, load_config
from rlaif_ray.config.sweeping import study_from
from rlaif_ray.errors import ConfigError
from rlaif_ray.report.charts import blank_figure
from rlaif_ray.report.sweep import SweepRecord
from rlaif_ray.report.sweep_charts import _percent_scale, front_of
from rlaif_ray.report.sweep_html import headline, prices, statements, write_sweep_report
from rlaif_ray.report.sweep_tables import best_arm
from rlaif_ray.sweep.place import Place
from rlaif_ray.sweep.plan import Cell

STUDY = {
    "name": "made-up",
    "arms": [
        {"name": "task", "mix.source": "none"},
        {"name": "hybrid", "mix.source": "hybrid", "mix.weight": [0.5, 1.0]},
        {"name": "direct", "mix.source": "direct", "mix.credit": "terminal", "mix.unjudged": "task"},
    ],
    "seeds": [0, 1, 2, 3, 4],
    "budget": {"usd": 30.0},
}
# arm -> survival by seed in %, stand-alone labels, USD a label, verdicts' approval at the end
FIGURES: dict[str, tuple[tuple[float, ...], int, float, float]] = {
    "task": ((38.0, 39.0, 40.0, 41.0, 42.0), 0, 0.0, math.nan),
    "hybrid-weight0.5": ((86.0, 90.0, 88.0, 87.0, 89.0), 200, 0.005, 0.97),
    "hybrid-weight1": ((97.0, 99.0, 98.0, 97.5, 98.5), 500, 0.005, 0.95),
}


def write_trial(place: Place, cell: Cell, *, smoke: bool = False, status: str = "done") -> None:
    survived, labels, price, approval = FIGURES[cell.arm]
    folder = place.path_of(cell.name)
    folder.mkdir(parents=True)
    facts = {"name": cell.name, "arm": cell.arm, "seed": cell.seed, "set": dict(cell.set), "smoke": smoke}
    (folder / "trial.json").write_text(json.dumps(facts | {"history": [{"steps": 0, "set": dict(cell.set)}]}))
    (folder / "config.yaml").write_text(dump_config(place.config_of(cell)))
    value = survived[cell.seed] / 100
    rows = [
        {
            "steps": 1000 * (i + 1),
            "truth": {"found": 0.99, "cat_survived": 0.38 + (value - 0.38) * i / 9},
            "audit": {"approval": approval, "verdicts": 0.0 if math.isnan(approval) else 50.0,
                      "score": 0.9 + (0.0 if math.isnan(approval) else approval)},
            "mix": {"staleness": 2.0, "dropped_steps": 3.0, "deferred_iterations": 1.0},
            "feedback": {"turned_away": 5.0 if cell.arm == "hybrid-weight1" else 0.0},
            "config": {"large": ["x"] * 100},
        }
        for i in range(10)
    ]  # fmt: skip
    (folder / "result.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    outcome = {"episodes": 2000, "found": 0.99, "cat_survived": value, "mean_length": 12.0, "task_return": 0.9,
               "deterministic": False, "options": {"starts": "heldout", "cats": 2}}  # fmt: skip
    summary = {
        "status": status, "steps": 10_000, "wall_s": 400.0, "labels": labels // 2, "replayed": labels - labels // 2,
        "spend_usd": labels // 2 * price, "stand_alone": {"usd": labels * price, "labels": labels}, "smoke": smoke,
        "provenance": {"direct": 0.01, "distilled": 0.79, "abstained": 0.0, "task": 0.2, "dropped": 0.0},
        "lateness": {"turned_away": 50 if cell.arm == "hybrid-weight1" else 0},
        "evaluation": {"heldout": outcome, "train": outcome} if status == "done" else {},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two arms whole, one that lacks a seed, one not run at all."""
    place = Place.new(study_from(STUDY), {}, tmp_path)
    place.write()
    for cell in place.cells:
        if cell.arm in FIGURES and cell.name != "hybrid-weight0.5-s4":
            write_trial(place, cell)
    (place.folder / "summary.json").write_text(json.dumps({"labels": 1500, "spend_usd": 8.75, "cap_usd": 30.0}))
    return place


def test_each_run_is_charged_for_all_it_used_and_cash_stands_beside(place: Place) -> None:
    write_sweep_report(place.folder)
    arms = pd.read_parquet(place.folder / "arms.parquet").set_index("arm")
    assert arms.loc["hybrid-weight1", "stand_alone_labels"] == 500
    assert arms.loc["hybrid-weight1", "stand_alone_usd"] == pytest.approx(2.5)
    assert arms.loc["hybrid-weight1", "cash_usd"] == pytest.approx(1.25)
    assert arms.loc["hybrid-weight1", "cat_survived_pct"] == pytest.approx(98.0)  # the middle three of five
    low, high = arms.loc["hybrid-weight1", ["cat_survived_low", "cat_survived_high"]]
    assert 97.0 <= low < 98.0 < high <= 99.0
    assert arms.loc["hybrid-weight1", "direct_of_paid_pct"] == pytest.approx(1.25)
    assert arms.loc["hybrid-weight1", "staleness_iterations"] == 2.0
    assert arms.loc["hybrid-weight1", "dropped_steps"] == 30.0
    assert arms["turned_away"].dropna().to_dict() == {"task": 0.0, "hybrid-weight0.5": 0.0, "hybrid-weight1": 50.0}
    trials = pd.read_csv(place.folder / "trials.csv").set_index("trial")
    assert len(trials) == 20
    assert trials.loc["direct-s0", "state"] == "not_run"
    assert trials.loc["hybrid-weight1-s3", "heldout/cat_survived"] == pytest.approx(0.975)
    assert set(pd.read_parquet(place.folder / "trials.parquet").columns) == {*trials.reset_index().columns}


def test_the_page_says_what_it_costs_and_what_was_not_run(place: Place) -> None:
    page = write_sweep_report(place.folder).read_text()
    record = SweepRecord.read(place.folder)
    assert page.count("<svg") == 4  # cost in USD, in labels; curves; parallel coordinates
    assert "<script" not in page
    assert "not run</td>" in page
    said = " ".join(statements(record))
    assert "Not run: direct-s0, direct-s1, direct-s2, direct-s3, hybrid-weight0.5-s4, direct-s4." in said
    assert "built-in judge" in said
    assert "The judge did not keep up in hybrid-weight1: some" in said
    assert "cap of the whole sweep" not in said
    (place.folder / "summary.json").write_text(json.dumps({"labels": 6000, "spend_usd": 29.99, "cap_usd": 30.0}))
    assert "The cap of the whole sweep was reached" in " ".join(statements(SweepRecord.read(place.folder)))
    assert "cat survived 98.0 % for USD 2.500 as-if a run" in headline(record)
    assert [arm.name for arm in front_of(record, "labels")] == ["task", "hybrid-weight0.5", "hybrid-weight1"]
    first, second = prices(record, "labels")
    # Of the four pairs that both have: 48, 51, 48, 46 points for 200 labels.
    assert first.startswith("From task to hybrid-weight0.5, one more point of cat survived costs 4.1 labels (at most")
    assert "48.2 points (" in first
    assert "4 pairs" in first
    # 11, 9, 10, 10.5 points for 300 labels more.
    assert "costs 29.6 labels" in second
    assert "SMOKE" not in page


def test_a_smoke_run_never_enters_a_study(place: Place) -> None:
    write_trial(place, next(c for c in place.cells if c.name == "hybrid-weight0.5-s4"), smoke=True)
    record = SweepRecord.read(place.folder)
    assert record.strangers == ("hybrid-weight0.5-s4",)
    trial = next(one for one in record.trials if one.name == "hybrid-weight0.5-s4")
    assert trial.state == "not_run"
    assert any(line.startswith("Left out, because they are of smoke runs: hybrid") for line in statements(record))


def test_what_was_ended_early_stands_in_no_figure(place: Place) -> None:
    cell = next(c for c in place.cells if c.name == "hybrid-weight0.5-s4")
    write_trial(place, cell, status="stopped")
    record = SweepRecord.read(place.folder)
    arm = next(one for one in record.arms if one.name == "hybrid-weight0.5")
    assert len(arm.ended) == 4
    assert math.isnan(arm.outcomes("cat_survived")[4])
    assert "ended early by the schedule" in record.counts()


def test_the_best_is_chosen_without_the_truth_and_is_ready_to_run(place: Place) -> None:
    """By verdicts and task return, weight 0.5 leads, though by truth weight 1 is better: a search may not know that."""
    record = SweepRecord.read(place.folder)
    best = best_arm(record)
    assert best is not None
    assert best.name == "hybrid-weight0.5"
    write_sweep_report(place.folder)
    config = load_config(place.folder / "best.yaml")
    assert config.mix.weight == 0.5
    assert (config.budget.usd, config.budget.labels) == (5.0, 500)  # the trial's share is the run's whole
    assert config.budget.run_usd is None
    assert config.resources.learner_threads == 0
    assert (config.run.name, config.run.dir, config.feedback.store) == ("made-up-best", "runs", "")


def test_report_takes_a_sweep_as_it_takes_a_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(place.folder)]) == 0
    assert capsys.readouterr().out.strip() == str(place.folder / "report.html")
    with pytest.raises(ConfigError, match=r"plan\.json"):
        SweepRecord.read(place.folder / "trials")


def test_a_sweep_that_has_only_begun_is_reported_as_such(tmp_path: Path) -> None:
    place = Place.new(study_from(STUDY), {}, tmp_path)
    place.write()
    page = write_sweep_report(place.folder).read_text()
    assert "0 of 20 trials have ended: nothing to compare yet" in page
    assert "<svg" not in page
    assert not (place.folder / "best.yaml").exists()


@pytest.mark.parametrize(("low", "high", "opened"), [(35.0, 99.9, True), (35.0, 80.0, False), (99.2, 99.9, False)])
def test_tenths_of_a_percent_are_told_apart_near_the_top(low: float, high: float, opened: bool) -> None:
    _, (axes,) = blank_figure(1)
    axes.plot([0, 1], [low, high])
    _percent_scale(axes)
    heights = axes.transData.transform(np.array([[0.0, 40.0], [0.0, 50.0], [0.0, 99.0], [0.0, 99.9]]))[:, 1]
    assert (np.diff(heights) > 0).all()
    assert bool(heights[3] - heights[2] > heights[1] - heights[0]) is opened
    assert axes.get_ylim()[1] <= 104.0 - 0.04 * low
