"""Gridfield: an open field of any size, for measuring speed. It teaches nothing and nobody judges it.

    make_vec("rlaif_ray/Gridfield-v0", num_envs, {"height": 64, "width": 64, "max_steps": 1000})

What can be chosen (``env.options`` of a config): ``height`` and ``width`` from 4 to 256 cells, ``max_steps`` from 1 to
100,000. Observations, actions, recorded states and infos are of Homegrid's kinds, so that whatever is timed on it does
the same work per cell and step: uint8 (height, width, 4) of robot, fruit, cat, accessible; four actions; (N, 8) int16.

An episode lasts exactly ``max_steps`` steps and is truncated then: reaching the fruit pays 1 and moves it elsewhere.
Only the first episode of each world after a reset is shorter, by a random number of steps: ends are then spread evenly
over time, as they are in the midst of a run, instead of falling on one step in all worlds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlaif_ray.errors import ConfigError, EnvError
from rlaif_ray.types import Array

__all__ = ["LIMITS", "GridfieldVectorEnv"]

LIMITS: Final[dict[str, tuple[int, int]]] = {"height": (4, 256), "width": (4, 256), "max_steps": (1, 100_000)}
"""Smallest and largest of each option."""
_CHANNELS: Final = 4  # robot, fruit, cat, accessible
_ROBOT, _FRUIT, _CAT, _ACCESSIBLE = range(_CHANNELS)
_STEP_XY: Final = np.array(((0, -1), (0, 1), (1, 0), (-1, 0)))
_STATE_COLUMNS: Final = 8


class GridfieldVectorEnv(VectorEnv[Array, Array, Array]):
    """N fields with same-step autoreset, walled in by their border. Actions: 0 north, 1 south, 2 east, 3 west.

    ``info``: ``found`` (the fruit was reached at least once), ``cat_squashed`` and ``squash_step`` as in Homegrid.
    One generator serves all worlds, in the order of their numbers. Raises ConfigError for an option out of its limits;
    EnvError for illegal actions, or a step before a reset.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's)

    def __init__(self, num_envs: int = 1, *, height: int = 12, width: int = 14, max_steps: int = 100) -> None:
        for name, value in (("height", height), ("width", width), ("max_steps", max_steps)):
            low, high = LIMITS[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"Gridfield's option {name!r}: got {value!r}, allowed are {low} to {high}")
        if num_envs < 1:
            raise ConfigError(f"num_envs: got {num_envs}, allowed are 1 or more")
        self.num_envs, self.height, self.width, self.max_steps = num_envs, height, width, max_steps
        self.single_observation_space = gymnasium.spaces.Box(0, 1, (height, width, _CHANNELS), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(len(_STEP_XY))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        inside = np.zeros((height, width), bool)
        inside[1:-1, 1:-1] = True
        self._inside, self._floor = inside.ravel(), np.flatnonzero(inside)
        self._strides = _STEP_XY[:, 1] * width + _STEP_XY[:, 0]
        self._robot, self._fruit, self._cat = (np.zeros(num_envs, np.intp) for _ in range(3))
        self._heading, self._t = np.zeros(num_envs, np.intp), np.zeros(num_envs, np.int64)
        self._found, self._squash_step = np.zeros(num_envs, bool), np.full(num_envs, -1)
        self._obs = np.zeros((num_envs, height * width, _CHANNELS), np.uint8)
        self._rows, self._running = np.arange(num_envs), False
        self._ended, self._final = np.zeros(0, np.intp), np.zeros((0, _STATE_COLUMNS), np.int16)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin N episodes -> observations (N, height, width, 4), infos. There are no reset options."""
        if options:
            raise EnvError(f"reset options: got {sorted(options)}, but Gridfield has none")
        super().reset(seed=seed)
        self._begin(self._rows)
        self._t[:] = self.np_random.integers(self.max_steps, size=self.num_envs)
        self._running, self._ended = True, self._ended[:0]
        return self._observe(), self._infos()

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """(N,) actions -> observations, float64 rewards (N,), terminated (N,), truncated (N,), infos."""
        if not self._running:
            raise EnvError("step() needs running episodes: call reset() first")
        reached = self._move(self._checked(np.asarray(actions)))
        self._t += 1
        truncated = self._t >= self.max_steps
        self._ended = np.flatnonzero(truncated)
        infos: dict[str, Any] = {}
        if len(self._ended):
            self._final = self.states()[self._ended]
            last = np.zeros_like(self._obs)
            last[self._ended] = self._obs[self._ended]
            infos = {"final_obs": last.reshape(self._shape), "_final_obs": truncated, "_final_info": truncated.copy()}
            infos["final_info"] = self._infos(truncated)
            self._begin(self._ended)
        terminated = np.zeros(self.num_envs, bool)
        return self._observe(), reached.astype(np.float64), terminated, truncated, infos | self._infos()

    def states(self) -> Array:
        """(N, 8) int16: robot x, y, heading, fruit x, y, cat x, y, squashed; after any autoreset."""
        out = np.empty((self.num_envs, _STATE_COLUMNS), np.int16)
        for column, cells in ((0, self._robot), (3, self._fruit), (5, self._cat)):
            out[:, column], out[:, column + 1] = cells % self.width, cells // self.width
        out[:, 2], out[:, 7] = self._heading, self._squash_step >= 0
        return out

    def final_states(self) -> Array:
        """(N, 8) int16: the state each world ended in, for those that ended in the last step; the current one else."""
        states = self.states()
        if len(self._ended):
            states[self._ended] = self._final
        return states

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.num_envs, self.height, self.width, _CHANNELS

    def _observe(self) -> Array:
        return self._obs.copy().reshape(self._shape)

    def _begin(self, rows: Array) -> None:
        """New episodes in worlds ``rows`` (k,): robot, fruit and cat on three cells that differ."""
        # Three of the floor without one twice, without a permutation of it: skip what was drawn before.
        draws = self.np_random.integers(len(self._floor) - np.arange(3), size=(len(rows), 3))
        fruit = draws[:, 1] + (draws[:, 1] >= draws[:, 0])
        low, high = np.minimum(draws[:, 0], fruit), np.maximum(draws[:, 0], fruit)
        cat = draws[:, 2] + (draws[:, 2] >= low)
        cat += cat >= high
        self._robot[rows], self._fruit[rows], self._cat[rows] = (self._floor[i] for i in (draws[:, 0], fruit, cat))
        self._heading[rows] = self.np_random.integers(len(_STEP_XY), size=len(rows))
        self._t[rows], self._found[rows], self._squash_step[rows] = 0, False, -1
        self._obs[rows] = 0
        self._obs[rows, :, _ACCESSIBLE] = self._inside
        self._obs[rows, self._robot[rows], _ROBOT] = 1
        self._obs[rows, self._cat[rows], _CAT] = 1
        self._lay_fruit(rows)

    def _lay_fruit(self, rows: Array) -> None:
        self._obs[rows, self._fruit[rows], _FRUIT] = 1
        self._obs[rows, self._fruit[rows], _ACCESSIBLE] = 0

    def _move(self, action: Array) -> Array:
        """Turn and move all robots -> (N,) bool: who faces the fruit. It lies elsewhere then."""
        ahead = self._robot + self._strides[action]
        moved = np.where(self._inside[ahead] & (ahead != self._fruit), ahead, self._robot)
        self._obs[self._rows, self._robot, _ROBOT] = 0
        self._obs[self._rows, moved, _ROBOT] = 1
        self._robot, self._heading = moved, action
        entered = (moved == self._cat) & (self._squash_step < 0)
        self._squash_step[entered] = self._t[entered] + 1
        reached: Array = moved + self._strides[action] == self._fruit
        rows = np.flatnonzero(reached)
        if len(rows):
            self._found[rows] = True
            self._obs[rows, self._fruit[rows], _FRUIT] = 0
            self._obs[rows, self._fruit[rows], _ACCESSIBLE] = 1
            drawn = self._floor[self.np_random.integers(len(self._floor), size=len(rows))]
            free = (drawn != self._robot[rows]) & (drawn != self._cat[rows])
            self._fruit[rows] = np.where(free, drawn, self._fruit[rows])  # where it isn't, it stays for this time
            self._lay_fruit(rows)
        return reached

    def _infos(self, ended: Array | None = None) -> dict[str, Any]:
        """Facts with gymnasium's masks: of all worlds, or of those that ``ended`` (N,) and zero elsewhere."""
        mask = np.ones(self.num_envs, bool) if ended is None else ended
        facts = {"found": self._found, "cat_squashed": self._squash_step >= 0, "squash_step": self._squash_step}
        infos: dict[str, Any] = {name: np.where(mask, column, np.zeros_like(column)) for name, column in facts.items()}
        return infos | {f"_{name}": mask.copy() for name in facts}

    def _checked(self, actions: Array) -> Array:
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise EnvError(f"actions: got {actions.dtype} {actions.shape}, expected whole numbers ({self.num_envs},)")
        if actions.min() < 0 or actions.max() >= len(_STEP_XY):
            raise EnvError(f"action: got {actions.min()} to {actions.max()}, allowed are 0 to {len(_STEP_XY) - 1}")
        return actions.astype(np.intp)
