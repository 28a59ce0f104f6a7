"""Gate, step credit, normalisation and weight schedules on numbers worked by hand."""

import math

import numpy as np
import pytest
from test_mixing import BELIEF, EPISODES, VALUE, WEIGHT, batch, fragment

from rlaif_ray.config import MixConfig, load_config
from rlaif_ray.errors import ConfigError, EnvError
from rlaif_ray.mixing import check_gate, credit, feedback_weight, gate, margin_over, normalised
from rlaif_ray.types import RewardModelReport, Scale

# ------------------------------------------------------------------------------------------------ sums, discounted


def discounted(reward, gamma):
    return float((reward * gamma ** np.arange(len(reward))).sum())


def test_discounted_sums_of_every_credit_by_hand():
    """One episode of two steps that ends: beliefs 0.5, 0.6, then the verdict 1; w = 2, gamma = 0.9."""
    one, belief = batch([2], [True], [True]), np.array([0.5, 0.6, 0.8], np.float32)

    def of(kind):
        return discounted(credit(kind, one, belief, np.array([1.0]), np.array([2.0]), 0.9), 0.9)

    assert of("terminal") == pytest.approx(0.9 * 2.0)
    assert of("potential") == pytest.approx(0.9 * 2.0 - 2 * 0.5)
    assert of("redistribute") == pytest.approx(2 * 0.1 + 0.9 * 2 * 0.4)
    assert of("step") == pytest.approx(2 * 0.6 + 0.9 * 2 * 1.0)


def test_step_pays_each_state_its_belief_and_the_last_one_its_value():
    reward = credit("step", EPISODES, BELIEF, VALUE, WEIGHT, 0.9)
    assert reward == pytest.approx([2 * 0.6, 2 * 1.0, 0.7, 0.3, 0.25])


# ------------------------------------------------------------------------------------------------ normalised


def test_beliefs_and_values_are_measured_by_the_scale_of_their_episodes_version():
    one, other = Scale(end_mean=0.8, end_std=0.2, step_mean=0.6, step_std=0.1), Scale(0.5, 0.5, 0.5, 0.25)
    belief, value = normalised(BELIEF, VALUE, [one, other, other], EPISODES.lengths, "redistribute")
    assert belief == pytest.approx([-1.5, -1.0, 0.0, 0.0, 0.4, -0.2, -0.4, -0.6], abs=1e-6)
    assert value == pytest.approx([1.0, -1.0, -0.5])
    belief, value = normalised(BELIEF, VALUE, [one, other, other], EPISODES.lengths, "step")
    assert belief[:4] == pytest.approx([-1.0, 0.0, 2.0, 0.0], abs=1e-6)
    assert value[0] == pytest.approx(4.0)


def test_normalising_a_difference_changes_its_unit_alone():
    scale = [Scale(end_mean=0.7, end_std=0.25)] * 3
    belief, value = normalised(BELIEF, VALUE, scale, EPISODES.lengths, "redistribute")
    plain = credit("redistribute", EPISODES, BELIEF, VALUE, WEIGHT, 0.9)
    assert credit("redistribute", EPISODES, belief, value, WEIGHT, 0.9) == pytest.approx(plain / 0.25, abs=1e-5)


# ------------------------------------------------------------------------------------------------ gate


def homegrid(lengths, ends, task):
    """Episodes that ended (True), were cut off (False) or run (None), with their task return so far."""
    episodes = batch(lengths, [end is not None for end in ends], [end is True for end in ends])
    episodes.task_return[:] = task
    return episodes


# Found after 10 and after 40 steps, cut off twice, and one still under way.
LENGTHS, ENDS = [10, 40, 100, 100, 7], [True, True, False, False, None]
TASK_RETURN = [1 - 0.9 * 10 / 100, 1 - 0.9 * 40 / 100, 0.0, 0.0, 0.0]
YES_NO = np.array([0.9, 0.2, 0.7, 0.5, 1.0])


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"gate_truncated": 0.01}, 1 - 0.9 * 10 / 100),
        ({"gate_truncated": 0.01, "gate_penalty": 0.9, "gate_steps": 100}, 1 - 0.9 * 10 / 100),
        ({"gate_truncated": 0.1, "gate_penalty": 0.8, "gate_steps": 100}, 1 - 0.8 * 10 / 100),
    ],
)
def test_the_gated_reward_is_the_published_one(keys, found):
    """1[f > 0.5] (1 - c t / T) if found, 1[f > 0.5] R_trunc if truncated, else 0."""
    mix = MixConfig(source="distilled", credit="terminal", combine="gate", **keys)
    episodes = homegrid(LENGTHS, ENDS, TASK_RETURN)
    whole = np.array(TASK_RETURN) + gate(mix, episodes, YES_NO, np.ones(5))
    assert whole == pytest.approx([found, 0.0, keys["gate_truncated"], 0.0, 0.0], abs=1e-6)


def test_the_weight_goes_from_the_plain_task_reward_to_the_gated_one():
    mix = MixConfig(source="hybrid", credit="terminal", combine="gate", gate_truncated=0.2)
    episodes = homegrid(LENGTHS, ENDS, TASK_RETURN)
    nothing = gate(mix, episodes, YES_NO, np.zeros(5))
    half = gate(mix, episodes, YES_NO, np.full(5, 0.5))
    assert nothing.tolist() == [0] * 5
    assert half == pytest.approx([0, -0.5 * 0.64, 0.1, 0, 0], abs=1e-6)


def test_with_a_penalty_of_its_own_a_failure_that_ends_an_episode_is_no_success():
    mix = MixConfig(source="hybrid", credit="terminal", combine="gate", gate_penalty=0.5, gate_steps=10)
    episodes = homegrid([4, 4], [True, True], [0.0, 3.0])
    assert np.array([0.0, 3.0]) + gate(mix, episodes, np.ones(2), np.ones(2)) == pytest.approx([0.0, 0.8])


def test_a_world_that_pays_on_the_way_can_not_be_gated():
    zeros, ends = [[0.0], [0.0]], [[False], [True]]
    f = fragment(zeros, zeros, ends, [[False], [False]])
    f.task_reward[1] = 1.0
    check_gate(f)
    f.task_reward[0] = 0.1
    with pytest.raises(EnvError, match=r"mix\.combine: got 'gate'.*allowed there is 'add'"):
        check_gate(f)


# ------------------------------------------------------------------------------------------------ weights


def report(balanced, plain=0.9):
    return RewardModelReport(1, True, plain, 50, 0.8, balanced, 200, 0.1, 0.2)


@pytest.mark.parametrize(
    ("found", "margin"),
    [(None, 0.0), (report(0.8), 0.0), (report(0.95), 0.75), (report(1.0), 1.0), (report(math.nan, 0.9), 0.5),
     (report(math.nan, math.nan), 0.0)],
)  # fmt: skip
def test_how_far_a_version_is_above_its_gate(found, margin):
    assert margin_over(0.8, found) == pytest.approx(margin)


def test_the_margin_counts_where_the_schedule_says_so_and_multiplies_the_ramp():
    mix = MixConfig(source="hybrid", weight=2.0, ramp_steps=100)
    gated = mix.model_copy(update={"weight_schedule": "gated"})
    assert feedback_weight(50, mix, 0.5) == pytest.approx(1.0)
    assert feedback_weight(50, gated, 0.5) == pytest.approx(0.5)
    assert feedback_weight(500, gated, 0.25) == pytest.approx(0.5)


# ------------------------------------------------------------------------------------------------ refused


HYBRID = {"mix.source": "hybrid"}
GATE = HYBRID | {"mix.combine": "gate", "mix.credit": "terminal"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (HYBRID | {"mix.combine": "gate", "mix.credit": "potential"}, r"mix\.credit: got 'potential'.*'terminal'"),
        (GATE | {"mix.normalise": True}, r"mix\.normalise: got true.*'gate' is false"),
        (GATE | {"mix.weight": 2.0}, r"mix\.weight: got 2\.0.*0 to 1"),
        (GATE | {"mix.gate_penalty": 0.8}, r"mix\.gate_penalty: got 0\.8 with mix\.gate_steps None.*both"),
        (HYBRID | {"mix.gate_truncated": 0.1}, r"mix\.gate_truncated: got 0\.1.*'gate' only"),
        (HYBRID | {"mix.credit": "step", "mix.unjudged": "task"}, r"mix\.unjudged: got 'task'.*'step' is 'rm'"),
        (HYBRID | {"mix.weight_schedule": "constant", "mix.ramp_steps": 5}, r"mix\.ramp_steps: got 5.*is 0"),
        ({"mix.normalise": True}, r"mix\.normalise: got true with mix\.source 'none'.*'hybrid'"),
        ({"policy.critic_belief": True}, r"policy\.critic_belief: got true.*reward model"),
        (HYBRID | {"policy.critic_belief": True, "policy.network": "a:B"}, r"policy\.critic_belief: .*its own critic"),
        (HYBRID | {"mix.weight_schedule": "gated", "reward_model.gate_accuracy": 1.0}, r"gates below 1"),
        (HYBRID | {"mix.combine": "gated"}, r"mix\.combine: got 'gated'.*did you mean 'gate'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_what_is_allowed(keys, said):
    with pytest.raises(ConfigError, match=said):
        load_config({}, keys)


@pytest.mark.parametrize(
    "keys",
    [
        GATE | {"mix.gate_truncated": 0.1, "mix.gate_penalty": 0.8, "mix.gate_steps": 100, "mix.weight": 1.0},
        HYBRID | {"mix.credit": "step", "mix.normalise": True},
        HYBRID | {"mix.weight_schedule": "gated", "mix.ramp_steps": 100},
        {"mix.source": "direct", "mix.combine": "gate", "mix.credit": "terminal", "mix.unjudged": "task"},
        HYBRID | {"mix.credit": "terminal", "policy.critic_belief": True},
    ],
)
def test_what_makes_sense_is_taken(keys):
    load_config({}, keys)
