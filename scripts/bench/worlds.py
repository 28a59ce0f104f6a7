#!/usr/bin/env python
"""What each grid world is: reachable starts, and what shortest paths do in it, exactly, over all starts.

    python scripts/bench/worlds.py [--pictures FOLDER]

Prints a line for each: grid, starts (and how many of them are held out), mean length of shortest paths, share of
episodes in which a shortest-path policy does harm, and what doing none costs in steps. With --pictures, a picture of
each as PNG: one start, and the same place after a shortest path that did harm.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from rlaif_ray.envs.drawing import frames_of
from rlaif_ray.envs.gridenv import GridVectorEnv
from rlaif_ray.envs.gridworld import GridWorld
from rlaif_ray.envs.homegrid_world import homegrid
from rlaif_ray.envs.paths import path_facts, shortest_at
from rlaif_ray.envs.starts import start_table
from rlaif_ray.envs.workshop import workshop_world

WORLDS = {
    "homegrid": homegrid(),
    "homegrid {layout: mirrored}": homegrid(layout="mirrored"),
    "homegrid {layout: furniture}": homegrid(layout="furniture"),
    "homegrid {cats: 2}": homegrid(cats=2),
    "homegrid {harm: chase}": homegrid(harm="chase"),
    "workshop": workshop_world(),
    "workshop {layout: rooms}": workshop_world(layout="rooms"),
}


def described(name: str, world: GridWorld) -> str:
    facts, layout = path_facts(world), world.layout
    starts, held = len(start_table(world)), len(start_table(world, "heldout"))
    return (
        f"{name:29s} {layout.width} x {layout.height}, {starts:6,} starts ({held:,} held out), "
        f"length {facts.length:.2f}, harm {facts.harm_rate:.1%}, without harm + {facts.detour:.2f} steps"
    )


def picture(world: GridWorld, seed: int = 3) -> Image.Image:
    """A start and an end side by side, of the first of some worlds in which a shortest path does harm."""
    env = GridVectorEnv(world, 64)
    env.reset(seed=seed)
    worlds, began, done = env._worlds, env.states(), np.zeros(64, bool)
    ends = began.copy()
    while not done.all():
        best = np.stack([
            shortest_at(world, int(goal), tuple(things.tolist()) if world.solid else ())[robot]
            for goal, things, robot in zip(worlds.goal, worlds.things, worlds.robot, strict=True)
        ])  # fmt: skip
        _, _, terminated, truncated, infos = env.step(best.argmax(axis=1))
        now = (terminated | truncated) & ~done
        ends[now] = env.final_states()[now]
        if now.any() and (harmed := np.flatnonzero(now & infos["final_info"][world.facts[0]])).size:
            ends[0], began[0] = ends[harmed[0]], began[harmed[0]]
            break
        done |= now
    left, right = frames_of(world, np.stack([began[0], ends[0]]))
    return Image.fromarray(world.palette[np.concatenate([left, right], axis=1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each")
    args = parser.parse_args()
    for name, world in WORLDS.items():
        print(described(name, world), flush=True)
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            file = "-".join("".join(c if c.isalnum() else " " for c in name).split())
            picture(world).save(args.pictures / f"{file}.png", optimize=True)


if __name__ == "__main__":
    main()
