"""Trunks of the policy networks: from an observation to the embedding that actor and critic share.

Grids of 0/1 values change little from one sample of a batch to the next: walls and floor stay, an agent and a few
things move. What a batch has in common is computed once, and each sample adds only where it differs. That is the same
sum in another order (equal to the dense product up to rounding), at a fraction of the multiplications. Where a batch
has little in common, or is no 0/1 grid, or lies on a GPU, the plain product is taken: it is faster there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlaif_ray.errors import ConfigError
from rlaif_ray.products import Dense, linear

__all__ = [
    "AGENT",
    "FEATURES",
    "SIGNS",
    "CnnTrunk",
    "EgoAllocentricTrunk",
    "EgocentricTrunk",
    "MlpTrunk",
    "Spec",
    "dense",
    "grid_of",
    "orthogonal",
]

# Columns of a digest: what is learned from many times is looked through once, and is then some numbers a sample.
FEATURES, SIGNS, AGENT = "features", "signs", "agent"

# Above this share of differing values a plain product costs less (measured on Homegrid's grids, one thread).
MOST_DIFFERING = 1 / 16
_LOOKED_AT = 64
# Patches are told apart by the bits of their cells: one 64-bit word.
_WORD = 64


class Spec(Protocol):
    """What a trunk is built from (``networks.NetworkSpec``)."""

    @property
    def hidden(self) -> tuple[int, ...]: ...
    @property
    def obs_shape(self) -> tuple[int, ...]: ...


def dense(sizes: Sequence[int]) -> nn.Sequential:
    """Dense layers with rectifiers."""
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(sizes):
        layers += [orthogonal(Dense(i, o), math.sqrt(2.0)), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Orthogonal weights, zero bias: the usual start for PPO (Andrychowicz et al. 2021, arXiv:2006.05990)."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def is_binary(obs: Tensor) -> bool:
    """Whether these are 0/1 values on the CPU, for which sums over differences may pay."""
    return obs.dtype == torch.uint8 and obs.device.type == "cpu" and len(obs) > 1 and int(obs.max()) <= 1


def common_to_most(obs: Tensor) -> Tensor:
    """(B, ...) uint8 of 0/1 -> (...) uint8: what more than half of some of the samples have.

    Sums over differences are exact whatever they differ from; looking at some is enough to make them short.
    """
    some = obs[:: 1 + len(obs) // _LOOKED_AT]
    return (some.sum(0, dtype=torch.int32) * 2 > len(some)).to(torch.uint8)


def where_differing(flat: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) and (D,) -> ascending samples (M,) and features (M,) int64 in which they aren't the same."""
    differs = flat != common
    if differs.device.type != "cpu":
        sample, feature = differs.nonzero(as_tuple=True)
        return sample, feature
    at = torch.from_numpy(np.flatnonzero(differs.numpy()))  # five times as fast as PyTorch's own
    sample = torch.div(at, flat.shape[1], rounding_mode="floor")
    return sample, at - sample * flat.shape[1]


def sum_of_rows(rows: Tensor, index: Tensor, sample: Tensor, count: int, sign: Tensor | None = None) -> Tensor:
    """(R, K) rows, (M,) row and (M,) ascending sample -> (count, K): each sample's rows added up, with (M,) signs."""
    starts = torch.searchsorted(sample, torch.arange(count, device=sample.device))
    return functional.embedding_bag(index, rows, starts, mode="sum", per_sample_weights=sign)


def differences(flat: Tensor, common: Tensor) -> dict[str, Tensor] | None:
    """(B, D) of 0/1 and (D,) -> where each sample differs: (B, K) int64 features and (B, K) float32 signs, 1 where it
    is set, -1 where it isn't, 0 beyond the sample's last. None where some sample differs in too many."""
    sample, feature = where_differing(flat, common)
    counts = torch.bincount(sample, minlength=len(flat))
    most = max(1, int(counts.max()))
    if most >= MOST_DIFFERING * flat.shape[1]:
        return None
    rank = torch.arange(len(sample), device=flat.device) - (counts.cumsum(0) - counts)[sample]
    features = torch.zeros(len(flat), most, dtype=torch.int64, device=flat.device)
    signs = torch.zeros(len(flat), most, device=flat.device)
    features[sample, rank] = feature
    signs[sample, rank] = 1.0 - 2.0 * common[feature].float()
    return {FEATURES: features, SIGNS: signs}


class MlpTrunk(nn.Module):
    """Flattened observation through dense layers."""

    reference: Tensor | None = None  # (D,) uint8: what the last digest's samples are told apart from

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        first = spec.hidden[0]
        self.rows = nn.Parameter(torch.empty(math.prod(spec.obs_shape), first))
        nn.init.orthogonal_(self.rows, math.sqrt(2.0))
        self.bias = nn.Parameter(torch.zeros(first))
        self.layers = dense(spec.hidden)

    def forward(self, obs: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.relu(self.first(obs.flatten(1))))
        return out

    def digest(self, obs: Tensor) -> dict[str, Tensor] | None:
        """Columns to give ``digested`` in place of these observations, until the next digest; None: it won't pay."""
        flat = obs.flatten(1)
        if not is_binary(flat):
            return None
        self.reference = common_to_most(flat)
        return differences(flat, self.reference)

    def digested(self, columns: Mapping[str, Tensor]) -> Tensor:
        """``forward`` of the observations that the columns are a digest of."""
        assert self.reference is not None  # digest() made the columns
        shared = self.reference.float() @ self.rows + self.bias
        change = functional.embedding_bag(columns[FEATURES], self.rows, mode="sum", per_sample_weights=columns[SIGNS])
        out: Tensor = self.layers(torch.relu(shared + change))
        return out

    def first(self, flat: Tensor) -> Tensor:
        """(B, D) -> (B, hidden[0]), before the rectifier."""
        if is_binary(flat):
            common = common_to_most(flat)
            sample, feature = where_differing(flat, common)
            if len(sample) < MOST_DIFFERING * flat.numel():
                shared = common.float() @ self.rows + self.bias
                sign = 1.0 - 2.0 * common[feature].float()
                return shared + sum_of_rows(self.rows, feature, sample, len(flat), sign)
        return linear(flat.float(), self.rows.t(), self.bias)


class CnnTrunk(nn.Module):
    """Three 2x2 convolutions (the published study's kind), then dense layers. Grids only.

    An output of the convolutions sees a patch of 4 x 4 cells. In a batch the same patch stands in the same place in
    many samples: each distinct one goes through the convolutions, and through its rows of the first dense layer, once.
    """

    FIELD = 4
    CHANNELS = 64

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        height, width, channels = grid_of(spec, "cnn")
        if min(height, width) < self.FIELD:
            raise ConfigError(
                f"policy.network 'cnn': got a grid of {height} x {width} cells, allowed are 4 x 4 or more"
            )
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 2), nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 2), nn.ReLU(inplace=True),
            nn.Conv2d(32, self.CHANNELS, 2), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.places = (height - self.FIELD + 1, width - self.FIELD + 1)
        first = spec.hidden[0]
        weight = torch.empty(math.prod(self.places) * self.CHANNELS, first)
        nn.init.orthogonal_(weight, math.sqrt(2.0))
        self.rows = nn.Parameter(weight.view(-1, self.CHANNELS, first))  # (places, channels, first)
        self.bias = nn.Parameter(torch.zeros(first))
        self.layers = dense(spec.hidden)
        self.words = channels * self.FIELD**2 <= _WORD
        # Odd multipliers of a hash over places (Knuth's golden ratio); what it groups is compared afterwards.
        place = torch.arange(math.prod(self.places), dtype=torch.int64)
        self.register_buffer("mark", (2 * place + 1) * -7046029254386353131, persistent=False)
        self.mark: Tensor

    def forward(self, obs: Tensor) -> Tensor:
        first = self._from_patches(obs) if self.words and is_binary(obs) else None
        out: Tensor = self.layers(torch.relu(self._plain(obs) if first is None else first))
        return out

    def _plain(self, obs: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, hidden[0]); grids come channels last and stay so."""
        maps = self.convolutions(obs.permute(0, 3, 1, 2).float())
        return linear(maps.permute(0, 2, 3, 1).flatten(1), self.rows.flatten(0, 1).t(), self.bias)

    def _from_patches(self, obs: Tensor) -> Tensor | None:
        """The same from distinct patches; None where they are too many for that to pay."""
        common = common_to_most(obs)
        code, usual = self._codes(obs), self._codes(common[None])[0]
        sample, place = (code != usual).nonzero(as_tuple=True)
        if len(sample) > 0.5 * code.numel():
            return None
        codes = code[sample, place]
        _, group = torch.unique(codes * self.mark[-1] ^ self.mark[place], return_inverse=True)
        count = int(group.max()) + 1 if len(group) else 0
        if count * 4 > code.numel():
            return None
        example = torch.empty(count, dtype=torch.int64).index_copy_(0, group, torch.arange(len(group)))
        if not (torch.equal(codes[example][group], codes) and torch.equal(place[example][group], place)):
            return None  # two patches fell on one hash
        shared, slot, rows = self._added(obs, common, sample[example], place[example])
        return shared + self.bias + sum_of_rows(rows, slot[group], sample, len(obs))

    def _codes(self, obs: Tensor) -> Tensor:
        """(B, H, W, C) of 0/1 -> (B, places): the bits of each place's patch as one number."""
        channels, (high, wide) = obs.shape[-1], self.places
        cell = (obs.long() << torch.arange(channels)).sum(-1)
        code = torch.zeros(len(obs), high, wide, dtype=torch.int64)
        for y, x in itertools.product(range(self.FIELD), repeat=2):
            code |= cell[:, y : y + high, x : x + wide] << channels * (self.FIELD * y + x)
        return code.flatten(1)

    def _added(self, obs: Tensor, common: Tensor, sample: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the common grid gives the first layer, (hidden[0],), and what each of U patches adds to it where it
        stands instead of the common one: row ``slot[u]`` of (places * G, hidden[0])."""
        reach = torch.arange(self.FIELD)
        y, x = place // self.places[1], place % self.places[1]
        patch = obs[sample[:, None, None], (y[:, None] + reach)[:, :, None], (x[:, None] + reach)[:, None, :]]
        usual = self.convolutions(common.permute(2, 0, 1)[None].float())[0].flatten(1).T  # (places, channels)
        found = self.convolutions(patch.permute(0, 3, 1, 2).float()).flatten(1)  # (U, channels)
        shared = usual.flatten() @ self.rows.flatten(0, 1)
        # One batched product over places, padded to the place with the most patches.
        sizes = torch.bincount(place, minlength=len(usual))
        order, most = place.argsort(stable=True), int(sizes.max()) if len(place) else 0
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[place[order]]
        slot = place * most + rank
        change = found - functional.embedding(place, usual)
        padded = change.new_zeros(len(usual) * most, self.CHANNELS).index_copy(0, slot, change)
        rows = torch.bmm(padded.view(len(usual), most, self.CHANNELS), self.rows)
        return shared, slot, rows.flatten(0, 1)


class EgocentricTrunk(nn.Module):
    """The grid turned to be centred on the agent (channel 0), then dense layers. Grids of 0/1 values only.

    The first layer sees every other channel in a window of (2H-1) x (2W-1) cells around the agent: a product of a
    1,863-long 0/1 vector with its weights in Homegrid. It is computed exactly, but as sums of weight rows: what most
    samples of a batch have in common (walls, floor) is summed once for each cell the agent stands on, and each sample
    adds or subtracts the few cells in which it differs.
    """

    NAME = "egocentric"
    reference: Tensor | None = None  # (H W (C-1),) uint8: what the last digest's samples are told apart from

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.height, self.width, channels = grid_of(spec, self.NAME)
        if channels < 2:
            raise ConfigError(f"policy.network {self.NAME!r}: got a grid of {channels} channel, allowed are 2 or more")
        wide, first = 2 * self.width - 1, spec.hidden[0]
        self.window_rows = (2 * self.height - 1) * wide * (channels - 1)
        self.features = self.height * self.width * (channels - 1)
        # Rows start as a dense layer of the number of cells usually set would, not of all the window's.
        rows = torch.randn(self.window_rows + self._further_rows(), first)
        self.rows = nn.Parameter(rows * math.sqrt(2.0 / (self.height * self.width)))
        self.bias = nn.Parameter(torch.zeros(first))
        self.layers = dense(spec.hidden)
        cells = torch.arange(self.height * self.width)
        place = cells // self.width * wide + cells % self.width
        # A feature seen from a cell has the window's row that is the difference of these two.
        of_feature = (place[:, None] * (channels - 1) + torch.arange(channels - 1)).flatten()
        self.register_buffer("of_feature", of_feature, persistent=False)  # (H W (C-1),)
        self.register_buffer("of_cell", (place - place[-1]) * (channels - 1), persistent=False)  # (H W,)
        self.of_feature: Tensor
        self.of_cell: Tensor

    def _further_rows(self) -> int:
        """Rows of weights after those of the window."""
        return 0

    def _rows_of(self, agent: Tensor, feature: Tensor) -> Tensor:
        """Cells an agent stands on and features, both (...) -> (..., V) rows that a feature has then."""
        return (self.of_feature[feature] - self.of_cell[agent])[..., None]

    def _rows_at(self, cell: Tensor, common: Tensor) -> Tensor:
        """(U,) cells an agent stands on, (D,) uint8 features -> (U, n) rows of all that is set."""
        return self._rows_of(cell[:, None], common.nonzero().T).flatten(1)

    def forward(self, obs: Tensor) -> Tensor:
        agent, others = self._seen(obs)
        common = common_to_most(others)
        sample, feature = where_differing(others, common)
        rows = self._rows_of(agent[sample], feature)
        sign = (1.0 - 2.0 * common[feature].float())[:, None].expand(rows.shape).flatten()
        of = sample[:, None].expand(rows.shape).flatten()
        return self._from(agent, common, sum_of_rows(self.rows, rows.flatten(), of, len(obs), sign))

    def digest(self, obs: Tensor) -> dict[str, Tensor] | None:
        """Columns to give ``digested`` in place of these observations, until the next digest; None: it won't pay."""
        if len(obs) < 2:
            return None
        agent, others = self._seen(obs)
        self.reference = common_to_most(others)
        found = differences(others, self.reference)
        return None if found is None else {**found, AGENT: agent}

    def digested(self, columns: Mapping[str, Tensor]) -> Tensor:
        """``forward`` of the observations that the columns are a digest of."""
        assert self.reference is not None  # digest() made the columns
        agent = columns[AGENT]
        rows = self._rows_of(agent[:, None], columns[FEATURES])
        signs = columns[SIGNS][..., None].expand(rows.shape).flatten(1)
        differs = functional.embedding_bag(rows.flatten(1), self.rows, mode="sum", per_sample_weights=signs)
        return self._from(agent, self.reference, differs)

    def _seen(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> (B,) the agent's cell, (B, H W (C-1)) uint8 the other channels as 0 and 1."""
        flat = obs.flatten(1, 2)
        return flat[:, :, 0].argmax(1), (flat[:, :, 1:].flatten(1) != 0).to(torch.uint8)

    def _from(self, agent: Tensor, common: Tensor, differs: Tensor) -> Tensor:
        """What is in common, summed once for each cell an agent stands on, and (B, first) where each sample differs."""
        cell, which = torch.unique(agent, return_inverse=True)
        rows = self._rows_at(cell, common)  # flat below: there may be none
        bags = torch.arange(len(cell), device=agent.device) * rows.shape[1]
        shared = functional.embedding_bag(rows.flatten(), self.rows, bags, mode="sum")  # (U, first)
        out: Tensor = self.layers(torch.relu(functional.embedding(which, shared) + differs + self.bias))
        return out


class EgoAllocentricTrunk(EgocentricTrunk):
    """``egocentric``, and beside it where on the grid everything stands, the agent too: both sums before the first
    rectifier.

    What lies around the agent says how to go on from anywhere; where it is says what is behind the next corner. With
    one alone, a policy learns its way from the starts it has seen and generalises worse to others (DECISIONS.md).
    """

    NAME = "ego-allocentric"

    def _further_rows(self) -> int:
        return self.features + self.height * self.width

    def _rows_of(self, agent: Tensor, feature: Tensor) -> Tensor:
        around = super()._rows_of(agent, feature)
        return torch.cat([around, (self.window_rows + feature)[..., None].expand(around.shape)], -1)

    def _rows_at(self, cell: Tensor, common: Tensor) -> Tensor:
        return torch.cat([super()._rows_at(cell, common), (self.window_rows + self.features + cell)[:, None]], 1)


def grid_of(spec: Spec, network: str) -> tuple[int, int, int]:
    """Height, width and channels. Raises ConfigError: observations are no grid."""
    if len(spec.obs_shape) != 3:
        raise ConfigError(
            f"policy.network: got {network!r} for observations of shape {spec.obs_shape}; allowed there is 'mlp' "
            "('cnn' and 'egocentric' need grids (H, W, C))"
        )
    return spec.obs_shape[0], spec.obs_shape[1], spec.obs_shape[2]
