"""Late answers: how many can be waited for, what is counted of those that came, and real runs with a slow judge."""

import time

import numpy as np
import pytest
import yaml
from test_deferral import turn as deferring_turn
from test_feedback_loop import Pool, Trainer, loop_of, published, runner, turn, verdict

from rlaif_ray import experiment
from rlaif_ray.config import FeedbackConfig, load_config
from rlaif_ray.feedback.builtin.profile import load_profile
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.lateness import Lateness, WaitPlan
from rlaif_ray.mixing import DIRECT, DISTILLED, TASK

# ------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize(
    ("latency_s", "concurrency", "wait_s", "questions"),
    [
        (0.0, 64, 30.0, 64),  # not measured yet: one wave
        (4.0, 64, 30.0, 384),  # 6 waves of 4 s, and 6 s more for the last one's slowness: 30 s
        (4.0, 1, 30.0, 6),
        (4.0, 64, 10.0, 64),
        (4.0, 64, 8.0, 32),
        (4.0, 64, 1.0, 1),  # none would come in time: one, to see whether that is still so
    ],
)
def test_a_plan_on_numbers_worked_by_hand(latency_s, concurrency, wait_s, questions):
    assert WaitPlan(latency_s).questions(concurrency, wait_s) == questions


@pytest.mark.parametrize("seed", range(5))
def test_what_is_planned_is_answered_in_time_by_a_judge_of_the_published_latency(seed):
    rng = np.random.default_rng(seed)
    n = WaitPlan(4.335).questions(64, 30.0)
    slots = np.zeros(64)
    for latency_s in 4.24 * np.exp(0.21 * rng.standard_normal(n)):  # whoever is free takes the next
        slots[slots.argmin()] += latency_s
    assert 0.8 * 30.0 < slots.max() <= 30.0


def test_a_wait_that_ran_out_plans_less_and_those_that_did_not_plan_more_again():
    plan = WaitPlan(1.0)
    assert plan.questions(10, 11.5) == 100
    plan = plan.after(answered=50, left=50)
    assert plan.questions(10, 11.5) == 40
    plan = plan.after(answered=40, left=0)
    assert plan.questions(10, 11.5) == 50
    for _ in range(9):
        plan = plan.after(answered=40, left=0)
    assert plan.questions(10, 11.5) == 100
    assert WaitPlan(1.0).after(answered=0, left=9).questions(10, 11.5) == 1


def test_what_is_in_flight_counts_and_the_reward_model_waits_for_nothing():
    waits = FeedbackConfig(late="wait", wait_s=30.0, concurrency=10)
    plan = WaitPlan(3.0)
    assert plan.limit(waits, 0) == 85
    assert plan.limit(waits, 75) == 10
    assert plan.limit(waits, 86) == plan.limit(waits, 85) == 0
    assert plan.limit(FeedbackConfig(late="rm"), 10**6) == np.inf


def test_as_many_are_kept_back_for_as_are_answered_in_that_time():
    keeps = FeedbackConfig(late="defer", defer_iterations=16, concurrency=10)
    plan = WaitPlan()
    assert plan.limit(keeps, 4) == 6  # what is answered at once waits behind none
    for _ in range(200):
        plan = plan.heard(5)
    assert plan.limit(keeps, 0) == 63  # 0.8 * 5 * 16, less rounding
    assert plan.limit(keeps, 60) == 3
    for _ in range(200):
        plan = plan.heard(0)
    assert plan.limit(keeps, 0) == 10  # whoever is asked again measures it again


def test_a_judge_that_is_too_slow_for_all_is_asked_about_those_it_answers_in_time():
    pool, in_an_iteration = Pool(lambda e: verdict(e.episode_id, 1.0), delay=10**6), 4
    loop = loop_of(pool, Trainer([published(1)]),
                   **{"feedback.late": "defer", "feedback.concurrency": 8, "feedback.defer_iterations": 6,
                      "feedback.fraction": 1.0})  # fmt: skip
    sample = runner((1,) * 20)
    for step in range(60):
        deferring_turn(loop, sample(1), step)
        pool.due = [(pool.polls + i // in_an_iteration, episode) for i, (_, episode) in enumerate(pool.due)]
    ages = list(loop.lateness.direct.elements())
    assert 3 * 50 < len(ages) <= loop.lateness.verdicts <= 4 * 60
    assert max(ages) <= 6
    assert loop.lateness.missed == 0
    assert loop.lateness.turned_away == pool.turned_away > 60 * 14


def test_the_loop_asks_one_wave_first_and_then_what_the_measured_latency_allows():
    pool = Pool(lambda e: verdict(e.episode_id, 1.0), delay=5, latency_s=4.0)
    loop = loop_of(pool, Trainer([published(1)]), **{"feedback.late": "wait", "feedback.concurrency": 3})
    sample = runner((1,) * 40)
    mixed, _ = turn(loop, [sample(1)], 10)
    assert len(pool.asked) == mixed[0].counts["direct"] == 3
    mixed, _ = turn(loop, [sample(1)], 20)
    assert len(pool.asked) == 3 + 18  # 3 * (30 / 4 - 1.5)
    assert mixed[0].counts["direct"] == 18
    assert loop.lateness.figures()["learned_directly"] == loop.lateness.verdicts == 21


def test_a_verdict_that_came_after_a_wait_ran_out_is_learned_from_all_the_same():
    pool = Pool(lambda e: verdict(e.episode_id, 0.75), delay=2, hangs=True)
    loop = loop_of(pool, Trainer([published(1)]), **{"feedback.late": "wait", "feedback.wait_s": 0.05})
    loop.learn_to_judge()
    sample = runner((4,))
    assert deferring_turn(loop, sample(4))[1] == []
    assert deferring_turn(loop, sample(1))[1] == []
    ((_, late),) = deferring_turn(loop, sample(1))[1]
    assert late.counts["direct"] == 1
    assert late.feedback.sum() == pytest.approx(2.0 * 0.75)
    assert loop.lateness.direct == {2: 1}


# ------------------------------------------------------------------------------------------------ what is counted


def test_figures_of_lateness_on_numbers_worked_by_hand():
    lateness = Lateness(verdicts=24, missed=2, dropped_steps=7)
    lateness.learned(np.array([DIRECT, DISTILLED, TASK, DIRECT]))
    for waited, episodes in ((1, 10), (2, 7), (9, 1)):
        for _ in range(episodes):
            lateness.learned(np.array([DIRECT]), waited)
    lateness.learned(np.array([DISTILLED]), 16)
    found = lateness.figures()
    assert found == {
        "verdicts": 24, "learned_directly": 20, "staleness_mean": pytest.approx((10 + 14 + 9) / 20),
        "staleness_median": 1, "staleness_p95": 2, "staleness_max": 9, "past_deadline": 2,
        "iterations": {"0": 2, "1": 10, "2": 7, "9": 1}, "dropped_steps": 7, "turned_away": 0,
    }  # fmt: skip


def test_nothing_learned_has_no_staleness():
    found = Lateness().figures()
    assert found["learned_directly"] == 0
    assert {found[name] for name in found if name.startswith("staleness")} == {None}


def test_episodes_kept_back_count_when_they_are_learned_from():
    loop = loop_of(
        Pool(lambda e: verdict(e.episode_id, 1.0) if e.episode_id % 2 else None, delay=2), Trainer([published(1)]),
        **{"feedback.late": "defer", "feedback.defer_iterations": 4},
    )  # fmt: skip
    loop.learn_to_judge()
    sample, ended = runner((2, 2)), 0
    for _ in range(12):
        rollout = sample(2)
        ended += len(rollout.episodes)
        deferring_turn(loop, rollout)
    answered = loop.lateness
    assert set(answered.direct) == {2}
    assert answered.missed + answered.direct[2] + len(loop.payer.held) == ended
    assert answered.missed > 0
    again = loop_of(Pool(), Trainer())
    again.restore(loop.state())
    assert again.lateness == answered
    assert again.lateness is not answered


# ------------------------------------------------------------------------------------------------ real runs


def run_with(folder, seconds, monitor=None, **overrides):
    """A short run whose judge takes so many seconds, as the median."""
    slow = load_profile("perfect").model_dump(mode="json") | {"latency_median_s": seconds, "latency_sigma": 0.21}
    (folder / "slow.yaml").write_text(yaml.safe_dump(slow))
    config = load_config({}, {
        "env.num_envs": 16, "policy.hidden": [8], "ppo.train_batch_size": 512, "ppo.minibatch_size": 256,
        "ppo.num_epochs": 1, "resources.env_runners": 0, "run.evaluate_episodes": 0, "run.dir": str(folder),
        "run.total_steps": 2_560, "judge.profile": str(folder / "slow.yaml"), "feedback.fraction": 1.0,
        "mix.credit": "terminal", "mix.unjudged": "task",
    } | overrides)  # fmt: skip
    return experiment.train(config, monitor=monitor).summary


@pytest.mark.ray
def test_a_direct_run_that_waits_learns_from_every_verdict(ray_session, tmp_path):
    waiting = {"mix.source": "direct", "feedback.late": "wait", "feedback.wait_s": 120.0, "feedback.concurrency": 8}
    summary = run_with(tmp_path, 0.5, **waiting)
    late = summary["lateness"]
    assert summary["labels"] == late["verdicts"] == late["learned_directly"] > 15
    assert (summary["abstained"], late["staleness_max"], late["past_deadline"]) == (0, 0, 0)
    assert summary["provenance"]["direct"] > 0.5


@pytest.mark.ray
def test_a_run_that_defers_learns_from_late_verdicts_and_says_how_late(ray_session, tmp_path):
    def until_the_pool_has_started(_):
        with LabelStore(tmp_path / "run" / "labels.sqlite", readonly=True) as store:
            deadline = time.monotonic() + 120.0
            while not store.labels() and time.monotonic() < deadline:
                time.sleep(0.05)

    deferring = {"mix.source": "direct", "feedback.late": "defer", "run.total_steps": 16 * 512,
                 "feedback.labels_per_iteration": 2}  # fmt: skip
    summary = run_with(tmp_path, 0.1, until_the_pool_has_started, **deferring)
    late = summary["lateness"]
    assert 0 < late["learned_directly"] <= late["verdicts"] <= summary["labels"] <= 32
    assert 0 < late["staleness_mean"] <= late["staleness_max"] <= 16
