"""A pass of our network over a minibatch of Homegrid, as the learner makes it: by the digest where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from flops import minibatch
from torch import Tensor

from rlaif_ray.networks import ActorCritic, NetworkSpec

__all__ = ["Pass", "homegrid"]

Pass = Callable[[Any], Tensor]


def homegrid(network: str, hidden: Sequence[int] = (256, 256)) -> tuple[ActorCritic, Any, Pass]:
    """The network with weights of its own seed, what a pass is given, and the pass, whose sum has all gradients."""
    torch.manual_seed(0)
    net = ActorCritic(NetworkSpec(network, tuple(hidden), (12, 14, 4), "discrete", 4))
    obs = torch.as_tensor(minibatch())
    digest = net.digest(obs)

    def forward(given: Any) -> Tensor:
        embedding = net.embed(given) if isinstance(given, dict) else net.trunk(given)
        return net.actor(embedding).logsumexp(-1).sum() + net.value(embedding).sum()

    return net, obs if digest is None else digest, forward
