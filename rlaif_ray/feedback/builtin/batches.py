"""The built-in judge's files and batches: OpenAI's ``/v1/files`` and ``/v1/batches``, kept as long as the server runs.

A batch goes ``validating ► in_progress ► finalizing ► completed``; a file that is no file of requests ends as
``failed``; one that is not done in time as ``expired``; one that is called off as ``cancelling ► cancelled``. What was
answered until then stands in the output file and was billed, everything else in the error file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, web

from rlaif_ray.feedback.builtin.profile import BatchHabits

__all__ = ["Batches"]

# OpenAI's limits of one file.
MOST_REQUESTS = 50_000
MOST_BYTES = 200 * 10**6
_ENDPOINT = "/v1/chat/completions"
_LIST_AT_ONCE = 20

# One request of a batch -> (status, body); None: it is not answered before the batch ends.
AnswerLine = Callable[[object], Awaitable[tuple[int, dict[str, Any]] | None]]


@dataclass
class _Batch:
    """One batch. ``shown`` is what clients see of it."""

    shown: dict[str, Any]
    expires: float  # on the clock of the event loop
    answered: dict[str, dict[str, Any]] = field(default_factory=dict)  # custom id -> line of the output file
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)  # custom id -> line of the error file
    called_off: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self, status: str) -> None:
        self.shown["status"] = status
        self.shown[f"{status}_at"] = int(time.time())

    def count(self) -> None:
        self.shown["request_counts"] |= {"completed": len(self.answered), "failed": len(self.failed)}


class Batches:
    """Files and batches of one server; ``answer`` judges one request."""

    def __init__(self, habits: BatchHabits, answer: AnswerLine) -> None:
        self._habits, self._answer = habits, answer
        self._files: dict[str, dict[str, Any]] = {}
        self._batches: dict[str, _Batch] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._folder = Path()

    def serve_on(self, app: web.Application) -> None:
        """Add the endpoints; what is uploaded lies in a folder that goes with the server."""
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}", self._file)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_delete("/v1/files/{id}", self._delete)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._batch)
        app.router.add_post("/v1/batches/{id}/cancel", self._cancel)
        app.cleanup_ctx.append(self._while_serving)

    async def _while_serving(self, _: web.Application) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="builtin-judge-") as folder:
            self._folder = Path(folder)
            yield
            for task in self._work:
                task.cancel()
            await asyncio.gather(*self._work, return_exceptions=True)

    # --------------------------------------------------------------------------------------------- files

    async def _upload(self, http: web.Request) -> web.Response:
        if not http.content_type.startswith("multipart/"):
            return _error(400, "expected multipart/form-data with a file and its purpose")
        purpose, name, path = "", "", self._folder / uuid.uuid4().hex
        reader = await http.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader):
                return _error(400, "expected a file and its purpose, not parts within parts")
            if part.name == "file":
                name = part.filename or "file"
                if not await _saved(part, path):
                    return _error(413, f"the file is larger than {MOST_BYTES} bytes")
            elif part.name == "purpose":
                purpose = await part.text()
        if not name or purpose != "batch":
            return _error(400, f"expected a file with the purpose 'batch', got purpose {purpose!r}")
        return web.json_response(self._keep(path, name, purpose))

    def _keep(self, path: Path, name: str, purpose: str) -> dict[str, Any]:
        number = f"file-{uuid.uuid4().hex[:24]}"
        path.rename(self._folder / number)
        self._files[number] = {
            "id": number, "object": "file", "bytes": (self._folder / number).stat().st_size,
            "created_at": int(time.time()), "filename": name, "purpose": purpose, "status": "processed",
        }  # fmt: skip
        return self._files[number]

    async def _file(self, http: web.Request) -> web.Response:
        found = self._files.get(http.match_info["id"])
        return _error(404, "No such File object") if found is None else web.json_response(found)

    async def _content(self, http: web.Request) -> web.StreamResponse:
        number = http.match_info["id"]
        return web.FileResponse(self._folder / number) if number in self._files else _error(404, "No such File object")

    async def _delete(self, http: web.Request) -> web.Response:
        number = http.match_info["id"]
        if self._files.pop(number, None) is None:
            return _error(404, "No such File object")
        (self._folder / number).unlink()
        return web.json_response({"id": number, "object": "file", "deleted": True})

    # ------------------------------------------------------------------------------------------- batches

    async def _create(self, http: web.Request) -> web.Response:
        try:
            asked = await http.json()
        except json.JSONDecodeError:
            return _error(400, "The body is not JSON")
        if asked.get("endpoint") != _ENDPOINT or asked.get("completion_window") != "24h":
            return _error(400, f"allowed are the endpoint {_ENDPOINT!r} and the completion_window '24h'")
        if self._files.get(asked.get("input_file_id"), {}).get("purpose") != "batch":
            return _error(400, f"Invalid 'input_file_id': no such file {asked.get('input_file_id')!r} for a batch")
        now, number = int(time.time()), f"batch_{uuid.uuid4().hex[:24]}"
        shown = {
            "id": number, "object": "batch", "endpoint": _ENDPOINT, "errors": None, "completion_window": "24h",
            "input_file_id": asked["input_file_id"], "status": "validating", "output_file_id": None,
            "error_file_id": None, "created_at": now, "expires_at": now + int(self._habits.expires_s),
            "request_counts": {"total": 0, "completed": 0, "failed": 0}, "metadata": asked.get("metadata"),
        }  # fmt: skip
        batch = _Batch(shown, asyncio.get_running_loop().time() + self._habits.expires_s)
        self._batches[number] = batch
        task = asyncio.create_task(self._carry_out(batch))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return web.json_response(shown)

    async def _batch(self, http: web.Request) -> web.Response:
        batch = self._batches.get(http.match_info["id"])
        return _error(404, "No batch found") if batch is None else web.json_response(batch.shown)

    async def _list(self, http: web.Request) -> web.Response:
        newest = [batch.shown for batch in reversed(self._batches.values())]
        ids = [shown["id"] for shown in newest]
        first = ids.index(http.query["after"]) + 1 if http.query.get("after") in ids else 0
        limit = int(http.query.get("limit", _LIST_AT_ONCE))
        page = newest[first : first + limit]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return web.json_response({"object": "list", "data": page, **ends, "has_more": first + limit < len(newest)})

    async def _cancel(self, http: web.Request) -> web.Response:
        batch = self._batches.get(http.match_info["id"])
        if batch is None:
            return _error(404, "No batch found")
        if batch.shown["status"] not in ("validating", "in_progress", "cancelling"):
            return _error(409, f"Cannot cancel a batch with status '{batch.shown['status']}'.")
        batch.enter("cancelling")
        batch.called_off.set()
        return web.json_response(batch.shown)

    # ------------------------------------------------------------------------------------------ its work

    async def _carry_out(self, batch: _Batch) -> None:
        try:
            requests = self._validated(batch)
        except ValueError as trouble:
            line, _, message = str(trouble).partition(" ")
            wrong = {"code": "invalid_request", "line": int(line) or None, "message": message, "param": None}
            batch.shown["errors"] = {"object": "list", "data": [wrong]}
            batch.enter("failed")
            return
        batch.shown["request_counts"]["total"] = len(requests)
        if not batch.called_off.is_set():
            batch.enter("in_progress")
        end = await self._answer_all(batch, requests)
        code = {"expired": "batch_expired", "cancelled": "batch_cancelled"}.get(end, "")
        for custom_id in requests:
            if custom_id not in batch.answered and custom_id not in batch.failed:
                why = {"code": code, "message": "This request could not be executed before the batch ended."}
                batch.failed[custom_id] = _line(custom_id, None, why)
        if end == "completed":
            batch.enter("finalizing")
            batch.count()
        batch.shown["output_file_id"] = self._written(batch, "output", batch.answered)
        batch.shown["error_file_id"] = self._written(batch, "error", batch.failed)
        batch.enter(end)

    async def _answer_all(self, batch: _Batch, requests: dict[str, int]) -> str:
        """Answer until all is answered, time is up or the batch is called off; which of the three."""
        clock = asyncio.get_running_loop().time
        begun, pause_s = clock(), self._habits.latency_s / len(requests)
        hung = False
        with (self._folder / batch.shown["input_file_id"]).open("rb") as file:
            for done, (custom_id, place) in enumerate(requests.items()):
                if end := await _ends_within(batch, begun + done * pause_s - clock()):
                    return end
                file.seek(place)
                reply = await self._answer(json.loads(file.readline()).get("body"))
                if reply is None:
                    hung = True
                    continue
                status, body = reply
                line = _line(custom_id, {"status_code": status, "request_id": uuid.uuid4().hex, "body": body}, None)
                (batch.answered if status == 200 else batch.failed)[custom_id] = line
                batch.count()
        left_s = float("inf") if hung else begun + self._habits.latency_s - clock()
        return await _ends_within(batch, left_s) or "completed"

    def _validated(self, batch: _Batch) -> dict[str, int]:
        """Custom id -> place in the file of each request. Raises ValueError: "<line> <what is wrong>"."""
        found: dict[str, int] = {}
        with (self._folder / batch.shown["input_file_id"]).open("rb") as file:
            place = 0
            for number, raw in enumerate(file, start=1):
                try:
                    line = json.loads(raw)
                    custom_id, method, url = str(line["custom_id"]), line["method"], line["url"]
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{number} This line is not a request.") from None
                if method != "POST" or url != _ENDPOINT:
                    raise ValueError(f"{number} The URL provided for this request does not match the batch endpoint.")
                if custom_id in found:
                    raise ValueError(f"{number} The custom_id for this request is a duplicate of another request.")
                found[custom_id] = place
                place += len(raw)
        if not 1 <= len(found) <= MOST_REQUESTS:
            raise ValueError(f"0 The file holds {len(found)} requests, allowed are 1 to {MOST_REQUESTS}.")
        return found

    def _written(self, batch: _Batch, kind: str, lines: dict[str, dict[str, Any]]) -> str | None:
        if not lines:
            return None
        path = self._folder / uuid.uuid4().hex
        with path.open("w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines.values())
        return str(self._keep(path, f"{batch.shown['id']}_{kind}.jsonl", "batch_output")["id"])


async def _ends_within(batch: _Batch, seconds: float) -> str:
    """Wait, if there are seconds left; as soon as the batch has to end, ``cancelled`` or ``expired``."""
    clock = asyncio.get_running_loop().time
    left_s = min(seconds, batch.expires - clock())
    if left_s > 0.0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(batch.called_off.wait(), left_s)
    if batch.called_off.is_set():
        return "cancelled"
    return "expired" if clock() >= batch.expires else ""


async def _saved(part: BodyPartReader, path: Path) -> bool:
    size = 0
    with path.open("wb") as file:
        while chunk := await part.read_chunk(2**20):
            size += len(chunk)
            if size > MOST_BYTES:
                break
            file.write(chunk)
    if size > MOST_BYTES:
        path.unlink()
    return size <= MOST_BYTES


def _line(custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> dict[str, Any]:
    return {"id": f"batch_req_{uuid.uuid4().hex[:24]}", "custom_id": custom_id, "response": response, "error": error}


def _error(status: int, message: str) -> web.Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return web.json_response(body, status=status)
