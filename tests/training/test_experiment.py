"""A run from its config to its summary on the task reward alone: files, stopping, going on, refusals."""

import csv
import json
import subprocess
import sys
import textwrap

import pytest

from rlaif_ray import evaluation, experiment
from rlaif_ray.checkpoints import check_checkpoint
from rlaif_ray.config import dump_config, load_config
from rlaif_ray.course import Course
from rlaif_ray.errors import CheckpointError, ConfigError, StoreError
from rlaif_ray.networks import load_policy
from rlaif_ray.ppo import FeedbackPPO

TINY = {
    "env.num_envs": 8, "env.options": {"starts": "train"}, "policy.hidden": [8], "ppo.train_batch_size": 256,
    "ppo.minibatch_size": 128, "ppo.num_epochs": 1, "resources.env_runners": 0, "run.total_steps": 1_280,
    "run.evaluate_episodes": 4, "run.seed": 7, "run.checkpoint_every_s": 1e-6, "run.keep_checkpoints": 2,
    "env.evaluate_options": {"train": {}, "heldout": {"starts": "heldout"}},
}  # fmt: skip


def config(folder, **overrides):
    return load_config({}, TINY | {"run.dir": str(folder)} | overrides)


def strict(text):
    """JSON as any reader takes it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def rows_of(path):
    return [json.loads(line) for line in (path / "result.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(ray_session, tmp_path_factory):
    """One whole run, stopped after two of five iterations and gone on with."""
    folder = tmp_path_factory.mktemp("runs")
    seen = []
    first = experiment.train(config(folder), monitor=seen.append, stop=lambda: len(seen) == 2)
    stopped = strict((first.path / "summary.json").read_text())
    at_stop = {p.name for p in (first.path / "checkpoints").iterdir()}
    second = experiment.train(config(folder), resume=first.path, monitor=seen.append)
    return first, stopped, at_stop, second, seen


def test_stopping_leaves_a_checkpoint_and_says_so(run):
    first, stopped, at_stop, _, _ = run
    assert first.exit_code == 0
    assert stopped["status"] == "interrupted"
    assert stopped["steps"] == 512
    assert "last" in at_stop
    assert "step-000000512" in at_stop


def test_going_on_counts_on(run):
    first, _, _, second, seen = run
    assert second.path == first.path
    assert [row["steps"] for row in seen] == [256, 512, 768, 1_024, 1_280]
    assert [row["training_iteration"] for row in seen] == [1, 2, 3, 4, 5]
    assert [row["iteration"] for row in seen] == [1, 2, 3, 4, 5]
    walls = [row["wall_s"] for row in seen]
    assert walls == sorted(walls)
    rates = [row["learners"]["default_policy"]["default_optimizer_learning_rate"] for row in seen]
    assert rates == pytest.approx([1e-3 - 9e-4 * s / 1_280 for s in (256, 512, 768, 1_024, 1_280)], rel=1e-3)
    assert second.summary["status"] == "done"
    assert second.exit_code == 0


def test_what_has_no_value_is_null_in_the_log(run):
    text = (run[3].path / "result.json").read_text()
    rows = [strict(line) for line in text.splitlines()]
    assert any(
        value is None for row in rows for part in row.values() if isinstance(part, dict) for value in part.values()
    )


def test_what_went_wrong_first_is_what_is_told(ray_session, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("the world fell apart")

    def store_gone(*_):
        raise StoreError("the store is gone as well")

    monkeypatch.setattr(FeedbackPPO, "train", fails)
    monkeypatch.setattr(Course, "summary", store_gone)
    with pytest.raises(RuntimeError, match="fell apart"):
        experiment.train(config(tmp_path))


def test_a_signal_before_the_first_iteration_is_still_ours(tmp_path):
    """Starting Ray takes SIGTERM over; who was there before has it back."""
    code = (
        "import signal\n"
        "from rlaif_ray.config import load_config\n"
        "from rlaif_ray.surroundings import ray_running\n"
        "mine = lambda *_: None\n"
        "signal.signal(signal.SIGTERM, mine)\n"
        "with ray_running(load_config({})):\n"
        "    assert signal.getsignal(signal.SIGTERM) is mine\n"
        "    print('ours')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "ours", done.stderr[-500:]


def test_the_log_has_one_row_an_iteration_in_all_three_files(run):
    path = run[3].path
    rows = rows_of(path)
    assert [row["steps"] for row in rows] == [256, 512, 768, 1_024, 1_280]
    assert all("task" in row and "time" in row for row in rows)
    with open(path / "progress.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["steps"]) for row in table] == [256, 512, 768, 1_024, 1_280]
    assert list(path.glob("events.out.tfevents.*"))


def test_the_summary_has_what_the_design_promises(run):
    path, summary = run[3].path, strict((run[3].path / "summary.json").read_text())
    assert {
        "status", "steps", "wall_s", "labels", "abstained", "spend_usd", "cap_usd", "judge", "reward_model",
        "provenance", "evaluation", "phases", "peak_memory_gb", "lost_steps", "seed", "name",
    } <= set(summary)  # fmt: skip
    assert summary["steps"] == 1_280
    assert summary["judge"]["kind"] == "none"
    assert set(summary["evaluation"]) == {"train", "heldout"}
    for name, found in summary["evaluation"].items():
        assert found["episodes"] == 4
        assert found["options"]["starts"] == name
    assert [phase["name"] for phase in summary["phases"]] == ["task"]
    assert summary["phases"][0]["evaluation"] == summary["evaluation"]
    assert sum(summary["provenance"].values()) == pytest.approx(1)
    assert summary["provenance"]["task"] == 1
    assert (path / "config.yaml").exists()
    assert len(list((path / "media").glob("after-*.gif"))) == 4


def test_checkpoints_are_whole_pruned_and_the_newest_is_last(run):
    folder = run[3].path / "checkpoints"
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["last", "phase-task", "step-000001024", "step-000001280"]
    for name in names:
        found, facts = check_checkpoint(folder / name)
        assert load_policy(found).spec.hidden == (8,)
    assert facts["steps"] == 1_280
    assert check_checkpoint(run[3].path)[0].name == "step-000001280"
    assert load_config(str(run[3].path / "config.yaml")).run.seed == 7


def test_evaluate_reads_the_run_and_needs_nothing_else(run, tmp_path):
    path = run[3].path
    found = experiment.evaluate(path, episodes=11, options={"starts": "heldout"})
    assert (found["episodes"], found["options"]) == (11, {"starts": "heldout"})
    assert found == experiment.evaluate(path / "checkpoints" / "last", episodes=11, options={"starts": "heldout"})
    again = experiment.evaluate(path, episodes=4)
    assert again == run[3].summary["evaluation"]["train"]
    with pytest.raises(ConfigError, match="episodes: got 0"):
        experiment.evaluate(path, episodes=0)
    with pytest.raises(CheckpointError, match="does not exist"):
        experiment.evaluate(tmp_path / "nowhere")
    for seed in (-1, 2**32):
        with pytest.raises(ConfigError, match=f"seed: got {seed}, allowed are 0 to 4294967295"):
            experiment.evaluate(run[3].path, seed=seed)


def test_a_run_that_is_there_is_not_written_over(run):
    path = run[3].path
    before = (path / "result.json").read_bytes()
    with pytest.raises(ConfigError, match=r"run\.name: got 'run'.*--resume"):
        experiment.train(config(path.parent))
    assert (path / "result.json").read_bytes() == before


def test_going_on_from_a_run_that_is_finished_trains_no_more(run):
    rows = rows_of(run[3].path)
    outcome = experiment.train(config(run[3].path.parent), resume=run[3].path / "checkpoints" / "last")
    assert outcome.path == run[3].path  # the run's folder, though a checkpoint was named
    assert outcome.summary["steps"] == 1_280
    assert outcome.summary["status"] == "done"
    assert rows_of(run[3].path) == rows
    assert outcome.summary["evaluation"] == run[3].summary["evaluation"]


def test_a_damaged_checkpoint_is_found_before_anything_starts(run, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run[3].path, copy, symlinks=True)
    file = copy / "checkpoints" / "step-000001280" / "policy.pt"
    file.write_bytes(file.read_bytes()[:-10])
    before = (copy / "summary.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"policy\.pt has \d+ bytes, expected"):
        experiment.train(config(tmp_path), resume=copy)
    assert (copy / "summary.json").read_bytes() == before


def test_a_failure_is_in_the_summary_and_the_checkpoint_before_it_stays(ray_session, tmp_path):
    def breaks(row):
        if row["steps"] == 512:
            raise RuntimeError("the monitor broke")

    with pytest.raises(RuntimeError, match="the monitor broke"):
        experiment.train(config(tmp_path), monitor=breaks)
    assert strict((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert check_checkpoint(tmp_path / "run")[1]["steps"] == 512


def test_what_went_wrong_first_is_told_where_the_summary_cannot_be_written_either(ray_session, tmp_path):
    def breaks(row):
        (tmp_path / "run" / "summary.json").mkdir()
        raise RuntimeError("the monitor broke")

    with pytest.raises(RuntimeError, match="the monitor broke"):
        experiment.train(config(tmp_path), monitor=breaks)


def test_a_run_killed_before_its_first_checkpoint_begins_again(ray_session, tmp_path):
    """Whatever it had paid for is in its store: it must not be a dead end."""
    path = tmp_path / "run"
    (path / "checkpoints" / ".writing-step-000000256").mkdir(parents=True)
    (path / "config.yaml").write_text(dump_config(config(tmp_path)))
    (path / "log.txt").touch()
    outcome = experiment.train(config(tmp_path), resume=path)
    assert (outcome.summary["status"], outcome.summary["steps"]) == ("done", 1_280)
    (path / "checkpoints" / "last").unlink()
    with pytest.raises(CheckpointError, match="is not a checkpoint"):  # it had some: that they are gone is told
        experiment.train(config(tmp_path), resume=path)
    whole = path / "checkpoints" / "phase-task"
    (whole / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        experiment.train(config(tmp_path), resume=whole)


def test_a_stop_before_anything_has_begun_leaves_the_name_free(ray_session, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        experiment.train(config(tmp_path), stop=lambda: True)
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert experiment.train(config(tmp_path)).summary["status"] == "done"


def test_an_evaluation_does_not_keep_whoever_stops_it_waiting(ray_session, tmp_path, monkeypatch):
    """A hundred thousand long episodes would take most of an hour."""
    started, act = [], evaluation.PolicyActor.act

    def noted(actor, obs):
        started.append(True)
        return act(actor, obs)

    monkeypatch.setattr(evaluation.PolicyActor, "act", noted)
    slow = {"run.evaluate_episodes": 100_000, "run.total_steps": 256}
    outcome = experiment.train(config(tmp_path, **slow), stop=lambda: bool(started))
    assert len(started) == 1
    assert (outcome.exit_code, outcome.summary["status"]) == (0, "interrupted")
    assert outcome.summary["phases"] == []  # it was not measured, so it is measured when the run goes on
    monkeypatch.undo()
    stored = outcome.path / "config.yaml"
    stored.write_text(stored.read_text().replace("evaluate_episodes: 100000", "evaluate_episodes: 4"))
    done = experiment.train(config(tmp_path), resume=outcome.path).summary
    assert [phase["name"] for phase in done["phases"]] == ["task"]


def test_what_is_known_to_be_wrong_is_said_before_ray_starts(tmp_path):
    """In a process of its own: this one has a Ray."""
    (tmp_path / "file").write_text("")
    bad = {
        "env.id": "rlaif_ray/Homegird-v0",
        "env.options": {"start": "train"},
        "env.evaluate_options": {"heldout": {"starts": "held-out"}},
        "policy.network": "mpl",
        "run.dir": str(tmp_path / "file"),
        "resources.device": "cuda",
        "run.seed": 2**32,
        "ppo.lr": float("inf"),
    }
    cases = [{name: value} for name, value in bad.items()]
    cases.append({"env.id": "Pendulum-v1", "env.options": {}, "policy.network": "cnn", "env.evaluate_options": {}})
    cases.append({"policy.network": "no.such:Module"})
    (tmp_path / "other.sqlite").write_bytes(b"not a store" * 500)
    asks = {"mix.source": "hybrid", "run.name": "asks", "run.dir": str(tmp_path / "asks")}
    cases.append(asks | {"feedback.store": str(tmp_path / "other.sqlite")})
    cases.append(asks | {"feedback.store": str(tmp_path / "file" / "labels.sqlite")})
    code = f"""
    import json, sys
    from math import inf
    from rlaif_ray import experiment
    from rlaif_ray.config import load_config
    from rlaif_ray.errors import ConfigError
    for case in {cases!r}:
        try:
            experiment.train(load_config({{}}, {TINY!r} | {{"run.dir": {str(tmp_path / "runs")!r}}} | case))
        except ConfigError as error:
            ray = sys.modules.get("ray")
            print(json.dumps([str(error), bool(ray and ray.is_initialized())]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=120
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(cases), done.stderr[-2000:]
    words = ["Homegrid-v0", "starts", "held-out", "mlp", "can't be written", "PyTorch sees no GPU", "run.seed",
             "finite", "'cnn'", "no.such", "no label store", "File exists"]  # fmt: skip
    for (message, started), word in zip(told, words, strict=True):
        assert word in message
        assert "\n" not in message
        assert not started
    assert not (tmp_path / "runs").exists()
