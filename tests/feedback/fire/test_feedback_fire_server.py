"""The judge's server misbehaves, over real HTTP: for each failure what the user sees, what is charged, what is stored.

The table is printed: ``pytest tests/feedback/fire -s``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from feedback_fakes import FakeServer, asked_about, completion, tiny_config

from rlaif_ray.errors import JudgeRejectsKey, JudgeRejectsModel, JudgeUnreachable, RlaifError
from rlaif_ray.feedback.ask import Asker, LocalStore
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.judge import ChatJudge
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Label, Verdict

PRICED = {"judge__input_usd_per_mtok": 1000.0, "judge__output_usd_per_mtok": 1000.0}  # 0.12 USD an answer
CAPS = Caps(usd=50.0, labels=50)
OK = completion()


def error(status: int, **headers: str) -> Callable[[], web.Response]:
    return lambda: web.json_response({"error": {"message": "told to"}}, status=status, headers=headers)


async def late() -> Any:
    await asyncio.sleep(60.0)
    return OK


class MidBody(web.StreamResponse):
    """Promises more than it sends, then closes; or sends a byte now and then."""

    def __init__(self, drip: bool = False) -> None:
        super().__init__(headers={"Content-Type": "application/json", "Content-Length": "1000"})
        self.drip = drip

    async def prepare(self, request: web.BaseRequest) -> Any:
        writer = await super().prepare(request)
        await self.write(b'{"choices": [')
        for _ in range(600 if self.drip else 0):
            await asyncio.sleep(0.1)
            if request.transport is None or request.transport.is_closing():
                break
            await self.write(b" ")
        if request.transport is not None:
            request.transport.abort()
        return writer


class Endless(web.StreamResponse):
    """As fast as it can, and never done."""

    def __init__(self) -> None:
        super().__init__(headers={"Content-Type": "application/json"})

    async def prepare(self, request: web.BaseRequest) -> Any:
        writer = await super().prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):  # an end all the same: a test must not fill the memory either
                await self.write(b" " * 2**20)
        if request.transport is not None:
            request.transport.abort()
        return writer


@cache
def gzipped(size: int) -> bytes:
    head, tail = json.dumps(completion("SAID")).split("SAID")
    packer = zlib.compressobj(wbits=31)
    parts = [packer.compress(head.encode())]
    parts += [packer.compress(b"y" * 1_000_000) for _ in range(size // 1_000_000)]
    return b"".join([*parts, packer.compress(tail.encode()), packer.flush()])


def packed(size: int) -> web.Response:
    """Compressed, though nobody asked for that."""
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    return web.Response(body=gzipped(size), headers=headers)


@dataclass(frozen=True)
class Case:
    name: str
    replies: list[Any]  # one for each attempt; the last one for all others
    sees: str  # a verdict's "good", an abstention's reason, or the error's name
    settled: int  # attempts charged by their usage
    written_off: int  # attempts charged at their worst case
    free: int = 0  # attempts that cost nothing
    stop: type[RlaifError] | None = None
    limit_s: float = 30.0  # of an attempt: short only where one is to run out of it
    retries: int = 3


CASES = [
    Case("429 storm with Retry-After", [error(429, **{"Retry-After": "0.1"})] * 3 + [OK], "good", 1, 0, free=3),
    Case("429 storm without Retry-After", [error(429)] * 3 + [OK], "good", 1, 0, free=3),
    Case("429 for ever", [error(429)], "http", 0, 0, free=4),
    Case("500, then well", [error(500), OK], "good", 1, 0, free=1),
    Case("502, then well", [error(502), OK], "good", 1, 1),
    Case("503, then well", [error(503), OK], "good", 1, 0, free=1),
    Case("500 for ever", [error(500)], "http", 0, 0, free=4),
    Case("no answer in time, then well", [late, OK], "good", 1, 1, limit_s=1.6),
    Case("no answer in time, ever", [late], "timeout", 0, 2, limit_s=0.8, retries=1),
    Case("connection closed, then well", ["hang up", OK], "good", 1, 1),
    Case("connection closed mid-body, then well", [MidBody, OK], "good", 1, 1),
    Case("slow drip, then well", [lambda: MidBody(drip=True), OK], "good", 1, 1, limit_s=1.6),
    Case("answer cut at max tokens", [completion('{"desc', finish_reason="length")], "truncated", 1, 0),
    Case("answer is no JSON", [completion("I would say yes")], "unparsable", 1, 0),
    Case("answer is JSON of the wrong shape", [completion('["yes", {"answer": "no"}]' * 2)], "unparsable", 1, 0),
    Case("answer has wrong types", [completion('{"description": 3, "answer": 7}')], "unparsable", 1, 0),
    Case("refusal", [completion("", refusal="I can't help with that")], "refusal", 1, 0),
    Case("no choices", [OK | {"choices": []}], "empty", 1, 0),
    Case("20 MB answer", [completion("yes " * 5_000_000)], "unparsable", 1, 0),
    Case("endless answer", [Endless], "http", 0, 2, retries=1),
    Case("20 KB that unpack to 20 MB", [lambda: packed(20_000_000)], "unparsable", 1, 0),
    Case("200 KB that unpack to 200 MB", [lambda: packed(200_000_000)], "http", 0, 2, retries=1),
    Case("wrong content type", [lambda: web.Response(text="<html>Welcome</html>", content_type="text/html")], "http",
         0, 1),
    Case("401", [error(401)], "JudgeRejectsKey", 0, 0, free=1, stop=JudgeRejectsKey),
    Case("404 model", [error(404)], "JudgeRejectsModel", 0, 0, free=1, stop=JudgeRejectsModel),
]  # fmt: skip


@dataclass
class Seen:
    """What came of one question."""

    sees: str
    said: str
    labels: list[Label]
    spent: Amount
    states: list[tuple[str, int]]  # of each attempt: state, labels charged


def ask_one(base_url: str, path: Path, **overrides: Any) -> Seen:
    config = tiny_config(base_url, **(PRICED | {"judge__timeout_s": 20.0} | overrides)).judge

    async def asking(store: LabelStore) -> str:
        judge = ChatJudge(config)
        try:
            label = await Asker(judge, LocalStore(store), CAPS, config, backoff_s=0.02).ask(
                asked_about(1, judge.identity)
            )
        finally:
            await judge.close()
        assert label is not None
        return ("good" if label.value == 1.0 else "bad") if isinstance(label.outcome, Verdict) else label.outcome.reason

    said = ""
    with LabelStore(path) as store:
        try:
            sees = asyncio.run(asking(store))
        except RlaifError as stopped:
            sees, said = type(stopped).__name__, str(stopped)
        labels = store.labels()
        with store.reading() as db:
            states = [tuple(row) for row in db.execute("SELECT state, used_labels FROM attempts ORDER BY id")]
        account = store.account(CAPS)
        assert account.reserved == Amount(0.0, 0, 0)  # nothing is left hanging
    for label in labels:
        said = said or (label.outcome.description if isinstance(label.outcome, Verdict) else label.outcome.detail)
        assert len(label.outcome.text) <= 20_000
    return Seen(sees, said, labels, account.spent, states)


def told(case: str, seen: Seen) -> None:
    charged = ", ".join(f"{state.replace('_', ' ')} {labels}" for state, labels in seen.states)
    stored = f"{len(seen.labels)} label" + "s" * (len(seen.labels) != 1)
    print(
        f"\n{case:38} | {seen.sees:18} | {seen.said[:60]:60} | ${seen.spent.usd:7.3f}: {charged:60} | {stored}", end=""
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_server_that_misbehaves(case: Case, tmp_path: Path) -> None:
    def respond(number: int, _: dict[str, Any]) -> Any:
        reply = case.replies[min(number, len(case.replies) - 1)]
        return reply() if callable(reply) else reply

    with FakeServer(respond) as server:
        patience = {"judge__timeout_s": case.limit_s, "judge__retries": case.retries}
        seen = ask_one(server.base_url, tmp_path / "labels.sqlite", **patience)
        asked = server.asked
    told(case.name, seen)
    assert seen.sees == case.sees
    assert asked == len(seen.states) == case.settled + case.written_off + case.free
    assert seen.spent.labels == case.settled + case.written_off
    # An answer without usage is settled at its worst case: charged as what was written off.
    dear = seen.spent.usd - 0.12 * case.settled
    assert (dear > 0.5 * case.written_off) if case.written_off else dear == pytest.approx(0.0)
    assert len(seen.labels) == (0 if case.stop else 1)
    if case.stop is None:
        assert seen.labels[0].outcome.usage.attempts == asked
        assert seen.labels[0].outcome.usage.cost_usd == pytest.approx(seen.spent.usd)
    else:
        assert server.base_url in seen.said


def test_tls_error(tmp_path: Path) -> None:
    """A server that speaks no TLS where TLS is expected."""
    with FakeServer(lambda *_: OK) as server:
        seen = ask_one(server.base_url.replace("http:", "https:"), tmp_path / "labels.sqlite")
        assert server.asked == 0
    told("TLS error", seen)
    assert seen.sees == JudgeUnreachable.__name__
    assert seen.spent == Amount(0.0, 0, 0)
    assert seen.labels == []
    assert "ssl" in seen.said.lower()


def test_dns_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TINY_KEY", "sk-planted-0123456789abcdef")
    seen = ask_one("http://nobody.invalid/v1", tmp_path / "labels.sqlite", judge__api_key_env="TINY_KEY")
    told("DNS error", seen)
    assert seen.sees == JudgeUnreachable.__name__
    assert seen.spent == Amount(0.0, 0, 0)
    assert "nobody.invalid" in seen.said
    assert "sk-planted" not in seen.said


def ask_many(base_url: str, path: Path, count: int, **overrides: Any) -> dict[int, float | None]:
    config = tiny_config(base_url, **(PRICED | {"judge__timeout_s": 60.0, "judge__retries": 8} | overrides)).judge

    async def asking(store: LabelStore) -> list[Label | None]:
        judge = ChatJudge(config)
        asker = Asker(judge, LocalStore(store), Caps(), config, concurrency=8, backoff_s=0.05)
        try:
            return await asyncio.gather(*(asker.ask(asked_about(n, judge.identity)) for n in range(count)))
        finally:
            await judge.close()

    with LabelStore(path) as store:
        labels = asyncio.run(asking(store))
        assert sorted(one.episode_id for one in store.labels()) == list(range(count))
    return {label.episode_id: label.value for label in labels if label is not None}


def by_content(body: dict[str, Any]) -> dict[str, Any]:
    picture = json.dumps(body["messages"][-1]["content"])
    return completion(answer="yes" if sum(picture.encode()) % 3 else "no")


def test_the_server_restarts_mid_run(tmp_path: Path) -> None:
    import threading

    with FakeServer(lambda _, body: by_content(body)) as before:
        port = before.port
        healthy = ask_many(before.base_url, tmp_path / "healthy.sqlite", 40)

    def half(number: int, body: dict[str, Any]) -> Any:
        return by_content(body) if number < 20 else late()

    found: dict[int, float | None] = {}
    first = FakeServer(half, port)
    with first:
        asking = threading.Thread(
            target=lambda: found.update(ask_many(first.base_url, tmp_path / "restarted.sqlite", 40))
        )
        asking.start()
        deadline = time.monotonic() + 120.0
        while first.asked <= 20 and time.monotonic() < deadline:
            time.sleep(0.01)
    time.sleep(0.3)
    with FakeServer(lambda _, body: by_content(body), port) as second:
        asking.join(120.0)
        assert second.asked >= 20
    print(f"\nrestart of the server mid-run: {first.asked} asked before, {second.asked} after, same verdicts")
    assert found == healthy


def test_one_failure_in_five_changes_no_verdict(tmp_path: Path) -> None:
    failures = [error(429), error(503), error(500), lambda: "hang up", error(502)]

    def shaky(number: int, body: dict[str, Any]) -> Any:
        return failures[number // 5 % 5]() if number % 5 == 4 else by_content(body)

    with FakeServer(lambda _, body: by_content(body)) as well, FakeServer(shaky) as ill:
        healthy = ask_many(well.base_url, tmp_path / "well.sqlite", 60)
        assert ask_many(ill.base_url, tmp_path / "ill.sqlite", 60) == healthy
        assert set(healthy.values()) == {0.0, 1.0}
        assert ill.asked >= 74
