#!/usr/bin/env python
"""Where harm lies in the order of things: how well each reward model learns it from exact labels, beside Homegrid's own
harm, which shows in one place.

    python scripts/bench/order.py [--labels 2000] [--seeds 1] [--episodes 2000]

Episodes are of all shares of random actions between none and 60 %, labels are the truth, without errors: what is
missing then is the network's. Trained on the starts of training, tested on those held out. Prints one line for each:
accuracy, balanced accuracy, and, in the world `chase`, balanced accuracy among episodes that pass both dog and cat,
where only the order tells.

Why `event-max` can't: its belief is a function of the *set* of 3x3 patches that an episode's observations show, since
it takes the maximum over space and over time of a function of one patch. Passing the dog, then the cat, shows the same
set as passing the cat, then the dog (``tests/reward_model/test_reward_model_order.py`` has two such episodes, of
opposite truth and with the same observations in another order). What it still gets right it reads from where things
lie.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.paths import shortest_at
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer
from rlaif_ray.types import Array, Episode, EpisodeBatch

ENVS = 128
MOST_RANDOM = 0.6
WORLDS = {"squash": {}, "chase": {"harm": "chase"}}


@dataclass(frozen=True)
class Played:
    """E whole episodes and what was true of them."""

    episodes: list[Episode]
    harmed: Array  # (E,) bool
    both: Array  # (E,) bool: the robot came near every thing


def play(world: str, starts: str, count: int, seed: int) -> Played:
    """The first episodes to end in each of many worlds, in their order."""
    rng = np.random.default_rng(seed)
    env = HomegridVectorEnv(ENVS, starts=starts, **WORLDS[world])
    obs, _ = env.reset(seed=seed)
    paths: list[list[Array]] = [[one] for one in obs]
    share, near = rng.random(ENVS) * MOST_RANDOM, np.zeros((ENVS, len(env.world.things)), bool)
    episodes, harmed, both = [], [], []
    while len(episodes) < count:
        things = env._worlds.things.copy()
        obs, _, terminated, truncated, infos = env.step(_actions(env, share, rng))
        final = env.final_states().astype(int)
        near |= env.world.layout.gap[env.world.layout.cell_of(final[:, 0], final[:, 1])[:, None], things] <= 1
        ended = terminated | truncated
        for i, path in enumerate(paths):
            path.append((infos["final_obs"] if ended[i] else obs)[i])
        for i in np.flatnonzero(ended).tolist():
            grids = np.stack(paths[i])
            actions = np.zeros(len(grids) - 1, np.int64)
            episodes.append(Episode(len(episodes), grids, None, actions, 0.0, bool(terminated[i]), 0))
            harmed.append(bool(infos["final_info"][env.world.facts[0]][i]))
            both.append(bool(near[i].all()))
            paths[i], share[i], near[i] = [obs[i]], rng.random() * MOST_RANDOM, False
    return Played(episodes[:count], np.array(harmed[:count]), np.array(both[:count]))


def _actions(env: HomegridVectorEnv, share: Array, rng: np.random.Generator) -> Array:
    worlds = env._worlds
    best = np.stack([
        shortest_at(env.world, int(goal), tuple(things.tolist()) if env.world.solid else ())[robot]
        for goal, things, robot in zip(worlds.goal, worlds.things, worlds.robot, strict=True)
    ])  # fmt: skip
    good = np.argmax(best * rng.random(best.shape), axis=1)
    return np.where(rng.random(ENVS) < share, rng.integers(4, size=ENVS), good)


def accuracy(right: Array, harmed: Array) -> tuple[float, float]:
    """Plain and balanced."""
    return float(right.mean()), float((right[harmed].mean() + right[~harmed].mean()) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=2_000, help="exact labels to learn from")
    parser.add_argument("--episodes", type=int, default=2_000, help="held-out episodes to test on")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for world in args.worlds:
        for seed in range(args.seeds):
            train, test = play(world, "train", args.labels, seed), play(world, "heldout", args.episodes, 1_000 + seed)
            batch = EpisodeBatch.pack(test.episodes)
            for net in ("event-max", "cnn-lstm"):
                config = RewardModelConfig(net=net, min_labels=2, gate_accuracy=0.0, updates=0)  # all passes
                trainer = RewardModelTrainer(config, batch.obs.shape[1:], seed)
                trainer.add(train.episodes, (~train.harmed).astype(float))
                began = time.process_time()
                trainer.fit()
                spent = time.process_time() - began
                model = trainer.served or RewardModel.create(config, batch.obs.shape[1:], seed)
                right = (model.score(batch).final > 0.5) == ~test.harmed
                plain, balanced = accuracy(right, test.harmed)
                told = f"accuracy {plain:.1%}, balanced {balanced:.1%}"
                if world == "chase":
                    among = accuracy(right[test.both], test.harmed[test.both])[1]
                    told += f"; of the {test.both.mean():.0%} that pass both {among:.1%}"
                harm = f"{test.harmed.mean():.0%} harmful"
                print(f"{world:7s} {net:9s} seed {seed}, {args.labels} labels, {harm}: {told}; fit {spent:.0f} s")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
