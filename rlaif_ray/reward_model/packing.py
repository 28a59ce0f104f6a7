"""Index work on packed episodes: pure NumPy, no padding to the longest.

Grids are cut into 3x3 *patches*, one per cell, zero outside the grid. Whoever takes a maximum over space and then over
the time so far needs, after an episode's first observation, only the patches that *changed*: one that did not was in
the maximum already. A robot that moves changes 2 cells and so at most 15 patches of Homegrid's 168.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_ray.errors import ShapeError
from rlaif_ray.packed import packed_ranges
from rlaif_ray.types import Array

__all__ = [
    "Bags",
    "PatchRows",
    "all_patches",
    "changed_patches",
    "distinct",
    "patch_bags",
    "step_in_episode",
    "time_major",
    "unlike_patches",
    "usual",
]

KERNEL = 3
_LOOKED_AT = 15  # observations: enough to tell walls from what moves


@dataclass(frozen=True)
class PatchRows:
    """P patches, each as one flat row, with the observation each belongs to."""

    rows: Array  # (P, 9 * C), dtype of the observations; axes (dy, dx, channel) flattened
    owner: Array  # (P,) int64, ascending index of the observation
    place: Array  # (P,) int64, cell y * W + x

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.owner) == len(self.place):
            raise ShapeError(f"patches: got {len(self.rows)} rows, {len(self.owner)} owners, {len(self.place)} places")

    def ids(self, S: int, cells: int) -> Array:
        """(S, cells) int64: which row is each observation's patch at each cell: the last one that changed there."""
        ids = np.zeros((S, cells), np.int64)
        ids[self.owner, self.place] = np.arange(len(self.rows))
        latest: Array = np.maximum.accumulate(ids, axis=0)  # rows ascend in time, and a first observation has all
        return latest


@dataclass(frozen=True)
class Bags:
    """E packed episodes as bags of rows: what a maximum over space (and time) is taken over.

    An episode has one bag (all it ever showed) or one for each observation. Rows are distinct, and episodes share them:
    most of what they show is the same walls and furniture, which a net then looks at once for all.
    """

    rows: Array  # (R, F)
    ids: Array  # (I,) int64, row
    sizes: Array  # (B,) int64, ids in each bag, >= 1
    id_counts: Array  # (E,) int64 ids and bags of each episode
    bag_counts: Array

    def __post_init__(self) -> None:
        for name, got, counts in (
            ("ids", len(self.ids), self.id_counts),
            ("bags", len(self.sizes), self.bag_counts),
            ("ids", len(self.ids), self.sizes),
        ):
            if got != counts.sum():
                raise ShapeError(f"bags: got {got} {name}, expected {counts.sum()} by their counts")

    @staticmethod
    def of(rows: Array, ids: Array, sizes: Array) -> Bags:
        """One episode."""
        return Bags(rows, ids, sizes, *(np.array([len(a)], np.int64) for a in (ids, sizes)))

    @staticmethod
    def pack(bags: Sequence[Bags]) -> Bags:
        before = np.cumsum([0, *(len(one.rows) for one in bags)])
        rows, row_of = distinct(np.concatenate([one.rows for one in bags]))
        ids = row_of[np.concatenate([one.ids + start for one, start in zip(bags, before, strict=False)])]
        names = ("sizes", "id_counts", "bag_counts")
        return Bags(rows, ids, *(np.concatenate([getattr(one, name) for one in bags]) for name in names))

    def __len__(self) -> int:
        return len(self.id_counts)

    def take(self, index: Array) -> Bags:
        """The episodes at ``index`` (any order, repeats allowed), and of the rows only theirs."""
        n_ids, n_bags = self.id_counts[index], self.bag_counts[index]
        at, bags = (
            packed_ranges((np.cumsum(counts) - counts)[index], taken)
            for counts, taken in ((self.id_counts, n_ids), (self.bag_counts, n_bags))
        )
        ids, used = self.ids[at], np.zeros(len(self.rows), bool)
        used[ids] = True
        return Bags(self.rows[used], (np.cumsum(used) - 1)[ids], self.sizes[bags], n_ids, n_bags)


def distinct(rows: Array) -> tuple[Array, Array]:
    """(N, F) -> the distinct ones, in an order that content alone sets, and (N,) int64 which of them each is."""
    whole = np.ascontiguousarray(rows).view(f"V{rows.shape[1] * rows.itemsize}")[:, 0]
    _, index, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return rows[index], inverse.reshape(-1)


def changed_patches(obs: Array, first: Array, *, of_first: bool = True) -> PatchRows:
    """Patches that differ from the same place one observation earlier; all of an episode's first observation, or none.

    ``obs`` (S, H, W, C), ``first`` (S,) bool: True at each episode's first observation, and at the first of all. Exact
    for any dtype.
    """
    framed = _framed(obs)
    changed = np.zeros(framed.shape, bool)
    changed[1:] = _differ(framed[1:], framed[:-1], obs[1:], obs[:-1])
    changed[first] = of_first
    return _around(changed, framed, obs)


def unlike_patches(obs: Array, reference: Array) -> PatchRows:
    """Patches of each of ``obs`` (S, H, W, C) that aren't those of the reference (H, W, C) at the same place."""
    framed = _framed(obs)
    return _around(_differ(framed, _framed(reference[None]), obs, reference[None]), framed, obs)


def all_patches(obs: Array) -> Array:
    """(H, W, C) -> (H W, 9 C): every patch of one observation, by place."""
    return changed_patches(obs[None], np.ones(1, bool)).rows


def usual(obs: Array) -> Array:
    """(S, *obs) -> (*obs): what is in the middle, value by value, of some of them (of 0 and 1: what most have)."""
    some = obs[:: -(-len(obs) // _LOOKED_AT)]
    middle: Array = np.sort(some, axis=0)[len(some) // 2]
    return middle


def patch_bags(obs: Array, *, each_observation: bool) -> Bags:
    """One episode's observations (T+1, H, W, C) as bags of distinct patches: one bag for each observation, or one for
    all. The order of rows is set by content alone."""
    first = np.zeros(len(obs), bool)
    first[0] = True
    patches = changed_patches(obs, first)
    rows, row_of = distinct(patches.rows)
    if not each_observation:
        return Bags.of(rows, np.arange(len(rows)), np.array([len(rows)]))
    ids = np.sort(row_of[patches.ids(len(obs), obs.shape[1] * obs.shape[2])], axis=1)
    new = np.ones(ids.shape, bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=new[:, 1:])
    return Bags.of(rows, ids[new], new.sum(axis=1))


def step_in_episode(obs_offsets: Array) -> Array:
    """(S,) int64: 0-based index of each packed observation within its episode."""
    lengths = np.diff(obs_offsets)
    steps: Array = np.arange(int(obs_offsets[-1])) - np.repeat(obs_offsets[:-1], lengths)
    return steps


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


def _framed(obs: Array) -> Array:
    """(S, H, W, C) -> (S, H + 2, W + 2): each cell's channels as one item, an unsigned integer where they fit one, in a
    frame of zeros, so that neighbours are at fixed distances in memory."""
    obs = np.ascontiguousarray(obs)
    size = obs.shape[-1] * obs.itemsize
    kind = f"u{size}" if size in (1, 2, 4, 8) and obs.dtype.kind in "iub" else f"V{size}"
    framed = np.zeros((len(obs), obs.shape[1] + 2, obs.shape[2] + 2), kind)
    framed[:, 1:-1, 1:-1] = obs.view(kind)[..., 0]
    return framed


def _differ(framed: Array, others: Array, obs: Array, other_obs: Array) -> Array:
    """(S, H + 2, W + 2) bool: which cells differ between two of ``_framed`` and what they were made of."""
    if framed.dtype.kind == "u":
        return np.asarray(framed != others)
    differ = np.zeros(framed.shape, bool)
    differ[:, 1:-1, 1:-1] = (obs != other_obs).any(axis=-1)
    return differ


def _around(changed: Array, framed: Array, obs: Array) -> PatchRows:
    """The 3x3 patches that hold a changed cell; both (S, H + 2, W + 2), ``changed`` bool."""
    _, high, wide = framed.shape
    at = np.flatnonzero(_dilate(changed))
    owner, inside = np.divmod(at, high * wide)
    y, x = np.divmod(inside, wide)
    window = ((np.arange(KERNEL) - 1)[:, None] * wide + np.arange(KERNEL) - 1).reshape(-1)
    rows = framed.reshape(-1).take(at[:, None] + window).view(obs.dtype)
    return PatchRows(rows.reshape(len(at), KERNEL**2 * obs.shape[-1]), owner, (y - 1) * (wide - 2) + x - 1)


def _dilate(changed: Array) -> Array:
    """(S, H + 2, W + 2) bool -> the cells, without the frame, whose 3x3 patch holds a changed one.

    By shifts of the flat memory: what they carry over an edge ends in a frame.
    """
    wide, flat = changed.shape[2], changed.reshape(-1)
    beside = flat.copy()
    beside[1:] |= flat[:-1]
    beside[:-1] |= flat[1:]
    around = beside.copy()
    around[wide:] |= beside[:-wide]
    around[:-wide] |= beside[wide:]
    dilated: Array = around.reshape(changed.shape)
    dilated[:, [0, -1]] = False
    dilated[:, :, [0, -1]] = False
    return dilated
