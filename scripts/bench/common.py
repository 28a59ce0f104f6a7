"""What all who train for a comparison share: batch, coefficients, and the networks written plainly."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

BATCH, MINIBATCH, EPOCHS, ENVS = 8_192, 1_024, 4, 256
LR, GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, GRAD_CLIP = 1e-3, 0.99, 0.95, 0.2, 0.03, 0.5, 0.5
GRID = (12, 14, 4)


class Contender(Protocol):
    def block(self) -> dict[str, Any]:
        """Train on one batch; at least ``steps``."""

    def close(self) -> None: ...


class Channels(nn.Module):
    """(B, H, W, C) -> (B, C, H, W)."""

    def forward(self, obs: Tensor) -> Tensor:
        return obs.permute(0, 3, 1, 2)


def plain_network(name: str) -> nn.Sequential:
    """(B, 12, 14, 4) float -> (B, 256): the trunk of ``policy.network`` as anybody would write it."""
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(672, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    return nn.Sequential(
        *convolutions(), nn.Linear(64 * 9 * 11, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
    )  # fmt: skip


def convolutions() -> list[nn.Module]:
    """(B, 12, 14, 4) -> (B, 6336): 2x2 convolutions, the kind of the published study."""
    return [
        Channels(), nn.Conv2d(4, 16, 2), nn.ReLU(), nn.Conv2d(16, 32, 2), nn.ReLU(), nn.Conv2d(32, 64, 2), nn.ReLU(),
        nn.Flatten(),
    ]  # fmt: skip


def operations(name: str) -> float:
    """Floating-point operations of one sample's forward and backward pass through the plain network with its heads."""
    widths = {"mlp": [(672, 256), (256, 256), (256, 5)], "cnn": [(6_336, 256), (256, 256), (256, 5)]}[name]
    forward = sum(2.0 * i * o for i, o in widths)
    if name == "cnn":
        forward += 2.0 * (11 * 13 * 16 * 16 + 10 * 12 * 64 * 32 + 9 * 11 * 128 * 64)
    return 3.0 * forward
