"""Environments of grid worlds for gymnasium: one world, and N of them side by side.

The task reward knows nothing of harm; whether it was done is in ``info`` only, for evaluation. Both environments have
the same rules (``worlds.py``) and draw the same numbers: world i of a vector environment seeded with s lives through
what a single environment seeded with s + i does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlaif_ray.envs.gridworld import GridWorld, check_choice
from rlaif_ray.envs.layout import ACTIONS, HEADINGS
from rlaif_ray.envs.placing import Placement, placement_of
from rlaif_ray.envs.starts import HELD_OUT, STARTS, HeldOut, Starts, start_table
from rlaif_ray.envs.worlds import Worlds
from rlaif_ray.errors import ConfigError, EnvError, UnknownNameError
from rlaif_ray.types import Array

__all__ = ["GridEnv", "GridVectorEnv"]

RENDER_MODES: Final = ("rgb_array",)
RENDER_FPS: Final = 4
_DRAWS = 2  # uniform numbers an episode takes from its generator: the start, the heading


def _check_options(world: GridWorld, starts: str, held_out: HeldOut, render_mode: str | None) -> None:
    check_choice(world.name, "starts", starts, STARTS)
    share, fold = held_out
    if not (isinstance(share, float | int) and 0.0 < share < 1.0):
        allowed = "allowed are numbers above 0 and below 1"
        raise ConfigError(f"{world.name}'s option 'heldout_share': got {share!r}, {allowed}")
    if isinstance(fold, bool) or not (isinstance(fold, int) and 0 <= fold < held_out.folds):
        allowed = f"allowed are whole numbers from 0 to {held_out.folds - 1}, as many as there are such shares"
        raise ConfigError(f"{world.name}'s option 'heldout_fold': got {fold!r}, {allowed}")
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise UnknownNameError("render_mode", str(render_mode), RENDER_MODES)


def _place(worlds: Worlds, rows: Array, draws: Array, placement: Placement) -> None:
    """Begin episodes in ``rows`` (k,) from uniform ``draws`` (k, 2). The heading's draw is taken even where it was
    placed by hand, so that what follows in the generator doesn't depend on it."""
    heading = (draws[:, 1] * len(HEADINGS)).astype(np.intp)
    if placement.heading is not None:
        heading[:] = placement.heading
    worlds.place(rows, placement.table, placement.table.draw(draws[:, 0]), heading)


def _info_columns(worlds: Worlds, found: Array) -> dict[str, Array]:
    harmed, step = worlds.world.facts
    return {"found": found, harmed: worlds.harmed, step: worlds.harm_step.copy()}


class GridEnv(gymnasium.Env[Array, int]):
    """One world. Observations uint8 (height, width, C) of 0/1, channels as ``world.channels``.

    Actions: 0 north, 1 south, 2 east, 3 west. ``info`` (ground truth, for evaluation only): ``found``, and the two
    names of ``world.facts``: whether harm was done, and at which step (1..max_steps, -1: never).

    starts: which starts occur: ``all``, ``train`` or ``heldout`` (the share ``held_out`` of them).
    clear_marked: a thing that was entered leaves the observation.

    Raises ConfigError for an option that can't be; EnvError for an illegal action or a step before a reset or after
    the end; PlacementError for an illegal ``reset(options=...)`` (see ``placement_of``).
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012 (gymnasium's)

    def __init__(
        self,
        world: GridWorld,
        *,
        starts: Starts = "all",
        held_out: HeldOut = HELD_OUT,
        clear_marked: bool = False,
        render_mode: str | None = None,
    ) -> None:
        _check_options(world, starts, held_out, render_mode)
        self.world = world
        self.observation_space = gymnasium.spaces.Box(0, 1, world.obs_shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.render_mode = render_mode
        self._table = start_table(world, starts, held_out)
        self._worlds = Worlds(world, 1, clear_marked=clear_marked)
        self._running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; ``options`` may place robot, heading, goal and things."""
        super().reset(seed=seed)
        placement = placement_of(self.world, options, self._table)
        _place(self._worlds, np.array([0]), self.np_random.random((1, _DRAWS)), placement)
        self._running = True
        return self._worlds.observe()[0], self._info(found=False)

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Turn to the action's direction, move if the cell ahead is free, and end if the goal is ahead."""
        if not self._running:
            raise EnvError("step() needs a running episode: call reset() first")
        reward, terminated, truncated = self._worlds.step(_legal(np.asarray(action)[None], 1))
        self._running = not (terminated[0] or truncated[0])
        info = self._info(found=bool(terminated[0]))
        return self._worlds.observe()[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def states(self) -> Array:
        """(1, K) int16: the current state, columns as in ``world.state_columns``."""
        return self._worlds.states()

    def render(self) -> Array | None:  # type: ignore[override]
        """(H, W, 3) uint8 with render_mode="rgb_array", else None."""
        return _draw(self._worlds)[0] if self.render_mode else None

    def _info(self, *, found: bool) -> dict[str, Any]:
        return {name: column[0].item() for name, column in _info_columns(self._worlds, np.array([found])).items()}


class GridVectorEnv(VectorEnv[Array, Array, Array]):
    """N worlds with same-step autoreset: where an episode ends, the observation returned is the next one's first.

    What it ended with is in ``infos``, as gymnasium has it: ``final_obs`` (N, *obs_shape) uint8 and ``final_info``, a
    dictionary of (N,) arrays ``found`` and those of ``world.facts``, each with its mask under ``_name``; rows outside
    the mask are zero. ``found`` ... at the top are those of the episodes now running.

    Options and errors are those of ``GridEnv``. ``reset(seed=s)`` seeds world i with s + i, a list seeds each;
    ``reset(options=...)`` takes one mapping for all worlds or a list with one for each.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (gymnasium's)
        "render_modes": list(RENDER_MODES),
        "render_fps": RENDER_FPS,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        world: GridWorld,
        num_envs: int = 1,
        *,
        starts: Starts = "all",
        held_out: HeldOut = HELD_OUT,
        clear_marked: bool = False,
        render_mode: str | None = None,
    ) -> None:
        _check_options(world, starts, held_out, render_mode)
        if num_envs < 1:
            raise ConfigError(f"num_envs: got {num_envs}, allowed are 1 or more")
        self.world, self.num_envs, self.render_mode = world, num_envs, render_mode
        self.single_observation_space = gymnasium.spaces.Box(0, 1, world.obs_shape, np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._placement = Placement(start_table(world, starts, held_out))
        self._worlds = Worlds(world, num_envs, clear_marked=clear_marked)
        self._generators: list[np.random.Generator] = []
        self._seeds: list[int] = []
        self._ended = np.zeros(0, np.intp)
        self._final = np.zeros((0, len(world.state_columns)), np.int16)

    @property  # type: ignore[misc]  # read only: there is one generator a world
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """One generator a world."""
        self._seed_if_new()
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each world's generator."""
        self._seed_if_new()
        return tuple(self._seeds)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Begin N episodes -> observations (N, *obs_shape), infos."""
        placements = self._placements(options)
        self._seed_if_new()
        if seed is not None:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
            self._reseed(seeds)
        for i, placement in enumerate(placements):
            _place(self._worlds, np.array([i]), self._generators[i].random((1, _DRAWS)), placement)
        self._ended, self._final = self._ended[:0], self._final[:0]
        infos: dict[str, Any] = {}
        self._add(infos, _info_columns(self._worlds, np.zeros(self.num_envs, bool)), np.ones(self.num_envs, bool))
        return self._worlds.observe(), infos

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """(N,) actions -> observations, float64 rewards (N,), terminated (N,), truncated (N,), infos."""
        if not self._generators:
            raise EnvError("step() needs running episodes: call reset() first")
        worlds, infos = self._worlds, dict[str, Any]()
        rewards, terminated, truncated = worlds.step(_legal(np.asarray(actions), self.num_envs))
        done = terminated | truncated
        self._ended = np.flatnonzero(done)
        self._final = worlds.states()[self._ended]
        if len(self._ended):
            self._finish(infos, done, terminated)
        self._add(infos, _info_columns(worlds, np.zeros(self.num_envs, bool)), np.ones(self.num_envs, bool))
        return worlds.observe(), rewards, terminated, truncated, infos

    def states(self) -> Array:
        """(N, K) int16: current states after any autoreset, columns as in ``world.state_columns``."""
        return self._worlds.states()

    def final_states(self) -> Array:
        """(N, K) int16: the state each world ended in, for those that ended in the last step; the current one else."""
        states = self._worlds.states()
        states[self._ended] = self._final
        return states

    def render(self) -> tuple[Array, ...] | None:  # type: ignore[override]
        """N pictures (H, W, 3) uint8 with render_mode="rgb_array", else None."""
        return tuple(_draw(self._worlds)) if self.render_mode else None

    def _finish(self, infos: dict[str, Any], done: Array, terminated: Array) -> None:
        """Say what ended, then begin the next episode there."""
        worlds, ended = self._worlds, self._ended
        last = np.zeros((self.num_envs, *self.world.obs_shape), np.uint8)
        last[ended] = worlds.observe()[ended]
        facts = _info_columns(worlds, terminated.copy())
        for column in facts.values():
            column[~done] = 0
        final_info: dict[str, Any] = {}
        self._add(final_info, facts, done)
        self._add(infos, {"final_obs": last, "final_info": final_info}, done)
        draws = np.array([self._generators[i].random(_DRAWS) for i in ended.tolist()])
        _place(worlds, ended, draws, self._placement)

    @staticmethod
    def _add(infos: dict[str, Any], columns: Mapping[str, Any], mask: Array) -> None:
        for name, column in columns.items():
            infos[name], infos[f"_{name}"] = column, mask.copy()

    def _placements(self, options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None) -> list[Placement]:
        if options is None or isinstance(options, Mapping):
            return [placement_of(self.world, options, self._placement.table)] * self.num_envs
        if len(options) != self.num_envs:
            raise EnvError(f"reset options: got a list of {len(options)}, expected {self.num_envs}, one a world")
        return [placement_of(self.world, one, self._placement.table) for one in options]

    def _seed_if_new(self) -> None:
        if not self._generators:
            pairs = [seeding.np_random() for _ in range(self.num_envs)]
            self._generators, self._seeds = [g for g, _ in pairs], [int(s) for _, s in pairs]

    def _reseed(self, seeds: Sequence[int | None]) -> None:
        if len(seeds) != self.num_envs:
            raise EnvError(f"reset seeds: got a list of {len(seeds)}, expected {self.num_envs}, one a world")
        for i, seed in enumerate(seeds):
            if seed is not None:
                self._generators[i], self._seeds[i] = seeding.np_random(int(seed))


def _legal(actions: Array, n: int) -> Array:
    """(N,) intp actions, checked."""
    if actions.shape != (n,):
        raise EnvError(f"actions: got shape {actions.shape}, expected ({n},)")
    if actions.dtype.kind not in "iu":
        raise EnvError(f"actions: got {actions.dtype}, expected whole numbers 0 to {len(ACTIONS) - 1}")
    if actions.min() < 0 or actions.max() >= len(ACTIONS):
        wrong = actions[(actions < 0) | (actions >= len(ACTIONS))][0]
        names = ", ".join(f"{i} ({name})" for i, name in enumerate(ACTIONS))
        raise EnvError(f"action: got {wrong}, allowed are {names}")
    return actions.astype(np.intp)


def _draw(worlds: Worlds) -> Array:
    from rlaif_ray.envs.drawing import frames_of  # drawing is rare

    pictures: Array = worlds.world.palette[frames_of(worlds.world, worlds.states())]
    return pictures
