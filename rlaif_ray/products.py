"""Products with weights, by the faster of the two libraries for them that PyTorch carries.

PyTorch has float32 matrices multiplied by MKL, which gives processors of other makers than its own AVX2 code where they
have AVX-512: 92 GFLOP/s instead of oneDNN's 186 on one core of an AMD EPYC (`scripts/bench/product_speed.py`). oneDNN
asks the processor what it can do, not who made it. Both are float32 throughout and equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rlaif_ray.processor import processor_says

__all__ = ["Dense", "linear", "one_thread"]

# Multiplications below which handing matrices over costs more than is gained (measured, forward and backward).
WORTH_IT = 128 * 256 * 256


def _onednn_is_faster() -> bool:
    """A fixed rule, not a measurement: the same seed shall give the same numbers each time."""
    has_it = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_it or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return processor_says("vendor_id") not in {"", "GenuineIntel"}


BY_ONEDNN = _onednn_is_faster()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, I), (O, I) and (O,) -> (B, O): ``torch.nn.functional.linear``."""
    plain = not BY_ONEDNN or x.dim() != 2 or len(x) * weight.numel() < WORTH_IT or torch.compiler.is_compiling()
    if plain or any(one.device.type != "cpu" or one.dtype != torch.float32 for one in (x, weight)):
        return functional.linear(x, weight, bias)
    out: Tensor = _ByOneDNN.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class Dense(nn.Linear):
    """``torch.nn.Linear``, its product by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class _ByOneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if to_x else None,
            _product(grad.t(), x.t()) if to_weight else None,
            grad.sum(0) if to_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What PyTorch's compiler puts in a linear layer's place."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread meanwhile: what is small loses more to waiting for each other than it gains, ten times over
    where others keep the cores busy; and rounding doesn't depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
