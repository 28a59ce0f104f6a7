"""FeedbackPPO as a contender: common settings or a preset, with feedback as a config says or a reward model given."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import given_rm
from common import CLIP, ENTROPY, GAMMA, GRAD_CLIP, LAMBDA, LR, SIZES, VALUE
from stopwatch import Stopwatch

from rlaif_ray.config import Config, deep_merge, load_config, validate
from rlaif_ray.networks import Policy, save_policy
from rlaif_ray.ppo_config import FeedbackPPOConfig
from rlaif_ray.surroundings import judge_serving, ray_running


@dataclass(frozen=True)
class Setup:
    """How ours is to run. ``sections`` are those of the config, put over a task-only run of the common settings, or
    over ``preset``."""

    network: str = ""  # empty: the preset's
    threads: int = 0  # of the learner; 0: as many as a run takes by itself
    runners: int = 0
    preset: str = ""
    given: str = ""  # file of ``given_rm``, whose model scores every episode while nobody is asked
    timed: bool = False  # tell where an iteration's time goes
    sizes: Mapping[str, int] = field(default_factory=dict)
    sections: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(options: Mapping[str, Any]) -> Setup:
        """What is no option of its own is a section of the config."""
        own = {one.name for one in fields(Setup)}
        known = {name: value for name, value in options.items() if name in own}
        return Setup(**known, sections={name: value for name, value in options.items() if name not in own})

    def config(self, folder: str) -> Config:
        """The whole config of a run in that folder."""
        base = load_config(self.preset).model_dump(mode="json") if self.preset else common_settings()
        if "id" in self.sections.get("env", {}):
            base["env"].pop("options")  # another world has other options
        placed: dict[str, Any] = {
            "run": {"dir": folder, "name": "bench"},
            "resources": {"env_runners": self.runners, "learner_threads": self.threads},
        }
        placed |= {"policy": {"network": self.network}} if self.network else {}
        return validate(deep_merge(deep_merge(deep_merge(base, placed), self.sections), _sized(self.sizes)))


class Ours:
    """One run, batch by batch. ``options`` are those of ``Setup``."""

    def __init__(self, **options: Any) -> None:
        setup = Setup.of(options)
        self.labels = 0.0  # bought so far
        self._stack = contextlib.ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-run-"))
        self.algorithm = self._build(setup.config(folder), setup.given)
        self.watch = Stopwatch(self.algorithm) if setup.timed else None

    def _build(self, config: Config, given: str) -> Any:
        silent = config.model_copy(update={"mix": config.mix.model_copy(update={"source": "none"})})
        config = config if given else self._stack.enter_context(judge_serving(config))
        self._stack.enter_context(ray_running(config))
        settings = FeedbackPPOConfig.from_config(silent if given else config)
        settings.run_path = config.run.dir
        algorithm = settings.build_algo()
        if given:
            mix = config.mix.model_copy(update={"source": "distilled"})
            given_rm.give(algorithm, config.model_copy(update={"mix": mix}), given_rm.read(given))
        return algorithm

    def block(self) -> dict[str, Any]:
        row = self.algorithm.train()
        said: dict[str, Any] = {"steps": row["iteration_steps"]} | {k: row["time"][k] for k in row["time"]}
        said |= {"direct_share": row.get("mix", {}).get("share_direct", 0.0)}
        self.labels = float(row.get("feedback", {}).get("labels", 0.0))
        return said | (self.watch.parts(row) if self.watch else {})

    def policy(self) -> Policy:
        """As it is now."""
        policy: Policy = self.algorithm.policy()
        return policy

    def save(self, folder: str) -> dict[str, Any]:
        """Its policy, as ``run.init`` takes it."""
        save_policy(Path(folder), self.policy().network)
        return {}

    def copies(self) -> dict[str, Any]:
        """Of a batch on its way to the learner, in one iteration."""
        from copying import watch_copies

        return watch_copies(self.algorithm)

    def object_store(self) -> dict[str, float]:
        """MB in Ray's object store now."""
        import ray

        whole, free = ray.cluster_resources(), ray.available_resources()
        name = "object_store_memory"
        return {"object_store_mb": (whole.get(name, 0.0) - free.get(name, 0.0)) / 1e6}

    def close(self) -> None:
        if self.watch is not None:
            self.watch.stop()
        self.algorithm.stop()
        self._stack.close()


def common_settings() -> dict[str, Any]:
    """What all contenders share; feedback off."""
    return {
        "run": {"total_steps": 100_000_000, "seed": 0},
        "env": {"num_envs": SIZES["envs"], "options": {"starts": "train"}},
        "ppo": {
            "train_batch_size": SIZES["batch"], "minibatch_size": SIZES["minibatch"], "num_epochs": SIZES["epochs"],
            "lr": LR, "lr_final": LR, "gamma": GAMMA, "lambda_": LAMBDA, "clip_param": CLIP, "entropy_coeff": ENTROPY,
            "entropy_coeff_final": ENTROPY, "vf_loss_coeff": VALUE, "grad_clip": GRAD_CLIP,
        },
    }  # fmt: skip


def _sized(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Batches and environments of the tiny form."""
    if not sizes:
        return {}
    ppo = {"train_batch_size": sizes["batch"], "minibatch_size": sizes["minibatch"]}
    return {"ppo": ppo, "env": {"num_envs": sizes["envs"]}, "resources": {"object_store_mb": 100}}
