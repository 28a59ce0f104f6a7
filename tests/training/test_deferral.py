"""``late: defer``: an asked episode's last part is learned from once, later, with its verdict or at its deadline."""

from dataclasses import replace

import numpy as np
import pytest
from test_feedback_loop import Pool, Trainer, abstention, loop_of, published, runner, verdict

from rlaif_ray.mixing import generalized_advantages
from rlaif_ray.types import Judged


def turn(loop, rollout, step=1000):
    loop.ask([rollout], step)
    loop.learn_to_judge()
    mixed = loop.mix(rollout, step)
    released = loop.release()
    return mixed, released, loop.end_iteration(step)


def deferring(answer, delay, **overrides):
    loop = loop_of(Pool(answer, delay=delay), Trainer([published(1)]), **{"feedback.late": "defer"} | overrides)
    loop.learn_to_judge()
    return loop


@pytest.mark.parametrize("delay", [1, 3])
def test_every_step_is_learned_from_exactly_once_and_pays_the_verdict(delay):
    loop = deferring(lambda e: verdict(e.episode_id, 0.75), delay)
    sample = runner((5, 3, 8))
    learned, paid, ended = {}, {}, []
    for _ in range(12):
        rollout = sample(4)
        mixed, released, _ = turn(loop, rollout)
        ended += rollout.episodes.episode_id.tolist()
        for fragment, one in [(rollout.fragment, mixed), *released]:
            for i, step, reward in zip(
                fragment.episode_id[one.learn], fragment.step[one.learn], one.feedback[one.learn], strict=True
            ):
                assert (int(i), int(step)) not in learned
                learned[int(i), int(step)] = True
                paid[int(i)] = paid.get(int(i), 0.0) + float(reward)
    whole = [i for i in ended if i not in {h.episode_id for h in loop.payer.held}]
    assert len(whole) > 10
    for i in whole:
        assert paid[i] == pytest.approx(2.0 * 0.75, abs=1e-5)
    assert loop.totals["direct"] == len(whole)
    assert loop.totals["distilled"] == 0


def test_a_verdict_that_never_comes_is_replaced_by_the_score_at_the_deadline():
    loop = deferring(lambda e: None, 10**6, **{"feedback.defer_iterations": 2})
    sample = runner((4,))
    _, released, figures = turn(loop, sample(4))
    assert released == []
    assert figures["mix"]["share_distilled"] == 0
    assert turn(loop, sample(3))[1] == []
    _, released, figures = turn(loop, sample(3))
    ((fragment, one),) = released
    assert fragment.shape == (4, 1)
    assert one.feedback.sum() == pytest.approx(2.0 * 0.05 * 4)  # belief after four steps less the first
    assert one.counts["distilled"] == 1
    assert figures["mix"]["deferred_iterations"] == 2


def test_an_abstention_releases_the_part_and_is_no_score():
    loop = deferring(lambda e: abstention(e.episode_id), 1)
    sample = runner((4,))
    turn(loop, sample(4))
    _, released, _ = turn(loop, sample(1))
    assert released[0][1].counts["distilled"] == 1
    assert loop.totals["direct"] == 0


def test_what_is_released_keeps_what_the_acting_policy_said():
    loop = deferring(lambda e: verdict(e.episode_id, 1.0), 1)
    sample = runner((6,))
    first = sample(4)
    turn(loop, first)
    second = sample(4)
    mixed, _, _ = turn(loop, second)
    assert mixed.learn[:, 0].tolist() == [False, False, True, True]
    ((fragment, one),) = turn(loop, sample(1))[1]
    assert np.array_equal(fragment.obs, second.fragment.obs[:2])
    assert np.array_equal(fragment.logp, second.fragment.logp[:2])
    assert fragment.policy_version == second.fragment.policy_version
    advantage, _ = generalized_advantages(fragment, one.reward, 0.9, 0.8)
    assert advantage[1, 0] == pytest.approx(one.reward[1, 0])  # it ends there: nothing is bootstrapped


def test_parts_kept_back_survive_a_checkpoint_and_take_the_verdict_that_came_meanwhile():
    loop = deferring(lambda e: None, 10**6)
    sample = runner((4,))
    rollout = sample(4)
    turn(loop, rollout)
    episode = rollout.episodes[0]
    again = deferring(lambda e: None, 10**6)
    again.restore(loop.state(), [Judged(episode, 1.0)])
    ((_, one),) = again.release()
    assert one.counts["direct"] == 1
    assert one.feedback.sum() == pytest.approx(2.0)


def test_a_part_kept_back_is_never_paid_by_the_verdict_of_another_life_on_the_same_id():
    """A run that was killed gives ids again: what was asked about it then was another episode, of another policy."""
    loop = deferring(lambda e: None, 10**6)
    rollout = runner((4,))(4)
    turn(loop, rollout)
    other = replace(rollout.episodes[0], policy_version=rollout.episodes[0].policy_version + 7)
    again = deferring(lambda e: None, 10**6)
    again.restore(loop.state(), [Judged(other, 1.0)])
    ((_, one),) = again.release()
    assert one.counts["direct"] == 0
