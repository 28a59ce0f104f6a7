"""What the feedback half of a training step pays, and what it leaves out, against the small fakes of its test."""

import numpy as np
import pytest
from test_feedback_loop import Pool, Trainer, loop_of, published, runner, turn, verdict

from rlaif_ray.errors import ConfigError

# ------------------------------------------------------------------------------------------------ paying


def paid_by_episode(rollouts, mixed):
    """Feedback paid to every episode, over all fragments."""
    sums = {}
    for rollout, one in zip(rollouts, mixed, strict=True):
        for i in np.unique(rollout.fragment.episode_id):
            sums[int(i)] = sums.get(int(i), 0.0) + float(one.feedback[rollout.fragment.episode_id == i].sum())
    return sums


@pytest.mark.parametrize("T", [1, 2, 3, 7, 11])
@pytest.mark.parametrize("unjudged", ["rm", "task", "drop"])
def test_what_an_episode_is_paid_sums_to_verdict_minus_first_belief_however_it_is_cut(T, unjudged):
    loop = loop_of(Pool(lambda e: verdict(e.episode_id, 0.75)), Trainer([published(1)]), **{"mix.unjudged": unjudged})
    loop.learn_to_judge()
    sample = runner((5, 3, 8))
    rollouts = [sample(T) for _ in range(40 // T)]
    mixed = [turn(loop, [r], 1000)[0][0] for r in rollouts]
    paid = paid_by_episode(rollouts, mixed)
    finished = [int(i) for r in rollouts for i in r.episodes.episode_id]
    assert len(finished) > 10
    for i in finished:
        assert paid[i] == pytest.approx(2.0 * (0.75 - 0.0), abs=1e-5)
    for rollout, one in zip(rollouts, mixed, strict=True):
        assert one.reward == pytest.approx(rollout.fragment.task_reward + one.feedback)
        assert one.learn.all()


def test_weight_and_version_stay_what_they_were_when_the_episode_began():
    """The ramp goes on and a new version comes out while an episode runs; the next episode gets both."""
    trainer = Trainer([published(1)])
    loop = loop_of(
        Pool(lambda e: None), trainer, **{"mix.ramp_steps": 100, "mix.weight": 1.0, "run.total_steps": 10_000}
    )
    sample = runner((6,))
    turn(loop, [sample(6)], 0)  # an episode that began at weight 0 is the task's alone
    one, two = sample(3), sample(3)
    first = turn(loop, [one], 50)[0][0]
    trainer.publish = [published(2)]
    second = turn(loop, [two], 100)[0][0]
    assert loop.version == 2
    assert first.feedback[:, 0] == pytest.approx([0.5 * 0.05] * 3)
    assert second.feedback[:, 0] == pytest.approx([0.5 * 0.05] * 3)  # of version 1, at half weight, to its end
    third = turn(loop, [sample(3)], 100)[0][0]
    assert third.feedback[:, 0] == pytest.approx([0.05] * 3)  # full weight from here
    assert set(loop._scorers) == {2}


def test_versions_are_kept_as_long_as_an_episode_is_scored_by_them_and_no_longer():
    trainer = Trainer([published(1)])
    loop = loop_of(Pool(lambda e: None), trainer)
    long, short = runner((40,), 1), runner((2,), 2)
    turn(loop, [long(2), short(2)], 10)
    for version in range(2, 7):
        trainer.publish = [published(version)]
        turn(loop, [long(2), short(2)], 10)
        assert set(loop._scorers) == {1, version}
    assert set(loop.state()["scorers"]) == {1, 6}


def test_a_question_says_which_reward_model_was_in_use():
    pool, trainer = Pool(), Trainer()
    loop = loop_of(pool, trainer)
    sample = runner((3,))
    turn(loop, [sample(3)], 10)
    trainer.publish = [published(4)]
    turn(loop, [sample(3)], 10)
    turn(loop, [sample(3)], 10)
    assert pool.versions == [0, 0, 4]


def test_pins_of_runners_that_died_are_forgotten_in_the_end():
    loop = loop_of(Pool(lambda e: None), Trainer([published(1)]))
    turn(loop, [runner((400,), 1)(2)], 10)
    survivor = runner((4,), 2)
    for _ in range(110):
        turn(loop, [survivor(1)], 10)
    assert len(loop.payer.pins) <= 1


@pytest.mark.parametrize("credit", ["redistribute", "potential", "terminal"])
@pytest.mark.parametrize("source", ["distilled", "hybrid"])
def test_ramp_starts_when_there_is_something_to_pay_with(credit, source):
    trainer = Trainer()
    loop = loop_of(
        Pool(lambda e: None), trainer,
        **{"mix.source": source, "mix.credit": credit, "mix.start_step": 100, "mix.ramp_steps": 100,
           "run.total_steps": 10_000},
    )  # fmt: skip
    sample = runner((3,))
    assert turn(loop, [sample(3)], 50)[1]["mix"]["weight"] == 0
    turn(loop, [sample(3)], 500)
    verdicts_alone = source == "hybrid" and credit == "terminal"
    assert loop.payer.ramp_from == (500 if verdicts_alone else None)
    trainer.publish = [published(1)]
    turn(loop, [sample(3)], 600)
    assert loop.payer.ramp_from == (500 if verdicts_alone else 600)
    assert turn(loop, [sample(3)], 650)[1]["mix"]["weight"] == pytest.approx(2.0 if verdicts_alone else 1.0)


def test_before_the_gate_opens_nothing_is_paid_and_nothing_counts_as_feedback():
    loop = loop_of(Pool(), Trainer([published(1, gate_open=False)]))
    sample = runner((3, 5))
    mixed, figures = turn(loop, [sample(15)], 10)
    assert (mixed[0].feedback == 0).all()
    assert mixed[0].counts["task"] == 8
    assert loop.version == 0
    assert figures["rm"]["gate_open"] == 0
    assert figures["feedback"]["asked"] == 8


def test_a_gate_that_shuts_and_opens_again_needs_no_new_version():
    trainer = Trainer([published(1)])
    loop = loop_of(Pool(lambda e: None), trainer)
    sample = runner((3,))
    turn(loop, [sample(3)], 10)
    for gate_open, version in ((False, 0), (True, 1)):
        trainer.publish = [published(1, gate_open=gate_open, state=False)]
        turn(loop, [sample(3)], 10)
        assert loop.version == version


# ------------------------------------------------------------------------------------------------ dropping


@pytest.mark.parametrize(("source", "credit"), [("direct", "terminal"), ("hybrid", "redistribute")])
def test_drop_leaves_out_the_unjudged_and_nothing_else(source, credit):
    pool = Pool(lambda e: verdict(e.episode_id, 1.0) if e.episode_id % 2 else None)
    trainer = Trainer([published(1)]) if source == "hybrid" else None
    loop = loop_of(pool, trainer, **{"mix.source": source, "mix.credit": credit, "mix.unjudged": "drop"})
    rollout = runner((3, 4, 5))(11)
    (mixed,), figures = turn(loop, [rollout], 10)
    kept = np.isin(rollout.fragment.episode_id, [i for i in rollout.episodes.episode_id if i % 2])
    still_open = np.isin(rollout.fragment.episode_id, rollout.open.episode_id)
    assert np.array_equal(mixed.learn, kept | still_open)
    assert 0 < kept.sum() < kept.size
    assert figures["mix"]["dropped_steps"] == (~mixed.learn).sum()
    assert mixed.counts["dropped"] == sum(int(i) % 2 == 0 for i in rollout.episodes.episode_id)


def test_nothing_is_dropped_in_the_task_phase():
    loop = loop_of(
        Pool(lambda e: None), None,
        **{"mix.source": "direct", "mix.credit": "terminal", "mix.unjudged": "drop", "mix.start_step": 100},
    )  # fmt: skip
    assert turn(loop, [runner((3,))(9)], 50)[0][0].learn.all()


def test_distilled_scores_everything_so_unjudged_can_not_say_otherwise():
    with pytest.raises(ConfigError, match=r"mix\.unjudged: got 'task'.*'distilled' is 'rm'"):
        loop_of(Pool(), Trainer(), **{"mix.source": "distilled", "mix.unjudged": "task"})
