"""What the answers to some say of all: in the report, and on the command line."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from synthetic_run import write_labels, write_run

from rlaif_ray.cli import main
from rlaif_ray.report.approval import read_approval
from rlaif_ray.report.outcome import statements
from rlaif_ray.report.run import RunRecord


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five answers: no, yes, no, none, no. The yes stands for eight episodes, each of two no for two; the last was
    taken on because the store knew it."""
    folder = write_run(tmp_path / "run", iterations=4)
    write_labels(folder, ["it drove"] * 5)
    with sqlite3.connect(folder / "labels.sqlite") as db:
        for number, chance, draw in (
            (1, 0.5, "targeted"),
            (2, 0.125, "audit"),
            (3, 0.5, "targeted"),
            (5, 0.5, "known"),
        ):
            changed = (chance, draw, number)
            db.execute("UPDATE labels SET inclusion_probability = ?, draw = ? WHERE label_id = ?", changed)
    db.close()
    return folder


def test_the_report_says_what_the_judge_thinks_of_all_episodes(run: Path) -> None:
    found = read_approval(RunRecord.read(run))
    assert found is not None
    assert (found[0].mean, found[0].answers, found[0].episodes) == (pytest.approx(8 / 12), 3, 12.0)
    said = " ".join(statements(RunRecord.read(run)))
    assert f"The judge approves of {found[0]} of all episodes" in said
    assert str(found[0]).startswith("66.7 % [")
    assert "estimated from 3 answers" in said


def test_without_answers_nothing_is_said_of_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", iterations=4)
    assert "The judge approves of" not in " ".join(statements(RunRecord.read(folder)))
    (folder / "labels.sqlite").write_bytes(b"no store")
    assert "The judge approves of" not in " ".join(statements(RunRecord.read(folder)))


def test_labels_stats_say_it_too(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", "stats", str(run), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["approval"] == pytest.approx(2 / 3)
    assert 0.0 < figures["approval_low"] < 0.3
    assert 0.8 < figures["approval_high"] < 1.0
    assert main(["labels", "stats", str(run)]) == 0
    assert "judge approves 66.7 % [" in capsys.readouterr().out
    with sqlite3.connect(run / "labels.sqlite") as db:
        db.execute("DELETE FROM labels")
    db.close()
    assert main(["labels", "stats", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["approval"] is None
