"""Whole runs whose questions are ratings, preferences or go to a cascade, with the built-in judge over HTTP."""

import json

import pytest

from rlaif_ray import experiment
from rlaif_ray.config import load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Episode

TINY = {
    "env.num_envs": 32, "env.options": {"starts": "train"}, "policy.hidden": [8], "ppo.train_batch_size": 1_600,
    "ppo.minibatch_size": 400, "ppo.num_epochs": 1, "resources.env_runners": 0, "run.total_steps": 6_400,
    "run.evaluate_episodes": 0, "run.seed": 7, "feedback.fraction": 1.0, "feedback.labels_per_iteration": 12,
    "feedback.late": "wait", "feedback.wait_s": 60.0, "judge.profile": "perfect", "judge.frames": "spread",
    "reward_model.min_labels": 12, "reward_model.retrain_every": 6, "reward_model.epochs": 5,
    "reward_model.gate_accuracy": 0.0,
}  # fmt: skip


def config(folder, **overrides):
    return load_config({}, TINY | {"run.dir": str(folder)} | {k.replace("__", "."): v for k, v in overrides.items()})


def summary_of(outcome):
    return json.loads((outcome.path / "summary.json").read_text())


def test_preferences_are_asked_stored_and_learned_from_also_after_a_stop(ray_session, tmp_path):
    seen = []
    words = {"judge__prompt": "homegrid-preference", "mix__source": "distilled"}
    chosen = config(tmp_path, **words)
    first = experiment.train(chosen, monitor=seen.append, stop=lambda: len(seen) == 2)
    with LabelStore(first.path / "labels.sqlite") as store:
        labels = store.labels()
        assert labels
        for label in labels:
            one, other = store.units_of(label)
            assert isinstance(one, Episode)
            assert (one.episode_id, other.episode_id) == (label.episode_id, label.second_episode_id)
            assert one.episode_id != other.episode_id
        stats = store.stats()
        assert stats.labels == 2 * stats.both_orders
        bought = stats.both_orders
    second = experiment.train(chosen, resume=first.path, monitor=seen.append)
    summary = summary_of(second)
    assert summary["judge"]["both_orders"] > bought
    assert summary["judge"]["inconsistent"] == 0  # a perfect judge doesn't go by the place
    assert summary["labels"] == 2 * summary["judge"]["both_orders"]
    learned = seen[-1]["rm"]
    assert learned["train_n"] + learned["heldout_n"] > 12  # those from before the stop are among them
    assert summary["provenance"]["direct"] == 0
    assert any("strict JSON schema" in manner for manner in summary["judge"]["manners"])


def test_a_rating_pays_by_its_level(ray_session, tmp_path):
    direct = {"mix__source": "direct", "mix__credit": "terminal", "mix__unjudged": "task"}
    given = {"judge__prompt": "homegrid-rating", "run__total_steps": 3_200, **direct}
    outcome = experiment.train(config(tmp_path, **given))
    with LabelStore(outcome.path / "labels.sqlite") as store:
        values = {label.value for label in store.labels()}
    assert values <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert summary_of(outcome)["provenance"]["direct"] > 0


def test_a_preference_pays_no_episode_by_itself(tmp_path):
    with pytest.raises(ConfigError, match=r"mix\.source: got 'hybrid' with judge.prompt 'homegrid-preference'"):
        experiment.train(config(tmp_path, judge__prompt="homegrid-preference", mix__source="hybrid"))


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_a_watch_that_would_never_see_an_episode_is_refused(tmp_path, action):
    words = {"mix__source": "distilled", "watch__action": action}
    with pytest.raises(ConfigError, match=rf"watch\.action: got '{action}' with judge\.prompt .*allowed is 'report': "):
        experiment.preflight(config(tmp_path, judge__prompt="homegrid-preference", **words))
    experiment.preflight(config(tmp_path, judge__prompt="homegrid-rating", **words))
    experiment.preflight(config(tmp_path, judge__prompt="homegrid-preference", mix__source="distilled"))


def test_a_cascade_of_built_in_judges_trains_a_run(ray_session, tmp_path):
    cheap = tmp_path / "cheap.yaml"
    cheap.write_text("{name: cheap, miss_rate: 0.3, confidence: 0.85, confidence_wrong: 0.55, endpoint: decisions}")
    cascade = {"strong": {"profile": "perfect"}, "when": ["unsure", "rm-disagrees"], "spread": 0.05}
    given = {"judge__profile": str(cheap), "judge__cascade": cascade, "reward_model__ensemble": 2}
    outcome = experiment.train(config(tmp_path, mix__source="hybrid", run__total_steps=4_800, **given))
    summary = summary_of(outcome)
    assert summary["judge"]["members"] == [str(cheap), "perfect"]
    assert len(summary["judge"]["manners"]) == 2
    with LabelStore(outcome.path / "labels.sqlite") as store:
        wholes, both = store.labels(), store.labels(parts=True)
    asked = [label.judge for label in both]
    strong, cheap_ones = asked.count("builtin/perfect"), asked.count("builtin/cheap")
    assert 0 < strong < cheap_ones == len(wholes)
    assert summary["labels"] == strong + cheap_ones
