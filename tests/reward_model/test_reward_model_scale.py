"""A version's scale: measured when it is published, carried in its state, never changed after."""

import numpy as np
import pytest
from meeting_world import OBS_SHAPE, meeting_episodes, noisy_verdicts

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import ShapeError
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer
from rlaif_ray.reward_model.losses import LEAST_STD, scale_of
from rlaif_ray.types import EpisodeBatch, Scale


def test_mean_and_deviation_by_hand_and_a_floor_under_what_hardly_differs():
    scale = scale_of(np.array([0.0, 1.0, 0.5, 0.5]), np.array([0.9, 0.9]))
    assert (scale.step_mean, scale.step_std) == pytest.approx((0.5, np.sqrt(0.125)))
    assert (scale.end_mean, scale.end_std) == pytest.approx((0.9, LEAST_STD))
    with pytest.raises(ShapeError, match="standard deviations 0"):
        Scale(end_std=0.0)


def test_a_published_version_carries_the_scale_of_the_labelled_episodes_and_keeps_it():
    episodes, bad = meeting_episodes(120, seed=0)
    config = RewardModelConfig(min_labels=40, retrain_every=20, gate_accuracy=0.6)
    trainer = RewardModelTrainer(config, OBS_SHAPE, seed=0)
    verdicts = noisy_verdicts(bad, 0).tolist()
    trainer.add(episodes[:80], verdicts[:80])
    state = trainer.fit().state
    model = RewardModel.from_state(state)
    scores = model.score(EpisodeBatch.pack(episodes[:80]))
    assert model.scale.end_mean == pytest.approx(scores.final.mean(), abs=1e-5)
    assert model.scale.end_std == pytest.approx(scores.final.std(), abs=1e-5)
    assert model.scale.step_mean == pytest.approx(scores.belief.mean(), abs=1e-5)
    trainer.add(episodes[80:], verdicts[80:])
    trainer.fit()
    assert RewardModel.from_state(state).scale == model.scale


def test_a_state_from_before_there_were_scales_has_the_plain_one():
    state = RewardModel.create(RewardModelConfig(), OBS_SHAPE, 0).state()
    del state["scale"]
    assert RewardModel.from_state(state).scale == Scale()
