"""Episodes packed end to end: index arithmetic, taking some, joining several."""

from __future__ import annotations

import numpy as np

from rlaif_ray.types import Array, EpisodeBatch

__all__ = ["env_major", "interleave", "join_batches", "packed_ranges", "take_episodes"]


def packed_ranges(starts: Array, lengths: Array) -> Array:
    """Concatenation of ``arange(start, start + length)`` over all pairs, as one (sum of lengths,) index."""
    lengths = np.asarray(lengths, np.int64)
    ends = np.cumsum(lengths)
    steps = np.ones(int(ends[-1]) if len(ends) else 0, np.int64)
    keep = lengths > 0
    first = (ends - lengths)[keep]
    if len(first):
        kept_starts, kept_lengths = np.asarray(starts, np.int64)[keep], lengths[keep]
        steps[first[0]] = kept_starts[0]
        steps[first[1:]] = kept_starts[1:] - (kept_starts[:-1] + kept_lengths[:-1] - 1)
    out: Array = np.cumsum(steps)
    return out


def env_major(array_TN: Array) -> Array:
    """(T, N, ...) -> (N * T, ...)."""
    swapped = np.ascontiguousarray(array_TN.swapaxes(0, 1))
    out: Array = swapped.reshape(-1, *swapped.shape[2:])
    return out


def interleave(*columns: Array) -> Array:
    """Columns of equal length -> first of each, second of each, and so on."""
    return np.stack(columns, 1).ravel()


def take_episodes(batch: EpisodeBatch, keep: Array) -> EpisodeBatch:
    """The episodes at indices ``keep``, in that order."""
    starts, lengths = batch.obs_offsets[:-1][keep], batch.lengths[keep]
    rows = packed_ranges(starts, lengths + 1)
    return EpisodeBatch(
        episode_id=batch.episode_id[keep],
        obs=batch.obs[rows],
        states=None if batch.states is None else batch.states[rows],
        actions=batch.actions[packed_ranges(starts - np.asarray(keep), lengths)],
        obs_offsets=np.concatenate([[0], np.cumsum(lengths + 1)]).astype(np.int64),
        task_return=batch.task_return[keep],
        terminated=batch.terminated[keep],
        complete=batch.complete[keep],
        policy_version=batch.policy_version[keep],
    )


def join_batches(batches: list[EpisodeBatch]) -> EpisodeBatch:
    """All episodes of all batches, in order. Raises ValueError for none."""
    if not batches:
        raise ValueError("join_batches needs at least one batch")
    lengths = np.concatenate([b.lengths for b in batches])
    states = [b.states for b in batches if b.states is not None]
    return EpisodeBatch(
        episode_id=np.concatenate([b.episode_id for b in batches]),
        obs=np.concatenate([b.obs for b in batches]),
        states=np.concatenate(states) if len(states) == len(batches) else None,
        actions=np.concatenate([b.actions for b in batches]),
        obs_offsets=np.concatenate([[0], np.cumsum(lengths + 1)]).astype(np.int64),
        task_return=np.concatenate([b.task_return for b in batches]),
        terminated=np.concatenate([b.terminated for b in batches]),
        complete=np.concatenate([b.complete for b in batches]),
        policy_version=np.concatenate([b.policy_version for b in batches]),
    )
