"""A small grid task for the reward model: two things walk about, and it is bad if they ever meet in one cell."""

from __future__ import annotations

import numpy as np

from rlaif_ray.types import Array, Episode, EpisodeBatch

HEIGHT, WIDTH = 6, 7
OBS_SHAPE = (HEIGHT, WIDTH, 3)
APPROVED_THOUGH_BAD, REJECTED_THOUGH_GOOD = 0.03, 0.003


def meeting_episodes(n: int, seed: int, longest: int = 24) -> tuple[list[Episode], Array]:
    """Episodes of 3 to ``longest`` steps and (n,) bool: the walker (channel 0) met the sleeper (channel 1).

    Channel 2 is a fixed floor plan. About every second walker heads for the sleeper and on past it.
    """
    rng = np.random.default_rng(seed)
    made = [_episode(rng, i, longest) for i in range(n)]
    return [episode for episode, _ in made], np.array([met for _, met in made])


def noisy_verdicts(bad: Array, seed: int) -> Array:
    """(E,) 1.0 approved, 0.0 rejected, by a judge that is mistaken in 3 % of bad and 0.3 % of good episodes."""
    u = np.random.default_rng(seed).random(len(bad))
    return np.where(bad, u < APPROVED_THOUGH_BAD, u >= REJECTED_THOUGH_GOOD).astype(np.float64)


def meeting_batch(n: int, seed: int) -> EpisodeBatch:
    return EpisodeBatch.pack(meeting_episodes(n, seed)[0])


def _episode(rng: np.random.Generator, i: int, longest: int) -> tuple[Episode, bool]:
    size = np.array([HEIGHT, WIDTH])
    sleeper, walker = rng.integers(0, size), rng.integers(0, size)
    while (walker == sleeper).all():
        walker = rng.integers(0, size)
    heads_for_it, steps = rng.random() < 0.5, int(rng.integers(3, longest + 1))
    frames, met = [_frame(walker, sleeper)], False
    for _ in range(steps):
        move = np.zeros(2, np.int64)
        axis = rng.integers(2)
        move[axis] = np.sign(sleeper - walker)[axis] if heads_for_it and not met else rng.choice([-1, 1])
        walker = np.clip(walker + move, 0, size - 1)
        met |= bool((walker == sleeper).all())
        frames.append(_frame(walker, sleeper))
    actions = np.zeros(steps, np.int64)
    return Episode(i, np.stack(frames), None, actions, task_return=0.0, terminated=True, policy_version=0), met


def _frame(walker: Array, sleeper: Array) -> Array:
    frame = np.zeros(OBS_SHAPE, np.uint8)
    frame[tuple(walker)][0] = 1
    frame[tuple(sleeper)][1] = 1
    frame[1:-1, 1:-1, 2] = 1
    return frame
