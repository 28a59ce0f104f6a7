"""Losses and measures against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlaif_ray.errors import ShapeError
from rlaif_ray.reward_model import losses
from rlaif_ray.reward_model.losses import Confusion


def test_cross_entropy_of_a_known_belief():
    # logit ln 3 is a belief of 3/4: -ln(3/4) where good, -ln(1/4) where bad, their mean at 1/2
    logit = torch.full((3,), math.log(3.0))
    target = torch.tensor([1.0, 0.0, 0.5])
    each = [-math.log(0.75), -math.log(0.25), -(math.log(0.75) + math.log(0.25)) / 2]
    for i in range(3):
        one = losses.binary_cross_entropy(logit[i : i + 1], target[i : i + 1], torch.ones(1))
        assert float(one) == pytest.approx(each[i], rel=1e-6)
    weighted = losses.binary_cross_entropy(logit, target, torch.tensor([1.0, 3.0, 0.0]))
    assert float(weighted) == pytest.approx((each[0] + 3 * each[1]) / 4, rel=1e-6)


def test_cross_entropy_is_smallest_at_a_soft_label():
    logit = torch.linspace(-4, 4, 801)
    loss = [float(losses.binary_cross_entropy(x[None], torch.tensor([0.8]), torch.ones(1))) for x in logit]
    assert float(torch.sigmoid(logit[int(np.argmin(loss))])) == pytest.approx(0.8, abs=2e-3)


def test_cross_entropy_stays_finite_far_out_and_refuses_other_shapes():
    far = losses.binary_cross_entropy(torch.tensor([-1e4, 1e4]), torch.tensor([1.0, 1.0]), torch.ones(2))
    assert float(far) == pytest.approx(5e3)
    with pytest.raises(ShapeError, match=r"\(2,\).*\(3,\)"):
        losses.binary_cross_entropy(torch.zeros(2), torch.zeros(3), torch.zeros(2))


def test_class_weights_even_out_the_classes():
    target = np.array([1.0, 1.0, 1.0, 0.0])
    weight = losses.class_weights(target, np.ones(4))
    assert weight[:3].sum() == pytest.approx(weight[3])
    assert weight.mean() == pytest.approx(1.0)


def test_class_weights_of_a_very_rare_class_are_bounded():
    weight = losses.class_weights(np.array([1.0] * 99 + [0.0]), np.ones(100))
    assert weight[99] / weight[0] == pytest.approx(losses.MOST_CLASS_WEIGHT)
    alone = losses.class_weights(np.ones(4), np.ones(4))
    assert np.allclose(alone, 1.0)


def test_mean_belief_averages_probabilities_not_logits():
    belief = losses.mean_belief(np.array([[0.0], [math.log(9.0)]]), 1.0)
    assert belief == pytest.approx([(0.5 + 0.9) / 2])
    assert losses.mean_belief(np.array([[math.log(81.0)]]), 2.0) == pytest.approx([0.9])
    assert belief.dtype == np.float32


def test_temperature_finds_how_far_logits_are_overconfident():
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, 20_000)
    target = (rng.random(20_000) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    assert losses.fit_temperature(3.0 * logit[None], target) == pytest.approx(3.0, rel=0.05)


def test_temperature_is_guarded():
    logit = np.linspace(-5, 5, 40)[None]
    apart = (logit[0] > 0).astype(np.float64)
    assert losses.fit_temperature(logit[:, :19], apart[:19]) == 1.0  # too few
    assert losses.fit_temperature(logit, np.ones(40)) == 1.0  # one class
    assert losses.TEMPERATURE_RANGE[0] < losses.fit_temperature(logit, apart) < 1.0  # separated perfectly: finite


def test_confusion_and_what_follows_from_it():
    belief = np.array([0.9, 0.8, 0.2, 0.7, 0.1, 0.6])
    target = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.5])  # the last is neither
    assert Confusion.of(belief, target) == Confusion(2, 1, 1, 1)
    assert len(Confusion.of(belief, target)) == 5
    assert losses.agreement(belief, target) == pytest.approx(3 / 5)
    assert losses.balanced_accuracy(belief, target) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert math.isnan(losses.balanced_accuracy(belief[:3], target[:3]))
    assert math.isnan(losses.agreement(belief[5:], target[5:]))


def test_brier():
    assert losses.brier(np.array([1.0, 0.5, 0.2]), np.array([1.0, 0.0, 0.0])) == pytest.approx((0 + 0.25 + 0.04) / 3)


def test_expected_calibration_error():
    # bin of 0.9: two of two right would want 1.0, gap 0.1 x 2; bin of 0.3: half right, gap 0.2 x 2
    belief, target = np.array([0.92, 0.88, 0.3, 0.3]), np.array([1.0, 1.0, 1.0, 0.0])
    assert losses.expected_calibration_error(belief, target, bins=5) == pytest.approx((0.2 + 0.4) / 4)
    assert losses.expected_calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0.0
    assert math.isnan(losses.expected_calibration_error(np.zeros(0), np.zeros(0)))


def test_clearly_worse_is_paired():
    target = np.ones(10)
    right, one_wrong, two_wrong = np.ones(10), np.ones(10), np.ones(10)
    one_wrong[0], two_wrong[:2] = 0, 0
    assert not losses.clearly_worse(one_wrong, right, target)  # one episode is luck
    assert losses.clearly_worse(two_wrong, right, target)
    assert not losses.clearly_worse(right, two_wrong, target)
    elsewhere = np.ones(10)
    elsewhere[5:7] = 0
    assert not losses.clearly_worse(two_wrong, elsewhere, target)  # two lost, two won
    assert not losses.clearly_worse(two_wrong, right, np.full(10, 0.5))  # undecided labels judge no one
