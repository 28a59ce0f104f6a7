"""Whole runs that choose whom to ask about, with the built-in judge over HTTP: what is stored, and what it says."""

import numpy as np
import pytest
from test_preference_runs import config, summary_of

from rlaif_ray import experiment
from rlaif_ray.feedback.estimate import approval_of
from rlaif_ray.feedback.store import LabelStore


def test_a_run_asks_where_its_reward_model_is_unsure_and_says_with_which_chance(ray_session, tmp_path):
    rows = []
    given = {"mix__source": "hybrid", "feedback__select": "uncertain", "feedback__audit_share": 0.3}
    given |= {"feedback__labels_per_iteration": 6, "reward_model__holdout": 0.5, "run__total_steps": 11_200}
    outcome = experiment.train(config(tmp_path, **given), monitor=rows.append)
    with LabelStore(outcome.path / "labels.sqlite") as store:
        labels = store.labels()
    assert {label.draw for label in labels} == {"audit", "targeted"}
    began = next(row["steps"] for row in rows if row["rm"]["version"])
    before = []
    of_step = {row["steps"]: [one for one in labels if one.asked_at_step == row["steps"]] for row in rows}
    for row in rows:
        asked = of_step[row["steps"]]
        assert len(asked) == min(6, row["task"]["episodes"])
        if row["steps"] <= began:  # no version was in service when it was asked: each stands for as many
            before += [one.draw for one in asked]
            stands_for = sum(1 / one.inclusion_probability for one in asked)
            assert stands_for == pytest.approx(row["task"]["episodes"])
    assert {"audit", "targeted"} == set(before)  # the audit has its share of them all the same
    later = [one for step, asked in of_step.items() if step > began for one in asked]
    assert len({one.inclusion_probability for one in later if one.inclusion_probability < 1}) > 3
    estimate = approval_of(labels)
    assert 0.0 <= estimate.low <= estimate.mean <= estimate.high <= 1.0
    ended = sum(row["task"]["episodes"] for row in rows)
    assert 0.5 * ended < estimate.episodes < 2 * ended
    audits = sum(one.draw == "audit" for one in labels)
    assert sum(row["feedback"]["audit_verdicts"] for row in rows) == audits
    graded = rows[-1]["rm"]
    assert 0 < graded["heldout_n"] <= audits < graded["train_n"]  # half of all labels were to be held out


def test_verdicts_pay_for_the_episodes_they_stand_for(ray_session, tmp_path):
    rows = []
    direct = {"mix__source": "direct", "mix__credit": "terminal", "mix__unjudged": "reweight"}
    given = {
        "feedback__select": "newest",
        "feedback__labels_per_iteration": 6,
        "mix__reweight_clip": 4.0,
        "run__total_steps": 4_800,
    }
    outcome = experiment.train(config(tmp_path, **direct, **given), monitor=rows.append)
    shares = summary_of(outcome)["provenance"]
    assert shares["direct"] > 0
    assert shares["task"] > 0
    weights = np.array([row["mix"]["reweight_mean"] for row in rows if row["mix"]["share_direct"]])
    assert (weights >= 1.0).all()
    assert weights.max() > 1.5
    assert all(0.0 <= row["mix"]["reweight_lost"] < 1.0 for row in rows if row["mix"]["share_direct"])
