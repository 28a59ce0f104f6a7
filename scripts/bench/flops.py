"""Arithmetic: operations of a pass through a network, counted as it runs, and what the machine does at best."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import Heads, plain_network
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.networks import TRUNKS
from rlaif_ray.products import linear

__all__ = ["operations", "product_gflops"]

Product = Callable[[Tensor, Tensor], Tensor]

SAMPLES = 1_024  # a minibatch: what ours computes once for a batch depends on its size


def product_gflops(threads: int, size: int = 1_024, repeats: int = 20, by: Product = linear) -> float:
    """Billions of floating-point operations a second of a square matrix product on so many threads, median.

    ``by`` what multiplies; unless told, what our networks do.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        by(a, b)
        times.append(time.perf_counter() - began)
    torch.set_num_threads(before)
    return 2.0 * size**3 / statistics.median(times) / 1e9


def operations(network: str, *, ours: bool) -> float:
    """Floating-point operations of one sample's forward and backward pass with both heads, in a minibatch of Homegrid.

    ``ours``: those that our learner does, whose trunks add up weight rows where the plain one multiplies zeros, from a
    digest where they have one (made once for many passes, and not counted); else those of the plain network.
    Products, convolutions and sums of rows are counted; rectifiers and the like are not.
    """
    obs = torch.as_tensor(minibatch())
    torch.manual_seed(0)
    trunk: nn.Module = TRUNKS[network](_Shapes()) if ours else plain_network(network)
    given: Any = obs.float()
    model = Heads(trunk)
    if ours:
        given, model = trunk.digest(obs), Heads(trunk.digested)
    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
        logits, value = model(given)
        (logits.sum() + value.sum()).backward()
    return float(counter.get_total_flops()) / len(obs)


def minibatch(steps: int = 40) -> np.ndarray[Any, Any]:
    """(1024, 12, 14, 4) uint8: observations of random play, some steps in."""
    world, rng = HomegridVectorEnv(SAMPLES // 8), np.random.default_rng(0)
    obs, found = world.reset(seed=0)[0], []
    for t in range(steps):
        if t >= steps - 8:
            found.append(np.array(obs))
        obs = world.step(rng.integers(0, 4, world.num_envs))[0]
    world.close()
    return np.concatenate(found)


class _Shapes:
    hidden, obs_shape = (256, 256), (12, 14, 4)


def _summed(rows: Any, index: Any, *_: Any, **__: Any) -> int:
    """A sum of M rows of K numbers: one addition each; the counter hands over shapes."""
    return int(math.prod(index) * rows[-1])


def _multiplied(x: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """A product, whichever way its weights lie."""
    return int(2 * math.prod(x) * out_shape[-1])


_COUNTED: dict[Any, Any] = {
    torch.ops.mkldnn._linear_pointwise: _multiplied,
    torch.ops.aten.mm.out: _multiplied,
    torch.ops.aten._embedding_bag: _summed,
    torch.ops.aten._embedding_bag_forward_only: _summed,
    torch.ops.aten._embedding_bag_backward: _summed,  # of the gradients, likewise
}
