"""Index work on packed episodes, against the plain and slow way of doing it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import ShapeError
from rlaif_ray.packed import packed_ranges
from rlaif_ray.reward_model import packing
from rlaif_ray.reward_model.nets import make_net


def _patch(obs, s, y, x):
    padded = np.pad(obs[s], ((1, 1), (1, 1), (0, 0)))
    return padded[y : y + 3, x : x + 3].reshape(-1)


@pytest.mark.parametrize(("channels", "dtype"), [(4, np.uint8), (3, np.uint8), (2, np.int16), (3, np.float32)])
def test_changed_patches_are_those_that_changed(channels, dtype):
    rng = np.random.default_rng(0)
    obs = (rng.random((9, 4, 5, channels)) < 0.2).astype(dtype)
    obs[3:5] = obs[2]  # nothing happens
    obs[6] = obs[5]
    obs[6, 2, 4, 1] += 1  # one cell at the edge
    first = np.zeros(9, bool)
    first[[0, 4]] = True
    want = [
        (s, _patch(obs, s, y, x))
        for s in range(9)
        for y in range(4)
        for x in range(5)
        if first[s] or not np.array_equal(_patch(obs, s, y, x), _patch(obs, s - 1, y, x))
    ]
    got = packing.changed_patches(obs, first)
    assert got.owner.tolist() == [s for s, _ in want]
    assert np.array_equal(got.rows, np.stack([row for _, row in want]))
    assert got.rows.dtype == dtype
    assert (got.owner == 3).sum() == 0
    assert (got.owner == 4).sum() == 20
    assert (got.owner == 6).sum() == 6


def _grids(n, seed):
    return (np.random.default_rng(seed).random((n, 5, 4, 3)) < 0.1).astype(np.uint8)


def _patches(obs, s):
    return {_patch(obs, s, y, x).tobytes() for y in range(5) for x in range(4)}


def test_one_bag_holds_each_patch_an_episode_ever_showed_once():
    obs = _grids(6, seed=1)
    every = set().union(*(_patches(obs, s) for s in range(6)))
    bags = packing.patch_bags(obs, each_observation=False)
    assert bags.sizes.tolist() == [len(every)] == [len(bags.rows)]
    assert len(every) < 6 * 5 * 4
    assert {row.tobytes() for row in bags.rows[bags.ids]} == every


def test_bags_of_several_episodes_packed_and_taken():
    grids = [_grids(n, seed=n) for n in (3, 1, 5)]
    packed = packing.Bags.pack([packing.patch_bags(obs, each_observation=True) for obs in grids])
    index = np.array([2, 0, 2])
    taken = packed.take(index)
    rows = taken.rows[taken.ids]
    shown = [{row.tobytes() for row in bag} for bag in np.split(rows, np.cumsum(taken.sizes)[:-1])]
    assert shown == [_patches(grids[e], s) for e in index for s in range(len(grids[e]))]
    assert taken.sizes.tolist() == [len(bag) for bag in shown]
    assert taken.bag_counts.tolist() == [5, 3, 5]
    for bags, of in ((packed, range(3)), (taken, index)):  # a row that episodes share is there once
        kept = [row.tobytes() for row in bags.rows]
        assert set(kept) == set().union(*(_patches(grids[e], s) for e in of for s in range(len(grids[e]))))
        assert len(kept) == len(set(kept))


def test_bags_check_their_counts():
    with pytest.raises(ShapeError, match="got 2 ids, expected 3"):
        packing.Bags.of(np.zeros((2, 9)), np.arange(2), np.array([3]))


def test_step_in_episode_and_ranges():
    assert packing.step_in_episode(np.array([0, 3, 4, 6])).tolist() == [0, 1, 2, 0, 0, 1]
    assert packed_ranges(np.array([7, 0, 3]), np.array([2, 0, 3])).tolist() == [7, 8, 3, 4, 5]
    assert packed_ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_time_major_is_pytorch_s_own_layout():
    lengths = [3, 1, 5, 3]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = torch.arange(12.0)
    own = pack_sequence([rows[a:b] for a, b in pairwise(offsets)], enforce_sorted=False)
    order, sizes = packing.time_major(offsets)
    assert sizes.tolist() == own.batch_sizes.tolist()
    assert sorted(order.tolist()) == list(range(12))
    for t in np.split(np.arange(12), np.cumsum(sizes)[:-1]):  # order within a step is free but must be the same in all
        assert set(order[t].tolist()) == set(own.data[t].int().tolist())
    episode = np.searchsorted(offsets, order, side="right") - 1
    assert all(
        episode[a : a + n].tolist() == episode[:n].tolist()
        for a, n in zip(np.cumsum(sizes) - sizes, sizes, strict=True)
    )


@pytest.mark.parametrize("alike", [True, False])
def test_event_max_looks_at_what_first_grids_share_once_and_says_the_same(alike):
    """Against every patch of every grid, convolved and maximised plainly; episodes of one world and of none."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 9, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    walls = rng.random((5, 6, 3)) < 0.4
    obs = (walls ^ (rng.random((offsets[-1], 5, 6, 3)) < (0.05 if alike else 0.5))).astype(np.uint8)
    net = make_net(RewardModelConfig(channels=8, hidden=8), (5, 6, 3), 0).eval()
    with torch.inference_mode():
        padded = np.pad(obs, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # (S, H, W, C, 3, 3)
        flat = torch.from_numpy(rows.transpose(0, 1, 2, 4, 5, 3).reshape(len(obs), 30, 27).astype(np.float32))
        local = net._local(flat.flatten(0, 1).numpy()).view(len(obs), 30, 8).amax(1).relu()
        so_far = torch.cat([local[a:b].cummax(0).values for a, b in pairwise(offsets.tolist())])
        assert torch.allclose(net.logits(obs, offsets), net.head(so_far)[:, 0], atol=1e-5)
