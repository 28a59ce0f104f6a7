#!/usr/bin/env python
"""Speed and sample efficiency of the reward models, on Homegrid episodes between random and shortest-path play.

    python scripts/bench/reward_model_speed.py [--labels 250] [--seeds 3] [--nets event-max cnn-lstm] [--ensemble 1]

Prints, for each net on one thread: observations scored a second, CPU seconds of a fit (grading included; other work on
the machine doesn't change them), and how often the fitted model's final belief agrees with the truth in 1,000 episodes
it never saw. Labels are drawn from the truth with the published judge's errors: 3 % of squashed cats approved, 0.3 % of
harmless episodes rejected.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.homegrid_paths import shortest_actions
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer
from rlaif_ray.types import Array, Episode, EpisodeBatch

ENVS = 64
APPROVED_THOUGH_SQUASHED, REJECTED_THOUGH_HARMLESS = 0.03, 0.003


def play(episodes: int, seed: int) -> tuple[list[Episode], Array]:
    """Whole episodes, each with its own share of random actions (0 to 1), and (E,) bool: the cat was squashed."""
    rng = np.random.default_rng(seed)
    world = HomegridVectorEnv(ENVS)
    obs, _ = world.reset(seed=seed)
    paths, share = [[one] for one in obs.copy()], rng.random(ENVS)
    done: list[Episode] = []
    squashed: list[bool] = []
    while len(done) < episodes:
        next_obs, _, terminated, truncated, infos = world.step(_actions(obs, share, rng))
        for i in np.flatnonzero(terminated | truncated).tolist():
            path = np.stack([*paths[i], infos["final_obs"][i]])
            actions = np.zeros(len(path) - 1, np.int64)
            done.append(Episode(len(done), path, None, actions, 0.0, bool(terminated[i]), 0))
            squashed.append(bool(infos["final_info"]["cat_squashed"][i]))
            paths[i], share[i] = [], rng.random()
        for i, one in enumerate(next_obs.copy()):
            paths[i].append(one)
        obs = next_obs
    return done[:episodes], np.array(squashed[:episodes])


def judged(squashed: Array, seed: int) -> Array:
    """(E,) approvals in {0, 1} of a judge with the published error rates."""
    u = np.random.default_rng(seed).random(len(squashed))
    return np.where(squashed, u < APPROVED_THOUGH_SQUASHED, u >= REJECTED_THOUGH_HARMLESS).astype(np.float64)


def observations_per_second(model: RewardModel, batch: EpisodeBatch, repeats: int = 5) -> float:
    """The best of some repeats, the first not counted."""
    model.score(batch)
    times = []
    for _ in range(repeats):
        started = time.process_time()
        model.score(batch)
        times.append(time.process_time() - started)
    return len(batch.obs) / min(times)


def _actions(obs: Array, share: Array, rng: np.random.Generator) -> Array:
    flat = obs.reshape(len(obs), -1, obs.shape[-1])
    robot, fruit = flat[..., 0].argmax(axis=1), flat[..., 1].argmax(axis=1)
    good = shortest_actions()[fruit, robot] * rng.random((len(obs), 4))
    return np.where(rng.random(len(obs)) < share, rng.integers(0, 4, len(obs)), good.argmax(axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=int, nargs="+", default=[250])
    parser.add_argument("--ensemble", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nets", nargs="+", default=["event-max", "cnn-lstm"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    test, test_squashed = play(1_000, seed=10_000)
    batch = EpisodeBatch.pack(test)
    print(f"{len(batch)} episodes, mean length {batch.lengths.mean():.1f}, squashed {test_squashed.mean():.1%}")
    for net in options.nets:
        for labels in options.labels:
            for seed in range(options.seeds):
                config = RewardModelConfig(net=net, ensemble=options.ensemble)
                trainer = RewardModelTrainer(config, batch.obs.shape[1:], seed)
                episodes, squashed = play(labels, seed)
                trainer.add(episodes, judged(squashed, seed))
                started = time.process_time()
                report = trainer.fit().report
                fit_s = time.process_time() - started
                model = trainer.served or RewardModel.create(config, batch.obs.shape[1:], seed)
                agrees = ((model.score(batch).final > 0.5) == ~test_squashed).mean()
                print(
                    f"{net:9s} {labels} labels, seed {seed}: {observations_per_second(model, batch):8,.0f} obs/s, "
                    f"fit {fit_s:.2f} s, agrees with the truth {agrees:.2%}, held-out "
                    f"{report.heldout_accuracy:.1%} of {report.heldout_n}, v{report.version} {report.reason}"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
