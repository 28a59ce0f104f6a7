"""The built-in judge's HTTP server: OpenAI's chat completions, on loopback.

It sees the request and nothing else. Reading pictures happens on a thread of its own, so that the loop keeps answering.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import importlib
import json
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.builtin.decide import compose, decide, latency_s, polarity_of
from rlaif_ray.feedback.builtin.profile import Profile, load_profile
from rlaif_ray.types import FrameReader, Reading

__all__ = ["JudgeServer", "load_reader", "serve"]

HOST = "127.0.0.1"
MOST_BODY_BYTES = 64 * 2**20
_PARENT_POLL_S = 0.5
_LAST_ANSWERS_S = 0.2  # whoever stops the server is not interested in the answers it is thinking about
_DATA_URL = "base64,"


class BadRequest(Exception):
    """The request can't be answered; its text goes back to the caller with status 400."""


@dataclass(frozen=True)
class Request:
    """What of a chat completion's request this judge looks at."""

    text: str
    pictures: tuple[str, ...]  # base64
    schema: Mapping[str, Any] | None
    wants_json: bool
    seed: int
    max_tokens: int

    @staticmethod
    def read(body: Mapping[str, Any]) -> Request:
        """Raises BadRequest, in OpenAI's words where it has some."""
        if body.get("stream"):
            raise BadRequest("stream is not supported")
        texts, pictures = [], []
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadRequest("messages: expected a list of at least one message")
        for part in (p for message in messages for p in _parts(message)):
            if part.get("type") == "text":
                texts.append(str(part.get("text", "")))
            elif part.get("type") == "image_url":
                pictures.append(_picture(part))
            else:
                raise BadRequest(f"content part of type {part.get('type')!r} is not supported")
        form = body.get("response_format") or {}
        schema = (form.get("json_schema") or {}).get("schema") if form.get("type") == "json_schema" else None
        text = "\n".join(texts)
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 4096
        if not isinstance(limit, int) or limit < 1:
            raise BadRequest("max_tokens: expected a whole number of at least 1")
        wants_json = bool(form) or "json" in text.lower()
        return Request(text, tuple(pictures), schema, wants_json, int(body.get("seed") or 0), limit)


class JudgeServer:
    """Answers requests with one profile, one reader and one noise seed."""

    def __init__(self, profile: Profile, reader: FrameReader, seed: int = 0) -> None:
        self.profile, self.reader, self.seed = profile, reader, seed
        self.answered = 0
        self.billed_tokens = 0
        self._recent: deque[float] = deque()  # times of the last minute's requests
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read")

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MOST_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"status": "ok", "profile": self.profile.name, "answered": self.answered, "tokens": self.billed_tokens}
        )

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self.profile.name, "object": "model", "created": 0, "owned_by": "built-in"}
        return web.json_response({"object": "list", "data": [model]})

    async def _chat(self, http: web.Request) -> web.Response:
        started = time.monotonic()
        headers, wait_s = self._admit(started)
        if wait_s > 0.0:
            headers["Retry-After"] = str(math.ceil(wait_s))
            return _error(429, "Rate limit reached for requests", "rate_limit_exceeded", headers)
        try:
            body = await http.json()
            if not isinstance(body, dict):
                raise BadRequest("expected a JSON object")
            if body.get("model") != self.profile.name:
                return _error(404, f"The model {body.get('model')!r} does not exist", "model_not_found", headers)
            request = Request.read(body)
            answer, content = await asyncio.get_running_loop().run_in_executor(self._thread, self._judge, request)
        except json.JSONDecodeError:
            return _error(400, "The body is not JSON", "invalid_request_error", headers)
        except BadRequest as error:
            return _error(400, str(error), "invalid_request_error", headers)
        seed = self._noise(request)
        await asyncio.sleep(max(0.0, latency_s(self.profile, content, seed) - (time.monotonic() - started)))
        self.answered += 1
        self.billed_tokens += answer["usage"]["total_tokens"]
        return web.json_response(answer, headers=headers)

    def _noise(self, request: Request) -> int:
        return self.seed * 1_000_003 + request.seed

    def _admit(self, now: float) -> tuple[dict[str, str], float]:
        """Rate-limit headers, and how long a request that is one too many has to wait."""
        limit = self.profile.requests_per_minute
        if not limit:
            return {}, 0.0
        while self._recent and self._recent[0] <= now - 60.0:
            self._recent.popleft()
        wait_s = self._recent[0] + 60.0 - now if len(self._recent) >= limit else 0.0
        if wait_s == 0.0:
            self._recent.append(now)
        left = str(limit - len(self._recent))
        return {"x-ratelimit-limit-requests": str(limit), "x-ratelimit-remaining-requests": left}, wait_s

    def _judge(self, request: Request) -> tuple[dict[str, Any], bytes]:
        """The completion, and the digest of what it depends on. Runs on the reading thread."""
        polarity = polarity_of(request.text)
        pictures = _decoded(request.pictures)
        digest = hashlib.sha256(str(polarity).encode())
        for picture in pictures:
            digest.update(hashlib.sha256(picture).digest())
        if polarity is None:
            return self._completion(request, None, "I can't tell what I am asked to judge by."), digest.digest()
        reading = self._read(pictures)
        decision = decide(
            self.profile, harmful=reading.harmful, polarity=polarity, content=digest.digest(), seed=self._noise(request)
        )
        if decision.refuses:
            return self._completion(
                request, None, "I'm sorry, I can't help with judging these pictures."
            ), digest.digest()
        try:
            answer = compose(decision, reading, request.schema)
        except ValueError as error:
            raise BadRequest(f"response_format: {error}") from None
        text = json.dumps(answer) if request.wants_json else " ".join(map(str, answer.values()))
        return self._completion(request, text, None), digest.digest()

    def _read(self, pictures: tuple[bytes, ...]) -> Reading:
        if not pictures:
            raise BadRequest("the built-in judge reads pictures, and the request has none")
        try:
            return self.reader.read(pictures)
        except (ValueError, OSError) as error:  # Pillow says OSError to what is no picture
            raise BadRequest(f"the pictures can't be read: {error}") from None

    def _completion(self, request: Request, text: str | None, refusal: str | None) -> dict[str, Any]:
        finish = "stop"
        if text is not None and _tokens(text) > request.max_tokens:
            text, finish = text[: 4 * request.max_tokens], "length"
        into = _tokens(request.text) + self.profile.image_tokens * len(request.pictures)
        out = _tokens(text or refusal or "")
        message = {"role": "assistant", "content": text, "refusal": refusal}
        return {
            "id": f"chatcmpl-{hashlib.sha256(request.text.encode()).hexdigest()[:16]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.profile.name,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out},
        }


def load_reader(where: str) -> FrameReader:
    """``"package.module:Class"`` (or an object) as a reader. Raises ConfigError: it isn't there."""
    module_name, colon, attribute = where.partition(":")
    if not colon or not attribute:
        raise ConfigError(f"reader: got {where!r}, allowed is 'package.module:Class'")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"reader: can't load {where!r}: {error}") from None
    reader: FrameReader = found() if isinstance(found, type) else found
    if not callable(getattr(reader, "read", None)):
        raise ConfigError(f"reader: {where!r} has no method read(frames)")
    return reader


def serve(profile: str, reader: str, *, port: int = 0, seed: int = 0, parent: int = 0) -> None:
    """Serve until told to stop, printing one line, the base URL, when ready. ``parent``: stop when it is gone.

    Raises ConfigError: no such profile or reader, or the port is in use.
    """
    asyncio.run(_serve(JudgeServer(load_profile(profile), load_reader(reader), seed), port, parent, print))


async def _serve(server: JudgeServer, port: int, parent: int, announce: Callable[..., None]) -> None:
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=_LAST_ANSWERS_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"port: got {port}, which can't be used ({reason}); 0 takes a free one") from None
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        announce(f"http://{HOST}:{runner.addresses[0][1]}/v1", flush=True)
        await _until(stop, parent)
    finally:
        await runner.cleanup()


async def _until(stop: asyncio.Event, parent: int) -> None:
    while not stop.is_set() and (not parent or os.getppid() == parent):
        try:
            await asyncio.wait_for(stop.wait(), _PARENT_POLL_S)
        except TimeoutError:
            continue


def _parts(message: object) -> list[dict[str, Any]]:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return content
    raise BadRequest("messages: each needs a content of text or parts")


def _picture(part: Mapping[str, Any]) -> str:
    source = part.get("image_url")
    url = source.get("url") if isinstance(source, dict) else None
    if not isinstance(url, str) or not url.startswith("data:image/") or _DATA_URL not in url:
        raise BadRequest("image_url: only base64 data URLs are supported")
    return url[url.index(_DATA_URL) + len(_DATA_URL) :]


def _decoded(pictures: tuple[str, ...]) -> tuple[bytes, ...]:
    try:
        return tuple(base64.b64decode(picture, validate=True) for picture in pictures)
    except (binascii.Error, ValueError):
        raise BadRequest("image_url: not valid base64") from None


def _tokens(text: str) -> int:
    """As-if tokens of a text: four characters each, as a rule of thumb has it for English."""
    return math.ceil(len(text) / 4)


def _error(status: int, message: str, code: str, headers: Mapping[str, str]) -> web.Response:
    kind = "requests" if status == 429 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)
