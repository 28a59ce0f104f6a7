"""Steps a second of the vectorised Homegrid on one core, resets included, and what a frame costs to draw and encode,
and to read back. Prints one JSON object.

    taskset -c 0 python scripts/bench/homegrid_speed.py

Two policies: uniform random (long episodes, few resets) and shortest path (an episode ends about every tenth step).
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from this_machine import machine

from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.homegrid_layout import WIDTH
from rlaif_ray.envs.homegrid_paths import shortest_actions
from rlaif_ray.envs.homegrid_reader import HomegridReader
from rlaif_ray.envs.render import HomegridRenderer


def steps_per_second(policy: str, num_envs: int, steps: int) -> float:
    world = HomegridVectorEnv(num_envs)
    world.reset(seed=0)
    rng = np.random.default_rng(0)
    random_actions = rng.integers(4, size=(steps, num_envs))
    best = shortest_actions().argmax(axis=-1)  # (fruit, cell) -> one of the shortest ways
    spent_s = 0.0
    for t in range(steps):
        actions = random_actions[t]
        if policy == "shortest":
            state = world.states().astype(int)  # choosing the action is the policy's time, not the world's
            robot, fruit = (state[:, y] * WIDTH + state[:, x] for x, y in ((0, 1), (3, 4)))
            actions = best[fruit, robot]
        began = time.perf_counter()
        world.step(actions)
        spent_s += time.perf_counter() - began
    return steps * num_envs / spent_s


def frame_costs(frames: int = 500) -> dict[str, float]:
    """Milliseconds a frame to draw and encode, and to decode and read; kilobytes a frame."""
    world = HomegridVectorEnv(frames)
    world.reset(seed=1)
    renderer, reader = HomegridRenderer(), HomegridReader()
    reader.read(renderer.png(world.states()[:1]))  # draws the house, builds the tables
    began = time.perf_counter()
    pngs = renderer.png(world.states())
    drawn = time.perf_counter()
    reader.read(pngs)
    read = time.perf_counter()
    return {
        "draw_ms": round(1e3 * (drawn - began) / frames, 3),
        "read_ms": round(1e3 * (read - drawn) / frames, 3),
        "kb": round(sum(map(len, pngs)) / frames / 1e3, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=256, help="worlds side by side")
    parser.add_argument("--steps", type=int, default=2_000, help="steps of all of them, for each policy")
    args = parser.parse_args()
    speed = {p: round(steps_per_second(p, args.num_envs, args.steps)) for p in ("random", "shortest")}
    figures = {"steps_per_s": speed, "num_envs": args.num_envs, "frame": frame_costs()}
    print(json.dumps(figures | {"machine": machine()}))


if __name__ == "__main__":
    main()
