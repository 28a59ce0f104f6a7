"""Small FeedbackPPO runs that remember what went through them."""

from __future__ import annotations

import numpy as np
import torch
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import nn

from rlaif_ray.ppo import FeedbackPPO
from rlaif_ray.ppo_config import FeedbackPPOConfig

HOMEGRID = "rlaif_ray/Homegrid-v0"


def settings(runners=0, env=HOMEGRID, seed=3, **training):
    defaults = {"train_batch_size_per_learner": 256, "minibatch_size": 64, "num_epochs": 2}
    return (
        FeedbackPPOConfig()
        .environment(env)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=8 // max(1, runners))
        .policy(hidden=(32,))
        .run(total_steps=2_048)
        .training(**defaults | training)
        .debugging(seed=seed)
    )


class Recorded:
    """An algorithm, the rollouts of each iteration and the rows its learner was given."""

    def __init__(self, config):
        self.algorithm = FeedbackPPO(config)
        self.rollouts, self.batches = [], []
        look, learner_group = self.algorithm._look, self.algorithm.learner_group
        update = learner_group.update

        def looking(rollouts, mixed):
            self.rollouts.append(rollouts)
            look(rollouts, mixed)

        def updating(*, batch, **kwargs):
            self.batches.append((batch.policy_batches["default_policy"], kwargs))
            return update(batch=batch, **kwargs)

        self.algorithm._look, learner_group.update = looking, updating

    def train(self, iterations=1):
        for _ in range(iterations):
            row = self.algorithm.train()
        return row

    def weights(self):
        return copied(self.algorithm.get_learner_module())

    def optimizer(self):
        """Adam's own state: steps and both moments of every parameter."""
        return self.algorithm.learner_group._learner.get_state()["optimizer"]

    def runners(self, look):
        """``look(runner)`` by worker index."""
        group = self.algorithm.env_runner_group
        return dict(group.foreach_env_runner(lambda r: (r.worker_index, look(r))))


def copied(module):
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def same(a, b):
    """Whether two trees of tensors, arrays and numbers are equal."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, torch.as_tensor(b))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a == b


class OwnModule(TorchRLModule, ValueFunctionAPI):
    """A network of a user's own; its exploration pass gives no values, so they have to be asked for."""

    def setup(self):
        size = int(np.prod(self.observation_space.shape))
        self.body = nn.Linear(size, self.action_space.n)
        self.head = nn.Linear(size, 1)

    def _forward(self, batch, **kwargs):
        return {"action_dist_inputs": self.body(batch["obs"].flatten(1).float())}

    def compute_values(self, batch, embeddings=None):
        return self.head(batch["obs"].flatten(1).float()).squeeze(-1)


class NoModule:
    """Not a network."""
