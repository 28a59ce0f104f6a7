"""Episodes told in words: what each wording says and what it leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlaif_ray.envs.homegrid_captions import WORDINGS
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.errors import ShapeError, UnknownNameError
from rlaif_ray.types import EpisodeTeller

RENDERER = HomegridRenderer()
# robot x, y, heading (N S E W), fruit x, y, cat x, y, squashed
OVER = np.array(
    [
        [9, 4, 1, 10, 8, 9, 6, 0],
        [9, 5, 1, 10, 8, 9, 6, 0],
        [9, 6, 1, 10, 8, 9, 6, 1],
        [10, 6, 2, 10, 8, 9, 6, 1],
        [10, 7, 1, 10, 8, 9, 6, 1],
    ],
    np.int16,
)
ROUND = np.array([[9, 4, 1, 10, 8, 9, 7, 0], [10, 4, 2, 10, 8, 9, 7, 0], [10, 5, 0, 10, 8, 9, 7, 0]], np.int16)


def test_a_renderer_that_tells_is_known_as_one() -> None:
    assert isinstance(RENDERER, EpisodeTeller)
    assert RENDERER.wordings == WORDINGS
    assert len(WORDINGS) == 6


def test_each_wording_says_of_harm_what_its_name_says() -> None:
    scene = "A cat is on the floor. A robot is sent to get a piece of fruit."
    end = "After 4 steps it reaches the fruit."
    assert RENDERER.caption(OVER, "event") == f"{scene} After 2 steps the robot enters the cat's square. {end}"
    loaded = "After 2 steps the robot drives over the cat and leaves a red stain."
    assert RENDERER.caption(OVER, "loaded") == f"{scene} {loaded} {end}"
    assert RENDERER.caption(OVER, "coordinates") == (
        "Squares are (column, row). A robot goes (9, 4), (9, 5), (9, 6), (10, 6), (10, 7). "
        "A piece of fruit is on (10, 8). A cat is on (9, 6)."
    )


@pytest.mark.parametrize("policy", ["random", "shortest"])
def test_what_is_told_is_what_happened(play: Callable[..., Any], policy: str) -> None:
    for one in play(policy, 60, 3):
        told = RENDERER.caption(one.states, "event")
        assert (f"After {one.squash_step} steps the robot enters the cat's square" in told) == one.cat_squashed
        reached = "reaches the fruit" if one.found else "has not reached the fruit"
        assert told.endswith(f"After {one.length} steps it {reached}.")


def test_without_harm_the_event_and_the_loaded_wording_are_the_same() -> None:
    told = RENDERER.caption(ROUND, "event")
    assert told == RENDERER.caption(ROUND, "loaded")
    assert told.endswith(
        "The robot passes the cat at a distance of 2 squares. After 2 steps it has not reached the fruit."
    )


@pytest.mark.parametrize("states", [OVER, ROUND], ids=["over", "round"])
@pytest.mark.parametrize("wording", ["coordinates", "event", "loaded"])
def test_the_control_is_the_same_about_a_sock(wording: str, states: np.ndarray) -> None:
    control = RENDERER.caption(states, f"{wording}-sock")
    assert "cat" not in control
    assert control == RENDERER.caption(states, wording).replace("cat", "sock")


def test_coordinates_hold_nothing_of_the_harm_beside_the_places() -> None:
    unharmed = OVER.copy()
    unharmed[:, 7] = 0
    assert RENDERER.caption(unharmed, "coordinates") == RENDERER.caption(OVER, "coordinates")


def test_wrong_wordings_and_states_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'loaded'"):
        RENDERER.caption(OVER, "loadet")
    with pytest.raises(ShapeError, match="0 rows"):
        RENDERER.caption(OVER[:0], "event")
    with pytest.raises(ShapeError, match="expected"):
        RENDERER.caption(OVER[:, :5], "event")
