"""The wire to an OpenAI-compatible endpoint, and the one place where its failures are translated.

======================================  =============================================================================
what happens                            what it becomes
======================================  =============================================================================
401, 403                                JudgeRejectsKey (stop)
404                                     JudgeRejectsModel (stop)
402, 429 without any quota left         JudgeError (stop)
400, 413, 422, other 4xx                JudgeRejectsRequest (stop); a content filter's 400 is an abstention
408, 409, 425, 429, 500, 503            AttemptFailed, not billed, Retry-After honoured
other 5xx, body cut, connection closed  AttemptFailed, fate unknown
no answer within ``judge.timeout_s``    AttemptFailed, fate unknown, reason ``timeout``
more than any answer needs              AttemptFailed, fate unknown
nothing listens, no such host, no TLS   AttemptFailed, not billed, ``reached`` False
======================================  =============================================================================
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import aiohttp
import httpx2
import openai
from pydantic import SecretStr

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import (
    AttemptFailed,
    HttpReply,
    JudgeError,
    JudgeRejectsKey,
    JudgeRejectsModel,
    JudgeRejectsRequest,
    JudgeUnreachable,
)
from rlaif_ray.feedback.bounds import HEADERS, MOST_BODY, ReplyTooLong, bounded
from rlaif_ray.feedback.quoting import printable
from rlaif_ray.types import Abstention, Usage

__all__ = ["Endpoint", "redact", "retry_after_s"]

# A server that asks for more patience than this is not waited for any longer.
MOST_PATIENCE_S = 120.0
_NOT_BILLED = frozenset({408, 409, 425, 429, 500, 503})
_FILTERED = re.compile(r"content_(filter|policy)|responsible_?ai", re.IGNORECASE)
_KEYS = re.compile(r"\b(sk|pk|key)-[\w*.-]{6,}|(?<=Bearer )[^\s\"'\\,;]+", re.IGNORECASE)


def redact(text: str, key: SecretStr | None = None) -> str:
    """Text without the key, and without whatever looks like one."""
    if key is not None and key.get_secret_value():
        text = text.replace(key.get_secret_value(), "[key]")
    return _KEYS.sub("[key]", text)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds a server asked to wait (``retry-after-ms``, or ``Retry-After`` as seconds or a date); None: it didn't."""
    milliseconds, value = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    try:
        wait = float(milliseconds) / 1000 if milliseconds else float(value)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (TypeError, ValueError):
            return None
    return min(max(0.0, wait), MOST_PATIENCE_S) if math.isfinite(wait) else None


class Endpoint:
    """One HTTP client for one endpoint. The SDK's own silent retries are off: each attempt has its reservation."""

    most_body = MOST_BODY  # bytes of one reply

    def __init__(self, config: JudgeConfig, key: SecretStr | None) -> None:
        self._config = config
        self._key = key
        self._client: openai.AsyncOpenAI | None = None
        self.headers: Mapping[str, str] = {}  # of the last answer, for what they say about rate limits

    def __repr__(self) -> str:
        return f"Endpoint({self._config.base_url})"

    async def chat(self, body: dict[str, Any]) -> str | Abstention:
        """One chat completion: the response's body, or an abstention where a content filter stepped in."""
        try:
            return await self._send("POST", "/chat/completions", body)
        except openai.APIStatusError as error:
            return self._status(error)

    async def decide(self, body: dict[str, Any]) -> str | Abstention:
        """Answers to typed questions (``client.decisions.create``): the response's body, or an abstention likewise."""
        try:
            return await self._receive(lambda client: client.decisions.with_raw_response.create(**body))
        except openai.APIStatusError as error:
            return self._status(error)

    async def models(self) -> list[str] | None:
        """Ids of the models the endpoint lists; None where it says that it has no list (405, 501).

        Raises JudgeUnreachable: what answers there is no OpenAI-compatible server.
        """
        try:
            text = await self._send("GET", "/models", None)
        except openai.APIStatusError as error:
            if error.status_code in (405, 501):
                return None
            if error.status_code == 404:
                raise self._something_else("404", _kind(error.response.headers)) from None
            self._status(error)
            return None
        try:
            return [str(model["id"]) for model in json.loads(text)["data"]]
        except (ValueError, KeyError, TypeError):
            raise self._something_else(_kind(self.headers), repr(" ".join(text.split())[:60])) from None

    def _something_else(self, *said: str) -> JudgeUnreachable:
        return JudgeUnreachable(
            f"judge.base_url: got {self._config.base_url!r}, where no OpenAI-compatible server answers (GET "
            f"{self._config.base_url}/models said: {self._told(', '.join(said))}); a base_url usually ends in /v1"
        )

    def redacted(self, text: str) -> str:
        """Text without the key."""
        return redact(text, self._key)

    def _told(self, text: str) -> str:
        """What a server said, for an error's one line: no key in it, and nothing that acts on a terminal."""
        return printable(redact(text, self._key))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> str:
        if method == "GET":
            return await self._receive(lambda client: client.get(path, cast_to=httpx2.Response))
        return await self._receive(lambda client: client.post(path, cast_to=httpx2.Response, body=body))

    async def _receive(self, call: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> str:
        client = self._connected()
        try:
            # The client's time-outs are between bytes; this one is for the whole attempt.
            async with asyncio.timeout(self._config.timeout_s):
                response = await call(client)
        except openai.APIConnectionError as error:
            raise self._no_answer(error) from None
        except ReplyTooLong as error:
            raise AttemptFailed(str(error)) from None
        except TimeoutError:
            raise AttemptFailed(f"no answer within {self._config.timeout_s:g} s", reason="timeout") from None
        self.headers = dict(response.headers)
        return redact(response.text, self._key)

    def _connected(self) -> openai.AsyncOpenAI:
        if self._client is None:
            local = JudgeConfig(kind="chat", base_url=self._config.base_url).local
            self._client = openai.AsyncOpenAI(
                api_key="none" if self._key is None else self._key.get_secret_value(),
                base_url=self._config.base_url,
                max_retries=0,
                timeout=self._config.timeout_s,
                # A proxy from the environment has no business between this machine and itself.
                http_client=openai.DefaultAioHttpClient(
                    trust_env=not local,
                    verify=_authorities(),
                    timeout=self._config.timeout_s,
                    headers=HEADERS,
                    event_hooks={"response": [bounded(self.most_body)]},
                ),
            )
        return self._client

    def _no_answer(self, error: BaseException) -> AttemptFailed:
        causes = []
        cause: BaseException | None = error
        while cause is not None:
            causes.append(cause)
            cause = cause.__cause__
        if any(isinstance(c, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) for c in causes):
            detail = self._told(str(causes[-1]))
            if any(isinstance(c, aiohttp.ClientConnectorCertificateError) for c in causes):
                detail += "; to trust an authority of your own, set SSL_CERT_FILE to its certificate"
            return AttemptFailed(f"nothing answers at {self._config.base_url} ({detail})", billed=False, reached=False)
        if isinstance(error, openai.APITimeoutError) and not any(
            isinstance(c, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) for c in causes
        ):
            return AttemptFailed(f"no answer within {self._config.timeout_s:g} s", reason="timeout")
        return AttemptFailed(f"the connection broke off ({type(causes[-1]).__name__})")

    def _status(self, error: openai.APIStatusError) -> Abstention:
        return self.refused(error.status_code, error.body or error.message, dict(error.response.headers))

    def refused(self, status: int, body: object, headers: Mapping[str, str]) -> Abstention:
        """Raise what a status other than 200 means; a content filter's 400 is the only one that is an answer.

        ``headers``: names in lower case.
        """
        where, said = self._config.base_url, self._told(_message(body))
        if status in (401, 403):
            raise JudgeRejectsKey(f"{where} rejects the key in {self._config.api_key_env} ({status}): {said}") from None
        if status == 404:
            raise JudgeRejectsModel(
                f"{where} doesn't know model {self._config.model!r} (404): {said}; check judge.model, and that "
                "judge.base_url ends where /chat/completions begins"
            ) from None
        if status == 402 or (status == 429 and "insufficient_quota" in said):
            raise JudgeError(f"{where}: the account has no quota left ({status}): {said}") from None
        if status in _NOT_BILLED or status >= 500:
            after_s = retry_after_s(headers, time.time())
            billed: Literal[False] | None = False if status in _NOT_BILLED else None
            reply = HttpReply(status, headers)
            raise AttemptFailed(f"HTTP {status}: {said}", billed=billed, after_s=after_s, reply=reply) from None
        if status == 400 and _FILTERED.search(said):
            return Abstention("refusal", f"HTTP 400: {said}", Usage())
        raise JudgeRejectsRequest(f"{where} doesn't take the request ({status}): {said}") from None


def _authorities() -> ssl.SSLContext | bool:
    """Whose certificates are trusted: those the user names, on this machine too, or those everybody trusts."""
    named = os.environ.get("SSL_CERT_FILE")
    if not named:
        return True
    try:
        return ssl.create_default_context(cafile=named)
    except OSError as error:  # ssl.SSLError is one
        raise JudgeUnreachable(
            f"SSL_CERT_FILE: got {named!r}, which can't be read: {error.strerror or error}"
        ) from None


def _kind(headers: Mapping[str, str]) -> str:
    """What kind of thing a response is, in its own words."""
    return {name.lower(): value for name, value in headers.items()}.get("content-type", "no content type")


def _message(body: object) -> str:
    """What a server says in the body of a refusal: ``{"error": {...}}``, its inside, or anything else."""
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    if isinstance(body, dict):
        parts = [str(body[name]) for name in ("message", "code") if body.get(name)]
        text = " ".join(dict.fromkeys(parts)) or str(body)
    else:
        text = str(body)
    return " ".join(text.split())[:300]
