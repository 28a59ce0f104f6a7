"""The feedback room's fixtures: a store, and subprocesses that find the tests' tiny world."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import feedback_fakes
import pytest
from aiohttp import web
from ray import cloudpickle

from rlaif_ray.feedback import batch as batch_module
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.builtin.profile import Profile
from rlaif_ray.feedback.builtin.server import JudgeServer
from rlaif_ray.feedback.pool import FeedbackPool
from rlaif_ray.feedback.store import LabelStore

# Ray's workers don't have the tests on their path.
cloudpickle.register_pickle_by_value(feedback_fakes)


class InProcess:
    """The built-in server on loopback, on a thread of this process: tests start many."""

    def __init__(self, profile: Profile) -> None:
        self.server = JudgeServer(profile, feedback_fakes.TinyReader())
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(self.server.application(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore(tmp_path / "labels.sqlite") as opened:
        yield opened


@pytest.fixture
def tiny_world_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])))


@pytest.fixture
def builtin_judge(tiny_world_importable: None) -> Iterator[BuiltinJudge]:
    with BuiltinJudge() as judge:
        yield judge


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Start the built-in judge with these habits; returns its base URL. Batches are looked at often."""
    monkeypatch.setattr(batch_module, "FIRST_LOOK_S", 0.02)
    monkeypatch.setattr(batch_module, "MOST_LOOK_S", 0.1)
    running: list[InProcess] = []

    def started(**habits: Any) -> str:
        prices = {"input_usd_per_mtok": 100.0, "output_usd_per_mtok": 100.0}
        running.append(InProcess(Profile.model_validate({"name": "tiny", **prices, **habits})))
        return running[-1].base_url

    yield started
    for server in running:
        server.stop()


@pytest.fixture
def pools() -> Iterator[list[FeedbackPool]]:
    opened: list[FeedbackPool] = []
    yield opened
    for pool in opened:
        pool.close(grace_s=0.0)
