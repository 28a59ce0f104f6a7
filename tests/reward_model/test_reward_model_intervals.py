"""Intervals: against published values, by how often they hold the truth, and where there is nothing to go by."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from rlaif_ray.intervals import absolute_interval, balanced_interval, bootstrap_interval, wilson, wilson_interval
from rlaif_ray.reward_model import losses


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (50, 50, 0.9287, 1)]
)
def test_wilson_interval_against_published_values(k, n, low, high):
    assert wilson_interval(k, n) == pytest.approx((low, high), abs=2e-4)


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_interval_holds_the_share(k, n):
    k = min(k, n)
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1
    theirs = binomtest(k, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-7)


def test_wilson_of_arrays_and_of_trials_that_are_no_whole_number():
    low, high = wilson(np.array([0.8, 0.8, 0.8, 0.8]), np.array([10.0, np.nan, 0.0, np.inf]))
    assert low == pytest.approx([0.4902, 0.0, 0.0, 0.8], abs=5e-5)
    assert high == pytest.approx([0.9433, 1.0, 1.0, 0.8], abs=5e-5)
    (narrow,), (middle,), (wide,) = (np.subtract(*wilson([0.3], [n])[::-1]) for n in (11.0, 10.5, 10.0))
    assert narrow < middle < wide


def test_of_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert all(math.isnan(end) for end in balanced_interval((3, 0), (4, 0)))
    assert all(math.isnan(end) for end in bootstrap_interval(losses.brier, np.zeros(0), np.zeros(0)))


def test_balanced_interval_by_hand():
    # recalls 8/10 (Wilson 0.4902 to 0.9433) and 10/10 (0.7225 to 1): middle 0.9
    low = 0.9 - math.hypot(0.8 - 0.4902, 1 - 0.7225) / 2
    high = 0.9 + math.hypot(0.9433 - 0.8, 0.0) / 2
    assert balanced_interval((8, 10), (10, 10)) == pytest.approx((low, high), abs=2e-4)
    assert balanced_interval((5, 5), (5, 5))[0] < 0.8  # five of five prove little


def test_balanced_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    good, bad = rng.binomial(60, 0.95, 2_000), rng.binomial(25, 0.8, 2_000)
    ends = [balanced_interval((int(g), int(b)), (60, 25)) for g, b in zip(good, bad, strict=True)]
    assert np.mean([low <= (0.95 + 0.8) / 2 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.02)


def test_bootstrap_interval_holds_the_truth_as_often_as_it_says_and_is_seeded():
    rng = np.random.default_rng(1)
    truth = 0.8 * 0.2**2 + 0.2 * 0.8**2  # of always saying 0.8 where 0.8 are good
    held = []
    for _ in range(120):
        target = (rng.random(80) < 0.8).astype(float)
        low, high = bootstrap_interval(losses.brier, np.full(80, 0.8), target, resamples=200)
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.88
    belief, target = rng.random(40), (rng.random(40) < 0.5).astype(float)
    ends = bootstrap_interval(losses.expected_calibration_error, belief, target)
    assert ends == bootstrap_interval(losses.expected_calibration_error, belief, target)
    assert ends[0] <= losses.expected_calibration_error(belief, target) <= ends[1]


INTERVALS = {
    "brier": lambda *a: bootstrap_interval(losses.brier, *a),
    "calibration_error": lambda *a: absolute_interval(losses.calibration_gaps, *a),
}


def test_what_no_label_showed_is_allowed_for():
    """Eight labels, all good and believed to be: three in eight may be bad for all that is known."""
    belief, target = np.full(8, 0.99), np.ones(8)
    itself, allowed = {"brier": 0.01**2, "calibration_error": 0.01}, {
        "brier": 0.01**2 + 3 / 8 * (0.99**2 - 0.01**2),
        "calibration_error": 0.99 - 5 / 8,
    }  # fmt: skip
    for name, interval in INTERVALS.items():
        low, high = interval(belief, target)
        assert low <= itself[name] + 1e-9
        assert high >= allowed[name] - 1e-9
        assert interval(np.tile(belief, 50), np.tile(target, 50))[1] < allowed[name] / 20
        assert interval(belief, np.zeros(8))[0] < 0.7  # nor is it certain that all are wrong


@pytest.mark.parametrize("n", [8, 20, 80])
@pytest.mark.parametrize(("good", "said"), [(0.99, 0.99), (0.97, 0.97), (0.9, 0.95), (0.9, 0.99)])
def test_intervals_hold_the_truth_where_labels_are_few_and_errors_rare(n, good, said):
    """All is believed ``said`` good; a share ``good`` is."""
    rng = np.random.default_rng(n)
    truth = {"brier": good * (1 - said) ** 2 + (1 - good) * said**2, "calibration_error": abs(said - good)}
    held = {name: [] for name in truth}
    for _ in range(80):
        target = (rng.random(n) < good).astype(float)
        for name, interval in INTERVALS.items():
            low, high = interval(np.full(n, said), target, 120)
            held[name].append(low - 1e-9 <= truth[name] <= high + 1e-9)
    assert {name: np.mean(each) >= 0.92 for name, each in held.items()} == dict.fromkeys(truth, True)


def test_a_calibration_error_of_none_is_held_where_beliefs_differ():
    rng, held = np.random.default_rng(2), []
    for _ in range(60):
        belief = rng.random(60)
        target = (rng.random(60) < belief).astype(float)  # each belief at its word
        held.append(absolute_interval(losses.calibration_gaps, belief, target, 120)[0] <= 0.0)
    assert np.mean(held) >= 0.92


def test_an_absolute_interval_tells_a_large_error_from_none():
    target = (np.random.default_rng(3).random(200) < 0.6).astype(float)
    low, high = absolute_interval(losses.calibration_gaps, np.full(200, 0.9), target)
    assert 0.2 < low < 0.3 < high < 0.4
    assert all(math.isnan(end) for end in absolute_interval(losses.calibration_gaps, np.zeros(0), np.zeros(0)))
