"""Which steps of a batch's way, from the runner to the learner's minibatches, copy its observations."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from rlaif_ray import ppo

__all__ = ["watch_copies"]


def watch_copies(algorithm: Any) -> dict[str, Any]:
    """One iteration, looked at where a batch changes hands.

    ``copied``: by step of the way whether the memory is another's; ``peak_batches``: what NumPy allocates in the driver
    at most while fragments become a batch, over the batch's observations.
    """
    seen: dict[str, Any] = {}
    columns, group = ppo.flat_columns, algorithm.learner_group
    update = group.update
    module = group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    forward = module.forward_train

    def columns_watched(mixed: Any, *options: Any) -> Any:
        seen["fragments"] = [fragment.obs for fragment, _ in mixed]
        tracemalloc.start()
        try:
            seen["columns"] = columns(mixed, *options)
            return seen["columns"]
        finally:
            seen["peak"] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()

    def update_watched(*, batch: Any, **options: Any) -> Any:
        seen["batch"] = batch.policy_batches[DEFAULT_MODULE_ID][Columns.OBS]
        return update(batch=batch, **options)

    def forward_watched(batch: Any, **options: Any) -> Any:
        seen.setdefault("minibatch", batch.get(Columns.OBS))  # none: rows of a digest
        return forward(batch, **options)

    ppo.flat_columns, group.update, module.forward_train = columns_watched, update_watched, forward_watched
    try:
        algorithm.train()
    finally:
        ppo.flat_columns, group.update, module.forward_train = columns, update, forward
    return _told(seen)


def _told(seen: dict[str, Any]) -> dict[str, Any]:
    fragments, flat, batch = seen["fragments"], seen["columns"][Columns.OBS], seen["batch"]
    minibatch = seen["minibatch"]
    return {
        "copied": {
            # Ray maps what another process put into its store: read-only, and nobody's own.
            "from the runner's process to the driver": any(one.flags.writeable for one in fragments),
            "fragments to one column (what is learned from is picked, then joined)": not any(
                np.shares_memory(one, flat) for one in fragments
            ),
            "shuffled": not np.shares_memory(flat, batch),
            "to the learner's minibatches, once in each epoch": minibatch is not None and not _within(minibatch, batch),
        },
        "batch_mb": batch.nbytes / 1e6,
        "peak_batches": seen["peak"] / batch.nbytes,
    }


def _within(minibatch: torch.Tensor, batch: np.ndarray[Any, Any]) -> bool:
    start = batch.__array_interface__["data"][0]
    return bool(minibatch.dtype == torch.uint8 and start <= minibatch.data_ptr() < start + batch.nbytes)
