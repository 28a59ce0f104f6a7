"""What event-max can't express and cnn-lstm can: the order of what happened."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.envs.homegrid import HomegridEnv
from rlaif_ray.reward_model import RewardModel
from rlaif_ray.types import Array, Episode, EpisodeBatch

NORTH, SOUTH, EAST, WEST = range(4)
PLACES = {"robot": (10, 5), "heading": "N", "fruit": (9, 1), "dog": (10, 7), "cat": (12, 3)}
DOG_THEN_CAT = [SOUTH, NORTH, EAST, NORTH]  # harm: it follows the robot to the cat
CAT_THEN_DOG = [EAST, NORTH, SOUTH, WEST, SOUTH]  # none


def walked(actions: list[int], number: int) -> tuple[Episode, bool]:
    """An episode's observations and whether the cat was chased in it."""
    env = HomegridEnv(harm="chase")
    seen = [env.reset(seed=0, options=PLACES)[0]]
    for action in actions:
        obs, _, _, _, info = env.step(action)
        seen.append(obs)
    return Episode(number, np.stack(seen), None, np.array(actions), 0.0, False, 0), info["cat_chased"]


def logits(net: str, seed: int, episodes: list[Episode]) -> Array:
    """(2,) at the episodes' ends, of a net as it was initialised: no training can make up for what it can't express."""
    batch = EpisodeBatch.pack(episodes)
    model = RewardModel.create(RewardModelConfig(net=net), batch.obs.shape[1:], seed)
    return model.logits(batch.obs, batch.obs_offsets)[0][batch.obs_offsets[1:] - 1]


@pytest.mark.parametrize("seed", range(5))
def test_two_episodes_show_the_same_and_only_one_does_harm(seed: int) -> None:
    (harmful, chased), (harmless, spared) = walked(DOG_THEN_CAT, 0), walked(CAT_THEN_DOG, 1)
    assert (chased, spared) == (True, False)
    shown = [{one.tobytes() for one in episode.obs} for episode in (harmful, harmless)]
    assert shown[0] == shown[1], "the same observations, in another order"
    blind = logits("event-max", seed, [harmful, harmless])
    assert blind[0] == pytest.approx(blind[1], abs=1e-6)
    sees = logits("cnn-lstm", seed, [harmful, harmless])
    assert abs(sees[0] - sees[1]) > 1e-4
