"""What a run begins with: another run's policy, labels bought before; and its end after so many feedback episodes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rlaif_ray import experiment
from rlaif_ray.cli import main
from rlaif_ray.config import Config, load_config
from rlaif_ray.errors import CheckpointError, ConfigError
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.networks import load_policy
from rlaif_ray.types import Episode

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "tune_configs/bases/smoke.yaml")
SMALL = {
    "run.total_steps": 4_096, "run.evaluate_episodes": 0, "mix.start_step": 0, "mix.ramp_steps": 0,
    "feedback.fraction": 0.0, "judge.profile": "perfect",
}  # fmt: skip


def config(folder: Path, name: str, **more: object) -> Config:
    overrides = SMALL | {"run.dir": str(folder), "run.name": name} | {k.replace("__", "."): v for k, v in more.items()}
    return load_config(SMOKE, overrides)


@pytest.fixture(scope="module")
def task(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the task reward alone."""
    folder = tmp_path_factory.mktemp("runs")
    return experiment.train(config(folder, "task", mix__source="none", run__total_steps=2_048)).path


@pytest.fixture(scope="module")
def labels(task: Path) -> Path:
    """Forty episodes of its policy, judged."""
    words = ["label", str(task), "--episodes", "40", "--json", "--run.name", "bought", "--run.dir", str(task.parent)]
    assert main([*words, "--judge.profile", "perfect"]) == 0
    return task.parent / "bought"


def test_a_run_begins_with_the_policy_it_is_given(task: Path) -> None:
    given = load_policy(task)
    # So small a learning rate leaves the weights where they were: what ends is what began.
    still = config(task.parent, "still", mix__source="none", run__init=str(task), ppo__lr=1e-12, ppo__lr_final=1e-12)
    path = experiment.train(still).path
    after = load_policy(path).network.state_dict()
    for name, value in given.network.state_dict().items():
        assert torch.allclose(value, after[name], atol=1e-6), name
    fresh = config(task.parent, "fresh", mix__source="none", ppo__lr=1e-12, ppo__lr_final=1e-12)
    other = load_policy(experiment.train(fresh).path).network.state_dict()
    assert not torch.allclose(other["actor.weight"], after["actor.weight"], atol=1e-6)


def test_a_policy_of_another_network_is_refused(task: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.init: got .*expected NetworkSpec"):
        experiment.preflight(config(task.parent, "wide", mix__source="none", run__init=str(task), policy__hidden=[16]))
    with pytest.raises(CheckpointError, match="does not exist"):
        experiment.preflight(config(task.parent, "none", mix__source="none", run__init=str(task / "nowhere")))


def test_a_reward_model_learns_from_labels_bought_before(task: Path, labels: Path) -> None:
    """Nothing is asked; all episodes from the first are paid by what those labels taught; the run spends nothing."""
    wanted = config(task.parent, "offline", mix__source="distilled", reward_model__labels=str(labels),
                    reward_model__min_labels=20, feedback__late="rm")  # fmt: skip
    outcome = experiment.train(wanted)
    summary = outcome.summary
    assert summary["status"] == "done"
    assert summary["labels"] == 0
    assert summary["reward_model"]["version"] == 1
    assert summary["provenance"]["distilled"] == 1.0
    with LabelStore(labels / "labels.sqlite", readonly=True) as store:
        bought = store.stats().labels
    assert bought == 40
    assert summary["reward_model"]["heldout_n"] < bought


def test_labels_that_are_not_there_are_told_of_before_anything_starts(task: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward_model\.labels: got .*no label store"):
        experiment.preflight(
            config(task.parent, "no", mix__source="distilled", feedback__late="rm", reward_model__labels=str(task))
        )
    with pytest.raises(ConfigError, match="allowed with 'distilled' and 'hybrid'"):
        config(task.parent, "no", mix__source="none", reward_model__labels=str(task))


def test_labels_are_looked_at_beforehand_and_not_read(
    task: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[str] = []
    whole = LabelStore.episode

    def counted(store: LabelStore, key: str) -> Episode:
        unpacked.append(key)
        return whole(store, key)

    monkeypatch.setattr(LabelStore, "episode", counted)
    here = {"mix__source": "distilled", "feedback__late": "rm", "reward_model__labels": str(labels)}
    experiment.preflight(config(task.parent, "ready", **here))
    assert len(unpacked) == 1
    with pytest.raises(ConfigError, match=r"observations are \(12, 14, 4\); those of rlaif_ray/Workshop-v0 are "):
        experiment.preflight(config(task.parent, "elsewhere", env__id="rlaif_ray/Workshop-v0", **here))


def test_a_run_ends_after_so_many_feedback_episodes(task: Path) -> None:
    wanted = config(task.parent, "ended", mix__source="direct", mix__credit="terminal", mix__unjudged="task",
                    run__feedback_episodes=30, run__total_steps=65_536, feedback__fraction=0.1, feedback__late="wait",
                    feedback__wait_s=120.0, run__init=str(task))  # fmt: skip
    path = experiment.train(wanted).path
    summary = json.loads((path / "summary.json").read_text())
    rows = [json.loads(line) for line in (path / "result.json").read_text().splitlines()]
    episodes = np.cumsum([row["task"]["episodes"] for row in rows])
    assert summary["status"] == "done"
    assert summary["steps"] < 65_536
    assert summary["feedback_episodes"] == episodes[-1] >= 30
    assert len(episodes) == 1 or episodes[-2] < 30
    with pytest.raises(ConfigError, match=r"run\.feedback_episodes: got 5 with mix\.source 'none'"):
        config(task.parent, "no", mix__source="none", run__feedback_episodes=5)
