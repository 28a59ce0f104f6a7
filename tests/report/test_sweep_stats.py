"""The statistics of a sweep, on numbers worked by hand and on what must always hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif_ray.report.sweep_stats import (
    interquartile_mean,
    marginal,
    paired_gain,
    pareto_front,
    stratified_iqm,
)


def test_the_interquartile_mean_leaves_a_quarter_out_at_each_end() -> None:
    assert interquartile_mean(np.array([0.0, 10.0, 20.0, 30.0, 1000.0])) == 20.0
    assert interquartile_mean(np.arange(8.0)) == 3.5  # 2, 3, 4, 5
    assert interquartile_mean(np.array([5.0, math.nan])) == 5.0
    assert math.isnan(interquartile_mean(np.zeros(0)))


def test_an_interval_is_resampled_within_strata() -> None:
    """Two arms far apart, each without spread: resampling across them would see a spread that there isn't."""
    within = stratified_iqm([np.full(5, 10.0), np.full(5, 90.0)])
    assert (within.value, within.low, within.high, within.n) == (50.0, 50.0, 50.0, 10)
    across = stratified_iqm([np.repeat([10.0, 90.0], 5)])
    assert across.value == 50.0
    assert across.high - across.low > 30


def test_one_run_has_no_interval() -> None:
    one = stratified_iqm([np.array([42.0, math.nan])])
    assert (one.value, one.n) == (42.0, 1)
    assert math.isnan(one.low)
    none = stratified_iqm([])
    assert none.n == 0
    assert math.isnan(none.value)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Twelve seeds of a normal outcome: the true middle lies within some nineteen of twenty intervals (bootstrap
    intervals of so few are somewhat too narrow)."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        found = stratified_iqm([rng.normal(50.0, 5.0, 12)])
        hits += found.low <= 50.0 <= found.high
    assert 0.85 <= hits / 200 <= 0.99


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.0, 100.0), min_size=2, max_size=12))
def test_the_value_lies_within_its_interval_and_both_within_the_data(values: list[float]) -> None:
    found = stratified_iqm([np.array(values)])
    assert min(values) - 1e-9 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= max(values) + 1e-9


def test_pairs_are_compared_with_their_own() -> None:
    """Seeds differ by much, the arms by one point each time: paired, that shows."""
    before = np.array([10.0, 50.0, 90.0, math.nan])
    gain = paired_gain(before, before + np.array([1.0, 1.2, 0.8, 5.0]))
    assert gain.value == pytest.approx(1.0)
    assert gain.low == pytest.approx(1.0 - 4.3027 * 0.2 / math.sqrt(3), abs=1e-3)  # a table's t, 2 degrees of freedom
    assert gain.n == 3
    assert paired_gain(np.array([math.nan]), np.array([1.0])).n == 0


@pytest.mark.parametrize("seeds", [3, 5])
def test_few_pairs_get_an_interval_that_holds_what_it_says(seeds: int) -> None:
    rng = np.random.default_rng(1)
    found = [paired_gain(np.zeros(seeds), rng.normal(size=seeds)) for _ in range(600)]
    covered = sum(one.low <= 0.0 <= one.high for one in found) / len(found)
    assert 0.93 <= covered <= 0.97


def test_the_front_is_what_nothing_beats() -> None:
    cost = np.array([0.0, 5.0, 5.0, 10.0, 20.0, 1.0])
    quality = np.array([40.0, 80.0, 70.0, 79.0, 95.0, math.nan])
    assert pareto_front(cost, quality).tolist() == [True, True, False, False, True, False]
    assert pareto_front(np.array([3.0, 3.0]), np.array([5.0, 5.0])).tolist() == [True, True]  # neither is better


def test_one_more_point_costs_the_extra_over_the_gain() -> None:
    cost = (np.full(4, 100.0), np.full(4, 300.0))
    quality = (np.array([80.0, 81.0, 79.0, 80.0]), np.array([90.0, 90.0, 90.0, 90.0]))
    step = marginal(cost, quality)
    assert step.more == 200.0
    assert step.price == pytest.approx(20.0)  # 200 labels for 10 points
    assert step.dearest > step.price
    nothing = marginal(cost, (quality[0], quality[0] + np.array([5.0, -5.0, 4.0, -4.0])))
    assert math.isnan(nothing.price)  # a difference that may be none has no price
    assert nothing.dearest == math.inf
