"""The wire to a Batch API: files and batches of an OpenAI-compatible endpoint, with the official client.

Failures are translated as in ``wire``; an endpoint that doesn't know files or batches is a JudgeError that says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import httpx2
import openai

from rlaif_ray.errors import AttemptFailed, JudgeError, JudgeRejectsRequest
from rlaif_ray.feedback.bounds import ReplyTooLong
from rlaif_ray.feedback.wire import Endpoint, redact

__all__ = ["BatchEndpoint", "Line", "NoSuchBatch", "RemoteBatch", "read_line"]

_Result = TypeVar("_Result")
# 200 MB at 5 Mbit/s.
_UPLOAD_S = 320.0
_MOST_FILE = 2**31  # bytes: of the 50,000 answers that makers take into one batch, 40 KB each; on disk, not in memory
# Ours stands among the newest: this many are looked through.
_MOST_LISTED = 500
_NAME = "rlaif_ray"  # of the metadata entry that tells our batches apart


class NoSuchBatch(Exception):
    """The endpoint knows no batch or file of that name."""


@dataclass(frozen=True)
class RemoteBatch:
    """What the endpoint says of a batch."""

    remote_id: str
    status: str
    answered: int  # requests so far
    unfinished: int  # requests that were never carried out, as far as it says
    seconds: float  # from its beginning to its end
    files: tuple[str, ...]  # output and error file, where there are such
    errors: str  # why the whole of it failed

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True)
class Line:
    """What became of one request."""

    custom_id: str
    status: int  # 0: it was not carried out
    body: Any = None
    error: str = ""  # why not


class BatchEndpoint(Endpoint):
    """Files and batches of one endpoint. Each call raises AttemptFailed where another may succeed, and JudgeError."""

    most_body = _MOST_FILE

    async def upload(self, file: IO[bytes], name: str) -> str:
        """Send a file of requests; its id there."""
        file.seek(0)
        sent = await self._call(
            lambda client: client.files.create(file=(f"{name}.jsonl", file), purpose="batch", timeout=_UPLOAD_S),
            _UPLOAD_S,
        )
        return sent.id

    async def create(self, file_id: str, name: str) -> str:
        """Begin a batch; its id there. ``name`` is ours: ``find`` knows it by that."""
        made = await self._call(
            lambda client: client.batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_NAME: name},
            )
        )
        return made.id

    async def find(self, name: str) -> str | None:
        """The id of the batch that was begun under this name of ours; None: there is none."""

        async def search(client: openai.AsyncOpenAI) -> str | None:
            seen = 0
            async for batch in client.batches.list(limit=100):
                if (batch.metadata or {}).get(_NAME) == name:
                    return batch.id
                seen += 1
                if seen >= _MOST_LISTED:
                    break
            return None

        return await self._call(search)

    async def look(self, remote_id: str) -> RemoteBatch:
        """How a batch stands. Raises NoSuchBatch."""
        return _remote(await self._call(lambda client: client.batches.retrieve(remote_id), known=False))

    async def cancel(self, remote_id: str) -> None:
        """Call a batch off, unless it has ended. Raises NoSuchBatch."""
        try:
            await self._call(lambda client: client.batches.cancel(remote_id), known=False)
        except (AttemptFailed, JudgeRejectsRequest):
            if not (await self.look(remote_id)).ended:  # 409 and 400: too late to be called off
                raise

    async def delete(self, file_id: str) -> None:
        """Take a file away; one that isn't there is as good as gone."""
        try:
            await self._call(lambda client: client.files.delete(file_id), known=False)
        except NoSuchBatch:
            return

    async def download(self, file_id: str, to: IO[bytes]) -> None:
        """Write a file's content to ``to``, from its beginning. Raises NoSuchBatch."""

        async def stream(client: openai.AsyncOpenAI) -> None:
            to.seek(0)
            to.truncate()
            async with client.files.with_streaming_response.content(file_id, timeout=_UPLOAD_S) as response:
                async for chunk in response.iter_bytes():
                    to.write(chunk)

        await self._call(stream, _UPLOAD_S, known=False)

    def clean(self, raw: bytes) -> str:
        """A line of a file as text, without the key in it."""
        return redact(raw.decode(errors="replace"), self._key)

    async def _call(
        self,
        call: Callable[[openai.AsyncOpenAI], Awaitable[_Result]],
        timeout_s: float | None = None,
        *,
        known: bool = True,
    ) -> _Result:
        """One call, its failures translated. ``known`` False: a 404 is about what was named."""
        limit_s = self._config.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await call(self._connected())
        except openai.APIConnectionError as error:
            raise self._no_answer(error) from None
        except httpx2.TransportError as error:  # in the middle of a download
            raise AttemptFailed(f"the connection broke off ({type(error).__name__})") from None
        except ReplyTooLong as error:
            raise AttemptFailed(str(error)) from None
        except TimeoutError:
            raise AttemptFailed(f"no answer within {limit_s:g} s", reason="timeout") from None
        except openai.APIStatusError as error:
            if error.status_code == 404 and not known:
                raise NoSuchBatch from None
            if error.status_code in (404, 405, 501):
                raise JudgeError(
                    f"{self._config.base_url} has no Batch API ({error.status_code}): leave --batch out"
                ) from None
            filtered = self._status(error)
            raise JudgeRejectsRequest(filtered.detail) from None


def _remote(batch: Any) -> RemoteBatch:
    counts = batch.request_counts
    total, completed, failed = (counts.total, counts.completed, counts.failed) if counts else (0, 0, 0)
    ends = [batch.completed_at, batch.expired_at, batch.cancelled_at, batch.failed_at]
    end = max((at for at in ends if at), default=batch.created_at)
    errors = [f"{one.message or one.code}" for one in (batch.errors.data or [])] if batch.errors else []
    return RemoteBatch(
        batch.id,
        batch.status,
        completed + failed,
        max(0, total - completed - failed),
        max(0.0, float(end - batch.created_at)),
        tuple(file for file in (batch.output_file_id, batch.error_file_id) if file),
        "; ".join(errors[:3]),
    )


def read_line(text: str) -> Line | None:
    """One line of an output or error file; None: it is none."""
    try:
        whole: Mapping[str, Any] = json.loads(text)
        custom_id, response, error = str(whole["custom_id"]), whole.get("response"), whole.get("error")
        if response:
            return Line(custom_id, int(response["status_code"]), response.get("body"))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    said = error if isinstance(error, dict) else {}
    return Line(custom_id, 0, error=" ".join(str(said[k]) for k in ("code", "message") if said.get(k)) or "no response")
