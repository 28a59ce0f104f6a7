"""The parts of a sweep that need no Ray: what a search may know, who is who, how it is watched, stopped and told."""

from __future__ import annotations

import io
import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from rlaif_ray.checkpoints import seal, write_checkpoint
from rlaif_ray.cli import main
from rlaif_ray.config import load_config
from rlaif_ray.config.sweeping import study_from
from rlaif_ray.errors import CheckpointError
from rlaif_ray.experiment import train
from rlaif_ray.report.sweep_live import SweepView
from rlaif_ray.runlog import plain, without_nan
from rlaif_ray.sweep.keeping import EVERY_S, StateKeeper, mend, mend_checkpoint
from rlaif_ray.sweep.place import Place
from rlaif_ray.sweep.searching import param_space, scheduler_of, searcher_of
from rlaif_ray.sweep.trial import AUDIT_ITERATIONS, AUDIT_VERDICTS, Audit, cell_of
from rlaif_ray.sweep.watching import Seen, Watch, looking_on

SPACE = {"mix.weight": {"uniform": [0.5, 2.0]}, "mix.ramp_steps": {"randint": [10, 12]}}


def row(task_return: float, verdicts: float = 0.0, approval: float = math.nan) -> dict[str, Any]:
    return {"task": {"episode_return_mean": task_return}, "feedback": {"verdicts": verdicts, "approval_rate": approval},
            "truth": {"cat_survived": 1.0}}  # fmt: skip


# ------------------------------------------------------------------------------------------- what a search may know


def test_the_audit_is_the_newest_verdicts_and_returns() -> None:
    audit = Audit()
    first = audit.take(row(math.nan))
    assert math.isnan(first["approval"])
    assert first["score"] == 0.0  # approval that nobody has given is none
    audit.take(row(0.5, 10, 0.2))
    assert audit.figures()["score"] == pytest.approx(0.7)
    for _ in range(AUDIT_ITERATIONS):
        audit.take(row(0.9, AUDIT_VERDICTS / 5, 1.0))
    last = audit.figures()
    assert last["task_return"] == pytest.approx(0.9)
    assert last["approval"] == 1.0  # the first ten are out of the window
    assert AUDIT_VERDICTS <= last["verdicts"] < AUDIT_VERDICTS + 10
    assert "cat_survived" not in last


def test_where_a_judge_compares_there_is_no_approval_and_no_score() -> None:
    audit = Audit(compares=True)
    found = audit.take(row(0.5, 10, math.nan))
    assert found["task_return"] == 0.5
    assert math.isnan(found["approval"])
    assert math.isnan(found["score"])
    assert found["verdicts"] == 0
    assert without_nan(plain(found))["score"] is None


def test_an_audit_counts_verdicts_for_as_many_as_they_stand_for() -> None:
    audit = Audit()
    for approval, stands_for in ((1.0, 300.0), (0.0, 100.0), (math.nan, 0.0)):
        found = row(0.5, 2, approval)
        found["feedback"]["stands_for"] = stands_for
        audit.take(found)
    assert audit.figures()["approval"] == pytest.approx(0.75)
    assert audit.figures()["verdicts"] == 4.0  # verdicts that no draw asked for say nothing of all
    older = Audit()
    older.restore({"returns": [], "verdicts": [(3, 1.0), (1, 0.0)]})
    assert older.figures()["approval"] == pytest.approx(0.75)


def test_an_audit_goes_on_where_it_was() -> None:
    audit, again = Audit(), Audit()
    audit.take(row(0.5, 3, 1 / 3))
    again.restore(audit.state())
    assert again.figures() == audit.figures()
    assert again.take(row(0.7, 1, 1.0)) == audit.take(row(0.7, 1, 1.0))


# ------------------------------------------------------------------------------------------- who is who


def test_a_member_that_takes_a_neighbours_config_over_stays_itself(tmp_path: Path) -> None:
    raw = {"search": {"space": SPACE, "samples": 3}, "pbt": {"every_steps": 10}}
    place = Place.new(study_from(raw | {"name": "p"}), {"mix.source": "hybrid"}, tmp_path)
    neighbours = {"folder": str(place.folder), "set": {"mix.weight": 1.9, "mix.ramp_steps": 11}}
    cell = cell_of(place, neighbours, "abc12_00002")
    assert (cell.name, cell.seed, cell.set["mix.weight"]) == ("member-002", 2, 1.9)
    space = param_space(place)["set"]["grid_search"]
    assert [dict(cell.set) for cell in place.cells] == space


def test_planned_and_suggested_trials_are_found(tmp_path: Path) -> None:
    planned = Place.new(study_from({"name": "a", "arms": [{"name": "x", "mix.weight": [1, 2]}]}), {}, tmp_path)
    assert cell_of(planned, {"cell": 1}, "t_00007") == planned.cells[1]
    assert param_space(planned)["cell"] == {"grid_search": [0, 1]}
    raw = {"name": "o", "search": {"space": SPACE, "algorithm": "optuna"}, "seeds": [5, 6]}
    chosen = Place.new(study_from(raw), {}, tmp_path)
    cell = cell_of(chosen, {"set": {"mix.weight": 0.7}, "__trial_index__": 1}, "whatever")
    assert (cell.seed, cell.set) == (6, {"mix.weight": 0.7})
    assert set(param_space(chosen)["set"]) == set(SPACE)


def test_schedulers_go_by_steps_and_the_metric() -> None:
    search = {"search": {"space": SPACE, "samples": 4}}
    asha = scheduler_of(study_from(search | {"asha": {"grace_steps": 100, "reduction_factor": 2}}))
    assert type(asha).__name__ == "AsyncHyperBandScheduler"
    assert asha.metric == "audit/score"
    study = study_from(search | {"pbt": {"every_steps": 10}})
    pbt = scheduler_of(study)
    assert pbt.metric == "audit/score"
    far = {"set": {"mix.weight": 2.4, "mix.ramp_steps": 8}}  # a step of 1.2 or 0.8 may leave the space
    assert pbt._custom_explore_fn(far)["set"] == {"mix.weight": 2.0, "mix.ramp_steps": 10}
    assert scheduler_of(study_from(search)) is None
    assert searcher_of(study_from(search)) == (None, 1)


# ------------------------------------------------------------------------------------------- watched and stopped


def trial(status: str = "RUNNING", number: int = 0) -> Any:
    return SimpleNamespace(
        trial_id=f"t_{number:05d}", status=status, config={"cell": number}, last_result={"steps": 8, "total_steps": 8}
    )


def test_a_sweep_that_is_stopped_waits_for_its_trials_to_save_themselves(tmp_path: Path) -> None:
    place = Place.new(study_from({"name": "a", "arms": [{"name": "x"}], "seeds": [0, 1]}), {}, tmp_path)
    seen: list[Seen] = []
    stop = [False]
    told: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))
    watch, trials = Watch(place.folder), [trial(), trial("PENDING", 1)]
    try:
        watch.on_trial_result(0, trials, trials[0], {})  # nobody looks on: nothing happens
        with looking_on(place, seen.append, lambda: stop[0]):
            watch.on_step_begin(1, trials)
            result: dict[str, Any] = {"steps": 4}
            watch.on_trial_result(1, trials, trials[0], result)
            assert "should_checkpoint" not in result
            stop[0] = True
            watch.on_step_begin(2, trials)
            assert not told
            watch.on_trial_result(2, trials, trials[0], result)
            assert result["should_checkpoint"]
            watch.on_trial_save(3, trials, trials[0])
            watch.on_step_begin(4, trials)
            watch.on_step_begin(5, trials)
            watch.on_trial_complete(6, trials, trials[0])
            trials[0].last_result = {"steps": 4, "total_steps": 8, "done": True}
            watch.on_trial_complete(6, trials, trials[0])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert told == [signal.SIGUSR1]  # once
    assert [(one.trial, one.state) for one in seen] == [
        ("x-s0", "running"), ("x-s0", "running"), ("x-s0", "done"), ("x-s0", "stopped"),
    ]  # fmt: skip


def test_the_view_says_what_begins_and_ends_and_how_far_it_is() -> None:
    out, now = io.StringIO(), [0.0]
    console = Console(file=out, width=120, force_terminal=False)
    figures = {"steps": 50, "total_steps": 100, "audit": {"task_return": 0.91, "approval": 0.5},
               "feedback": {"labels": 7.0}, "truth": {"found": 0.99, "cat_survived": 0.5}}  # fmt: skip
    with SweepView("s", ["a-s0", "b-s0"], console, clock=lambda: now[0]) as view:
        view.update("a-s0", "running", {})
        view.update("a-s0", "running", figures)  # too soon after the last line
        now[0] = 100.0
        view.update("a-s0", "running", figures)
        view.update("a-s0", "done", figures | {"steps": 100})
        view.update("b-s0", "failed", {})
        view.say("Stopping")
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    assert "[0/2]  a-s0: begun" in lines[0]
    assert "a-s0: 50 % of its steps, task return 0.91, judge approves 50 %, labels 7" in lines[1]
    assert "truth (audit only) 50 % / 99 %" in lines[1]
    assert "[1/2]  a-s0: done; 100 %" in lines[2]
    assert "[2/2]  b-s0: failed; -" in lines[3]
    console.print(view.render())
    assert "1 failed, 1 done" in out.getvalue()


def test_a_torn_state_is_replaced_by_the_newest_whole_one(tmp_path: Path) -> None:
    """Tune writes its state in place: a kill in that moment must not cost the sweep."""
    keeper = StateKeeper(tmp_path)
    assert not keeper.look(0.0)
    assert not mend(tmp_path)
    state, searcher = tmp_path / "experiment_state-2026-01-02.json", tmp_path / "basic-variant-state-2026-01-02.json"
    (tmp_path / "experiment_state-2026-01-01.json").write_text("{}")  # of the session before
    state.write_text('{"trials": 1}')
    searcher.write_text('{"next": 1}')
    assert keeper.look(2 * EVERY_S)
    assert not keeper.look(2 * EVERY_S + 1.0)  # too soon
    state.write_text('{"trials": 2')
    searcher.write_text('{"ne')
    assert not keeper.look(4 * EVERY_S)
    assert mend(tmp_path)
    assert (state.read_text(), searcher.read_text()) == ('{"trials": 1}', '{"next": 1}')
    state.write_text('{"trials": 3}')
    assert mend(tmp_path)
    assert state.read_text() == '{"trials": 3}'  # a whole one is left alone


def test_a_checkpoint_that_is_gone_or_torn_is_replaced_by_the_newest_whole_one(tmp_path: Path) -> None:
    """Tune's state is at times older than the checkpoints, and it copies them in place."""

    def written(number: int, steps: int) -> Path:
        folder = tmp_path / f"checkpoint_{number:06}"
        folder.mkdir()
        (folder / "weights").write_text(f"after {steps}")
        seal(folder, {"steps": steps})
        return folder

    named = tmp_path / "checkpoint_000003"
    assert not mend_checkpoint(named)  # nothing there to replace it
    kept, newest, torn = written(4, 400), written(5, 500), written(6, 600)
    (torn / "weights").write_text("after 6")
    assert mend_checkpoint(named)
    assert (named / "weights").read_text() == "after 500"
    assert not newest.exists()
    assert not mend_checkpoint(named)  # a whole one is left alone
    (named / "weights").unlink()
    assert mend_checkpoint(named)
    assert (named / "weights").read_text() == "after 400"
    assert not kept.exists()
    (named / "weights").unlink()
    assert not mend_checkpoint(named)
    assert named.exists()


# ------------------------------------------------------------------------------------------- the command's words


def said(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    assert main(["sweep", *words]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    return error


def test_wrong_words_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = {"arms": [{"name": "x", "mix.source": "none"}], "smoke": {"seeds": [0]}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    assert "did you mean 'study.yaml'" in said(["stdy.yaml"], capfd)
    assert "holds no sweep that was begun" in said(["study.yaml", "--resume"], capfd)
    assert "goes on with its own file" in said(["study.yaml", "--resume", "--ppo.lr", "1"], capfd)
    assert "unknown key 'ppo.lrr'" in said(["study.yaml", "--ppo.lrr", "1"], capfd)
    assert "budget.usd" in said(["study.yaml", "--budget.usd", "-1"], capfd)
    assert "needs STUDY" in said([], capfd)
    place = Place.new(study_from(study | {"name": "study"}, smoke=True), {}, tmp_path / "runs", smoke=True)
    place.write()
    assert "go on with --resume" in said(["study.yaml", "--smoke"], capfd)
    assert "holds no sweep that was begun" in said(["study.yaml", "--resume"], capfd)  # that one is the smoke run's


def test_a_trials_policy_is_no_run_to_go_on_with(tmp_path: Path) -> None:
    config = load_config({})
    trial = tmp_path / "trials" / "x-s0"
    write_checkpoint(trial / "checkpoints", "phase-final", config, lambda at: None, {"policy_only": True})
    with pytest.raises(CheckpointError, match=r"goes on with its sweep"):
        train(config, resume=trial)
