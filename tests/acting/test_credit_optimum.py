"""What each credit does to the best policy, on a small world solved exactly.

The world: two ways to a goal. One goes by a state that a reward model takes for promising, is a step longer and pays
the task a little less; the verdict at the end doesn't care which way was taken.
"""

import numpy as np
import pytest
from test_mixing import batch

from rlaif_ray.mixing import credit

# state -> action -> next state; GOAL ends the episode. From START, action 0 goes by LURE and action 1 by PLAIN.
START, LURE, DETOUR, PLAIN, GOAL = range(5)
MOVES = {START: [LURE, PLAIN], LURE: [DETOUR, LURE], DETOUR: [GOAL, LURE], PLAIN: [GOAL, START]}
BELIEF = {START: 0.5, LURE: 0.95, DETOUR: 0.95, PLAIN: 0.5, GOAL: 0.9}
VERDICT = 1.0
TASK = {DETOUR: 0.9, PLAIN: 1.0}  # of arriving, by where from


def rewards(kind, gamma, weight):
    """Reward of each transition: what ``credit`` pays an episode's step from one state to the next."""
    found = {}
    for state, nexts in MOVES.items():
        for action, after in enumerate(nexts):
            ends = after == GOAL
            one = batch([1], [ends], [ends])
            paid = credit(
                kind, one, np.array([BELIEF[state], BELIEF[after]]), np.array([VERDICT]), np.array([weight]), gamma
            )
            found[state, action] = float(paid[0]) + (TASK[state] if ends else 0.0)
    return found


def action_values(kind, gamma, weight):
    """Q* by value iteration to the fixed point."""
    reward, value = rewards(kind, gamma, weight), np.zeros(5)
    for _ in range(2_000):
        q = {s: [reward[s, a] + gamma * value[n] for a, n in enumerate(nexts)] for s, nexts in MOVES.items()}
        value = np.array([max(q[s]) if s in q else 0.0 for s in range(5)])
    return q


def best(kind, gamma, weight=1.0):
    return {s: int(np.argmax(q)) for s, q in action_values(kind, gamma, weight).items()}


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("weight", [0.3, 1.0, 5.0])
def test_potential_leaves_the_best_policy_and_every_preference_among_actions_as_they_are(gamma, weight):
    """Ng et al. 1999: Q*(s, a) changes by -w Phi(s), the same for all actions."""
    plain, shaped = action_values("terminal", gamma, weight), action_values("potential", gamma, weight)
    for state in MOVES:
        assert np.subtract(shaped[state], plain[state]) == pytest.approx([-weight * BELIEF[state]] * 2, abs=1e-6)
    assert best("potential", gamma, weight) == best("terminal", gamma, weight)


def test_redistribute_with_a_discount_is_lured_and_without_one_is_not():
    """It pays what the belief rises by at once, and a discount makes being paid early worth a detour; the nearer it is
    to 1, the less."""
    assert best("terminal", 0.9, weight=5.0)[START] == 1
    assert [best("redistribute", g, weight=5.0)[START] for g in (0.8, 0.9, 0.99, 0.999)] == [0, 0, 1, 1]


def test_what_the_lure_is_worth_shrinks_with_the_discount():
    """How much more redistribute than terminal thinks of going by LURE rather than by PLAIN."""
    bias = []
    for gamma in (0.9, 0.99, 0.999):
        lured, plain = action_values("redistribute", gamma, 1.0), action_values("terminal", gamma, 1.0)
        bias.append(np.subtract(*lured[START]) - np.subtract(*plain[START]))
    assert bias[0] > bias[1] > bias[2] > 0
    assert bias[2] < 0.01
