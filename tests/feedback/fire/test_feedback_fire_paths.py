"""Names and paths from configs and data sets: none leads out of the folder that it is meant for, or runs code."""

from __future__ import annotations

import io
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from feedback_fakes import FakeServer, TinyRenderer, completion, tiny_episode
from hypothesis import given
from hypothesis import strategies as st
from test_feedback_fire_server import ask_one

from rlaif_ray.cli import main
from rlaif_ray.config import load_config
from rlaif_ray.envs.media import contact_sheet
from rlaif_ray.errors import ConfigError, StoreError
from rlaif_ray.feedback.exchange import export_parquet, import_parquet
from rlaif_ray.feedback.quoting import printable
from rlaif_ray.feedback.records import pack_episode, unpack_episode
from rlaif_ray.feedback.store import LabelStore

SLIPS = ["../../slipped", "/tmp/slipped", "a/../../slipped", "..", "~/slipped", "\x1b[2J\x1b]0;slipped\x07", "a\0b"]
names = st.text(st.characters(), max_size=12) | st.lists(st.sampled_from(["..", "/", "a", "\\", ".", "~"])).map("".join)


@given(names)
def test_a_run_s_name_is_one_folder_below_its_own(name: str) -> None:
    try:
        run = load_config("", {"run.name": name, "run.dir": "runs"}).run
    except ConfigError:
        return
    path = Path(run.dir) / run.name
    assert path.parent == Path("runs")
    assert path.name == name
    assert path.resolve().parent == Path("runs").resolve()


@pytest.mark.parametrize("name", [*SLIPS, "", ".", "-x", "a b", "a" * 101, "a\n"])
def test_a_name_that_is_a_path_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.name"):
        load_config("", {"run.name": name})


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    with FakeServer(lambda *_: completion()) as server:
        ask_one(server.base_url, tmp_path / "labels.sqlite")
    with LabelStore(tmp_path / "labels.sqlite") as store:
        export_parquet(store, tmp_path / "set.parquet", renderer=TinyRenderer(), sheet=contact_sheet)
    return tmp_path / "set.parquet"


def changed(path: Path, **columns: Any) -> Path:
    """The data set again, with other values in its first row."""
    table = pyarrow.parquet.read_table(path)
    rows = table.to_pylist()
    rows[0] |= columns
    other = path.with_name("changed.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), other)
    return other


def below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("slip", SLIPS[:-1])
def test_ids_of_a_data_set_are_data_and_no_paths(
    slip: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = {"run_id": slip, "question_key": slip, "prompt_name": slip, "judge": slip, "description": slip}
    picture = {"bytes": b"", "path": slip}
    data = changed(exported, **hostile, text=slip, image=picture, frames=[picture])
    inner = tmp_path / "deep" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setattr("rlaif_ray.cli.labels._renderer", lambda *_: TinyRenderer())  # of the tests' own world
    before = below(tmp_path)
    assert main(["labels", "import", str(data), "--store", "other.sqlite"]) == 0
    assert main(["labels", "show", "other.sqlite", "1"]) == 0
    assert main(["labels", "stats", "other.sqlite"]) == 0
    assert main(["labels", "export", "other.sqlite", "--out", "out.parquet"]) == 0
    made = {path.name for path in below(tmp_path) - before}
    assert made <= {"other.sqlite", "other.sqlite-wal", "other.sqlite-shm", "label-1.png", "out.parquet"}
    assert {path.parent for path in below(tmp_path) - before} == {inner}
    assert not Path("/tmp/slipped").exists()
    said = capsys.readouterr()
    assert said.out == printable(said.out)
    with sqlite3.connect("other.sqlite") as db:
        assert db.execute("SELECT run_id FROM labels").fetchall() == [(slip,)]


def packed(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def array(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(value), **options)
    return buffer.getvalue()


HUGE = array(np.zeros(1)).replace(b"(1,), }" + b" " * 12, b"(1000000000000,), }")


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"PK\x03\x04 no archive",
        packed(numbers=array([1, 1, 1])),
        packed(numbers=array(np.array([print], object), allow_pickle=True)),
        packed(numbers=array([1, 1, 1]), obs=HUGE, actions=HUGE, task_return=array(1.0)),
        packed(numbers=bytes(2**30 + 1)),
    ],
    ids=["empty", "torn", "lacking", "code", "claims a terabyte", "bomb"],
)
def test_an_episode_that_is_none_is_an_error_and_runs_no_code(blob: bytes, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        unpack_episode(blob)
    with LabelStore(tmp_path / "other.sqlite") as store:
        with pytest.raises(StoreError, match="label 1"):
            import_parquet(store, changed(exported, episode=blob))
        assert store.labels() == []


def test_a_whole_episode_still_comes_back() -> None:
    episode = tiny_episode(3)
    assert np.array_equal(unpack_episode(pack_episode(episode)).obs, episode.obs)
