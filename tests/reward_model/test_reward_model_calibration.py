"""Calibration: graded by a temperature that doesn't know the label."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer, calibration, losses
from rlaif_ray.types import Episode, EpisodeBatch


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


# ------------------------------------------------------------------------------------------ Platt


def test_platt_finds_slope_and_offset():
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1.5, 40_000)
    target = (rng.random(40_000) < special.expit(logit / 3.0 + 1.2)).astype(float)
    assert losses.fit_platt(logit[None], target) == pytest.approx((3.0, 1.2), rel=0.05)
    soft = special.expit(logit / 3.0 + 1.2)
    assert losses.fit_platt(logit[None], soft) == pytest.approx((3.0, 1.2), rel=0.02)


def test_platt_is_guarded():
    logit, apart = np.linspace(-4, 4, 40)[None], (np.arange(40) >= 20).astype(float)
    assert losses.fit_platt(logit[:, :19], apart[:19]) == (1.0, 0.0)  # too few
    assert losses.fit_platt(logit, np.ones(40)) == (1.0, 0.0)  # one class
    temperature, offset = losses.fit_platt(logit, apart)  # separated perfectly: finite
    assert losses.TEMPERATURE_RANGE[0] <= temperature < 1.0
    assert abs(offset) < 0.5


def test_platt_is_cross_fitted_as_a_temperature_is():
    logit, target = _overconfident(60, 0)
    unknown = np.zeros(60, bool)
    crossed = calibration.graded(logit, target, 4.0, unknown, 1.0, "platt")
    assert crossed.how == "cross-fitted slope and offset"
    inside = calibration.folds_of(target) == 0
    T, b = losses.fit_platt(logit[:, ~inside], target[~inside])
    assert np.array_equal(crossed.belief[inside], losses.mean_belief(logit[:, inside], T, b))
    unknown[:25] = True
    own = calibration.graded(logit, target, 4.0, unknown, 1.0, "platt")
    assert np.array_equal(own.belief, losses.mean_belief(logit[:, :25], 4.0, 1.0))


def _rarely_bad(n, seed):
    """Episodes of two features that overlap, some 5 % of which are bad."""
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.05
    obs = rng.normal(0, 1, (n, 2, 2)) + np.where(bad, 1.0, 0.0)[:, None, None]
    return [Episode(i, one.astype(np.float32), None, np.zeros(1), 0.0, True, 0) for i, one in enumerate(obs)], 1.0 - bad


def test_an_offset_mends_beliefs_that_lean_towards_a_rare_class(tmp_path):
    labelled, (fresh, truth) = _rarely_bad(1_000, 1), _rarely_bad(3_000, 2)
    batch, off, error = EpisodeBatch.pack(fresh), {}, {}
    for how in ("temperature", "platt"):
        config = RewardModelConfig(calibrate=how, holdout=0.4, gate_accuracy=0.3, epochs=10)
        trainer = RewardModelTrainer(config, (2,), seed=0)
        trainer.add(labelled[0], labelled[1].tolist())
        report = trainer.fit().report
        belief = trainer.served.score(batch).final
        off[how] = abs(float(belief.mean() - truth.mean()))
        error[how] = losses.expected_calibration_error(belief, truth)
        assert ("offset" in report.extra) == (how == "platt")
    assert off["temperature"] > 0.05
    assert off["platt"] < 0.03
    assert error["platt"] < error["temperature"] / 2
    model = trainer.served
    assert model.offset > 0.5
    model.save(tmp_path / "model.npz")
    for again in (RewardModel.load(tmp_path / "model.npz"), RewardModel.from_state(model.state())):
        assert np.array_equal(again.score(batch).final, belief)
    older = {k: v for k, v in model.state().items() if k != "offset"}
    older["config"] = {k: v for k, v in older["config"].items() if k != "calibrate"}
    before = RewardModel.from_state(older)
    assert (before.offset, before.config.calibrate) == (0.0, "temperature")


def test_of_two_episodes_no_offset_is_learned():
    episodes, _ = _rarely_bad(400, 3)
    trainer = RewardModelTrainer(RewardModelConfig(calibrate="platt"), (2,), seed=0)
    pairs = list(zip(episodes[::2], episodes[1::2], strict=True))
    trainer.add(pairs, [float(a.obs.sum() < b.obs.sum()) for a, b in pairs])
    trainer.fit()
    assert trainer.candidate.offset == 0.0
    assert trainer.candidate.temperature != 1.0
