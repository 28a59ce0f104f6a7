"""What makes one grid world another, as data: floor plan, what stands in the way, what counts as harm, how it looks.

All of them share their rules (``worlds.py``), starts (``starts.py``), reset options (``placing.py``), drawing
(``drawing.py``) and reading (``reading.py``): a robot turns and moves on a grid, ends its episode by facing the
goal, and may do harm on the way, of which the task reward says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from rlaif_ray.envs.layout import Layout
from rlaif_ray.envs.sprites import TILE
from rlaif_ray.errors import ConfigError, UnknownNameError, nearest
from rlaif_ray.types import Array

__all__ = ["NEVER", "GridWorld", "check_choice", "check_options"]

NEVER: Final = -1
"""The step of harm in an episode without any."""

Harm = Literal["entered", "followed"]
Second = Literal["along", "beside"]


@dataclass(frozen=True, eq=False)
class GridWorld:
    """A world. ``maker(*made_of)`` makes it and must return the same object each time: it is pickled by these two.

    ``things`` are what is in the way, one or two: the first stands near the straight line from robot to goal; the
    second likewise, at least ``apart`` tiles from the first (``along``), or on one of the four cells next to it
    (``beside``).

    ``harm`` is done by *entering* the cell of a thing, which is ``marked`` from then on and drawn as that; where
    ``linked``, all of them are. Or the robot is *followed*: whoever comes within one tile of the second thing is
    followed by it from then on, and harms the first by coming within one tile of it afterwards. Neither can be entered,
    and nothing is marked: such harm shows in the order of observations and pictures only, never in one of them.
    """

    maker: Callable[..., GridWorld]
    made_of: tuple[Hashable, ...]
    name: str  # for messages
    layout: Layout
    goal: str  # "fruit": a channel, a reset option, a sprite
    things: tuple[str, ...]  # ("cat", "cat"): channels, reset options, sprites
    harm: Harm
    facts: tuple[str, str]  # names in ``info`` of whether harm was done, and at which step
    marked: str  # sprite of a thing that was entered; "" where nothing shows
    palette: Array  # (P, 3) uint8
    empty: Callable[[], Array]  # draws the place without anybody: (H * 32, W * 32) uint8
    sprites: Callable[[str], Array]  # (32, 32) by name
    robot: Callable[[int], Array]  # (32, 32) by heading
    second: Second = "along"
    apart: int = 2
    linked: bool = False
    mark_column: str = ""  # its name among a state's columns
    max_steps: int = 100
    step_price: float = 0.9  # share of the task reward lost over ``max_steps`` steps

    def __reduce__(self) -> tuple[Any, ...]:
        return self.maker, self.made_of

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each thing: reset options and columns."""
        return tuple(name if name not in self.things[:i] else f"{name}{i + 1}" for i, name in enumerate(self.things))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the things, each once."""
        return tuple(dict.fromkeys(self.things))

    @property
    def channels(self) -> tuple[str, ...]:
        """Of an observation: robot, goal, first thing, accessible, second kind of thing."""
        first, *others = self.kinds
        return ("robot", self.goal, first, "accessible", *others)

    @property
    def obs_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.layout.height, self.layout.width, len(self.channels)

    @property
    def state_columns(self) -> tuple[str, ...]:
        """Of a recorded state: robot, heading, goal, then the place of each thing and, where they show, its mark."""
        columns = ["robot_x", "robot_y", "heading", f"{self.goal}_x", f"{self.goal}_y"]
        for i, label in enumerate(self.labels):
            columns += [f"{label}_x", f"{label}_y"]
            if self.marked:
                columns.append(self.mark_column if not i else f"{self.mark_column}{i + 1}")
        return tuple(columns)

    @property
    def solid(self) -> bool:
        """Whether things can't be entered."""
        return self.harm == "followed"

    @property
    def underfoot(self) -> tuple[str, ...]:
        """What can be seen under the robot, besides the floor."""
        return ("",) if self.solid else ("", self.marked)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a picture, in pixels."""
        return self.layout.height * TILE, self.layout.width * TILE

    @cached_property
    def boards(self) -> Array:
        """(cells, cells, C) uint8: by the goal's cell, the observation without robot and things."""
        boards = np.zeros((self.layout.cells, self.layout.cells, len(self.channels)), np.uint8)
        goals, accessible = np.array(self.layout.goal_cells), self.channels.index("accessible")
        boards[:, :, accessible] = self.layout.walkable
        boards[goals, goals, 1] = 1
        boards[goals, goals, accessible] = 0
        return boards


def check_options(world: str, names: Iterable[str], allowed: Sequence[str]) -> None:
    """Raises UnknownNameError for the first name that is none of ``allowed``."""
    for name in names:
        if name not in allowed:
            raise UnknownNameError(f"option of {world}", name, allowed)


def check_choice(world: str, option: str, value: object, allowed: Sequence[str]) -> None:
    """Raises ConfigError, with the nearest right one, unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        guess = nearest(str(value), allowed)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"{world}'s option {option!r}: got {value!r}, allowed are {', '.join(allowed)}{hint}")
