"""What stands around a run while it lasts: a judge served by us, a Ray of its own, a log for what libraries say."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from rlaif_ray import envs
from rlaif_ray.config import Config
from rlaif_ray.errors import ConfigError

__all__ = ["judge_served", "judge_serving", "quiet", "ray_running"]


@contextlib.contextmanager
def judge_serving(config: Config) -> Iterator[Config]:
    """The judge served while the run lasts, where it asks one that is ours to serve."""
    if not config.asks:
        yield config
        return
    with judge_served(config) as served:
        yield served


@contextlib.contextmanager
def judge_served(config: Config) -> Iterator[Config]:
    """The built-in judge or a model file, served on loopback; any other judge is somebody else's to run.

    Raises ConfigError: it can't be served, or can't read the pictures of this world.
    """
    judge = config.judge
    if judge.gguf:
        from rlaif_ray.feedback.local.launcher import LocalModel

        with LocalModel() as model:
            yield config.model_copy(update={"judge": model.start(judge)})
    elif judge.kind == "builtin":
        from rlaif_ray.feedback.builtin.launcher import BuiltinJudge

        reader = envs.env_spec(config.env.id).reader
        if not reader:
            raise ConfigError(
                f"env.id: got {config.env.id!r}, whose pictures the built-in judge can't read; use a 'chat' judge"
            )
        with BuiltinJudge() as server:
            url = server.start(judge.profile, reader)
            yield config.model_copy(update={"judge": judge.model_copy(update={"base_url": url})})
    else:
        yield config


@contextlib.contextmanager
def ray_running(config: Config) -> Iterator[None]:
    """A Ray of our own on this machine, or the cluster at ``resources.address``; one already joined is left alone."""
    import ray

    if ray.is_initialized():
        yield
        return
    if config.resources.address:
        ray.init(address=config.resources.address, log_to_driver=False, configure_logging=False)
    else:
        with _kept_back(config.judge.api_key_env):
            ray.init(
                num_cpus=max(os.cpu_count() or 1, config.resources.env_runners + 1),
                object_store_memory=config.resources.object_store_mb * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _kept_back(name: str) -> Iterator[None]:
    """Processes begun meanwhile don't inherit the key: those that ask are handed it, and no other needs it."""
    key = os.environ.pop(name, None)
    try:
        yield
    finally:
        if key is not None:
            os.environ[name] = key


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """What libraries say on standard error goes to the run's log: the terminal belongs to the live view.

    Ray's own processes write there from C++, so the file descriptor is what has to be turned.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    with open(log, "a", buffering=1) as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
