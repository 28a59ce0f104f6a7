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


def in_rows(sample: Tensor, values: Tensor, counts: Tensor, fill: float) -> Tensor:
    """(M,) ascending samples, (M,) values and (B,) how many each sample has -> (B, K): its values, then ``fill``."""
    rows = values.new_full((len(counts), max(1, int(counts.max()))), fill)
    rank = torch.arange(len(sample), device=sample.device) - (counts.cumsum(0) - counts)[sample]
    rows[sample, rank] = values
    return rows


def differences(flat: Tensor, common: Tensor) -> dict[str, Tensor] | None:
    """(B, D) of 0/1 and (D,) -> where each sample differs: (B, K) int64 features and (B, K) float32 signs, 1 where it
    is set, -1 where it isn't, 0 beyond the sample's last. None where some sample differs in too many."""
    sample, feature = where_differing(flat, common)
    counts = torch.bincount(sample, minlength=len(flat))
    if max(1, int(counts.max())) >= MOST_DIFFERING * flat.shape[1]:
        return None
    signs = 1.0 - 2.0 * common[feature].float()
    return {FEATURES: in_rows(sample, feature, counts, 0), SIGNS: in_rows(sample, signs, counts, 0.0)}


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
