"""A policy trunk that plans: it learns what each kind of cell costs and is worth, and finds the best ways over a grid.

What a cell shows (all channels but the agent's) says how much is lost by a step onto it and what arriving is worth. The
value of being somewhere is then that of the best way from there, and who acts sees the values of its own cell and of
the four beside it: nothing else of what is far away. So it finds its way as well where it has never been.

After value iteration networks (Tamar et al. 2016, arXiv:1602.02867) and value propagation (Nardelli et al. 2019,
arXiv:1805.11199), in logarithms and to the fixed point instead of for so many steps: with gains g <= 0 of arriving and
losses l < 0 of passing,

    L[c] = max(g[c], l[c] + max over the four cells n beside c of L[n]).

A value is a sum along one way, so its gradient is one on what lies there and zero elsewhere; no step of the iteration
has to be kept for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlaif_ray.errors import ConfigError
from rlaif_ray.trunks import AGENT, FEATURES, Spec, dense, grid_of, orthogonal

__all__ = ["PlanningTrunk", "Ways", "best_ways"]

MAPS = 4  # value maps: what is sought and what is avoided may be weighed differently in each
SPAN, EASY = 4.0, 4.0  # at first what arriving is worth differs by much more than a step costs: ways are long
LEAST_LOSS = 0.01  # of a step: ways don't run in circles
CHECK_EVERY = 8  # rounds between looks whether anything still changes
FAR = 12.0  # differences beyond this tell no more
NOWHERE = -1e9


def best_ways(gain: Tensor, loss: Tensor, wide: int, ways: bool = True) -> tuple[Tensor, Tensor]:
    """(M, P) ``gain`` <= 0 of ending on a cell and ``loss`` < 0 of passing it, of grids in a frame nobody passes, rows
    of ``wide`` -> (M, P) value, and (M P,) int64 where the best way goes on: to a neighbour, or no further. Without
    ``ways`` the second is empty.
    """
    value = gain.clone(memory_format=torch.contiguous_format)
    flat, cost = value.view(-1), loss.reshape(-1)
    beside, ahead = torch.empty_like(flat), torch.empty_like(flat)
    inner = slice(wide, len(flat) - wide)
    steps = (-wide, -1, 1, wide)
    for i in range(value.shape[1]):
        before = flat.clone() if i % CHECK_EVERY == CHECK_EVERY - 1 else None
        torch.maximum(flat[: len(flat) - 2 * wide], flat[2 * wide :], out=beside[inner])
        torch.maximum(flat[wide - 1 : len(flat) - wide - 1], flat[wide + 1 : len(flat) - wide + 1], out=ahead[inner])
        torch.maximum(beside[inner], ahead[inner], out=beside[inner])
        beside[inner].add_(cost[inner])
        torch.maximum(flat[inner], beside[inner], out=flat[inner])
        if before is not None and torch.equal(before, flat):
            break
    if not ways:
        return value, torch.empty(0)
    around = torch.stack([flat[wide + step : len(flat) - wide + step] for step in steps])
    best, which = around.max(0)
    here = torch.arange(len(flat), device=flat.device)
    onward = here.clone()
    goes = best + cost[inner] > gain.reshape(-1)[inner]
    onward[inner] = torch.where(goes, here[inner] + torch.tensor(steps, device=flat.device)[which], here[inner])
    return value, onward


class Ways(torch.autograd.Function):
    """Values at (Q,) flat places of the maps, with the gradient along the ways that they are the values of."""

    @staticmethod
    def forward(ctx: Any, gain: Tensor, loss: Tensor, wide: int, places: Tensor) -> Tensor:
        value, onward = best_ways(gain, loss, wide, any(ctx.needs_input_grad))
        ctx.save_for_backward(onward, places)
        ctx.shape = gain.shape
        return value.view(-1)[places]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        onward, places = ctx.saved_tensors
        gains, losses = (torch.zeros(onward.numel(), dtype=grad.dtype, device=grad.device) for _ in range(2))
        while len(places):
            after = onward[places]
            ends = after == places
            gains.index_add_(0, places[ends], grad[ends])
            goes = ~ends
            places, grad, after = places[goes], grad[goes], after[goes]
            losses.index_add_(0, places, grad)
            places = after
        return gains.view(ctx.shape), losses.view(ctx.shape), None, None


class PlanningTrunk(nn.Module):
    """Values of the best ways from the agent's cell (channel 0) and the four beside it, what these five cells show,
    then dense layers. Grids of 0/1 values only."""

    NAME = "planning"
    maps: Tensor | None = None  # (U, H W) codes of the last digest's distinct grids

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.height, self.width, channels = grid_of(spec, self.NAME)
        if channels < 2 or channels > 30:
            raise ConfigError(f"policy.network {self.NAME!r}: got a grid of {channels} channels, allowed are 2 to 30")
        self.shown = channels - 1
        # The last input is the frame around the grid.
        self.cell = nn.Sequential(nn.Linear(self.shown + 1, 32), nn.ReLU(), nn.Linear(32, 2 * MAPS))
        for layer in (self.cell[0], self.cell[2]):
            assert isinstance(layer, nn.Linear)
            orthogonal(layer, 1.4)
        self.layers = dense([MAPS * 6 + 5 * self.shown, *spec.hidden])
        self.wide = self.width + 2
        y, x = torch.arange(self.height * self.width) // self.width, torch.arange(self.height * self.width) % self.width
        self.register_buffer("framed", (y + 1) * self.wide + x + 1, persistent=False)  # (H W,) place in a frame
        self.register_buffer("around", torch.tensor([0, -self.wide, self.wide, 1, -1]), persistent=False)
        numbers = torch.Generator().manual_seed(0)
        mark = torch.randint(-(2**62), 2**62, (self.height * self.width,), generator=numbers)
        self.register_buffer("mark", mark, persistent=False)  # (H W,) of a hash
        self.framed: Tensor
        self.around: Tensor
        self.mark: Tensor

    def forward(self, obs: Tensor) -> Tensor:
        agent, which, maps = self._distinct(obs)
        return self._planned(agent, which, maps)

    def digest(self, obs: Tensor) -> dict[str, Tensor] | None:
        """Columns to give ``digested`` in place of these observations, until the next digest."""
        agent, which, self.maps = self._distinct(obs)
        return {FEATURES: which, AGENT: agent}

    def digested(self, columns: Mapping[str, Tensor]) -> Tensor:
        """``forward`` of the observations that the columns are a digest of."""
        assert self.maps is not None  # digest() made the columns
        distinct, which = torch.unique(columns[FEATURES], return_inverse=True)
        return self._planned(columns[AGENT], which, self.maps[distinct])

    def _distinct(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, C) -> (B,) the agent's cell, (B,) which grid it is on, (U, H W) what lies on each grid."""
        flat = obs.flatten(1, 2)
        codes = torch.zeros(flat.shape[:2], dtype=torch.int32, device=obs.device)
        for channel in range(self.shown):
            codes |= (flat[:, :, channel + 1] != 0).to(torch.int32) << channel
        return flat[:, :, 0].argmax(1), *self._grouped(codes)

    def _grouped(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) -> (B,) which of the distinct rows, (U, N) those. By a hash, as long as it tells them apart."""
        hashed, which = torch.unique(codes.long() @ self.mark, return_inverse=True)
        example = torch.zeros_like(hashed).index_copy_(0, which, torch.arange(len(codes), device=codes.device))
        rows = codes[example]
        if torch.equal(rows[which], codes):
            return which, rows
        rows, which = torch.unique(codes, dim=0, return_inverse=True)
        return which, rows

    def _planned(self, agent: Tensor, which: Tensor, maps: Tensor) -> Tensor:
        frame = int(2**self.shown)  # a code that no cell has
        P = (self.height + 2) * self.wide
        code = torch.full((len(maps), P), frame, dtype=maps.dtype, device=maps.device)
        code[:, self.framed] = maps
        kinds, kind = torch.unique(code, return_inverse=True)
        bits = (kinds[:, None] >> torch.arange(self.shown + 1, device=maps.device)) & 1
        told = self.cell(bits.float())  # (kinds, 2 MAPS)
        outside = (kinds == frame)[:, None]
        gain = (-functional.softplus(SPAN * told[:, :MAPS])).masked_fill(outside, NOWHERE)
        loss = (-functional.softplus(SPAN * told[:, MAPS:] - EASY) - LEAST_LOSS).masked_fill(outside, NOWHERE)
        # (U MAPS, P): one map after another
        gains, losses = (functional.embedding(kind, one).transpose(1, 2).reshape(-1, P) for one in (gain, loss))
        seen = self.framed[agent][:, None] + self.around  # (B, 5)
        at = (which[:, None, None] * MAPS + torch.arange(MAPS, device=seen.device)[:, None]) * P + seen[:, None]
        values: Tensor = Ways.apply(gains, losses, self.wide, at.flatten()).view(len(agent), MAPS, 5)  # type: ignore[no-untyped-call]
        most = values.amax(-1, keepdim=True)
        beside = (values - most).clamp(-FAR)
        shown = bits[kind[which[:, None], seen]][..., : self.shown].float()
        seen_now = [beside.flatten(1), most.flatten(1).clamp(-4 * FAR) / FAR, shown.flatten(1)]
        out: Tensor = self.layers(torch.cat(seen_now, 1))
        return out
