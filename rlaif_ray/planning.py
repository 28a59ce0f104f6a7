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

What can be stood on isn't weighed but known: no way leads through a kind of cell that nobody was ever seen on. As a
cost like others, a wall would be as dear as the detours of training ask for, and longer ones would lead through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlaif_ray.errors import ConfigError
from rlaif_ray.trunks import AGENT, FEATURES, Spec, dense, grid_of, orthogonal

__all__ = ["PlanningTrunk", "Ways", "best_ways", "cost", "ways", "where_on"]

MAPS = 4  # value maps: what is sought and what is avoided may be weighed differently in each
SPAN, EASY = 4.0, 4.0  # at first what arriving is worth differs by much more than a step costs: ways are long
SOUGHT, PASSED, CHANCE = 1.5, 0.7, 0.3  # what is told of a cell at first: see ``_seek``
LEAST_LOSS = 0.01  # of a step: ways don't run in circles
DEAR = 4.0  # in e-folds: beyond, what a step costs grows in proportion to what is told of it
FAR = 12.0  # differences beyond this tell no more
FEW_CHANNELS = 6
SLOTS = 65_536  # of ``stood``: kinds of cells beyond as many share them
NOWHERE = -1e9


def best_ways(gain: Tensor, loss: Tensor) -> Tensor:
    """(H, W, K) ``gain`` <= 0 of ending on a cell, ``loss`` < 0 of passing it, of K grids in a frame nobody passes ->
    (H, W, K) value.

    By sweeps down, up, right and left, each a row or column of all grids at a time, until nothing changes: a sweep
    carries a value along any straight stretch, so that it takes about as many rounds as a way has corners.
    """
    value = gain.clone(memory_format=torch.contiguous_format)
    lines = []
    for values, losses in ((value.unbind(0), loss.unbind(0)), (value.unbind(1), loss.unbind(1))):
        onward = [(values[i], values[i - 1], losses[i]) for i in range(1, len(values) - 1)]
        back = [(values[i], values[i + 1], losses[i]) for i in range(len(values) - 2, 0, -1)]
        lines += [*onward, *back]
    before = torch.empty_like(value)
    for _ in range(value.shape[0] * value.shape[1]):
        before.copy_(value)
        for line, neighbour, cost in lines:
            torch.maximum(line, neighbour + cost, out=line)
        if torch.equal(before, value):
            break
    return value


def where_on(value: Tensor, gain: Tensor, loss: Tensor) -> Tensor:
    """(H W K,) int8: which of ``ways`` the best way goes on by from each cell of each grid; 0: it ends there."""
    _, wide, K = value.shape
    flat, inner = value.view(-1), slice(wide * K, value.numel() - wide * K)
    goes, best = flat.new_zeros(len(flat), dtype=torch.int8), gain.reshape(-1)[inner] - loss.reshape(-1)[inner]
    for way, step in enumerate(ways(wide, K)[1:], 1):
        neighbour = flat[wide * K + step : len(flat) - wide * K + step]
        goes[inner].masked_fill_(neighbour > best, way)
        torch.maximum(neighbour, best, out=best)
    return goes


def ways(wide: int, K: int) -> list[int]:
    """From a flat place of (H, ``wide``, K) grids to the same, the one above, left, right and below."""
    return [0, -wide * K, -K, K, wide * K]


def cost(told: Tensor) -> Tensor:
    """What passing costs, > 0, of its logarithm.

    Ways are chosen by ratios: how many steps round something are cheaper than one through it. So what is dearest grows
    as fast, in proportion, as what is cheapest falls, and detours longer than those of training are mastered too.
    """
    return told.clamp(max=DEAR).exp() * (1.0 + (told - DEAR).clamp(min=0.0))


class Ways(torch.autograd.Function):
    """Values at (Q,) flat places of grids of *kinds* of cells, with the gradient along the ways they are the values of.

    ``gain`` and ``loss`` (kinds, maps), ``kind`` (H, W, U): a place is one of (H, W, U, maps).
    """

    @staticmethod
    def forward(ctx: Any, gain: Tensor, loss: Tensor, kind: Tensor, places: Tensor) -> Tensor:
        gains, losses = (functional.embedding(kind, table).flatten(2) for table in (gain, loss))
        value = best_ways(gains, losses)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(where_on(value, gains, losses), places, kind)
            ctx.shape = gain.shape
        return value.view(-1)[places]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        # All places go on together, and those whose way ends drop out. Narrow numbers and few passes: at a thousand
        # samples these tables are larger than a core's cache.
        goes_by, places, kind = ctx.saved_tensors
        maps = ctx.shape[1]
        step = torch.tensor(ways(kind.shape[1], kind.shape[2] * maps), device=kind.device)
        slots = (kind.int()[..., None] * maps + torch.arange(maps, dtype=torch.int32, device=kind.device)).view(-1)
        gains, losses = (torch.zeros(ctx.shape.numel(), dtype=grad.dtype, device=grad.device) for _ in range(2))
        while len(places):
            goes, slot = goes_by.index_select(0, places), slots.index_select(0, places)
            on = goes.nonzero().view(-1)
            if len(on) < len(places):
                end = (goes == 0).nonzero().view(-1)
                gains.index_add_(0, slot.index_select(0, end), grad.index_select(0, end))
                places, grad, slot, goes = (one.index_select(0, on) for one in (places, grad, slot, goes))
            places = places + step.index_select(0, goes.int())
            losses.index_add_(0, slot, grad)
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
        self._seek()
        self.layers = dense([MAPS * 6 + 5 * self.shown, *spec.hidden])
        self.wide = self.width + 2
        y, x = torch.arange(self.height * self.width) // self.width, torch.arange(self.height * self.width) % self.width
        self.register_buffer("framed", (y + 1) * self.wide + x + 1, persistent=False)  # (H W,) place in a frame
        self.register_buffer("around", torch.tensor([0, -self.wide, self.wide, 1, -1]), persistent=False)
        numbers = torch.Generator().manual_seed(0)
        mark = torch.randint(-(2**62), 2**62, (self.height * self.width,), generator=numbers)
        self.register_buffer("mark", mark, persistent=False)  # (H W,) of a hash
        # By what a cell shows: whether the agent was ever on one. It is learned, and travels with the weights.
        self.register_buffer("stood", torch.zeros(min(2**self.shown, SLOTS), dtype=torch.bool))
        self.framed: Tensor
        self.around: Tensor
        self.mark: Tensor
        self.stood: Tensor

    @torch.no_grad()
    def _seek(self) -> None:
        """Each map seeks, at first, cells that show one of the channels (or some, of many), and passes all alike.

        A value has a gradient only in what lies on its way. Where chance has it in every map that arriving at the goal
        is worth less than staying where one is, no way leads there, and nothing is ever learned of it.
        """
        into, out = self.cell[0], self.cell[2]
        assert isinstance(into, nn.Linear)
        assert isinstance(out, nn.Linear)
        out.weight.mul_(CHANCE)
        into.weight[: self.shown + 1] = torch.eye(self.shown + 1)
        for channel in range(self.shown):
            out.weight[channel % MAPS, channel] -= 2 * SOUGHT
        out.bias[:MAPS] = SOUGHT
        out.bias[MAPS:] = PASSED

    def forward(self, obs: Tensor) -> Tensor:
        agent, which, maps = self._distinct(obs)
        if self.training and torch.is_grad_enabled():  # who acts changes nothing
            self._see(agent, which, maps)
        return self._planned(agent, which, maps)

    def digest(self, obs: Tensor) -> dict[str, Tensor] | None:
        """Columns to give ``digested`` in place of these observations, until the next digest."""
        agent, which, self.maps = self._distinct(obs)
        self._see(agent, which, self.maps)
        return {FEATURES: which, AGENT: agent}

    def digested(self, columns: Mapping[str, Tensor]) -> Tensor:
        """``forward`` of the observations that the columns are a digest of."""
        assert self.maps is not None  # digest() made the columns
        distinct, which = torch.unique(columns[FEATURES], return_inverse=True)
        return self._planned(columns[AGENT], which, self.maps[distinct])

    def _see(self, agent: Tensor, which: Tensor, maps: Tensor) -> None:
        """Take note of what the agent stands on."""
        self.stood[self._slot(maps[which, agent])] = True

    def _slot(self, code: Tensor) -> Tensor:
        return code.long() % len(self.stood)

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

    def _kinds(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """(...) -> (K,) codes of cells, and (...) which of them each is: all there can be, where those are few."""
        if self.shown > FEW_CHANNELS:
            kinds, kind = torch.unique(code, return_inverse=True)
            return kinds, kind
        return torch.arange(2**self.shown + 1, dtype=code.dtype, device=code.device), code

    def _planned(self, agent: Tensor, which: Tensor, maps: Tensor) -> Tensor:
        frame = int(2**self.shown)  # a code that no cell has
        code = torch.full((self.height + 2, self.wide, len(maps)), frame, dtype=maps.dtype, device=maps.device)
        code[1:-1, 1:-1] = maps.T.view(self.height, self.width, -1)
        kinds, kind = self._kinds(code)
        bits = (kinds[:, None] >> torch.arange(self.shown + 1, device=maps.device)) & 1
        told = self.cell(bits.float())  # (kinds, 2 MAPS)
        outside = (kinds == frame)[:, None]
        closed = outside | ~self.stood[self._slot(kinds)][:, None]
        gain = (-functional.softplus(SPAN * told[:, :MAPS])).masked_fill(outside, NOWHERE)
        loss = (-cost(SPAN * told[:, MAPS:] - EASY) - LEAST_LOSS).masked_fill(closed, NOWHERE)
        seen = (self.framed[agent][:, None] + self.around) * len(maps) + which[:, None]  # (B, 5) of (H, W, U)
        places = seen[:, None] * MAPS + torch.arange(MAPS, device=seen.device)[:, None]  # (B, MAPS, 5)
        values: Tensor = Ways.apply(gain, loss, kind, places.flatten()).view(places.shape)  # type: ignore[no-untyped-call]
        most = values.amax(-1, keepdim=True)
        beside = (values - most).clamp(-FAR)
        shown = bits[kind.view(-1)[seen]][..., : self.shown].float()
        seen_now = [beside.flatten(1), most.flatten(1).clamp(-4 * FAR) / FAR, shown.flatten(1)]
        out: Tensor = self.layers(torch.cat(seen_now, 1))
        return out
