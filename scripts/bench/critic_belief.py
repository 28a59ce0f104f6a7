#!/usr/bin/env python
"""What a critic costs that is given the reward model's belief: an iteration's parts, with it and without.

    python scripts/bench/critic_belief.py [--rounds 12]

Homegrid, 256 environments, 8,192 steps, `mlp`, 4 epochs of 1,024, one thread, no Ray. The reward model scores every
episode either way (it pays them); what is added is a second number of the critic, belief put into values, and a column.
With and without take turns; figures are medians in milliseconds. Writes ``benchmarks/critic-belief.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import show
from this_machine import machine
from torch.nn import functional

from rlaif_ray import envs
from rlaif_ray.columns import ColumnSampler
from rlaif_ray.config import load_config
from rlaif_ray.learner import flat_columns
from rlaif_ray.loop import FeedbackLoop
from rlaif_ray.networks import ActorCritic, spec_for
from rlaif_ray.policy import BELIEF, ActorCriticModule, ModuleActor
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.reward_model.trainer import Published
from rlaif_ray.types import RewardModelReport

T, N, MINIBATCH, EPOCHS = 32, 256, 1_024, 4


class OnePublished:
    """A reward model's trainer that has published already and learns nothing more."""

    def __init__(self, published: list[Published]) -> None:
        self.published = published

    def add(self, units: Any, values: Any) -> None:
        raise AssertionError("nobody is asked here")

    def poll(self) -> list[Published]:
        published, self.published = self.published, []
        return published

    def wait(self, deadline_s: float) -> list[Published]:
        return self.poll()

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def nobody(*_: Any) -> Any:
    raise AssertionError("nobody is asked here")


class Iteration:
    """Acts, pays and learns once; keeps the seconds of each part."""

    def __init__(self, believes: bool) -> None:
        keys = {
            "policy.network": "mlp",
            "policy.critic_belief": believes,
            "mix.credit": "terminal",
            "mix.start_step": 0,
        }
        self.config = load_config("homegrid", keys)
        env = envs.make_vec(self.config.env.id, N, {})
        spaces = (env.single_observation_space, env.single_action_space)
        spec = spec_for(self.config.policy, *spaces)
        module = ActorCriticModule(
            observation_space=spaces[0], action_space=spaces[1],
            model_config={"policy": self.config.policy.model_dump(mode="json")},
        )  # fmt: skip
        self.network: ActorCritic = module.network
        self.actor, self.sampler = ModuleActor(module, spec, 0), ColumnSampler(env)
        self.sampler.reset(0)
        model = RewardModel.create(self.config.reward_model, spaces[0].shape, 0)
        report = RewardModelReport(1, True, 0.9, 50, 0.8, 0.9, 200, 0.1, 0.2)
        trainer = OnePublished([Published(model.state(), report)])
        self.loop = FeedbackLoop(self.config, None, trainer, choose=nobody, load=RewardModel.from_state)
        self.loop.learn_to_judge()
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)

    def run(self) -> dict[str, float]:
        at = [time.perf_counter()]
        rollout = self.sampler.sample(T, self.actor, 0)
        at.append(time.perf_counter())
        mixed = self.loop.mix(rollout, 10**9)
        at.append(time.perf_counter())
        columns = flat_columns([(rollout.fragment, mixed)], 0.99, 0.95)
        at.append(time.perf_counter())
        self._learn({name: torch.as_tensor(column) for name, column in columns.items()})
        at.append(time.perf_counter())
        self.loop.end_iteration(10**9)
        return dict(zip(("act", "score_and_pay", "columns", "learn"), np.diff(at).tolist(), strict=True))

    def _learn(self, columns: dict[str, torch.Tensor]) -> None:
        for start in range(0, T * N * EPOCHS, MINIBATCH):
            rows = slice(start % (T * N), start % (T * N) + MINIBATCH)
            belief = columns[BELIEF][rows] if BELIEF in columns else None
            logits, value, _ = self.network(columns["obs"][rows], belief)
            loss = functional.mse_loss(value, columns["value_targets"][rows]) + logits.logsumexp(-1).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    arms = {"without": Iteration(False), "with": Iteration(True)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for round_ in range(options.rounds + 1):
        for name, arm in arms.items():
            times = arm.run()
            if round_:  # the first warms up
                found[name].append(times)
    medians = {
        name: {part: round(1e3 * float(np.median([t[part] for t in times])), 2) for part in times[0]}
        for name, times in found.items()
    }
    whole = {name: sum(parts.values()) for name, parts in medians.items()}
    told: dict[str, Any] = {"machine": machine(), "ms": medians, "ratio": round(whole["with"] / whole["without"], 4)}
    show(told)
    out = Path("benchmarks") / "critic-belief.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
