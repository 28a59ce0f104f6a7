"""What stands around a run while it lasts: a judge served by us, a Ray of its own, a log for what libraries say."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from rlaif_ray import envs
from rlaif_ray.config import Config, JudgeConfig
from rlaif_ray.config.asking import SERVED_KEYS
from rlaif_ray.errors import ConfigError
from rlaif_ray.placement import cluster_address

__all__ = ["judge_served", "judge_serving", "quiet", "ray_running"]

NICENESS = "RAY_worker_niceness"  # Ray's own setting, 15 by default


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
    """The built-in judges and model files, served on loopback; any other judge is somebody else's to run.

    Raises ConfigError: one can't be served, or can't read the pictures of this world.
    """
    judge = config.judge
    if not judge.panel and judge.cascade is None:
        with _one_served(config) as served:
            yield served
        return
    with contextlib.ExitStack() as stack:
        known: dict[tuple[str, str], JudgeConfig] = {}
        ready = []
        for member in judge.members:
            who = ("builtin", member.profile) if member.kind == "builtin" else (member.gguf, member.base_url)
            if who not in known:
                alone = config.model_copy(update={"judge": member})
                # A seed of its own, or judges would all err about the same runs, and a vote would mend nothing.
                known[who] = stack.enter_context(_one_served(alone, seed=len(known))).judge
            ready.append(member.model_copy(update={name: getattr(known[who], name) for name in SERVED_KEYS}))
        yield config.model_copy(update={"judge": judge.served(ready)})


@contextlib.contextmanager
def _one_served(config: Config, seed: int = 0) -> Iterator[Config]:
    """``seed``: of a built-in judge's errors, beside that of the question."""
    judge = config.judge
    if judge.gguf:
        from rlaif_ray.feedback.local.launcher import LocalModel

        with LocalModel() as model:
            yield config.model_copy(update={"judge": model.start(judge)})
    elif judge.kind == "builtin":
        from rlaif_ray.feedback.builtin.launcher import BuiltinJudge

        reader = envs.env_spec(config.env.id).reader_for(config.env.options)
        if not reader:
            raise ConfigError(
                f"env.id: got {config.env.id!r}, whose pictures the built-in judge can't read; use a 'chat' judge"
            )
        with BuiltinJudge() as server:
            url = server.start(judge.profile, reader, seed=seed)
            yield config.model_copy(update={"judge": judge.model_copy(update={"base_url": url})})
    else:
        yield config


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Starting Ray puts a handler of its own in place of that for SIGTERM: who came to stop the run is to be heard."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def ray_running(config: Config) -> Iterator[None]:
    """A Ray of our own on this machine, or the cluster that is asked for; one already joined is left alone.

    Raises ConfigError where the cluster can't be joined.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = cluster_address(config)
    with contextlib.ExitStack() as meanwhile:
        meanwhile.enter_context(_signals_kept())
        if address:
            _join(address)
        else:
            for name in {member.api_key_env for member in config.judge.members}:
                meanwhile.enter_context(_handed_on(name, None))  # those that ask are handed it, no other needs it
            # Ray would have all workers give way alike, a sweep's learner among them. Ours know which of them do.
            meanwhile.enter_context(_handed_on(NICENESS, os.environ.get(NICENESS, "0")))
            ray.init(
                address="local",  # also beside a cluster that was started on this machine
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


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise ConfigError(f"resources.address: got {address!r}, which can't be joined: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """What to do about it, from an error of Ray's and its causes."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    whole = " ".join(map(str, chain))
    if "AuthenticationError" in whole or "token" in whole.lower():
        return (
            "the cluster wants its token; set RAY_AUTH_MODE=token and, where it isn't in ~/.ray/auth_token, "
            "RAY_AUTH_TOKEN_PATH"
        )
    if "ersion mismatch" in whole:
        return " ".join(whole[whole.index("ersion mismatch") - 1 :].split())[:300]
    return "no Ray answers; on a node of a running cluster it is 'auto', elsewhere submit the run (`ray job submit`)"


@contextlib.contextmanager
def _handed_on(name: str, value: str | None) -> Iterator[None]:
    """Processes begun meanwhile inherit this value of an environment variable; None: they don't inherit it at all."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


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
