"""Credit, provenance and advantages on numbers worked by hand."""

import numpy as np
import pytest

from rlaif_ray.config import MixConfig
from rlaif_ray.errors import ShapeError
from rlaif_ray.mixing import (
    ABSTAINED,
    DIRECT,
    DISTILLED,
    DROPPED,
    TASK,
    credit,
    feedback_weight,
    generalized_advantages,
    hold_until_paid,
    provenance,
    scatter,
    standardize,
)
from rlaif_ray.types import EpisodeBatch, Fragment


def batch(lengths, complete, terminated):
    E, S = len(lengths), sum(lengths) + len(lengths)
    return EpisodeBatch(
        episode_id=np.arange(E),
        obs=np.zeros((S, 1), np.float32),
        states=None,
        actions=np.zeros(S - E, np.int64),
        obs_offsets=np.concatenate([[0], np.cumsum(np.array(lengths) + 1)]),
        task_return=np.zeros(E, np.float32),
        terminated=np.array(terminated),
        complete=np.array(complete),
        policy_version=np.zeros(E, np.int64),
    )


# Episode A: 2 steps, ends; B: 1 step, still open; C: 2 steps, cut off by time.
EPISODES = batch([2, 1, 2], [True, False, True], [True, False, False])
BELIEF = np.array([0.5, 0.6, 0.8, 0.5, 0.7, 0.4, 0.3, 0.2], np.float32)
VALUE = np.array([1.0, 0.0, 0.25])
WEIGHT = np.array([2.0, 1.0, 1.0])


def test_terminal_pays_the_value_at_the_end_and_nothing_while_open():
    assert credit("terminal", EPISODES, BELIEF, VALUE, WEIGHT, 0.9) == pytest.approx([0, 2.0, 0, 0, 0.25])


def test_redistribute_pays_differences_that_sum_to_value_minus_first_belief():
    reward = credit("redistribute", EPISODES, BELIEF, VALUE, WEIGHT, 0.9)
    assert reward == pytest.approx([2 * 0.1, 2 * (1.0 - 0.6), 0.2, -0.1, 0.25 - 0.3])
    assert reward[:2].sum() == pytest.approx(2 * (1.0 - 0.5))
    assert reward[3:].sum() == pytest.approx(0.25 - 0.4)


def test_potential_shapes_to_zero_in_a_terminal_state_and_keeps_the_belief_at_a_time_limit():
    reward = credit("potential", EPISODES, BELIEF, VALUE, WEIGHT, 0.9)
    want = [2 * (0.9 * 0.6 - 0.5), 2 * (0 - 0.6) + 2 * 1.0, 0.9 * 0.7 - 0.5, 0.9 * 0.3 - 0.4, 0.9 * 0.2 - 0.3 + 0.25]
    assert reward == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_discounted_shaping_telescopes_to_minus_the_first_belief(seed):
    """Ng et al. 1999: the shaping part sums, discounted, to -Phi_0 whatever happens, so it can't change the optimum."""
    rng = np.random.default_rng(seed)
    L, gamma = int(rng.integers(1, 30)), 0.97
    one, belief = batch([L], [True], [True]), rng.random(L + 1).astype(np.float32)
    value = np.array([rng.random()])
    shaped = credit("potential", one, belief, value, np.ones(1), gamma)
    plain = credit("terminal", one, belief, value, np.ones(1), gamma)
    assert ((shaped - plain) * gamma ** np.arange(L)).sum() == pytest.approx(-belief[0], abs=1e-5)


def test_an_episode_cut_over_two_fragments_is_paid_the_same_as_in_one():
    belief = np.array([0.5, 0.6, 0.8, 0.3], np.float32)
    whole = credit("redistribute", batch([3], [True], [True]), belief, np.array([0.9]), np.ones(1), 0.9)
    first = credit("redistribute", batch([2], [False], [False]), belief[:3], np.array([0.0]), np.ones(1), 0.9)
    into = np.zeros((2, 1), np.float32)
    scatter(whole, batch([3], [True], [True]), np.array([[0, 0, 1]]), into)
    assert first.tolist() == whole[:2].tolist()
    assert into[0, 0] == whole[2]


def test_shapes_are_checked_and_both_are_printed():
    with pytest.raises(ShapeError, match=r"\(3,\).*expected \(8,\)"):
        credit("terminal", EPISODES, BELIEF[:3], VALUE, WEIGHT, 0.9)


def test_scatter_puts_each_value_in_its_cell():
    into = np.zeros((4, 2), np.float32)
    # A's last two steps are rows 0-1 of column 0, B's one step row 3 of column 1, C's last step row 2 of column 0.
    cells = np.array([[0, 0, 2], [1, 3, 4], [0, 2, 3]])
    scatter(np.array([1, 2, 3, 4, 5], np.float32), EPISODES, cells, into)
    assert into.tolist() == [[1, 0], [2, 0], [5, 0], [0, 3]]


def test_weight_ramps_from_the_start_of_the_feedback_phase():
    mix = MixConfig(source="hybrid", weight=0.5, start_step=100, ramp_steps=200)
    assert [feedback_weight(s, mix) for s in (0, 99, 100, 200, 300, 999)] == [0, 0, 0, 0.25, 0.5, 0.5]
    assert feedback_weight(999, mix.model_copy(update={"source": "none"})) == 0
    assert feedback_weight(100, mix.model_copy(update={"ramp_steps": 0})) == 0.5


NAN = float("nan")


@pytest.mark.parametrize(
    ("source", "unjudged", "credit_", "want"),
    [
        ("hybrid", "rm", "redistribute", [DIRECT, DISTILLED, DISTILLED, TASK, ABSTAINED]),
        ("hybrid", "task", "terminal", [DIRECT, TASK, ABSTAINED, DIRECT, ABSTAINED]),
        ("hybrid", "drop", "terminal", [DIRECT, DROPPED, DROPPED, DIRECT, DROPPED]),
        ("distilled", "rm", "redistribute", [DISTILLED, DISTILLED, DISTILLED, TASK, ABSTAINED]),
        ("direct", "task", "terminal", [DIRECT, TASK, ABSTAINED, DIRECT, ABSTAINED]),
        ("none", "rm", "redistribute", [TASK, TASK, ABSTAINED, TASK, ABSTAINED]),
    ],
)
def test_provenance(source, unjudged, credit_, want):
    """Judged, not judged, abstained (all scored); judged and abstained without a reward model."""
    mix = MixConfig(source=source, unjudged=unjudged, credit=credit_)
    got = provenance(
        mix,
        verdict=np.array([1.0, NAN, NAN, 0.0, NAN]),
        abstained=np.array([False, False, True, False, True]),
        version=np.array([1, 1, 1, 0, 0]),
    )
    assert got.tolist() == want


def fragment(value, next_value, terminated, truncated):
    shape = np.array(value).shape
    zeros = np.zeros(shape, np.float32)
    return Fragment(
        obs=np.zeros((*shape, 1)), action=zeros, task_reward=zeros, terminated=np.array(terminated),
        truncated=np.array(truncated), logp=zeros, logits=np.zeros((*shape, 2)), value=np.array(value, np.float32),
        next_value=np.array(next_value, np.float32), episode_id=zeros.astype(int), step=zeros.astype(int),
        policy_version=0,
    )  # fmt: skip


def test_advantages_by_hand():
    """Column 0: ends at row 1, goes on after it; column 1: cut by time at row 0, whose final observation is worth 4."""
    f = fragment(
        [[1, 2], [3, 1], [2, 5]], [[0, 4], [0, 0], [6, 7]],
        [[False, False], [True, False], [False, False]], [[False, True], [False, False], [False, False]],
    )  # fmt: skip
    reward = np.array([[1, 1], [2, 0], [0, 1]], np.float32)
    g, lam = 0.5, 0.5
    d = np.array([[1 + g * 3 - 1, 1 + g * 4 - 2], [2 - 3, 0 + g * 5 - 1], [0 + g * 6 - 2, 1 + g * 7 - 5]])
    want = np.array([[d[0, 0] + g * lam * d[1, 0], d[0, 1]], [d[1, 0], d[1, 1] + g * lam * d[2, 1]], d[2]])
    advantage, target = generalized_advantages(f, reward, g, lam)
    assert advantage == pytest.approx(want)
    assert target == pytest.approx(want + f.value)


def test_standardize():
    out = standardize(np.array([1.0, 2.0, 3.0]))
    assert out == pytest.approx([-1.2247449, 0, 1.2247449])
    assert standardize(np.full(3, 7.0)).tolist() == [0, 0, 0]


def test_what_was_not_paid_while_an_episode_ran_is_due_with_the_first_step_of_its_last_part():
    """A: its second step lies here; B (open) and C: all of theirs do."""
    cells = np.array([[0, 0, 1], [1, 3, 4], [0, 2, 4]])
    held = hold_until_paid("redistribute", BELIEF, EPISODES, cells, 0.9)
    assert held == pytest.approx([0.5, 0.5, 0.8, 0.5, 0.7, 0.4, 0.3, 0.2])
    paid = credit("redistribute", EPISODES, held, VALUE, WEIGHT, 0.9)
    assert paid[1] == pytest.approx(2 * (1.0 - 0.5))  # all that A is due
    assert BELIEF[1] == np.float32(0.6)  # what was given is left as it is


@pytest.mark.parametrize("kept", range(1, 7))
def test_a_potential_discounts_to_the_same_wherever_an_episode_is_cut(kept):
    """Six steps, of which the last ``kept`` lie in the fragment in which the verdict came: the rest was learned from
    without. From the start it is gamma^5 v - Phi_0 in all, however it went in between."""
    gamma, belief = 0.97, np.array([0.9, 0.2, 0.7, 0.4, 0.6, 0.8, 0.3])
    one, cells = batch([6], [True], [True]), np.array([[0, 0, kept]])
    held = hold_until_paid("potential", belief, one, cells, gamma)
    paid = credit("potential", one, held, np.array([1.0]), np.array([2.0]), gamma)
    paid[: 6 - kept] = 0.0
    assert (gamma ** np.arange(6) * paid).sum() == pytest.approx(2.0 * (gamma**5 - 0.9), abs=1e-6)
