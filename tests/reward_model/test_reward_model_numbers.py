"""Versions of a reward model that is led back have numbers of their own."""

from meeting_world import OBS_SHAPE, meeting_episodes, noisy_verdicts

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.reward_model import RewardModelTrainer


def test_a_trainer_that_is_led_back_goes_on_with_new_numbers():
    config = RewardModelConfig(min_labels=40, retrain_every=20, epochs=20, gate_accuracy=0.0)
    episodes, bad = meeting_episodes(160, seed=0)
    said = noisy_verdicts(bad, 0).tolist()
    trainer = RewardModelTrainer(config, OBS_SHAPE, seed=0)
    trainer.skip(3)
    assert trainer.learn(episodes[:60], said[:60])[0].report.version == 4
    state = trainer.state()
    newer = [trainer.learn(episodes[i : i + 40], said[i : i + 40])[0] for i in (60, 100)]
    assert [one.report.version for one in newer] == [5, 6]
    trainer.restore(state)
    assert trainer.served.version == 4  # that one is the same thing as before
    trainer.skip(6)
    (published,) = trainer.learn(episodes, said)
    assert published.report.version == 7 == published.state["version"]
    refused = RewardModelTrainer(config, OBS_SHAPE, seed=0)
    refused.skip(3)
    assert refused.learn(episodes[:60], [1.0] * 60)[0].report.version == 0  # there is none yet
