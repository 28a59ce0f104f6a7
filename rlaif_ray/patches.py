"""A policy trunk of convolutions over 0/1 grids that looks at each distinct patch once.

An output of the convolutions sees a patch of 4 x 4 cells. In a batch the same patch stands in the same place in many
samples: each distinct one goes through the convolutions, and through its place's rows of the first dense layer, once.
That is the same sum in another order. What has little in common, is no 0/1 grid or lies on a GPU goes the plain way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlaif_ray.errors import ConfigError
from rlaif_ray.products import linear, one_thread
from rlaif_ray.trunks import FEATURES, Spec, common_to_most, dense, grid_of, in_rows, is_binary, where_differing

__all__ = ["ByPlace", "CnnTrunk"]

FIELD = 4  # cells of a patch, each way
CHANNELS = 64  # that the convolutions make of one
# Patches are told apart by the bits of their cells: one 64-bit word.
WORD = 64
# Above these shares of all patches the plain way costs less.
MOST_DIFFERING, MOST_DISTINCT = 1 / 2, 1 / 4


@dataclass(frozen=True)
class Patches:
    """The distinct patches of a batch of grids: at each place that of the common grid, and those in its stead."""

    patch: Tensor  # (G, FIELD, FIELD, C) uint8
    place: Tensor  # (G,) int64, ascending: where each stands
    common: Tensor  # (places,) int64: which are the common grid's


class ByPlace(torch.autograd.Function):
    """(U, C) rows in order of place, (P, C, K) weights of the places and how many rows each place has -> (U, K)."""

    # On one thread: a hundred small products, each shared out, take twice as long as by one alone.
    @staticmethod
    @one_thread()
    def forward(ctx: Any, rows: Tensor, weights: Tensor, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.sizes = sizes
        out = rows.new_empty(len(rows), weights.shape[2])
        for into, part, weight in zip(torch.split(out, sizes), torch.split(rows, sizes), weights.unbind(), strict=True):
            torch.mm(part, weight, out=into)
        return out

    @staticmethod
    @one_thread()
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, weights = ctx.saved_tensors
        to_rows, to_weights = torch.empty_like(rows), torch.empty_like(weights)
        parts = zip(*(torch.split(one, ctx.sizes) for one in (grad.contiguous(), rows, to_rows)), strict=True)
        for (of, part, to_part), weight, to_weight in zip(parts, weights.unbind(), to_weights.unbind(), strict=True):
            torch.mm(of, weight.t(), out=to_part)
            torch.mm(part.t(), of, out=to_weight)
        return to_rows, to_weights, None


class CnnTrunk(nn.Module):
    """Three 2x2 convolutions (the published study's kind), then dense layers. Grids only."""

    patches: Patches | None = None  # of the last digest

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        height, width, channels = grid_of(spec, "cnn")
        if min(height, width) < FIELD:
            raise ConfigError(
                f"policy.network 'cnn': got a grid of {height} x {width} cells, allowed are 4 x 4 or more"
            )
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 2), nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 2), nn.ReLU(inplace=True),
            nn.Conv2d(32, CHANNELS, 2), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.places = (height - FIELD + 1, width - FIELD + 1)
        first = spec.hidden[0]
        weight = torch.empty(math.prod(self.places) * CHANNELS, first)
        nn.init.orthogonal_(weight, math.sqrt(2.0))
        self.rows = nn.Parameter(weight.view(-1, CHANNELS, first))  # (places, channels, first)
        self.bias = nn.Parameter(torch.zeros(first))
        self.layers = dense(spec.hidden)
        self.words = channels * FIELD**2 <= WORD
        # Odd multipliers of a hash over places (Knuth's golden ratio); what it groups is compared afterwards.
        place = torch.arange(math.prod(self.places), dtype=torch.int64)
        self.register_buffer("mark", (2 * place + 1) * -7046029254386353131, persistent=False)
        self.mark: Tensor

    def forward(self, obs: Tensor) -> Tensor:
        found = self._look(obs)
        out: Tensor = self.layers(torch.relu(self._plain(obs) if found is None else self._from_patches(*found)))
        return out

    def digest(self, obs: Tensor) -> dict[str, Tensor] | None:
        """Columns to give ``digested`` in place of these observations, until the next digest; None: it won't pay."""
        found = self._look(obs)
        if found is None:
            return None
        self.patches, which = found
        return {FEATURES: which}

    def digested(self, columns: Mapping[str, Tensor]) -> Tensor:
        """``forward`` of the observations that the columns are a digest of."""
        assert self.patches is not None  # digest() made the columns
        out: Tensor = self.layers(torch.relu(self._from_patches(self.patches, columns[FEATURES])))
        return out

    def _plain(self, obs: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, hidden[0]); grids come channels last and stay so."""
        maps = self.convolutions(obs.permute(0, 3, 1, 2).float())
        return linear(maps.permute(0, 2, 3, 1).flatten(1), self.rows.flatten(0, 1).t(), self.bias)

    def _look(self, obs: Tensor) -> tuple[Patches, Tensor] | None:
        """The distinct patches, and (B, K) which of them each sample has, G beyond its last; None: they are too many,
        or these are no 0/1 grids."""
        if not self.words or not is_binary(obs):
            return None
        common = common_to_most(obs)
        code, usual = self._codes(obs), self._codes(common[None])[0]
        sample, place = where_differing(code, usual)
        if len(sample) > MOST_DIFFERING * code.numel():
            return None
        codes = code[sample, place]
        _, group = torch.unique(codes * self.mark[-1] ^ self.mark[place], return_inverse=True)
        count = int(group.max()) + 1 if len(group) else 0
        if count > MOST_DISTINCT * code.numel():
            return None
        example = torch.empty(count, dtype=torch.int64).index_copy_(0, group, torch.arange(len(group)))
        if not (torch.equal(codes[example][group], codes) and torch.equal(place[example][group], place)):
            return None  # two patches fell on one hash
        every = torch.arange(math.prod(self.places))
        places = torch.cat([every, place[example]])
        patches = torch.cat(
            [self._cut(common[None], torch.zeros_like(every), every), self._cut(obs, sample[example], place[example])]
        )
        order = places.argsort(stable=True)
        ranks = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
        which = in_rows(sample, ranks[len(every) + group], torch.bincount(sample, minlength=len(obs)), len(order))
        return Patches(patches[order], places[order], ranks[: len(every)]), which

    def _codes(self, obs: Tensor) -> Tensor:
        """(B, H, W, C) of 0/1 -> (B, places): the bits of each place's patch as one number."""
        channels, (high, wide) = obs.shape[-1], self.places
        cell = (obs.long() << torch.arange(channels)).sum(-1)
        code = torch.zeros(len(obs), high, wide, dtype=torch.int64)
        for y, x in itertools.product(range(FIELD), repeat=2):
            code |= cell[:, y : y + high, x : x + wide] << channels * (FIELD * y + x)
        return code.flatten(1)

    def _cut(self, obs: Tensor, sample: Tensor, place: Tensor) -> Tensor:
        """(G, FIELD, FIELD, C) of those samples at those places."""
        reach = torch.arange(FIELD)
        y, x = place // self.places[1], place % self.places[1]
        return obs[sample[:, None, None], (y[:, None] + reach)[:, :, None], (x[:, None] + reach)[:, None, :]]

    def _from_patches(self, known: Patches, which: Tensor) -> Tensor:
        """(B, K) which patches samples have -> (B, hidden[0]): what the common grid gives the first layer, and what
        each patch adds to it where it stands instead of the common one."""
        count = len(known.place)
        seen = torch.zeros(count + 1, dtype=torch.bool)
        seen[which.flatten()] = seen[known.common] = True
        some, row = seen[:count].nonzero().flatten(), seen.cumsum(0) - 1
        place, common = known.place[some], row[known.common]
        found = self.convolutions(known.patch[some].permute(0, 3, 1, 2).float()).flatten(1)  # (U, channels)
        usual = found[common]
        added = (found - functional.embedding(place, usual)).index_copy(0, common, usual)
        rows = ByPlace.apply(added, self.rows, torch.bincount(place).tolist())  # type: ignore[no-untyped-call]
        there = which < count
        sizes = there.sum(1)
        differs = functional.embedding_bag(row[which[there]], rows, sizes.cumsum(0) - sizes, mode="sum")
        out: Tensor = rows[common].sum(0) + self.bias + differs
        return out
