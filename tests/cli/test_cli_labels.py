"""``rlaif-ray labels``: stored labels out, in, on the screen and smaller."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from rlaif_ray.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from synthetic_run import write_labels


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    write_labels(run, ["the robot drove", "it turned", "it stood", "it hid", "it found the fruit"])
    return run / "labels.sqlite"


def figures(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["labels", *words, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_out_and_in_again(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels.parquet"
    assert figures(capsys, "export", str(store), "--out", str(out)) == {"file": str(out), "labels": 5}
    rows = pyarrow.parquet.read_table(out, columns=["image", "frames", "reason"]).to_pylist()
    assert [row["reason"] for row in rows] == [None, None, None, "refusal", None]
    assert Image.open(io.BytesIO(rows[0]["frames"][0]["bytes"])).size == (448, 384)
    assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).width > 448
    other = str(tmp_path / "other.sqlite")
    assert figures(capsys, "import", str(out), "--store", other) == {
        "labels": 5, "answers": 5, "known": 0, "store": other,
    }  # fmt: skip
    assert figures(capsys, "stats", other)["labels"] == 0  # bought elsewhere


def test_one_label_on_a_contact_sheet(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "one.png"
    found = figures(capsys, "show", str(store), "2", "--out", str(sheet))
    assert (found["label"], found["value"], found["description"]) == (2, 1.0, "it turned")
    assert (found["draw"], found["inclusion_probability"]) == ("audit", 1.0)
    assert found["sheet"] == str(sheet)
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert main(["labels", "show", str(store), "99"]) == 1
    assert "no label 99" in capsys.readouterr().err


def test_smaller(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures(capsys, "prune", str(store))["frames_mb"] == 0.0
    assert figures(capsys, "stats", str(store))["labels"] == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export", "nowhere"], "nowhere"),
        (["export", "{store}", "--format", "csv"], "allowed are jsonl, parquet"),
        (["import", "missing.parquet"], "no such file"),
        (["prune", "{store}", "--frames-mb", "-1"], "allowed are numbers from 0"),
        (["show", "{store}"], "needs"),
    ],
)
def test_wrong_usage_is_one_line(store: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", *(word.replace("{store}", str(store)) for word in words)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
