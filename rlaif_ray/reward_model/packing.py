"""Index work on packed episodes: pure NumPy, no padding to the longest.

Grids are cut into 3x3 *patches*, one per cell, zero outside the grid. Whoever takes a maximum over space and then over
the time so far needs, after an episode's first observation, only the patches that *changed*: one that did not was in
the maximum already. A robot that moves changes 2 cells and so at most 15 patches of Homegrid's 168.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlaif_ray.errors import ShapeError
from rlaif_ray.types import Array

__all__ = ["PatchRows", "changed_patches", "distinct_patches", "ranges", "step_in_episode", "time_major"]

KERNEL = 3


@dataclass(frozen=True)
class PatchRows:
    """P patches, each as one flat row, with the observation each belongs to."""

    rows: Array  # (P, 9 * C), dtype of the observations; axes (dy, dx, channel) flattened
    owner: Array  # (P,) int64, ascending index of the observation

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.owner):
            raise ShapeError(f"patch rows: got {len(self.rows)}, expected one per owner ({len(self.owner)})")


def changed_patches(obs: Array, first: Array) -> PatchRows:
    """Patches that differ from the same place one observation earlier; all of them where ``first``.

    ``obs`` (S, H, W, C), ``first`` (S,) bool: True at each episode's first observation. Exact for any dtype.
    """
    cells = _cells(obs)
    S, H, W = cells.shape
    changed = np.ones((S, H, W), bool)
    np.not_equal(cells[1:], cells[:-1], out=changed[1:]) if cells.dtype.kind == "u" else _differs(obs, changed)
    changed[first] = True
    owner, place = np.nonzero(_dilate(changed).reshape(S, H * W))
    return PatchRows(_gather(cells, owner, place, obs), owner)


def distinct_patches(obs: Array) -> Array:
    """(U, 9 * C): each patch of one episode's observations (T+1, H, W, C) once, in an order set by content alone."""
    first = np.zeros(len(obs), bool)
    first[0] = True
    rows = np.ascontiguousarray(changed_patches(obs, first).rows)
    whole = rows.view(f"V{rows.shape[1] * rows.itemsize}")[:, 0]
    _, index = np.unique(whole, return_index=True)
    distinct: Array = rows[np.sort(index)]
    return distinct


def step_in_episode(obs_offsets: Array) -> Array:
    """(S,) int64: 0-based index of each packed observation within its episode."""
    lengths = np.diff(obs_offsets)
    steps: Array = np.arange(int(obs_offsets[-1])) - np.repeat(obs_offsets[:-1], lengths)
    return steps


def ranges(starts: Array, lengths: Array) -> Array:
    """The ranges ``starts[i] : starts[i] + lengths[i]`` one after another: (sum of lengths,) int64."""
    ends = np.cumsum(lengths)
    joined: Array = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return joined


def time_major(obs_offsets: Array) -> tuple[Array, Array]:
    """Order that puts all first observations first, then all second ones, ..., longest episode first in each.

    Returns (S,) int64 indices into packed observations and (longest,) int64 batch sizes: the layout of PyTorch's
    ``PackedSequence``, made without a padded copy.
    """
    lengths = np.diff(obs_offsets)
    rank = np.empty(len(lengths), np.int64)
    rank[np.argsort(-lengths, kind="stable")] = np.arange(len(lengths))
    step = step_in_episode(obs_offsets)
    order = np.argsort(step * max(1, len(lengths)) + np.repeat(rank, lengths), kind="stable")
    return order, np.bincount(step)


def _cells(obs: Array) -> Array:
    """(S, H, W): each cell's channels as one item, an unsigned integer where they fit one."""
    obs = np.ascontiguousarray(obs)
    size = obs.shape[-1] * obs.itemsize
    kind = f"u{size}" if size in (1, 2, 4, 8) and obs.dtype.kind in "uib" else f"V{size}"
    cells: Array = obs.view(kind)[..., 0]
    return cells


def _differs(obs: Array, changed: Array) -> None:
    np.any(obs[1:] != obs[:-1], axis=-1, out=changed[1:])


def _dilate(changed: Array) -> Array:
    """Cells whose 3x3 patch holds a changed cell."""
    rows = changed.copy()
    rows[:, 1:] |= changed[:, :-1]
    rows[:, :-1] |= changed[:, 1:]
    both = rows.copy()
    both[:, :, 1:] |= rows[:, :, :-1]
    both[:, :, :-1] |= rows[:, :, 1:]
    return both


def _gather(cells: Array, owner: Array, place: Array, obs: Array) -> Array:
    S, H, W = cells.shape
    padded = np.zeros((S, H + 2, W + 2), cells.dtype)
    padded[:, 1:-1, 1:-1] = cells
    y, x = np.divmod(place, W)
    corner = (owner * (H + 2) + y) * (W + 2) + x
    window = (np.arange(KERNEL)[:, None] * (W + 2) + np.arange(KERNEL)).reshape(-1)
    taken = padded.reshape(-1).take(corner[:, None] + window)
    rows: Array = taken.view(obs.dtype).reshape(len(owner), KERNEL * KERNEL * obs.shape[-1])
    return rows
