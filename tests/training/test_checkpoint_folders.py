"""Checkpoint folders: whole or not at all, and told apart from everything else."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from rlaif_ray.checkpoints import around, check_checkpoint, checkpoint_config, newest_up_to, prune, write_checkpoint
from rlaif_ray.config import load_config
from rlaif_ray.errors import CheckpointError

CONFIG = load_config({"ppo": {"lr": 0.002}})


def save(path):
    os.makedirs(f"{path}/learner")
    for name, content in (("state.pkl", b"state"), ("learner/weights.pt", bytes(range(256)))):
        with open(f"{path}/{name}", "wb") as file:
            file.write(content)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


def write(folder, name, save=save, **facts):
    return write_checkpoint(folder, name, CONFIG, save, facts)


def test_what_is_written_is_found_by_its_own_name_by_the_run_and_as_last(folder):
    path = write(folder, "step-1", steps=1)
    for way in (path, folder / "last", folder, folder.parent):
        found, facts = check_checkpoint(way)
        assert found == path.resolve()
        assert facts == {"steps": 1}
    assert checkpoint_config(path) == CONFIG
    write(folder, "step-2", steps=2)
    assert check_checkpoint(folder.parent)[1] == {"steps": 2}
    assert check_checkpoint(path)[1] == {"steps": 1}


def test_the_same_name_again_replaces_it(folder):
    write(folder, "phase-task", steps=1)
    write(folder, "phase-task", steps=2)
    assert check_checkpoint(folder)[1] == {"steps": 2}
    assert sorted(p.name for p in folder.iterdir()) == ["last", "phase-task"]


@pytest.mark.parametrize("name", ["step-1", "step-2"])
def test_a_writer_killed_half_way_leaves_the_last_one_whole(folder, name):
    """Also where it was writing the very one that is the last."""
    write(folder, "step-1", steps=1)
    code = f"""
    import os, signal
    from pathlib import Path
    from rlaif_ray.checkpoints import write_checkpoint
    from rlaif_ray.config import load_config
    def save(path):
        Path(path, "state.pkl").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write_checkpoint(Path({str(folder)!r}), {name!r}, load_config({{}}), save, {{"steps": 2}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert check_checkpoint(folder)[1] == {"steps": 1}
    write(folder, "step-3", steps=3)
    assert not list(folder.glob(".writing-*"))  # what it left is cleared away


def test_an_error_while_writing_leaves_the_last_one_whole(folder):
    write(folder, "step-1", steps=1)

    def full(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write(folder, "step-2", full)
    assert check_checkpoint(folder)[1] == {"steps": 1}


def changed(content):
    return content[:7] + bytes([content[7] ^ 1]) + content[8:]


# What is done to which file: its content before -> after; None: it is removed.
DAMAGE = {
    "truncated": ("learner/weights.pt", lambda content: content[:100]),
    "changed": ("learner/weights.pt", changed),
    "missing": ("learner/weights.pt", None),
    "no manifest": ("manifest.json", None),
    "manifest cut": ("manifest.json", lambda content: content[:-20]),
    "manifest changed": ("manifest.json", lambda content: content.replace(b'"steps": 1', b'"steps": 7')),
    "manifest of another kind": ("manifest.json", lambda _: json.dumps({"kind": "web", "files": {}}).encode()),
    "manifest is a list": ("manifest.json", lambda _: b"[1, 2]"),
    "manifest without facts": ("manifest.json", lambda _: b'{"files": {}}'),
    "manifest not text": ("manifest.json", lambda _: b"\xff\xfe\x00"),
}


def damage(path, how):
    name, change = DAMAGE[how]
    content = (path / name).read_bytes()
    (path / name).unlink()
    if change is not None:
        (path / name).write_bytes(change(content))
        assert (path / name).read_bytes() != content


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("truncated", "weights.pt has 100 bytes, expected 256"),
        ("changed", "weights.pt is not what was written"),
        ("missing", "weights.pt is missing"),
        ("no manifest", "not a checkpoint"),
        ("manifest cut", "manifest.json is damaged"),
        ("manifest changed", "manifest.json is damaged"),
        ("manifest of another kind", "manifest.json is damaged"),
        ("manifest is a list", "manifest.json is damaged"),
        ("manifest without facts", "manifest.json is damaged"),
        ("manifest not text", "manifest.json is damaged"),
    ],
)
def test_damage_is_told_in_one_line_before_anything_is_restored(folder, how, word):
    path = write(folder, "step-1", steps=1)
    damage(path, how)
    with pytest.raises(CheckpointError) as caught:
        check_checkpoint(path)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "step-1" in str(caught.value)


def test_other_paths_are_no_checkpoints(folder, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        check_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        check_checkpoint(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        check_checkpoint(file)
    path = write(folder, "step-1")
    (path / "config.yaml").write_text("ppo: {lrr: 1}")
    with pytest.raises(CheckpointError, match="lrr"):
        checkpoint_config(path)


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.is_symlink())


def test_prune_keeps_the_newest_the_last_and_every_phase(folder):
    write(folder, "phase-task")
    for i in (1, 2, 3):
        write(folder, f"step-{i:09d}")
    prune(folder, "step-", 2)
    assert names(folder) == ["phase-task", "step-000000002", "step-000000003"]
    prune(folder, "step-", 1)
    assert names(folder) == ["phase-task", "step-000000003"]
    check_checkpoint(folder)


def test_prune_keeps_as_many_where_the_last_is_a_phase(folder):
    for i in (1, 2, 3):
        write(folder, f"step-{i:09d}")
    write(folder, "phase-task")
    prune(folder, "step-", 2)
    assert names(folder) == ["phase-task", "step-000000002", "step-000000003"]


def test_prune_never_takes_the_last_though_its_number_is_low(folder):
    """A run that was rolled back writes lower numbers than are there."""
    for i in (8, 9, 1):
        write(folder, f"step-{i:09d}")
    prune(folder, "step-", 1)
    assert names(folder) == ["step-000000001"]
    assert check_checkpoint(folder)[0].name == "step-000000001"


def test_prune_counts_by_number_beyond_nine_digits(folder):
    for i in (999_999_999, 1_000_000_001, 1_000_000_002):
        write(folder, f"step-{i:09d}")
    prune(folder, "step-", 2)
    assert names(folder) == ["step-1000000001", "step-1000000002"]


def test_prune_of_a_folder_that_is_not_there_is_nothing(tmp_path):
    prune(tmp_path / "nowhere", "step-", 1)


def test_prune_keeps_one_to_go_back_to_however_far_the_onset_lies_back(folder):
    """Steps and the onset grow, the onset far behind: the newest two, one that is good, and the next to be."""
    good = []
    for steps in range(1, 41):
        write(folder, f"step-{steps:09d}", steps=steps)
        onset = steps - 7
        prune(folder, "step-", 2, onset)
        assert len(names(folder)) <= 4
        good.append(onset - check_checkpoint(newest_up_to(folder, onset))[1]["steps"] if onset > 0 else 0)
    assert max(good) <= 7  # the good one is never more than as long again before the onset
    assert {f"step-{steps:09d}" for steps in (39, 40)} < set(names(folder))


def test_what_is_around_an_onset():
    assert around([10, 20, 30, 40], 25) == {20, 30}
    assert around([10, 20, 30, 40], 30) == {30, 40}
    assert around([10, 20], 5) == {10}
    assert around([10, 20], 20) == {20}
    assert around([], 20) == set()
