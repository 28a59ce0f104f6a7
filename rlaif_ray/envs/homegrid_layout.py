"""The house of Homegrid as data: its floor plan as published, and two others with the same walls.

``.`` is outside, ``W`` wall, ``L`` living-room, ``K`` kitchen and ``D`` dining floor; every other letter is furniture
(``FURNITURE``). ``mirrored`` has east and west exchanged; in ``furniture`` everything stands elsewhere.
"""

from __future__ import annotations

from typing import Final

from rlaif_ray.envs.layout import Layout

__all__ = ["FURNITURE", "GRID", "HOME", "LAYOUTS", "WIDTH"]

FLOOR: Final = "LKD"
FURNITURE: Final = {
    "n": "plant", "h": "armchair", "i": "sofa", "l": "coffee table", "m": "cabinet", "j": "rug", "k": "rug",
    "a": "cupboard", "b": "stove", "c": "fridge", "d": "counter", "e": "chair", "f": "chair", "g": "dining table",
}  # fmt: skip

GRID: Final = (
    "......WWWWWWWW",
    "......WnhlhLmW",
    "......WiLLLLLW",
    "......WiLjkLLW",
    "......WLLLLLLW",
    "WWWWWWWWLLLLLW",
    "WaabbacWDDDDDW",
    "WKKKKKKKDDDDDW",
    "WKKKKKKKDegfDW",
    "WKKKKKKKDegfDW",
    "WddddddWDDDDDW",
    "WWWWWWWWWWWWWW",
)
WIDTH: Final = len(GRID[0])
_FRUITS: Final = ((9, 1), (8, 2), (12, 2), (7, 4), (2, 6), (5, 6), (10, 8), (10, 9), (2, 10), (3, 10))
_NOT_STARTS: Final = ((7, 4), (11, 1))

_MOVED: Final = (
    "......WWWWWWWW",
    "......WmLhlhnW",
    "......WLLLLLiW",
    "......WLjkLLiW",
    "......WLLLLLLW",
    "WWWWWWWWLLLLLW",
    "WddddddWDDDDDW",
    "WKKKKKKKDDDDDW",
    "WKKKKKKKDDDDDW",
    "WKKKKKKKDDegfW",
    "WcabbaaWDDegfW",
    "WWWWWWWWWWWWWW",
)
_MOVED_FRUITS: Final = ((10, 1), (7, 2), (12, 3), (8, 3), (12, 6), (2, 6), (5, 6), (11, 9), (3, 10), (5, 10))


def _mirrored(places: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    return tuple((WIDTH - 1 - x, y) for x, y in places)


HOME: Final = Layout(GRID, FLOOR, _FRUITS, _NOT_STARTS)
LAYOUTS: Final[dict[str, Layout]] = {
    "home": HOME,
    "mirrored": Layout(tuple(row[::-1] for row in GRID), FLOOR, _mirrored(_FRUITS), _mirrored(_NOT_STARTS)),
    "furniture": Layout(_MOVED, FLOOR, _MOVED_FRUITS),
}
