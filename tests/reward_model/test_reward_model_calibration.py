"""Calibration: graded by a temperature that doesn't know the label."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_ray.reward_model import calibration, losses


def _overconfident(n, seed, scale=4.0):
    """(1, n) logits four times too large for (n,) labels."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 1.5, n)
    target = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    return (scale * logit)[None].astype(np.float32), target


def test_folds_hold_each_class_in_equal_shares():
    fold = calibration.folds_of(np.array([1.0] * 11 + [0.0] * 23))
    for of_class in (fold[:11], fold[11:]):
        counts = np.bincount(of_class, minlength=calibration.FOLDS)
        assert counts.max() - counts.min() <= 1


def test_cross_fitted_is_not_flattered_by_its_own_labels():
    """Fitted to the labels it is graded on, a temperature looks better than it is on fresh ones; cross-fitted not."""
    own, crossed, fresh = [], [], []
    for seed in range(60):
        logit, target = _overconfident(25, seed)
        after, after_target = _overconfident(2_000, 1_000 + seed)
        temperature = losses.fit_temperature(logit, target)
        own.append(losses.brier(losses.mean_belief(logit, temperature), target))
        crossed.append(losses.brier(calibration.cross_fitted(logit, target), target))
        fresh.append(losses.brier(losses.mean_belief(after, temperature), after_target))
    assert np.mean(own) < np.mean(fresh)
    assert np.mean(crossed) >= np.mean(fresh) - 0.005


def test_a_label_has_no_say_in_its_own_grade():
    logit, target = _overconfident(100, 0)
    before = calibration.cross_fitted(logit, target)
    logit_other = logit.copy()
    logit_other[:, :] = logit
    target_other = target.copy()
    fold = calibration.folds_of(target)
    inside = np.flatnonzero((fold == 0) & (target == 1))[:1]
    target_other[inside] = 0.6  # the same class, another label
    after = calibration.cross_fitted(logit_other, target_other)
    assert after[inside] == before[inside]
    assert (after[fold != 0] != before[fold != 0]).all()


def test_labels_that_had_no_say_are_taken_where_there_are_enough():
    logit, target = _overconfident(60, 0)
    unknown = np.zeros(60, bool)
    assert calibration.graded(logit, target, 4.0, unknown).how == "cross-fitted temperature"
    unknown[:25] = True
    own = calibration.graded(logit, target, 4.0, unknown)
    assert "had no say" in own.how
    assert np.array_equal(own.belief, losses.mean_belief(logit[:, :25], 4.0))
    assert np.array_equal(own.target, target[:25])


def test_reliability_curve_by_hand():
    belief = np.array([0.95, 0.91, 0.32, 0.38, 1.0])
    target = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    low, high = calibration.reliability(belief, target)
    assert (low.belief, low.label, low.n) == (pytest.approx(0.35), 0.5, 2)
    assert (high.belief, high.label, high.n) == (pytest.approx(2.86 / 3), pytest.approx(2 / 3), 3)
    error = sum(b.n / 5 * abs(b.belief - b.label) for b in (low, high))
    assert losses.expected_calibration_error(belief, target) == pytest.approx(error)
    assert calibration.reliability(np.zeros(0), np.zeros(0)) == ()
