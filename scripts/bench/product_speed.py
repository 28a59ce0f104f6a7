#!/usr/bin/env python
"""A dense layer's products, forward and backward, by PyTorch's own way and by oneDNN: which is faster here, from which
size on, and how far each is from the exact sum.

    python scripts/bench/product_speed.py [--threads 1] [--turns 9]

Both take turns; medians. `rlaif_ray/products.py` goes by what this showed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from this_machine import machine
from torch import Tensor

from rlaif_ray import products

# Rows, inputs, outputs.
SHAPES = [(8, 256, 256), (64, 256, 256), (128, 256, 256), (256, 256, 256), (1024, 256, 256), (1024, 672, 256),
          (1024, 64, 64), (1024, 256, 4), (2048, 2048, 2048)]  # fmt: skip
TURN_S = 0.02
OWN = "PyTorch's own"
WAYS = {OWN: torch.nn.functional.linear, "oneDNN": products._ByOneDNN.apply}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    print(f"{options.threads} threads; in use here: {'oneDNN' if products.BY_ONEDNN else OWN}")
    print(f"{'rows x in x out':20}" + "".join(f"{way:>16} ms   GFLOP/s  error" for way in WAYS) + "   gain")
    for rows, wide, out in SHAPES:
        x, weight, bias, grad = (torch.randn(*shape) for shape in ((rows, wide), (out, wide), (out,), (rows, out)))
        given = [one.requires_grad_() for one in (x, weight, bias)]
        ms: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.turns):
            for way, taken in ms.items():
                taken.append(1e3 * seconds(way, given, grad))
        exact = torch.nn.functional.linear(*(one.detach().double() for one in given))
        line = f"{f'{rows} x {wide} x {out}':20}"
        for way, taken in ms.items():
            median = statistics.median(taken)
            error = float((WAYS[way](*given).detach() - exact).abs().max())
            line += f"{median:19.3f} {6 * rows * wide * out / median / 1e6:9.0f}  {error:.0e}"
        print(f"{line} {statistics.median(ms[OWN]) / statistics.median(ms['oneDNN']):6.2f}")


def seconds(way: str, given: list[Tensor], grad: Tensor) -> float:
    """Of one pass forward and backward, over a turn of them."""
    began, passes = time.perf_counter(), 0
    while time.perf_counter() - began < TURN_S:
        torch.autograd.grad(WAYS[way](*given), given, grad)
        passes += 1
    return (time.perf_counter() - began) / passes


if __name__ == "__main__":
    main()
