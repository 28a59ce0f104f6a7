"""What all who train for a comparison share: batch, coefficients, and the networks written plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlaif_ray.config import load_config

BATCH, MINIBATCH, EPOCHS, ENVS = 8_192, 1_024, 4, 256
LR, GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, GRAD_CLIP = 1e-3, 0.99, 0.95, 0.2, 0.03, 0.5, 0.5
SIZES = {"batch": BATCH, "minibatch": MINIBATCH, "epochs": EPOCHS, "envs": ENVS}
GRID = (12, 14, 4)


class Contender(Protocol):
    def block(self) -> dict[str, Any]:
        """Train on one batch; at least ``steps``."""

    def policy(self) -> Any:
        """What acts now, as ``evaluation.evaluate_policy`` takes it."""

    def close(self) -> None: ...


class Channels(nn.Module):
    """(B, H, W, C) -> (B, C, H, W)."""

    def forward(self, obs: Tensor) -> Tensor:
        return obs.permute(0, 3, 1, 2)


class Centred(nn.Module):
    """(B, 12, 14, 4) -> (B, 1863): all but the agent's channel in a window around it, cut out of a padded copy."""

    def forward(self, obs: Tensor) -> Tensor:
        height, width = obs.shape[1:3]
        agent = obs[..., 0].flatten(1).argmax(1)
        padded = functional.pad(obs[..., 1:], (0, 0, width - 1, width - 1, height - 1, height - 1))
        y = (agent // width)[:, None] + torch.arange(2 * height - 1)
        x = (agent % width)[:, None] + torch.arange(2 * width - 1)
        return padded[torch.arange(len(obs))[:, None, None], y[:, :, None], x[:, None, :]].flatten(1)


class CentredAndAsItLies(Centred):
    """What ``ego-allocentric`` sees: the window, and the grid with the agent in it."""

    def forward(self, obs: Tensor) -> Tensor:
        return torch.cat([super().forward(obs), obs.flatten(1)], 1)


class Heads(nn.Module):
    """A trunk with actor and critic."""

    def __init__(self, trunk: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.trunk, self.actor, self.critic = trunk, nn.Linear(256, 4), nn.Linear(256, 1)

    def forward(self, obs: Any) -> tuple[Tensor, Tensor]:
        embedding = self.trunk(obs)
        return self.actor(embedding), self.critic(embedding)


PLAIN = ("mlp", "cnn", "egocentric", "ego-allocentric")  # networks that are products, as anybody would write them
NETWORKS = (*PLAIN, "planning")


def sized(network: str) -> dict[str, Any]:
    """Which network a contender of ours has: the preset's with the preset's layers, others with those of all."""
    policy = load_config("homegrid").policy
    return {"policy": policy.model_dump(mode="json")} if network == policy.network else {"network": network}


def plain_network(name: str) -> nn.Sequential:
    """(B, 12, 14, 4) float -> (B, 256): the trunk of ``policy.network`` as anybody would write it."""
    if name == "egocentric":
        return nn.Sequential(Centred(), nn.Linear(23 * 27 * 3, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    if name == "ego-allocentric":
        seen = CentredAndAsItLies()
        return nn.Sequential(seen, nn.Linear(23 * 27 * 3 + 672, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
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
