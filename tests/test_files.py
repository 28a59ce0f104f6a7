"""Files are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif_ray.files import write_whole, written_whole


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "state-1.json"
    write_whole(path, "old")
    with written_whole(path) as beside:
        beside.write_text("ne")
        assert path.read_text() == "old"
        assert list(tmp_path.glob("state-*")) == [path]  # whoever looks for such files finds no half of one
        beside.write_text("new ✓", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new ✓"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_half_way_leaves_nothing_but_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"

    def fail() -> None:
        with written_whole(path) as beside:
            beside.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert list(tmp_path.iterdir()) == []
    write_whole(path, "whole")
    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert path.read_text() == "whole"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "a.txt", "text")
