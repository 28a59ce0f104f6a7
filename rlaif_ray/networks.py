"""Policy networks in plain PyTorch, and policies loaded from a checkpoint without Ray or the world they acted in.

All take grids ``(B, H, W, C)`` or vectors ``(B, D)`` as the world emits them (uint8 grids are cast inside, once) and
share one trunk between actor and critic, so that one pass gives both.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rlaif_ray.config import PolicyConfig
from rlaif_ray.errors import CheckpointError, ConfigError, ShapeError, UnknownNameError
from rlaif_ray.patches import CnnTrunk
from rlaif_ray.planning import PlanningTrunk
from rlaif_ray.trunks import EgoAllocentricTrunk, EgocentricTrunk, MlpTrunk, orthogonal
from rlaif_ray.types import Array

__all__ = ["TRUNKS", "ActorCritic", "NetworkSpec", "Policy", "load_policy", "save_policy", "spec_for"]

POLICY_FILE = "policy.pt"
TRUNKS: dict[str, type[nn.Module]] = {
    "mlp": MlpTrunk, "cnn": CnnTrunk, "egocentric": EgocentricTrunk, "ego-allocentric": EgoAllocentricTrunk,
    "planning": PlanningTrunk,
}  # fmt: skip


@dataclass(frozen=True)
class NetworkSpec:
    """What a policy network is built from; travels in checkpoints as JSON."""

    network: str
    hidden: tuple[int, ...]
    obs_shape: tuple[int, ...]
    action_kind: Literal["discrete", "box"]
    num_outputs: int  # discrete: number of actions; box: twice the dimensions (means and log standard deviations)
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    critic_belief: bool = False

    def __post_init__(self) -> None:
        if self.network not in TRUNKS:
            raise UnknownNameError("policy.network", self.network, TRUNKS)
        if not self.hidden:
            raise ConfigError("policy.hidden: got (), allowed are one width or more, e.g. (256, 256)")

    @staticmethod
    def from_json(text: str) -> NetworkSpec:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        return NetworkSpec(**fields)


def spec_for(policy: PolicyConfig, obs: gym.Space[Any], act: gym.Space[Any]) -> NetworkSpec:
    """What network fits these spaces. Raises ConfigError for spaces that PPO's columns do not support."""
    if not isinstance(obs, gym.spaces.Box):
        raise ConfigError(f"env: got observations {obs}, allowed are Box (flatten others with a Gymnasium wrapper)")
    shape, believes = tuple(int(n) for n in obs.shape), policy.critic_belief
    if isinstance(act, gym.spaces.Discrete) and act.start == 0:
        return NetworkSpec(policy.network, policy.hidden, shape, "discrete", int(act.n), critic_belief=believes)
    if isinstance(act, gym.spaces.Box) and len(act.shape) == 1 and act.is_bounded():
        low, high = tuple(map(float, act.low)), tuple(map(float, act.high))
        return NetworkSpec(policy.network, policy.hidden, shape, "box", 2 * len(low), low, high, believes)
    raise ConfigError(f"env: got actions {act}, allowed are Discrete starting at 0 and bounded one-dimensional Box")


class ActorCritic(nn.Module):
    """One trunk, two heads: an actor, and a critic that may take the reward model's belief Phi in the episode so far.

    Such a critic is V = c + (2 Phi - 1) d, with c and d linear in the embedding: what a verdict at the end will add is
    in proportion to how likely it is. Who acts needs neither a reward model nor its belief: the critic's two numbers
    are kept, and the belief is put in where it is known (``mixing.with_belief``).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = TRUNKS[spec.network](spec)
        self.actor = orthogonal(nn.Linear(spec.hidden[-1], spec.num_outputs), 0.01)
        self.critic = orthogonal(nn.Linear(spec.hidden[-1], 2 if spec.critic_belief else 1), 1.0)
        if spec.critic_belief:
            nn.init.zeros_(self.critic.weight[1])  # until it has learned otherwise, belief means nothing

    def forward(self, obs: Tensor, belief: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, *obs) -> action inputs (B, K), value (as ``value`` gives it), embedding (B, hidden)."""
        embedding = self.trunk(obs)
        return self.actor(embedding), self.value(embedding, belief), embedding

    def value(self, embedding: Tensor, belief: Tensor | None = None) -> Tensor:
        """(B, hidden), and (B,) Phi -> (B,); (B, 2), c and d, where the critic takes a belief and none is given."""
        heads: Tensor = self.critic(embedding)
        if not self.spec.critic_belief:
            return heads.squeeze(-1)
        return heads if belief is None else heads[:, 0] + (2 * belief - 1) * heads[:, 1]

    def digest(self, obs: Tensor) -> dict[str, Tensor] | None:
        """Observations that are to be learned from many times -> columns for ``embed``; None: it won't pay."""
        digest: Callable[[Tensor], dict[str, Tensor] | None] = getattr(self.trunk, "digest")  # noqa: B009 - as below
        return digest(obs)

    def embed(self, columns: Mapping[str, Tensor]) -> Tensor:
        """(B, hidden) of the observations that the columns are the last digest of."""
        digested: Callable[[Mapping[str, Tensor]], Tensor] = getattr(self.trunk, "digested")  # noqa: B009 - mypy sees a Module
        return digested(columns)


class Policy:
    """A policy that acts; needs neither Ray nor the world it was trained in.

    >>> policy = load_policy("runs/quickstart/checkpoints/last")  # doctest: +SKIP
    >>> actions = policy.act(obs)  # doctest: +SKIP
    """

    def __init__(self, network: ActorCritic, seed: int = 0) -> None:
        self.network = network.eval()
        self.spec = network.spec
        self._rng = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def act(self, obs: Array, deterministic: bool = False) -> Array:
        """Observations (B, *obs), or one (*obs), -> actions (B,) int64 or (B, dims) float32, or one.

        Raises ShapeError for observations of another shape.
        """
        if not isinstance(obs, np.ndarray):
            raise ShapeError(f"observations: got a {type(obs).__name__}, expected an array {self.spec.obs_shape}")
        single = obs.shape == self.spec.obs_shape
        batch = obs[None] if single else obs
        if batch.shape[1:] != self.spec.obs_shape:
            raise ShapeError(f"observations: got {obs.shape}, expected {self.spec.obs_shape} or (B, ...) of it")
        logits = self.network(torch.as_tensor(np.ascontiguousarray(batch)))[0]
        actions = to_world(self.spec, choose(self.spec, logits, self._rng, deterministic)[0]).numpy()
        return np.asarray(actions[0] if single else actions)


def choose(spec: NetworkSpec, logits: Tensor, rng: torch.Generator, deterministic: bool) -> tuple[Tensor, Tensor]:
    """Action inputs (B, K) -> actions (B, ...) and their log-probabilities (B,)."""
    if spec.action_kind == "discrete":
        logp = logits.log_softmax(-1)
        if deterministic:
            action = logits.argmax(-1)
        else:  # Gumbel-max: one pass, no normalisation (Maddison et al. 2014, arXiv:1411.0030)
            noise = torch.empty_like(logits).exponential_(generator=rng).log_()
            action = (logits - noise).argmax(-1)
        return action, logp.gather(-1, action[:, None]).squeeze(-1)
    mean, log_std = logits.chunk(2, -1)
    noise = torch.zeros_like(mean) if deterministic else torch.randn(mean.shape, generator=rng)
    action = mean + log_std.exp() * noise
    logp = -0.5 * (noise**2 + 2 * log_std + math.log(2 * math.pi)).sum(-1)
    return action, logp


def to_world(spec: NetworkSpec, action: Tensor) -> Tensor:
    """The network's action as the world takes it: box actions from [-1, 1] to [low, high], clipped."""
    if spec.action_kind == "discrete":
        return action
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    # Clamped again: rounding in float32 can step over a bound by its last bit.
    return torch.clamp(low + (action.clamp(-1, 1) + 1) / 2 * (high - low), low, high)


def save_policy(folder: Path, network: ActorCritic) -> None:
    """Write ``policy.pt``: the spec as JSON text and plain tensors; no code is needed to unpickle it."""
    weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    torch.save({"spec": json.dumps(asdict(network.spec)), "weights": weights}, folder / POLICY_FILE)


def load_policy(checkpoint: str | Path, seed: int = 0) -> Policy:
    """The policy of a checkpoint folder (or of a run: its newest). Raises CheckpointError."""
    path = Path(checkpoint)
    for candidate in (path / POLICY_FILE, path / "checkpoints" / "last" / POLICY_FILE, path):
        if candidate.is_file():
            break
    else:
        what = "is empty or holds no policy.pt" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {str(path)!r} {what}; expected a folder runs/NAME/checkpoints/...")
    try:
        with zipfile.ZipFile(candidate) as parts:
            if spoilt := parts.testzip():  # torch itself doesn't look at the checksums
                raise ValueError(f"{spoilt} is not what was written")
        raw: dict[str, Any] = torch.load(candidate, map_location="cpu", weights_only=True)
        network = ActorCritic(NetworkSpec.from_json(raw["spec"]))
        network.load_state_dict(raw["weights"])
    except Exception as error:  # noqa: BLE001 - torch raises a dozen kinds for a damaged file; all mean the same
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"checkpoint file {str(candidate)!r} is damaged or of another kind: {reason}") from None
    return Policy(network, seed)
