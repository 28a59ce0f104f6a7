"""Learning from which of two is preferred."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from meeting_world import OBS_SHAPE, meeting_episodes

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import ShapeError
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer, losses
from rlaif_ray.types import EpisodeBatch

CONFIG = RewardModelConfig(min_labels=40, retrain_every=20)


def pairs_of(n, seed):
    """Pairs of episodes and which is preferred by who tells good from bad: 1, 0, or a half where it can't."""
    episodes, bad = meeting_episodes(2 * n, seed)
    pairs = list(zip(episodes[::2], episodes[1::2], strict=True))
    values = [0.5 + 0.5 * (float(b) - float(a)) for a, b in zip(bad[::2], bad[1::2], strict=True)]
    return pairs, values


def test_bradley_terry_by_hand():
    first, second = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0])
    loss = losses.bradley_terry(first, second, torch.tensor([1.0, 0.5]), torch.ones(2))
    cross_entropy = (math.log1p(math.exp(-1.0)) + math.log(2.0)) / 2
    assert loss.item() == pytest.approx(cross_entropy + losses.ANCHOR * 1.5**2 / 2, rel=1e-5)
    with pytest.raises(ShapeError):
        losses.bradley_terry(first, second, torch.ones(3), torch.ones(2))


def test_preferences_teach_what_is_bad():
    pairs, values = pairs_of(250, seed=0)
    trainer = RewardModelTrainer(CONFIG, OBS_SHAPE, seed=0)
    (published,) = trainer.learn(pairs, values)
    report = published.report
    assert report.gate_open
    assert report.train_n + report.heldout_n <= 250
    episodes, bad = meeting_episodes(600, seed=77)
    belief = RewardModel.from_state(published.state).score(EpisodeBatch.pack(episodes)).final
    assert belief[~bad].min() > np.quantile(belief[bad], 0.95)
    # Logits lie around 0: a half is amidst what was seen, so that "good" reads as such.
    assert (belief[~bad] > 0.5).mean() > 0.9
    assert (belief[bad] < 0.5).mean() > 0.9


def test_coin_tosses_leave_the_gate_shut():
    pairs, _ = pairs_of(200, seed=1)
    values = np.random.default_rng(0).integers(0, 2, len(pairs)).astype(float).tolist()
    trainer = RewardModelTrainer(CONFIG, OBS_SHAPE, seed=0)
    trainer.add(pairs, values)
    published = trainer.fit()
    assert not published.report.gate_open
    assert published.state is None


def test_two_episodes_are_one_label_whichever_comes_first():
    (one, other, *_), _ = meeting_episodes(3, seed=3)
    trainer = RewardModelTrainer(CONFIG, OBS_SHAPE, seed=0)
    trainer.add([(one, other), (other, one)], [1.0, 0.0])
    assert len(trainer) == 1
    (known,) = trainer.labels.in_order()
    assert known.value in (0.0, 1.0)  # both said the same
    trainer.add([(one, one)], [0.5])
    assert len(trainer) == 1  # nothing to be learned of what looks the same
    with pytest.raises(ShapeError, match="another number of episodes"):
        trainer.add([one], [1.0])


def test_an_ensemble_says_how_far_it_disagrees():
    episodes, bad = meeting_episodes(120, seed=5)
    batch = EpisodeBatch.pack(episodes)
    trainer = RewardModelTrainer(CONFIG.model_copy(update={"ensemble": 3}), OBS_SHAPE, seed=0)
    trainer.add(episodes, (~bad).astype(float).tolist())
    scores = RewardModel.from_state(trainer.fit().state).score(batch)
    assert scores.spread.shape == scores.belief.shape
    assert (scores.spread >= 0).all()
    assert scores.spread.max() > 0.01
    assert RewardModel.create(CONFIG, OBS_SHAPE, 0).score(batch).spread is None
