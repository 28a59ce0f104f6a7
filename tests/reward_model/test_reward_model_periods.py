"""Held-out labels by policy version: periods, the exam, the drift test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlaif_ray.reward_model import periods
from rlaif_ray.types import PeriodAccuracy


def test_periods_are_whole_versions_cut_from_the_newest_back():
    version = np.array([1, 1, 2, 3, 3, 3, 4, 9])
    assert periods.periods_of(version, 2).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert periods.periods_of(version, 3).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert periods.periods_of(version, 100).tolist() == [0] * 8
    assert periods.periods_of(np.array([5, 5, 5, 5]), 2).tolist() == [0] * 4  # one policy is one period
    assert periods.periods_of(np.zeros(0, np.int64), 2).tolist() == []


def test_what_is_left_over_joins_the_oldest():
    assert periods.periods_of(np.arange(7), 3).tolist() == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(("held_out", "length"), [(10, 20), (80, 20), (200, 50), (2_000, 100)])
def test_length_of_a_period(held_out, length):
    assert periods.period_length(held_out) == length


def test_accuracy_of_each_period_by_hand():
    belief = np.array([0.9, 0.2, 0.8, 0.1, 0.7, 0.6])
    target = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.5])
    version = np.array([1, 2, 2, 5, 6, 6])
    first, second = periods.accuracies(belief, target, version, np.array([0, 0, 0, 1, 1, 1]))
    assert first == PeriodAccuracy(1, 2, good=2, good_right=1, bad=1, bad_right=0)
    assert second == PeriodAccuracy(5, 6, good=1, good_right=1, bad=1, bad_right=1)  # the tie is neither
    assert (first.n, first.right, first.accuracy) == (3, 1, pytest.approx(1 / 3))


def test_on_policy_is_not_measurable_without_20_of_each_class():
    rare = PeriodAccuracy(7, 9, good=57, good_right=57, bad=3, bad_right=3)
    assert not rare.measurable
    assert rare.zero_error_bound == pytest.approx(3 / 60)  # the rule of three
    assert math.isnan(PeriodAccuracy(7, 9, 57, 56, 3, 3).zero_error_bound)
    assert PeriodAccuracy(7, 9, 1, 1, 0, 0).zero_error_bound == 1.0
    assert PeriodAccuracy(7, 9, 20, 20, 20, 11).measurable
    assert not PeriodAccuracy(7, 9, 200, 200, 19, 19).measurable


def test_the_rule_of_three_is_the_exact_bound_to_a_tenth():
    for n in (30, 60, 300):
        exact = 1 - 0.05 ** (1 / n)
        assert PeriodAccuracy(0, 0, n, n, 0, 0).zero_error_bound == pytest.approx(exact, rel=0.06)


def test_drift_of_one_class_is_fishers_test():
    before, newest = PeriodAccuracy(0, 3, 60, 58, 0, 0), PeriodAccuracy(4, 5, 20, 15, 0, 0)
    fisher = stats.fisher_exact([[5, 15], [2, 58]], alternative="greater").pvalue
    assert periods.drift_p([before, newest]) == pytest.approx(fisher)
    halves = [PeriodAccuracy(0, 1, 30, 29, 0, 0), PeriodAccuracy(2, 3, 30, 29, 0, 0), newest]
    assert periods.drift_p(halves) == pytest.approx(fisher)  # all periods before are one
    assert math.isnan(periods.drift_p([newest]))
    assert math.isnan(periods.drift_p([]))


def test_another_share_of_harm_is_no_drift():
    """The model errs in a fifth of the bad and in none of the good, before and now; now there is more harm."""
    before, newest = PeriodAccuracy(0, 3, 80, 80, 20, 16), PeriodAccuracy(4, 5, 10, 10, 30, 24)
    assert periods.drift_p([before, newest]) > 0.3
    naive = stats.fisher_exact([[6, 34], [4, 96]], alternative="greater").pvalue
    assert naive < 0.05
    worse = PeriodAccuracy(4, 5, 10, 10, 30, 12)
    assert periods.drift_p([before, worse]) < periods.DRIFT_LEVEL


def test_false_alarms_without_drift_are_at_most_what_is_stated():
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(2_000):
        right = rng.binomial([60, 30, 20, 8], [0.97, 0.9, 0.97, 0.9]).tolist()
        rows = [PeriodAccuracy(0, 3, 60, right[0], 30, right[1]), PeriodAccuracy(4, 5, 20, right[2], 8, right[3])]
        alarms.append(periods.drift_p(rows) < periods.DRIFT_LEVEL)
    assert np.mean(alarms) <= periods.DRIFT_LEVEL


def _held_out(counts):
    """Targets and periods of (good, bad) labels in each period, classes mixed."""
    target = np.concatenate([np.repeat([1.0, 0.0], both) for both in counts])
    period = np.repeat(np.arange(len(counts)), [sum(both) for both in counts])
    order = np.random.default_rng(0).permutation(len(target))
    return target[order], period[order]


def test_the_newest_period_alone_where_it_can_be_measured():
    target, period = _held_out([(40, 40), (20, 20)])
    exam = periods.exam_of(target, period)
    assert exam.on_policy
    assert (period[exam.index] == 1).all()
    assert len(exam.index) == 40
    assert exam.labels == "on-policy labels"


def test_where_harm_became_rare_an_anchor_of_earlier_versions_stands_in():
    target, period = _held_out([(30, 30), (90, 45), (60, 3), (80, 1)])
    exam = periods.exam_of(target, period)
    assert not exam.on_policy
    chosen, of = target[exam.index], period[exam.index]
    assert (of == 3).sum() == 81  # all of the newest
    assert (chosen == 0).sum() == 79  # all the harm there is, fewer than 100
    assert (chosen == 1).sum() == periods.ANCHOR_OF_A_CLASS
    good = [int(((of == p) & (chosen == 1)).sum()) for p in range(4)]
    assert good[3] == 80
    assert max(good[:3]) - min(good[:3]) <= 1  # in equal shares
    assert len(set(exam.index.tolist())) == len(exam.index)


def test_ties_are_no_part_of_an_exam():
    target = np.array([1.0, 0.5, 0.0, 0.5])
    assert periods.exam_of(target, np.zeros(4, np.int64)).index.tolist() == [0, 2]
