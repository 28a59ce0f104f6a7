#!/usr/bin/env python
"""Whoever trains on Homegrid for a comparison, each in a process of its own: ours, Stable-Baselines3, stock RLlib.

    python scripts/bench/contenders.py '{"kind": "sb3", "network": "mlp", "threads": 2}'

builds one, says ``ready``, and for every line ``go`` trains on one batch and prints a JSON line: environment steps,
seconds, processor seconds, and what else it can tell of itself. ``duel.py`` drives several in turn.

All have the same world (vectorised), batch of 8,192 steps, 4 epochs, minibatches of 1,024, Adam, clip, discount and
coefficients, and a network of the same shapes. The others' networks are written plainly, as a user of theirs would.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

import torch
from common import BATCH, CLIP, ENTROPY, ENVS, EPOCHS, GAMMA, GRAD_CLIP, LAMBDA, LR, MINIBATCH, VALUE, Contender

JUDGE = "rlaif_ray.feedback.builtin"  # in the command line of the built-in judge's process

# ------------------------------------------------------------------------------------------------------------ ours


class Ours:
    """FeedbackPPO. ``sections`` are those of the config, put over a task-only run of the common settings."""

    def __init__(self, network: str, threads: int, runners: int = 0, **sections: Any) -> None:
        from rlaif_ray.config import deep_merge, validate
        from rlaif_ray.ppo_config import FeedbackPPOConfig
        from rlaif_ray.surroundings import judge_serving, ray_running

        raw: dict[str, Any] = {
            "run": {"total_steps": 100_000_000, "seed": 0, "dir": "/tmp", "name": "bench"},
            "env": {"num_envs": ENVS, "options": {"starts": "train"}},
            "policy": {"network": network},
            "ppo": {
                "train_batch_size": BATCH, "minibatch_size": MINIBATCH, "num_epochs": EPOCHS, "lr": LR, "lr_final": LR,
                "gamma": GAMMA, "lambda_": LAMBDA, "clip_param": CLIP, "entropy_coeff": ENTROPY,
                "entropy_coeff_final": ENTROPY, "vf_loss_coeff": VALUE, "grad_clip": GRAD_CLIP,
            },
            "resources": {"env_runners": runners, "learner_threads": threads},
        }  # fmt: skip
        self._stack = contextlib.ExitStack()
        config = validate(deep_merge(raw, sections))
        self._stack.enter_context(ray_running(config))
        config = self._stack.enter_context(judge_serving(config))
        self.algorithm = FeedbackPPOConfig.from_config(config).build_algo()

    def block(self) -> dict[str, Any]:
        row = self.algorithm.train()
        said: dict[str, Any] = {"steps": row["iteration_steps"]} | {k: row["time"][k] for k in row["time"]}
        for key in ("labels", "provenance", "reward_model"):
            said |= {key: row[key]} if key in row else {}
        return said

    def close(self) -> None:
        self.algorithm.stop()
        self._stack.close()


# ------------------------------------------------------------------------------------------------------ one process


def build(kind: str, threads: int = 1, **options: Any) -> Contender:
    torch.set_num_threads(threads)
    if kind == "ours":
        return Ours(threads=threads, **options)
    if kind in ("sb3", "sb3-published"):
        import with_sb3

        return with_sb3.StableBaselines(**options) if kind == "sb3" else with_sb3.Published()
    if kind == "rllib":
        import with_rllib

        return with_rllib.StockRLlib(threads=threads, **options)
    raise SystemExit(f"kind: got {kind!r}, allowed are ours, sb3, sb3-published, rllib")


def processor_s(role: str = "") -> float:
    """Processor seconds of this process and what it started; of those alone whose command line names ``role``."""
    import psutil

    total = 0.0
    for one in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            if role in " ".join(one.cmdline()):
                times = one.cpu_times()
                total += times.user + times.system
    return total


def main() -> int:
    talk = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not for whoever listens
    contender = build(**json.loads(sys.argv[1]))
    print("ready", file=talk)
    for line in sys.stdin:
        if line.strip() != "go":
            break
        used, judges, began = processor_s(), processor_s(JUDGE), time.perf_counter()
        said = contender.block()
        seconds = time.perf_counter() - began
        print(
            json.dumps(
                {
                    "seconds": seconds,
                    "processor_s": processor_s() - used,
                    "judge_processor_s": processor_s(JUDGE) - judges,
                }
                | said,
                default=float,
            ),
            file=talk,
        )
    contender.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
