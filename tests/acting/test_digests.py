"""Observations learned from many times are looked through once: the digest gives what the observations give."""

import numpy as np
import pytest
import torch

from rlaif_ray import envs, trunks
from rlaif_ray.networks import ActorCritic, NetworkSpec

SHAPE = (12, 14, 4)
PLAIN_AS_FLOATS = {"mlp", "cnn"}  # floats go the plain way through these


def network(name: str, shape=SHAPE) -> ActorCritic:
    torch.manual_seed(0)
    made = ActorCritic(NetworkSpec(name, (16, 8), shape, "discrete", 4))
    torch.nn.init.normal_(made.trunk.bias)
    return made


def homegrids(count: int) -> torch.Tensor:
    """What is seen in Homegrid at the starts of so many episodes."""
    return torch.from_numpy(envs.make_vec("rlaif_ray/Homegrid-v0", count, {}).reset(seed=1)[0])


def gradients(net: ActorCritic, embedding: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    (embedding * torch.linspace(-1, 1, embedding.numel()).view_as(embedding)).sum().backward()
    return [embedding.detach(), *(p.grad.clone() for p in net.trunk.parameters())]


@pytest.mark.parametrize("name", ["mlp", "cnn", "egocentric", "ego-allocentric"])
@pytest.mark.parametrize("rows", [slice(None), slice(3, 4), [5, 5, 0, 31]])
def test_any_rows_of_a_digest_are_what_the_observations_are_forward_and_backward(name, rows):
    net, obs = network(name), homegrids(32)
    columns = net.digest(obs)
    assert columns is not None
    digested = gradients(net, net.embed({key: column[rows] for key, column in columns.items()}))
    plain = gradients(net, net.trunk(obs[rows].float()) if name in PLAIN_AS_FLOATS else net.trunk(obs[rows]))
    for ours, theirs in zip(digested, plain, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5)
    assert all(grad.abs().sum() > 0 for grad in digested[1:])


def test_a_digest_is_short():
    """Robot, fruit, cat, and the fruit's cell that can't be entered: a few numbers instead of 672."""
    columns = network("mlp").digest(homegrids(512))
    assert columns[trunks.FEATURES].shape[1] <= 6


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_samples_that_differ_in_nothing_have_a_digest_too(name):
    net = network(name)
    obs = homegrids(1).expand(7, -1, -1, -1)
    assert torch.allclose(net.embed(net.digest(obs)), net.trunk(obs.float()), atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "egocentric", "ego-allocentric"])
def test_what_has_little_in_common_or_is_no_grid_has_no_digest(name):
    net = network(name)
    noise = torch.from_numpy((np.random.default_rng(0).random((64, *SHAPE)) < 0.5).astype(np.uint8))
    assert net.digest(noise) is None
    assert net.digest(homegrids(1)) is None
    if name in PLAIN_AS_FLOATS:
        assert net.digest(homegrids(8) * 2) is None
        assert net.digest(homegrids(8).float()) is None
