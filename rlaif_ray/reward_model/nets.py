"""Networks that judge a sequence: one logit of approval at every observation, from that one and those before it.

Both look at an observation in the same way: a 3x3 convolution, the maximum over space and ReLU for grids (H, W, C), two
dense layers for vectors (D,). They differ in what they make of a sequence of such *features*:

* ``event-max``: their maximum so far, then a two-layer head: "something happened, somewhere, at least once";
* ``cnn-lstm``: an LSTM, then a linear head: order and duration too. The general one; it needs more labels.

What a net keeps of a sequence so far is its *memory*: the maximum, or the LSTM's state. An episode that goes on is
scored from it (``going_on``), so that each observation is looked at once, however long the episode becomes.

Episodes are packed end to end (``types.EpisodeBatch``); nothing is padded to the longest. ``digest`` says what of an
episode training needs, ``final_logit`` trains on digests, ``logits`` scores packed observations. The convolution is
a dense layer on patches (``packing``), each of which is looked at once, however many observations it stays in.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import ShapeError, UnknownNameError
from rlaif_ray.reward_model import packing
from rlaif_ray.reward_model.packing import Bags, PatchRows
from rlaif_ray.types import Array

__all__ = ["CnnLstm", "EventMax", "SequenceNet", "make_net"]

CELLS_AT_ONCE = 96 * 1024  # of one scoring chunk: about 580 Homegrid frames, whose rows stay in the core's cache
GRID_AXES = 3
REMEMBERS = 3.0  # added to the LSTM's forget gate: what happened must still be known dozens of steps later
DROPPED = 0.5  # of event-max's features, in training: without it wrong labels are learned by heart
DROPPED_BEFORE_LSTM = 0.3  # at 0.5 it learns too slowly from 250 labels


class SequenceNet(nn.Module):
    """What both nets share: features of one observation, of any shape they can take."""

    def __init__(self, obs_shape: tuple[int, ...], channels: int, hidden: int) -> None:
        super().__init__()
        if len(obs_shape) not in (1, GRID_AXES):
            raise ShapeError(f"reward model: got observations of shape {obs_shape}, expected (D,) or (H, W, C)")
        self.obs_shape, self.channels = tuple(obs_shape), channels
        self.shift = nn.Buffer(torch.zeros(obs_shape[-1]))
        self.scale = nn.Buffer(torch.ones(obs_shape[-1]))
        if self.is_grid:
            self.local: nn.Module = nn.Linear(packing.KERNEL**2 * obs_shape[-1], channels)
        else:
            self.local = nn.Sequential(nn.Linear(obs_shape[0], hidden), nn.ReLU(), nn.Linear(hidden, channels))

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

    def digest(self, obs: Array) -> Bags:
        """What training needs of one episode's observations (T+1, *obs)."""
        raise AssertionError("each net has its own")

    def final_logit(self, digests: Bags) -> Tensor:
        """(E,) logit at each episode's end, with gradients."""
        raise AssertionError("each net has its own")

    @property
    def remembers(self) -> int:
        """Numbers in the memory of a sequence."""
        raise AssertionError("each net has its own")

    def logits(self, obs: Array, obs_offsets: Array) -> Tensor:
        """(S, *obs) packed observations, (E + 1,) offsets -> (S,) logit at each, seeing only the episode so far."""
        fresh = np.zeros(len(obs_offsets) - 1, bool)
        return self.going_on(obs, obs_offsets, fresh, self.shift.new_zeros(len(fresh), self.remembers))[0]

    def going_on(self, obs: Array, obs_offsets: Array, known: Array, memory: Tensor) -> tuple[Tensor, Tensor]:
        """As ``logits``, of episodes that go on where ``known`` (E,): their first observation here is the last one that
        was seen before, and (E, M) ``memory`` what was kept then. Returns (S,) logits, 0 at what was seen before, and
        the (E, M) memory now."""
        raise AssertionError("each net has its own")

    def features(self, obs: Array, obs_offsets: Array) -> Tensor:
        """(S, channels) of packed observations (S, *obs), a chunk at a time."""
        step = self.chunk()
        first = np.zeros(len(obs), bool)
        first[obs_offsets[:-1]] = True
        if not self.is_grid:
            parts = [self._local(obs[a : a + step]).relu() for a in range(0, len(obs), step)]
        else:
            parts = [self.over_space(obs, first, a, min(a + step, len(obs))) for a in range(0, len(obs), step)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def over_space(self, obs: Array, first: Array, a: int, b: int) -> Tensor:
        """(b - a, channels) features of grids a to b of (S, *obs), some of them an episode's ``first`` (S,)."""
        raise AssertionError("each net has its own")

    def _of_bags(self, bags: Bags) -> Tensor:
        """(B, channels) features: the maximum over each bag's rows."""
        ids, starts = (torch.from_numpy(a) for a in (bags.ids, np.cumsum(bags.sizes) - bags.sizes))
        local = self._local(bags.rows)
        return functional.embedding_bag(ids.to(local.device), local, starts.to(local.device), mode="max").relu()

    def _local(self, rows: Array) -> Tensor:
        """(R, F) rows -> (R, channels) before the maximum and the ReLU."""
        if not self.is_grid:
            local: Tensor = self.local((self._tensor(rows) - self.shift) * self.scale)
            return local
        assert isinstance(self.local, nn.Linear)
        weight = self.local.weight * self.scale.repeat(packing.KERNEL**2)
        return functional.linear(self._tensor(rows), weight, self.local.bias)

    def _tensor(self, rows: Array) -> Tensor:
        """To float32 on the net's device; converted where it is cheaper."""
        if self.shift.is_cuda:
            return torch.tensor(rows).to(self.shift.device).float()
        return torch.from_numpy(rows.astype(np.float32))  # NumPy converts bytes ten times faster than PyTorch


class EventMax(SequenceNet):
    """Maximum over space and over time so far of local features: sees *that* something happened, not when or in
    which order. Two things in one cell, side by side, or a state reached once: all it can express."""

    def __init__(self, obs_shape: tuple[int, ...], channels: int, hidden: int) -> None:
        super().__init__(obs_shape, channels, hidden)
        self.head = nn.Sequential(
            nn.Dropout(DROPPED), nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(DROPPED), nn.Linear(hidden, 1)
        )

    def digest(self, obs: Array) -> Bags:
        """A maximum doesn't care when or how often: each distinct patch once."""
        if self.is_grid:
            return packing.patch_bags(obs, each_observation=False)
        return Bags.of(obs, np.arange(len(obs)), np.array([len(obs)]))

    def final_logit(self, digests: Bags) -> Tensor:
        logit: Tensor = self.head(self._of_bags(digests))[:, 0]
        return logit

    @property
    def remembers(self) -> int:
        return self.channels

    def going_on(self, obs: Array, obs_offsets: Array, known: Array, memory: Tensor) -> tuple[Tensor, Tensor]:
        features, starts = self.features(obs, obs_offsets), obs_offsets[:-1]
        if self.is_grid and not known.all():
            features.index_copy_(0, _index(starts[~known], features), self._of_firsts(obs[starts[~known]]))
        if known.any():  # what was seen before is in the maximum already
            features.index_copy_(0, _index(starts[known], features), memory[_index(np.flatnonzero(known), features)])
        most = running_max(features, obs_offsets)
        logit: Tensor = self.head(most)[:, 0]
        return logit.index_fill(0, _index(starts[known], features), 0.0), most[_index(obs_offsets[1:] - 1, features)]

    def over_space(self, obs: Array, first: Array, a: int, b: int) -> Tensor:
        """Only of what changed: what did not is in the maximum over time already. First grids: ``_of_firsts``."""
        before = a - (a > 0)  # what a chunk's first grid changed from
        rest = first[before:b].copy()
        rest[0] = True
        return self._most(packing.changed_patches(obs[before:b], rest, of_first=False), b - before)[a - before :]

    def _of_firsts(self, obs: Array) -> Tensor:
        """(E, channels) of grids (E, *obs). Patches that most of them have are looked at once for all."""
        reference = packing.usual(obs)
        patches = packing.unlike_patches(obs, reference)
        unlike = np.zeros((len(obs), math.prod(self.obs_shape[:-1])), bool)
        unlike[patches.owner, patches.place] = True
        usual = self._local(packing.all_patches(reference))
        return torch.maximum(self._most(patches, len(obs)), largest_left(usual, torch.from_numpy(unlike)))

    def _most(self, patches: PatchRows, n: int) -> Tensor:
        """(n, channels): the maximum, from 0 (the ReLU, and what has no patches), of each grid's patches."""
        ends = torch.from_numpy(np.searchsorted(patches.owner, np.arange(n + 1)))
        local = self._local(patches.rows)
        return torch.segment_reduce(local, "max", offsets=ends.to(local.device), initial=0.0)


def largest_left(values: Tensor, gone: Tensor) -> Tensor:
    """(P, K) values, (B, P) bool -> (B, K): the largest, from 0, of those not gone: nearly always one of the first."""
    ranked, order = values.sort(dim=0, descending=True)
    best = values.new_zeros(len(gone), values.shape[1])
    missing = torch.ones_like(best, dtype=torch.bool)
    gone = gone.to(values.device)
    for place, value in zip(order, ranked, strict=True):
        missing &= value > 0
        if not missing.any():
            break
        found = missing & ~gone[:, place]
        best = torch.where(found, value, best)
        missing &= ~found
    return best


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
    """The general net, of the published kind: a convolutional code of each observation, an LSTM over the codes."""

    def __init__(self, obs_shape: tuple[int, ...], channels: int, hidden: int) -> None:
        super().__init__(obs_shape, channels, hidden)
        self.code = nn.Sequential(nn.Dropout(DROPPED_BEFORE_LSTM), nn.Linear(channels, hidden), nn.ReLU())
        self.lstm = nn.LSTM(hidden, hidden)
        self.head = nn.Linear(hidden, 1)
        forget = slice(hidden, 2 * hidden)  # PyTorch orders the gates input, forget, cell, output
        with torch.no_grad():
            self.lstm.get_parameter("bias_hh_l0")[forget] += REMEMBERS

    def digest(self, obs: Array) -> Bags:
        if self.is_grid:
            return packing.patch_bags(obs, each_observation=True)
        return Bags.of(obs, np.arange(len(obs)), np.ones(len(obs), np.int64))

    def final_logit(self, digests: Bags) -> Tensor:
        offsets = np.concatenate([[0], np.cumsum(digests.bag_counts)])
        features = self._of_bags(digests)
        logits, _ = self._over_time(features, offsets, features.new_zeros(len(digests), self.remembers))
        return logits[offsets[1:] - 1]

    @property
    def remembers(self) -> int:
        return 2 * self.lstm.hidden_size

    def going_on(self, obs: Array, obs_offsets: Array, known: Array, memory: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(obs, obs_offsets)
        new = np.ones(len(obs), bool)
        new[obs_offsets[:-1][known]] = False
        rows, lengths = _index(np.flatnonzero(new), features), np.diff(obs_offsets) - known
        some = np.flatnonzero(lengths)  # those of which anything is new
        chosen = _index(some, features)
        logits, now = self._over_time(features[rows], np.concatenate([[0], np.cumsum(lengths[some])]), memory[chosen])
        return features.new_zeros(len(obs)).index_copy(0, rows, logits), memory.index_copy(0, chosen, now)

    def over_space(self, obs: Array, first: Array, a: int, b: int) -> Tensor:
        begins = first[a:b].copy()
        begins[0] = True  # also where a chunk cuts an episode: all its patches, which changes nothing but the work
        patches = packing.changed_patches(obs[a:b], begins)
        ids = torch.from_numpy(patches.ids(b - a, math.prod(self.obs_shape[:-1])))
        local = self._local(patches.rows)
        return functional.embedding_bag(ids.to(local.device), local, mode="max").relu()

    def _over_time(self, features: Tensor, obs_offsets: Array, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(S, channels) features and the (E, M) state before them -> (S,) logits and the state after them."""
        if not len(features):
            return features.new_zeros(0), memory
        order, sizes = packing.time_major(obs_offsets)
        index = _index(order, features)
        longest_first = _index(np.searchsorted(obs_offsets, order[: sizes[0]]), features)
        hidden, cell = memory[longest_first][None].chunk(2, dim=-1)
        packed = PackedSequence(self.code(features)[index], torch.from_numpy(sizes))
        out, after = self.lstm(packed, (hidden.contiguous(), cell.contiguous()))
        logit: Tensor = self.head(out.data)[:, 0]
        now = torch.empty_like(memory).index_copy(0, longest_first, torch.cat(after, dim=-1)[0])
        return torch.empty_like(logit).index_copy(0, index, logit), now


def _index(rows: Array, like: Tensor) -> Tensor:
    """Row numbers as an index of a tensor on that one's device; copied, since arrays from Ray are read-only."""
    return torch.tensor(rows, dtype=torch.int64, device=like.device)


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
