"""Networks that judge a sequence: one logit of approval at every observation, from that one and those before it.

======== ================================================================= ==========================================
name     per observation                                                   over time
======== ================================================================= ==========================================
event-   3x3 convolution, ReLU, maximum over space (vectors: two dense     running maximum, then a two-layer head:
max      layers)                                                           "something happened, somewhere, once"
cnn-lstm two strided 3x3 convolutions and a dense layer (vectors: two      LSTM, then a linear head: order and
         dense layers)                                                     duration too
======== ================================================================= ==========================================

Episodes are packed end to end (``types.EpisodeBatch``); nothing is padded to the longest. ``digest`` says what of an
episode training needs, ``final_logit`` trains on digests, ``logits`` scores packed observations.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import ShapeError, UnknownNameError
from rlaif_ray.reward_model import packing
from rlaif_ray.types import Array

__all__ = ["CnnLstm", "EventMax", "SequenceNet", "make_net"]

CELLS_AT_ONCE = 96 * 1024  # of one scoring chunk: about 580 Homegrid frames, whose rows stay in the core's cache
GRID_AXES = 3
DROPPED = 0.5  # of event-max's features in training: without it wrong labels are learned by heart (98.2 % for 99.8 %)


class SequenceNet(nn.Module):
    """What both nets share: the observation's shape and the normalisation of its values."""

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(obs_shape) not in (1, GRID_AXES):
            raise ShapeError(f"reward model: got observations of shape {obs_shape}, expected (D,) or (H, W, C)")
        self.obs_shape = tuple(obs_shape)
        self.shift = nn.Buffer(torch.zeros(obs_shape[-1]))
        self.scale = nn.Buffer(torch.ones(obs_shape[-1]))

    @property
    def is_grid(self) -> bool:
        return len(self.obs_shape) == GRID_AXES

    def normalise_by(self, obs: Array) -> None:
        """Take the inputs' range from training observations (S, *obs): vectors to mean 0 and deviation 1; grids are
        divided by their largest value where it is above 1 (no shift: nothing is outside the grid)."""
        if self.is_grid:
            self.scale.fill_(1.0 / max(1.0, float(np.abs(obs).max())))
            return
        spread = obs.std(axis=0)
        self.shift.copy_(torch.from_numpy(np.asarray(obs.mean(axis=0), np.float32)))
        self.scale.copy_(torch.from_numpy(np.where(spread > 1e-6, 1.0 / np.maximum(spread, 1e-6), 1.0)))

    def chunk(self) -> int:
        """Observations encoded at once when scoring."""
        return max(1, CELLS_AT_ONCE // math.prod(self.obs_shape[:-1])) if self.is_grid else 8192

    def digest(self, obs: Array) -> Array:
        """What training needs of one episode's observations (T+1, *obs)."""
        return obs

    def final_logit(self, digests: Array, lengths: Array) -> Tensor:
        """Packed digests and their lengths (E,) -> (E,) logit at each episode's end, with gradients."""
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return self.over_time(self.encode(digests, 0, len(digests), offsets), offsets)[offsets[1:] - 1]

    def logits(self, obs: Array, obs_offsets: Array) -> Tensor:
        """(S, *obs) packed observations, (E + 1,) offsets -> (S,) logit at each, seeing only the episode so far."""
        step = self.chunk()
        parts = [self.encode(obs, a, min(a + step, len(obs)), obs_offsets) for a in range(0, len(obs), step)]
        return self.over_time(parts[0] if len(parts) == 1 else torch.cat(parts), obs_offsets)

    def encode(self, obs: Array, a: int, b: int, obs_offsets: Array) -> Tensor:
        """Features (b - a, K) of packed observations a to b."""
        raise AssertionError("a SequenceNet encodes")

    def over_time(self, features: Tensor, obs_offsets: Array) -> Tensor:
        """(S, K) features -> (S,) logits."""
        raise AssertionError("a SequenceNet goes over time")

    def _tensor(self, rows: Array) -> Tensor:
        """To float32 on the net's device; converted where it is cheaper."""
        if self.shift.is_cuda:
            return torch.from_numpy(np.ascontiguousarray(rows)).to(self.shift.device).float()
        return torch.from_numpy(rows.astype(np.float32))  # NumPy converts bytes ten times faster than PyTorch

    def _normalised(self, rows: Array) -> Tensor:
        return (self._tensor(rows) - self.shift) * self.scale


class EventMax(SequenceNet):
    """Maximum over space and over time so far of local features: sees *that* something happened, not when or in
    which order. Two things in one cell, side by side, or a state reached once: all it can express."""

    def __init__(self, obs_shape: tuple[int, ...], channels: int, hidden: int) -> None:
        super().__init__(obs_shape)
        if self.is_grid:
            self.local: nn.Module = nn.Linear(packing.KERNEL**2 * obs_shape[-1], channels)
        else:
            self.local = nn.Sequential(nn.Linear(obs_shape[0], hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.head = nn.Sequential(
            nn.Dropout(DROPPED), nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(DROPPED), nn.Linear(hidden, 1)
        )
        self.channels = channels

    def digest(self, obs: Array) -> Array:
        """A maximum doesn't care how often: each distinct patch once."""
        return packing.distinct_patches(obs) if self.is_grid else obs

    def final_logit(self, digests: Array, lengths: Array) -> Tensor:
        local = self._local(digests)
        segments = torch.from_numpy(lengths).to(local.device)
        best = torch.segment_reduce(local, "max", lengths=segments, axis=0)
        logit: Tensor = self.head(best.relu())[:, 0]
        return logit

    def encode(self, obs: Array, a: int, b: int, obs_offsets: Array) -> Tensor:
        if not self.is_grid:
            return self._local(obs[a:b]).relu()
        first = np.zeros(b - a, bool)
        first[0] = True  # also where a chunk cuts an episode: all its patches, which changes nothing but the work
        starts = obs_offsets[np.searchsorted(obs_offsets, a) : np.searchsorted(obs_offsets, b)]
        first[starts - a] = True
        patches = packing.changed_patches(obs[a:b], first)
        local = self._local(patches.rows)
        owner = torch.from_numpy(patches.owner).to(local.device)[:, None].expand(-1, self.channels)
        floor = local.new_zeros(b - a, self.channels)  # starting at 0 is the ReLU
        return floor.scatter_reduce(0, owner, local, "amax")

    def over_time(self, features: Tensor, obs_offsets: Array) -> Tensor:
        logit: Tensor = self.head(running_max(features, obs_offsets))[:, 0]
        return logit

    def _local(self, rows: Array) -> Tensor:
        if not self.is_grid:
            local: Tensor = self.local(self._normalised(rows))
            return local
        assert isinstance(self.local, nn.Linear)
        weight = self.local.weight * self.scale.repeat(packing.KERNEL**2)
        return torch.nn.functional.linear(self._tensor(rows), weight, self.local.bias)


def running_max(features: Tensor, obs_offsets: Array) -> Tensor:
    """(S, K) -> (S, K) maximum over each episode's rows so far, by doubling: log2(longest) passes, no padding."""
    step = packing.step_in_episode(obs_offsets)
    best, reach = features, 1
    while reach <= step.max(initial=0):
        rows = torch.from_numpy(np.flatnonzero(step >= reach)).to(features.device)
        best = best.index_copy(0, rows, torch.maximum(best[rows], best[rows - reach]))
        reach *= 2
    return best


class CnnLstm(SequenceNet):
    """The general net, of the published kind: a convolutional code for each observation, an LSTM over them."""

    def __init__(self, obs_shape: tuple[int, ...], channels: int, hidden: int) -> None:
        super().__init__(obs_shape)
        if self.is_grid:
            H, W, C = obs_shape
            flat = channels * math.ceil(math.ceil(H / 2) / 2) * math.ceil(math.ceil(W / 2) / 2)
            self.code = nn.Sequential(
                nn.Conv2d(C, channels, 3, stride=2, padding=1), nn.ReLU(),
                nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.ReLU(),
                nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(),
            )  # fmt: skip
        else:
            self.code = nn.Sequential(nn.Linear(obs_shape[0], hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.lstm = nn.LSTM(hidden, hidden)
        self.head = nn.Linear(hidden, 1)

    def encode(self, obs: Array, a: int, b: int, obs_offsets: Array) -> Tensor:
        inputs = self._normalised(obs[a:b])
        code: Tensor = self.code(inputs.permute(0, 3, 1, 2) if self.is_grid else inputs)
        return code

    def over_time(self, features: Tensor, obs_offsets: Array) -> Tensor:
        order, sizes = packing.time_major(obs_offsets)
        index = torch.from_numpy(order).to(features.device)
        out, _ = self.lstm(PackedSequence(features[index], torch.from_numpy(sizes)))
        logit: Tensor = self.head(out.data)[:, 0]
        return torch.empty_like(logit).index_copy(0, index, logit)


NETS: dict[str, type[EventMax] | type[CnnLstm]] = {"event-max": EventMax, "cnn-lstm": CnnLstm}


def make_net(config: RewardModelConfig, obs_shape: tuple[int, ...], seed: int) -> SequenceNet:
    """A freshly initialised net; the same seed gives the same weights and PyTorch's own generator is left alone.

    Raises UnknownNameError for a net that isn't there, ShapeError for observations it can't take.
    """
    if config.net not in NETS:
        raise UnknownNameError("reward_model.net", config.net, NETS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETS[config.net](tuple(obs_shape), config.channels, config.hidden)
