"""What a run may begin with instead of nothing: a policy that was trained before, labels that were bought before.

Both are taken up once, at a run's first step; a run that goes on from its own checkpoint has them in it already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from rlaif_ray.asking import SLICE_S
from rlaif_ray.config import Config
from rlaif_ray.errors import ConfigError
from rlaif_ray.networks import NetworkSpec, Policy, load_policy
from rlaif_ray.types import Judged, QuestionKind, episodes_of

__all__ = ["EARLIER", "SetPolicy", "check_earlier", "earlier_labels", "first_policy", "learn_from_earlier"]


EARLIER = "earlier"  # source of the labels that ``reward_model.labels`` names: asked for by a design of their own


class _Learns(Protocol):
    """The feedback loop, as far as it is needed here."""

    def learn_from(self, labelled: Sequence[Judged], source: str = "") -> None: ...

    def learn_to_judge(self, wait_s: float = 0.0) -> None: ...


def first_policy(config: Config, spec: NetworkSpec | None = None) -> Policy | None:
    """The policy that ``run.init`` names; None where a run begins with fresh weights.

    ``spec``: the network of the run; a policy of another one does not fit.

    Raises CheckpointError: not there, or damaged. ConfigError: another network, or one of the user's own.
    """
    given = config.run.init
    if not given:
        return None
    if ":" in config.policy.network:
        raise ConfigError(
            f"run.init: got {given!r} with a network of the user's own ({config.policy.network}), allowed are the "
            "shipped networks"
        )
    policy = load_policy(given)
    if spec is not None and policy.spec != spec:
        raise ConfigError(f"run.init: got {given!r}, whose network is {policy.spec}; expected {spec}")
    return policy


class SetPolicy:
    """Gives a learner of RLlib's the policy's weights; its optimiser begins anew. Picklable: learners may be remote."""

    def __init__(self, policy: Policy, module_id: str) -> None:
        self.weights: Mapping[str, torch.Tensor] = policy.network.state_dict()
        self.module_id = module_id

    def __call__(self, learner: Any) -> None:
        learner.module[self.module_id].unwrapped().network.load_state_dict(self.weights)


def earlier_labels(config: Config) -> list[Judged]:
    """The labels that ``reward_model.labels`` names. Raises ConfigError: there are none."""
    if not config.reward_model.labels:
        return []
    from rlaif_ray.feedback.earlier import labels_in

    return labels_in(Path(config.reward_model.labels))


def check_earlier(config: Config, obs_shape: tuple[int, ...]) -> None:
    """Look whether ``reward_model.labels`` can be learned from in a world with such observations, together with what
    the run's judge says; they are read when the run begins. Raises ConfigError: there are none, they are of episodes of
    another shape, or they compare two where the judge is asked about one, or the other way round."""
    where = config.reward_model.labels
    if not where:
        return
    from rlaif_ray.feedback.earlier import first_in, kinds_in
    from rlaif_ray.feedback.prompt import load_prompt

    prompt, found = load_prompt(config.judge.prompt), kinds_in(Path(where))
    wanted = {"preference"} if prompt.kind == "preference" else {"approval", "rating"}
    if not wanted.issuperset(found):
        raise ConfigError(
            f"reward_model.labels: got {where!r}, which holds {_counted(found)}; allowed with judge.prompt "
            f"{prompt.name!r} of kind {prompt.kind!r} are {' and '.join(f'{kind}s' for kind in sorted(wanted))}"
        )

    (first, *_) = episodes_of(first_in(Path(where)))
    if first.obs.shape[1:] != obs_shape:
        raise ConfigError(
            f"reward_model.labels: got {where!r}, of episodes whose observations are {first.obs.shape[1:]}; those of "
            f"{config.env.id} are {obs_shape}"
        )


def _counted(found: Mapping[QuestionKind, int]) -> str:
    return ", ".join(f"{count:,} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(found.items()))


def learn_from_earlier(loop: _Learns, labelled: Sequence[Judged], stopping: Callable[[], bool]) -> None:
    """Have the reward model learn from these labels, and wait until it has, or until ``stopping()``."""
    loop.learn_from(labelled, EARLIER)
    while labelled and not stopping():
        began = time.monotonic()
        loop.learn_to_judge(SLICE_S)
        if time.monotonic() - began < SLICE_S / 2:  # every label has been considered
            return
