"""A real sweep, killed by SIGKILL half-way and gone on with: what is finished stays so, nothing is paid twice."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from rlaif_ray.checkpoints import check_checkpoint
from rlaif_ray.cli import main
from rlaif_ray.errors import CheckpointError

COMMAND = [sys.executable, "-c", "import sys; from rlaif_ray.cli import main; sys.exit(main())"]
ROOT = Path(__file__).parents[2]
STUDY = {
    "about": "Does it go on where it was?",
    "base": str(ROOT / "tune_configs" / "bases" / "smoke.yaml"),
    "set": {"run": {"checkpoint_every_s": 0.2, "keep_checkpoints": 1}, "mix": {"source": "hybrid"}},
    "arms": [
        {"name": "short", "run.total_steps": 8_192, "budget.labels": 20},
        {"name": "long", "run.total_steps": 61_440, "budget.labels": 30},
    ],
    "seeds": [3],
    "budget": {"labels": 45, "usd": 1.0},
    "smoke": {"seeds": [3]},
}
WAIT_S = 240.0
NAMED = b"checkpoint_0000".hex()  # as it stands in Tune's state: pickled, in hexadecimal digits


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a sweep that was killed when one of its trials had ended and the other was on its way."""
    cwd = tmp_path_factory.mktemp("sweep")
    (cwd / "study.yaml").write_text(yaml.safe_dump(STUDY))
    folder = cwd / "runs" / "study-smoke"
    with open(cwd / "out.txt", "w") as out:
        process = subprocess.Popen([*COMMAND, "sweep", "study.yaml", "--smoke"], cwd=cwd, stdout=out, stderr=out)
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + WAIT_S
        while not half_way(folder):
            assert process.poll() is None, (cwd / "out.txt").read_text()
            assert time.monotonic() < deadline, (cwd / "out.txt").read_text()
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        trials = []
        for one in family:
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                trials += [one.nice()] if "ray::SweepTrial" in " ".join(one.cmdline()) else []
        assert set(trials) == {psutil.Process(process.pid).nice()}, "a trial's learner gives way to its helpers"
    finally:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(family, timeout=20)  # they go with it: nothing is left that could write on
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=10)
    # As if Tune's state were older than what it names: two newer checkpoints were written, and that one removed.
    whole = [path for path in folder.glob("tune/*cell=1*/checkpoint_*") if is_whole(path)]
    newest = max(whole)
    newest.rename(newest.with_name("checkpoint_000099"))
    for older in folder.glob("tune/*cell=1*/checkpoint_0000[0-8]*"):
        shutil.rmtree(older)
    return folder, {
        "short": (folder / "trials" / "short-s3" / "summary.json").read_bytes(),
        "answers": answers(folder),
        "long": rows(folder / "trials" / "long-s3"),
    }


def half_way(folder: Path) -> bool:
    short = folder / "trials" / "short-s3" / "summary.json"
    return (
        short.is_file()
        and '"evaluation": {\n' in short.read_text()
        and any(is_whole(path) for path in folder.glob("tune/*cell=1*/checkpoint_*"))
        and any(NAMED in path.read_text() for path in folder.glob("tune/experiment_state-*.json"))
        and bool(answers(folder))
        and not (folder / "trials" / "long-s3" / "summary.json").exists()
    )


def is_whole(checkpoint: Path) -> bool:
    try:
        check_checkpoint(checkpoint)
    except CheckpointError:
        return False
    return True


def rows(trial: Path) -> list[dict[str, Any]]:
    found = []
    for line in (trial / "result.json").read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the last may be torn
            found.append(json.loads(line))
    return found


def answers(folder: Path) -> dict[int, str]:
    """Stored answers: number -> question."""
    with contextlib.closing(sqlite3.connect(folder / "labels.sqlite")) as db:
        return dict(db.execute("SELECT id, question_key FROM answers").fetchall())


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_killed_at_any_moment_goes_on(
    killed: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, before = killed
    monkeypatch.chdir(folder.parents[1])
    assert main(["sweep", "study.yaml", "--smoke"]) == 2  # it is there: not begun anew by accident
    assert "--resume" in capfd.readouterr().err
    again = [*COMMAND, "sweep", "study.yaml", "--smoke", "--resume", "--json"]
    done = subprocess.run(again, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert (summary["status"], summary["trials"], summary["not_run"]) == ("done", 2, 0)

    # What had ended was not touched; what was on its way went on from a checkpoint, not from the beginning.
    assert (folder / "trials" / "short-s3" / "summary.json").read_bytes() == before["short"]
    resumed = rows(folder / "trials" / "long-s3")[len(before["long"]) :]
    assert resumed[0]["steps"] > 1_024
    assert resumed[0]["iterations_since_restore"] == 1
    assert resumed[0]["training_iteration"] == resumed[0]["steps"] // 1_024
    assert resumed[-1]["steps"] == 61_440

    # Nothing received was paid again, and the cap of the whole held.
    now = answers(folder)
    assert before["answers"].items() <= now.items()
    assert len(set(now.values())) == len(now)
    assert len(now) <= summary["labels"] <= 45
    with contextlib.closing(sqlite3.connect(folder / "labels.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM attempts WHERE state = 'open'").fetchone() == (0,)

    # The two share a seed, and so their first questions: each is charged for them alone, cash was paid once.
    found = {path.name: json.loads((path / "summary.json").read_text()) for path in (folder / "trials").iterdir()}
    alone = {name: one["stand_alone"]["labels"] for name, one in found.items()}
    assert 0 < alone["short-s3"] <= 20
    assert 0 < alone["long-s3"] <= 30
    assert sum(alone.values()) > summary["labels"]

    page = (folder / "report.html").read_text()
    assert "SMOKE RUN" in page
    assert page.count("<svg") >= 2
    with open(folder / "trials.csv", newline="") as file:
        table = {row["trial"]: row for row in csv.DictReader(file)}
    assert {name: int(float(row["stand_alone_labels"])) for name, row in table.items()} == alone
    assert all(row["smoke"] == "True" for row in table.values())
    assert list((folder / "trials" / "long-s3").glob("events.out.tfevents.*"))

    # The best config is ready to run, with a store and a budget of its own.
    from rlaif_ray.config import load_config

    best = load_config(folder / "best.yaml")
    assert best.feedback.store == ""
    assert best.budget.labels in (20, 30)
    assert best.budget.run_labels is None
    assert main(["evaluate", str(folder / "trials" / "long-s3"), "--episodes", "4", "--json"]) == 0
    assert main(["report", str(folder)]) == 0
