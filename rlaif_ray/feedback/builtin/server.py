"""The built-in judge's HTTP server: OpenAI's chat completions, decisions, files and batches, on loopback.

It sees the request and nothing else. Reading pictures happens on a thread of its own, so that the loop keeps answering.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import math
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.builtin.batches import Batches
from rlaif_ray.feedback.builtin.compose import fill
from rlaif_ray.feedback.builtin.decide import fails, latency_s
from rlaif_ray.feedback.builtin.mind import Mind, Refusal
from rlaif_ray.feedback.builtin.profile import Failures, Profile, load_profile
from rlaif_ray.feedback.builtin.request import BadRequest, Request, chat_request, decisions_request
from rlaif_ray.types import FrameReader

__all__ = ["JudgeServer", "load_reader", "serve"]

HOST = "127.0.0.1"
MOST_BODY_BYTES = 64 * 2**20
_PARENT_POLL_S = 0.5
_LAST_ANSWERS_S = 0.2  # whoever stops the server is not interested in the answers it is thinking about

Read = Callable[[Mapping[str, Any], Profile], Request]
Answer = Callable[[Request, int], dict[str, Any]]


class _NoSuchModel(Exception):
    """The request names another model than this judge's."""


@dataclass(frozen=True)
class _Judged:
    """A request and what it was answered."""

    answer: dict[str, Any]
    content: bytes  # what failures depend on, beside the seed
    seed: int


class JudgeServer:
    """Answers requests with one profile, one reader and one noise seed."""

    def __init__(self, profile: Profile, reader: FrameReader, seed: int = 0) -> None:
        self.profile, self.seed = profile, seed
        self.answered = 0
        self.billed_tokens = 0
        self.billed_usd = 0.0  # as-if
        self._mind = Mind(profile, reader)
        self._recent: deque[list[float]] = deque()  # [time, tokens] of the last minute's requests
        self._attempts: Counter[bytes] = Counter()  # at each question, where the profile fails some
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read")

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MOST_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/decisions", self._decisions)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        if "batches" not in self.profile.lacks:
            Batches(self.profile.batch, self._line).serve_on(app)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "status": "ok", "profile": self.profile.name, "answered": self.answered,
                "tokens": self.billed_tokens, "usd": self.billed_usd,
            }
        )  # fmt: skip

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self.profile.name, "object": "model", "created": 0, "owned_by": "built-in"}
        return web.json_response({"object": "list", "data": [model]})

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        return await self._answer(http, chat_request, self._completion)

    async def _decisions(self, http: web.Request) -> web.StreamResponse:
        return await self._answer(http, decisions_request, self._decision)

    async def _answer(self, http: web.Request, read: Read, judge: Answer) -> web.StreamResponse:
        started = time.monotonic()
        place, headers, wait_s = self._admit(started)
        if wait_s > 0.0:
            headers["Retry-After"] = str(math.ceil(wait_s))
            return _error(429, "Rate limit reached for requests", "rate_limit_exceeded", headers)
        try:
            body = await http.json()
            judged = await self._judged(body, read, judge)
        except json.JSONDecodeError:
            return _error(400, "The body is not JSON", "invalid_request_error", headers)
        except BadRequest as error:
            return _error(400, str(error), "invalid_request_error", headers)
        except _NoSuchModel as error:
            return _error(404, str(error), "model_not_found", headers)
        latency = latency_s(self.profile, judged.content, judged.seed)
        await asyncio.sleep(max(0.0, latency - (time.monotonic() - started)))
        failed = await self._failed(http, judged, headers)
        if failed is not None:
            return failed
        place[1] = self._bill(judged.answer["usage"])
        return web.json_response(judged.answer, headers=headers)

    async def _judged(self, body: object, read: Read, judge: Answer) -> _Judged:
        """Read a request and answer it, on the reading thread. Raises BadRequest, _NoSuchModel."""
        if not isinstance(body, dict):
            raise BadRequest("expected a JSON object")
        if body.get("model") != self.profile.name:
            raise _NoSuchModel(f"The model {body.get('model')!r} does not exist")
        request = read(body, self.profile)
        seed = self.seed * 1_000_003 + request.seed
        answer = await asyncio.get_running_loop().run_in_executor(self._thread, judge, request, seed)
        return _Judged(answer, request.digest(0, "") if request.groups else request.text.encode(), seed)

    async def _line(self, body: object) -> tuple[int, dict[str, Any]] | None:
        """One request of a batch: status and body; None where the judge hangs over it until the batch ends."""
        try:
            judged = await self._judged(body, chat_request, self._completion)
        except BadRequest as error:
            return 400, _error_body(400, str(error), "invalid_request_error")
        except _NoSuchModel as error:
            return 404, _error_body(404, str(error), "model_not_found")
        failures = self.profile.failures
        if failures != Failures():
            self._attempts[judged.content] += 1
            if self._drawn(failures.hang, "hang", judged):
                return None
            if self._drawn(min(1.0, failures.status_500 + failures.hang_up + failures.cut_body), "500", judged):
                return 500, _error_body(500, "The server had an error", "server_error")
            if self._drawn(failures.status_503, "503", judged):
                return 503, _error_body(503, "The server is overloaded", "overloaded")
        self._bill(judged.answer["usage"], self.profile.batch.discount)
        return 200, judged.answer

    def _drawn(self, rate: float, what: str, judged: _Judged) -> bool:
        return fails(rate, what, judged.content, judged.seed, self._attempts[judged.content])

    def _bill(self, usage: Mapping[str, int], discount: float = 0.0) -> float:
        """Write an answer on the bill; its tokens."""
        into = usage.get("prompt_tokens", usage.get("input_tokens", 0))
        out = usage["total_tokens"] - into
        price = into * self.profile.input_usd_per_mtok + out * self.profile.output_usd_per_mtok
        self.answered += 1
        self.billed_tokens += into + out
        self.billed_usd += price * (1.0 - discount) / 1e6
        return float(into + out)

    def _admit(self, now: float) -> tuple[list[float], dict[str, str], float]:
        """Its place in the last minute, rate-limit headers, and how long a request that is too many has to wait."""
        while self._recent and self._recent[0][0] <= now - 60.0:
            self._recent.popleft()
        place, headers, wait_s = [now, 0.0], {}, 0.0
        used = {"requests": float(len(self._recent)), "tokens": sum(tokens for _, tokens in self._recent)}
        limits = {"requests": self.profile.requests_per_minute, "tokens": self.profile.tokens_per_minute}
        for what, limit in limits.items():
            if limit:
                left = limit - used[what]
                wait_s = wait_s if left > 0 else max(wait_s, self._recent[0][0] + 60.0 - now)
                headers[f"x-ratelimit-limit-{what}"] = str(limit)
                headers[f"x-ratelimit-remaining-{what}"] = str(max(0, int(left) - (what == "requests")))
        if wait_s == 0.0 and any(limits.values()):
            self._recent.append(place)
        return place, headers, wait_s

    async def _failed(
        self, http: web.Request, judged: _Judged, headers: Mapping[str, str]
    ) -> web.StreamResponse | None:
        """A failure of this attempt that gives no answer, where the profile has one for it."""
        failures = self.profile.failures
        if failures == Failures():
            return None
        self._attempts[judged.content] += 1
        if self._drawn(failures.hang, "hang", judged):
            await asyncio.sleep(failures.hang_s)
            return _error(503, "The server is overloaded", "overloaded", headers)
        if self._drawn(failures.status_500, "500", judged):
            return _error(500, "The server had an error", "server_error", headers)
        if self._drawn(failures.status_503, "503", judged):
            return _error(503, "The server is overloaded", "overloaded", headers)
        cut = self._drawn(failures.cut_body, "cut", judged)
        if cut or self._drawn(failures.hang_up, "hang up", judged):
            return await _hung_up(http, b'{"id": "chatcmpl-' if cut else b"")
        return None

    def _completion(self, request: Request, seed: int) -> dict[str, Any]:
        """A chat completion. Runs on the reading thread. Raises BadRequest."""
        opinion = self._mind.opinion(request, seed)
        text, refusal, finish = None, None, "stop"
        if isinstance(opinion, Refusal):
            refusal = opinion.text
        else:
            try:
                answer = fill(opinion, request.schema)
            except ValueError as error:
                raise BadRequest(f"response_format: {error}") from None
            text = json.dumps(answer) if request.wants_json else " ".join(map(str, answer.values()))
            text, finish = self._spoilt(text, request, seed)
        out = _tokens(text or refusal or "")
        message = {"role": "assistant", "content": text, "refusal": refusal}
        usage = {"prompt_tokens": self._input_tokens(request), "completion_tokens": out}
        return {
            "id": f"chatcmpl-{hashlib.sha256(request.text.encode()).hexdigest()[:16]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.profile.name,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": usage | {"total_tokens": usage["prompt_tokens"] + out},
        }

    def _spoilt(self, text: str, request: Request, seed: int) -> tuple[str, str]:
        """The answer's text as the profile garbles it, and why it ends."""
        failures, content = self.profile.failures, request.digest(0, "")
        if fails(failures.truncated, "truncated", content, seed):
            return text[: len(text) // 2], "length"
        if fails(failures.empty, "empty", content, seed):
            return "", "stop"
        if fails(failures.invalid_json, "json", content, seed):
            return text.replace('"', "'", 3), "stop"
        if fails(failures.wrong_shape, "shape", content, seed):
            return json.dumps({"verdict": text}), "stop"
        if _tokens(text) > request.max_tokens:
            return text[: 4 * request.max_tokens], "length"
        return text, "stop"

    def _decision(self, request: Request, seed: int) -> dict[str, Any]:
        """Answers to typed questions. Runs on the reading thread. Raises BadRequest."""
        into = self._input_tokens(request) + sum(_tokens(question.instructions) for question in request.questions)
        return {
            "answers": [self._mind.decided(request, question, seed) for question in request.questions],
            "model": self.profile.name,
            "usage": {
                "input_tokens": into,
                "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
                "output_tokens": len(request.questions),
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": into + len(request.questions),
            },
        }

    def _input_tokens(self, request: Request) -> int:
        return _tokens(request.text) + self.profile.image_tokens * request.pictures


async def _hung_up(http: web.Request, sent: bytes) -> web.StreamResponse:
    """Close the connection without an answer, or after some of it."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    if sent:
        await response.prepare(http)
        await response.write(sent)
    if http.transport is not None:
        http.transport.close()
    return response


def load_reader(where: str) -> FrameReader:
    """``"package.module:Class"`` (or an object) as a reader; a JSON object after a space is what it is made with.

    Raises ConfigError: it isn't there, or can't be made like this.
    """
    where, _, made_with = where.partition(" ")
    module_name, colon, attribute = where.partition(":")
    if not colon or not attribute:
        raise ConfigError(f"reader: got {where!r}, allowed is 'package.module:Class'")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"reader: can't load {where!r}: {error}") from None
    try:
        reader: FrameReader = found(**json.loads(made_with or "{}")) if isinstance(found, type) else found
    except (TypeError, ValueError) as error:
        raise ConfigError(f"reader: can't make {where!r} with {made_with!r}: {error}") from None
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


def _tokens(text: str) -> int:
    """As-if tokens of a text: four characters each, as a rule of thumb has it for English."""
    return math.ceil(len(text) / 4)


def _error(status: int, message: str, code: str, headers: Mapping[str, str]) -> web.Response:
    return web.json_response(_error_body(status, message, code), status=status, headers=headers)


def _error_body(status: int, message: str, code: str) -> dict[str, Any]:
    kind = "requests" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
