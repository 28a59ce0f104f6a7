"""What the feedback half of a training step asks about, and when it waits, against the small fakes of its test."""

import itertools
import time

import numpy as np
import pytest
from test_feedback_loop import (
    Pool,
    Trainer,
    abstention,
    loop_of,
    published,
    runner,
    turn,
    verdict,
)

from rlaif_ray.errors import JudgeError, JudgeRejectsKey

# ------------------------------------------------------------------------------------------------ asking


def test_an_answer_in_time_is_direct_and_a_late_one_trains_the_reward_model_only():
    trainer = Trainer([published(1)])
    loop = loop_of(Pool(lambda e: verdict(e.episode_id, 1.0), delay=1), trainer)
    sample = runner((3,))
    (mixed,), figures = turn(loop, [sample(3)], 10)
    assert mixed.counts["distilled"] == 1
    assert figures["mix"]["share_direct"] == 0
    (mixed,), figures = turn(loop, [sample(3)], 20)
    assert mixed.counts["distilled"] == 1  # the first episode's verdict is not this one's
    assert [v for _, v in trainer.added] == [1.0]
    assert figures["mix"]["staleness"] == 1


def test_late_wait_makes_every_verdict_direct_and_is_not_waited_for_where_nothing_is_out():
    pool = Pool(lambda e: verdict(e.episode_id, 1.0), delay=5)
    loop = loop_of(pool, Trainer([published(1)]), **{"feedback.late": "wait", "feedback.wait_s": 9.0})
    sample = runner((3, 4))
    mixed, _ = turn(loop, [sample(12)], 10)
    assert mixed[0].counts["direct"] == 7
    assert pool.waits
    assert max(pool.waits) <= 9.0
    waits = len(pool.waits)
    turn(loop, [runner((50,), 3)(4)], 20)  # no episode ended: nothing to wait for
    assert len(pool.waits) == waits


def test_late_wait_ends_at_its_deadline_and_when_the_run_is_to_stop():
    pool = Pool(hangs=True, delay=99)
    loop = loop_of(pool, Trainer([published(1)]), **{"feedback.late": "wait", "feedback.wait_s": 1.5})
    began = time.monotonic()
    mixed, _ = turn(loop, [runner((3,))(3)], 10)
    assert time.monotonic() - began > 1.4
    assert sum(pool.waits) < 1.51
    assert not mixed[0].learn.any()
    assert len(loop.payer.held) == 1  # its verdict is paid for: it is kept back
    loop.stopping = lambda: True
    waits = len(pool.waits)
    turn(loop, [runner((3,), 2)(3)], 10)
    assert len(pool.waits) == waits


def test_an_abstention_is_no_score():
    pool = Pool(lambda e: abstention(e.episode_id))
    scored, trainer = loop_of(pool, Trainer([published(1)])), Trainer()
    (mixed,), figures = turn(scored, [runner((3,))(3)], 10)
    assert mixed.counts["distilled"] == 1  # the reward model's score, as if never asked
    assert mixed.feedback.sum() == pytest.approx(2.0 * (0.15 - 0.0))
    assert figures["feedback"]["approval_rate"] != figures["feedback"]["approval_rate"]  # nan: nobody approved
    alone = loop_of(pool, trainer, **{"mix.credit": "terminal", "mix.unjudged": "task"})
    (mixed,), _ = turn(alone, [runner((3,))(3)], 10)
    assert mixed.counts["abstained"] == 1
    assert mixed.feedback.sum() == 0
    assert trainer.added == []
    assert alone.totals["abstained"] == 1
    dropping = loop_of(pool, Trainer(), **{"mix.credit": "terminal", "mix.unjudged": "drop"})
    (mixed,), _ = turn(dropping, [runner((3,))(3)], 10)
    assert mixed.counts["dropped"] == 1  # what a judge won't look at is not left to the task reward either
    assert not mixed.learn.any()


def test_bad_verdicts_and_good_ones_differ_and_abstentions_are_neither():
    paid = {}
    for name, answer in (
        ("good", lambda e: verdict(e.episode_id, 1.0)),
        ("bad", lambda e: verdict(e.episode_id, 0.0)),
        ("none", lambda e: abstention(e.episode_id)),
    ):
        loop = loop_of(Pool(answer), Trainer([published(1)]))
        paid[name] = float(turn(loop, [runner((3,))(3)], 10)[0][0].feedback.sum())
    assert paid["good"] == pytest.approx(2.0)
    assert paid["bad"] == pytest.approx(0.0)
    assert paid["bad"] < paid["none"] < paid["good"]


def test_a_judge_that_fails_for_good_ends_the_asking_and_not_the_training():
    pool, trainer = Pool(delay=1), Trainer([published(1)])
    loop = loop_of(pool, trainer, **{"reward_model.pace": "wait"})
    sample = runner((3,))
    turn(loop, [sample(3)], 10)
    pool.fail = JudgeRejectsKey("401")
    mixed, _ = turn(loop, [sample(3)], 20)
    assert mixed[0].counts["distilled"] == 1
    assert isinstance(loop.judge_error, JudgeError)
    assert len(pool.asked) == 2
    for step in (30, 40):
        mixed, _ = turn(loop, [sample(3)], step)
    assert len(pool.asked) == 2  # nothing was asked after it
    assert len(trainer.added) == 2  # what had been answered is used all the same
    assert not loop.holding


def test_the_limit_of_an_iteration_is_shared_by_all_runners():
    pool = Pool()
    loop = loop_of(pool, Trainer(), **{"feedback.labels_per_iteration": 4})
    runners = [runner((2, 2), i) for i in range(3)]
    for i in range(10):
        turn(loop, [sample(10) for sample in runners], i)
        assert len(pool.asked) == 4 * (i + 1)
    assert [p for _, p in pool.steps] == pytest.approx([4 / 30] * 10)
    by_runner = np.bincount([e.episode_id >> 40 for e in pool.asked])
    assert (by_runner > 4).all()  # and falls on all of them


def test_a_fraction_is_asked_with_its_inclusion_probability_and_only_in_its_window():
    pool = Pool()
    loop = loop_of(pool, Trainer(), **{"feedback.fraction": 0.25, "feedback.start_step": 10, "feedback.stop_step": 30})
    sample = runner((2,) * 8)
    for step in (0, 9, 10, 29, 30, 99):
        turn(loop, [sample(20)], step)
    assert [s for s, _ in pool.steps] == [10, 29]
    assert len(pool.asked) == 2 * 20
    assert {p for _, p in pool.steps} == {0.25}


def test_questions_that_nobody_takes_are_not_awaited():
    pool = Pool(lambda e: None, room=3)
    loop = loop_of(pool, Trainer())
    sample = runner((2,) * 4)
    _, figures = turn(loop, [sample(4)], 0)
    assert len(pool.asked) == 3
    turned_away = pool.turned_away
    assert figures["feedback"]["turned_away"] == turned_away > 0
    turn(loop, [sample(4)], 1)
    assert loop.lateness.figures()["turned_away"] == pool.turned_away > turned_away
    assert loop.asking.awaited == {}  # unanswered for good: their observations must not pile up


def test_what_is_asked_is_the_whole_episode_and_a_copy_of_it():
    pool = Pool()
    rollout = runner((5, 3))(9)
    turn(loop_of(pool, Trainer()), [rollout], 0)
    for episode in pool.asked:
        assert episode.obs[:, 1].tolist() == list(range(len(episode) + 1))
        assert not np.shares_memory(episode.obs, rollout.episodes.obs)


# ------------------------------------------------------------------------------------------------ holding


def test_hold_waits_for_answers_and_a_fit_and_ends_when_the_gate_opens():
    pool, trainer = Pool(delay=50), Trainer(when_waited=[published(1)])
    loop = loop_of(
        pool, trainer,
        **{"reward_model.pace": "wait", "reward_model.min_labels": 40, "reward_model.retrain_every": 12},
    )  # fmt: skip
    assert loop.holding
    loop.hold([runner((2,) * 4)(20)], 100)
    assert len(pool.asked) == 12  # enough for a fit, not all there is
    assert len(trainer.added) == 12
    assert loop.version == 1
    assert not loop.holding


def test_hold_does_not_ask_more_while_enough_is_in_flight():
    pool = Pool(hangs=True, delay=99)
    loop = loop_of(pool, Trainer(), **{"reward_model.pace": "wait", "reward_model.retrain_every": 12})
    sample = runner((2,) * 4)
    for _ in range(3):
        loop.hold([sample(20)], 100, deadline_s=0.05)
    assert len(pool.asked) == 12


def test_hold_hears_that_the_run_is_to_stop():
    pool = Pool(hangs=True, delay=99)
    loop = loop_of(pool, Trainer(), **{"reward_model.pace": "wait"})
    asked = itertools.count()
    loop.stopping = lambda: next(asked) > 1
    loop.hold([runner((2,) * 4)(20)], 100, deadline_s=30)
    assert 1 <= len(pool.waits) <= 2


@pytest.mark.parametrize(
    ("pace", "exhausted", "in_flight", "holds"),
    [("go", False, 0, False), ("wait", False, 0, True), ("wait", True, 3, True), ("wait", True, 0, False)],
)
def test_the_feedback_phase_is_held_only_while_an_answer_can_still_open_the_gate(pace, exhausted, in_flight, holds):
    pool = Pool(exhausted=exhausted, due=[(99, None)] * in_flight)
    assert loop_of(pool, Trainer(), **{"reward_model.pace": pace}).holding is holds


def test_an_episode_is_asked_about_once():
    pool = Pool(delay=99)
    loop = loop_of(pool, Trainer(), **{"feedback.fraction": 0.5, "reward_model.retrain_every": 500})
    rollout = runner((2,) * 4)(20)
    loop.ask([rollout], 100)
    pool.hangs = True
    loop.hold([rollout], 100, deadline_s=0.01)
    ids = [e.episode_id for e in pool.asked]
    assert len(ids) == len(set(ids)) == 40
