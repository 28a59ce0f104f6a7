"""A judge's mistakes: their rates estimated, and undone in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from meeting_world import OBS_SHAPE, meeting_batch, meeting_episodes

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.reward_model import RewardModelTrainer, losses
from rlaif_ray.reward_model.ensemble import certain
from rlaif_ray.reward_model.noise import MOST_FLIPPED, FlipRates, estimate_flips, perfect_agreement

rates = st.floats(0.0, 0.4)


def _flipped(truth, flips, seed):
    u = np.random.default_rng(seed).random(len(truth))
    return np.where(truth, u >= flips.good_as_bad, u < flips.bad_as_good).astype(np.float64)


@given(rates, rates, st.floats(0.05, 0.95))
def test_forward_correction_is_smallest_at_what_is_the_case(a, b, p):
    """Labels said of a share p of good ones are (1 - b) p + a (1 - p) good: the corrected loss still ends at p."""
    logit = torch.linspace(-6, 6, 2_401, dtype=torch.float64)
    target = torch.full_like(logit, (1 - b) * p + a * (1 - p))
    loss = losses.cross_entropies(logit, target, FlipRates(a, b))
    assert float(torch.sigmoid(logit[int(loss.argmin())])) == pytest.approx(p, abs=0.01)


def test_forward_correction_by_hand_and_without_flips():
    logit, target = torch.tensor([np.log(3.0), -2.0]), torch.tensor([1.0, 0.0])
    q = 0.9 * 0.75 + 0.2 * 0.25
    loss = losses.cross_entropies(logit, target, FlipRates(0.2, 0.1))
    assert float(loss[0]) == pytest.approx(-np.log(q))
    plain = losses.cross_entropies(logit, target)
    assert torch.equal(losses.cross_entropies(logit, target, FlipRates()), plain)
    far = losses.cross_entropies(torch.tensor([-200.0, 200.0]), torch.tensor([1.0, 0.0]), FlipRates(0.03, 0.0))
    assert torch.isfinite(far).all()
    assert float(far[0]) == pytest.approx(-np.log(0.03), abs=1e-4)  # a flipped label costs no more than that


@given(rates, rates, st.floats(0.2, 5.0))
def test_rates_under_weights_are_those_of_a_weighted_sample(a, b, ratio):
    under = FlipRates(a, b).under(ratio)
    # of the bad: a called good, weight 1; 1 - a called bad, weight ratio. Of the good the other way round.
    assert under.bad_as_good == pytest.approx(a / (a + ratio * (1 - a)))
    assert under.good_as_bad == pytest.approx(ratio * b / (ratio * b + 1 - b))
    same = FlipRates(a, b).under(1.0)
    assert (same.bad_as_good, same.good_as_bad) == pytest.approx((a, b))


@pytest.mark.parametrize("flips", [FlipRates(0.03, 0.003), FlipRates(0.15, 0.1), FlipRates(0.0, 0.2)])
def test_rates_are_found_again(flips):
    rng = np.random.default_rng(1)
    truth = rng.random(4_000) < 0.6
    belief = np.clip(np.where(truth, 0.93, 0.08) + rng.normal(0, 0.06, 4_000), 0, 1)
    belief[:20] = 1 - belief[:20]  # the model errs too, and is not sure of all
    found = estimate_flips(belief, _flipped(truth, flips, 2))
    assert found.bad_as_good == pytest.approx(flips.bad_as_good, abs=0.03)
    assert found.good_as_bad == pytest.approx(flips.good_as_bad, abs=0.03)


def test_a_model_that_learned_nothing_finds_no_more_than_it_may():
    rng = np.random.default_rng(0)
    found = estimate_flips(rng.random(500), (rng.random(500) < 0.5).astype(float))
    assert max(found.bad_as_good, found.good_as_bad) <= MOST_FLIPPED
    few = estimate_flips(np.array([0.9] * 5 + [0.1] * 5), np.array([0.0] * 5 + [1.0] * 5))
    assert not few  # too few to tell


def test_of_preferences_both_rates_are_one():
    rng = np.random.default_rng(3)
    first = rng.random(1_000) < 0.8
    belief = np.where(first, 0.95, 0.05)
    found = estimate_flips(belief, _flipped(first, FlipRates(0.3, 0.05), 4), symmetric=True)
    assert found.bad_as_good == found.good_as_bad == pytest.approx(0.1, abs=0.03)


def test_only_labels_that_claim_certainty_are_flipped_or_corrected():
    rng = np.random.default_rng(5)
    truth = rng.random(4_000) < 0.6
    belief = np.clip(np.where(truth, 0.93, 0.08) + rng.normal(0, 0.04, 4_000), 0, 1)
    certain = rng.random(4_000) < 0.5
    flips = FlipRates(0.15, 0.1)
    target = np.where(certain, _flipped(truth, flips, 6), np.where(truth, 0.8, 0.25))
    found = estimate_flips(belief, target, certain)
    assert (found.bad_as_good, found.good_as_bad) == pytest.approx((0.15, 0.1), abs=0.03)
    assert not estimate_flips(belief, np.where(truth, 0.8, 0.25), np.zeros(4_000, bool))
    logit, said = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.25, 0.0])
    plain, corrected = losses.cross_entropies(logit, said), losses.cross_entropies(logit, said, flips)
    found_E = losses.cross_entropies(logit, said, flips, torch.tensor([True, False, True]))
    assert torch.equal(found_E, torch.stack([corrected[0], plain[1], corrected[2]]))


def test_a_judge_that_says_how_sure_it_is_is_taken_at_its_word():
    """0.8 for good and 0.25 for bad, never on the wrong side: there is nothing to undo."""
    episodes, bad = meeting_episodes(200, seed=2)
    said, fits = np.where(bad, 0.25, 0.8), {}
    for noise in ("none", "estimated"):
        trainer = RewardModelTrainer(RewardModelConfig(noise=noise), OBS_SHAPE, seed=0)
        trainer.add(episodes, said.tolist())
        fits[noise] = trainer.fit().report, trainer.served.score(meeting_batch(60, seed=3)).final
    assert np.array_equal(fits["none"][1], fits["estimated"][1])
    report = fits["estimated"][0]
    assert (report.extra["flip_bad_as_good"], report.extra["flip_good_as_bad"]) == (0.0, 0.0)
    assert report.extra["temperature"] == fits["none"][0].extra["temperature"]
    assert report.extra["calibration_error"] < 0.05


def test_copies_of_a_hard_label_claim_certainty_and_a_soft_one_does_not():
    (episode, other, third), _ = meeting_episodes(3, seed=4)
    trainer = RewardModelTrainer(RewardModelConfig(), OBS_SHAPE, seed=0)
    trainer.add([episode, episode, other, third, third], [1.0, 0.0, 0.8, 1.0, 0.8])
    found = {len(one.values) + sum(one.values): sure for one, sure in _with_certainty(trainer)}
    assert found == {3.0: True, 1.8: False, 3.8: False}


def _with_certainty(trainer):
    labels = trainer.labels.in_order()
    return zip(labels, certain(labels).tolist(), strict=True)


@pytest.mark.parametrize(("flips", "share"), [(FlipRates(0.2, 0.2), 0.5), (FlipRates(0.3, 0.05), 0.9)])
def test_a_perfect_model_agrees_as_far_as_the_judge_errs(flips, share):
    truth = np.random.default_rng(8).random(200_000) < share
    said = _flipped(truth, flips, 9)
    plain, balanced = perfect_agreement(flips, float(said.mean()))
    assert plain == pytest.approx(losses.agreement(truth.astype(float), said), abs=0.005)
    assert balanced == pytest.approx(losses.balanced_accuracy(truth.astype(float), said), abs=0.005)
    assert perfect_agreement(FlipRates(0.2, 0.2), 0.5) == pytest.approx((0.8, 0.8))
    assert np.isnan(perfect_agreement(FlipRates(0.0, 0.2), 0.0)[1])


@pytest.mark.parametrize("noise", ["none", "estimated"])
def test_a_gate_shut_by_the_judge_s_mistakes_says_what_could_be_had(noise):
    episodes, bad = meeting_episodes(300, seed=6)
    trainer = RewardModelTrainer(RewardModelConfig(noise=noise), OBS_SHAPE, seed=0)
    trainer.add(episodes, _flipped(~bad, FlipRates(0.2, 0.2), 7).tolist())
    report = trainer.fit().report
    assert not report.gate_open
    assert "below the gate's 85.0%" in report.reason
    if noise == "none":
        assert "perfect" not in report.reason  # nobody has estimated anything
    else:
        said = float(report.reason.rpartition("a perfect model would get ")[2].rstrip("%)"))
        assert said == pytest.approx(80, abs=9)
