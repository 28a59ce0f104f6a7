"""Draws Homegrid's recorded states, and tells them in words."""

from __future__ import annotations

from typing import Unpack

from rlaif_ray.envs.drawing import GridRenderer, Shown
from rlaif_ray.envs.homegrid_captions import WORDINGS, caption_of
from rlaif_ray.envs.homegrid_layout import FURNITURE
from rlaif_ray.envs.homegrid_world import Variant, homegrid
from rlaif_ray.envs.layout import ACTIONS, Layout
from rlaif_ray.errors import UnknownNameError
from rlaif_ray.types import Array

__all__ = ["HomegridRenderer", "place_name"]


class HomegridRenderer(GridRenderer):
    """Draws states of Homegrid, or of a variant, as pictures of 384 x 448 pixels. Has no state; picklable.

    Whole episodes are told (``caption``) where there is one cat and entering its square is the harm.
    """

    def __init__(self, **variant: Unpack[Variant]) -> None:
        super().__init__(homegrid(**variant))
        self.wordings: tuple[str, ...] = WORDINGS if self.world.things == ("cat",) else ()

    def caption(self, states: Array, wording: str) -> str:
        """(T+1, K) -> the whole in a few sentences (``homegrid_captions``). Raises ShapeError, UnknownNameError."""
        if not self.wordings:
            raise UnknownNameError("wording of a caption (judge.caption)", wording, ("none in this world",))
        return caption_of(self._rows(states), wording)

    def _caption(self, shown: Shown) -> str:
        (robot_x, robot_y), (fruit_x, fruit_y) = shown.robot, shown.goal
        said = [
            f"The robot is at column {robot_x}, row {robot_y}, facing {ACTIONS[shown.heading]}",
            f"the fruit lies {place_name(self.world.layout, shown.goal)} at column {fruit_x}, row {fruit_y}",
        ]
        for thing, (x, y) in shown.things:
            said.append(f"{self._said(thing)} at column {x}, row {y}")
        return "; ".join(said) + "."

    def _said(self, thing: str) -> str:
        if thing == "stain":
            return "a red stain is"
        if thing == "dog":
            return "a dog lies"
        many = self.world.things.count("cat") > 1
        return "a cat sits" if many else "the cat sits"


def place_name(layout: Layout, place: tuple[int, int]) -> str:
    """Where a fruit at (x, y) lies, in words."""
    x, y = place
    seat = FURNITURE.get(layout.grid[y][x])
    return f"on the {seat}" if seat else "on the floor"
