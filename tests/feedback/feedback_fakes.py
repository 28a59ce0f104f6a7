"""A world of two numbers, its pictures, a reader of them, and a server that misbehaves to order."""

from __future__ import annotations

import asyncio
import io
import json
import os
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from aiohttp import web
from PIL import Image

from rlaif_ray.config import Config, load_config
from rlaif_ray.feedback.prompt import load_prompt
from rlaif_ray.feedback.question import Asked, JudgeIdentity, question_about
from rlaif_ray.types import Episode, Reading

HARM, DONE = 1, 2
KEY = "sk-planted-0123456789abcdef"


def tiny_episode(number: int, *, harmful: bool = False, steps: int = 3) -> Episode:
    """Its states are (what happens, low byte of its number, high byte)."""
    states = np.zeros((steps + 1, 3), np.int16)
    states[:, 1], states[:, 2] = number % 256, number // 256
    states[-1, 0] = DONE
    if harmful:
        states[steps // 2, 0] = HARM
    return Episode(
        episode_id=number,
        obs=states[:, None].astype(np.uint8),
        states=states,
        actions=np.zeros(steps, np.int64),
        task_return=1.0,
        terminated=True,
        policy_version=7,
    )


class TinyRenderer:
    """Three grey pixels: the three numbers of a state."""

    def frames(self, states: Any) -> Any:
        return np.repeat(states[:, None, :].astype(np.uint8), 2, axis=1)

    def png(self, states: Any) -> tuple[bytes, ...]:
        encoded = []
        for frame in self.frames(states):
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
        return tuple(encoded)

    def captions(self, states: Any) -> tuple[str, ...]:
        return tuple("a step" for _ in states)


class BrokenRenderer(TinyRenderer):
    """Can't draw episodes with odd numbers."""

    def png(self, states: Any) -> tuple[bytes, ...]:
        if states[0, 1] % 2:
            raise RuntimeError("out of ink")
        return super().png(states)


class DeadlyRenderer(TinyRenderer):
    """One episode takes its process with it."""

    def png(self, states: Any) -> tuple[bytes, ...]:
        if states[0, 1] == 13:
            os._exit(1)
        return super().png(states)


class TinyReader:
    """Sees harm where the first pixel says so."""

    def read(self, frames: Sequence[bytes]) -> Reading:
        first = [np.asarray(Image.open(io.BytesIO(frame)))[0, 0] for frame in frames]
        harmful = HARM in first
        return Reading(harmful, DONE in first, "it hurt something" if harmful else "it fetched something", {})


def asked_about(number: int, judge: JudgeIdentity, *, harmful: bool = False, prompt: str = "homegrid-align") -> Asked:
    episode = tiny_episode(number, harmful=harmful)
    question = question_about(episode, renderer=TinyRenderer(), prompt=load_prompt(prompt), judge=judge, max_images=101)
    return Asked(question, episode, run_id="run", step=10 * number, inclusion_probability=0.5)


def tiny_config(base_url: str, **overrides: Any) -> Config:
    """The tests' config for a chat judge at ``base_url``; dotted overrides have ``__`` for the dot."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config("", {"judge.kind": "chat", "judge.base_url": base_url, "judge.model": "tiny"} | dotted)


def completion(
    content: str | None = None, *, answer: str = "yes", usage: dict[str, Any] | None = None, **choice: Any
) -> dict[str, Any]:
    """A chat completion as a server would send it."""
    if content is None:
        content = json.dumps({"description": "d", "reasoning": "r", "answer": answer})
    message = {"role": "assistant", "content": content, "refusal": choice.pop("refusal", None)}
    counts = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "tiny",
        "choices": [{"index": 0, "message": message, "finish_reason": choice.pop("finish_reason", "stop")}],
        "usage": counts if usage is None else usage,
    }  # fmt: skip


class FakeServer:
    """A real HTTP server on loopback, on a thread of its own; ``respond(n, body)`` makes its n-th reply (from 0)."""

    def __init__(
        self, respond: Callable[[int, dict[str, Any]], Any], port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.respond, self.port, self.tls = respond, port, tls
        self.models_reply = lambda: web.json_response({"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def asked(self) -> int:
        return len(self.bodies)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self.tls).start()
        self.port = runner.addresses[0][1]
        self.base_url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return self.models_reply()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.bodies)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            reply = self.respond(number, body)
            if asyncio.iscoroutine(reply):
                reply = await reply
            if reply == "hang up":
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            if isinstance(reply, web.StreamResponse):
                return reply
            return web.json_response(reply)
        finally:
            self.in_flight -= 1
