"""Label a data set through the Batch API: cheaper, and answered within a day.

::

    reserve every question ► upload ► begin ► look now and then ► take in ─┬─► answered: settle, store
       ▲                                                                   ├─► failed:   settle at 0 / write off ─┐
       └── asked again in the next batch ◄── not carried out: settle at 0 ◄┴──────────────────────────────────────┘

Each step is written down before the next: whoever takes over after a ``kill -9`` goes on with the batch that is out,
and nothing is paid for twice. As many batches go out as the limits of one file ask for and the budget has room for; it
counts the worst case of all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from rlaif_ray.config import Config, JudgeConfig
from rlaif_ray.errors import (
    AttemptFailed,
    BudgetExhausted,
    ConfigError,
    JudgeError,
    JudgeUnreachable,
)
from rlaif_ray.feedback.batch_intake import ON_DISK_FROM, Intake
from rlaif_ray.feedback.batch_wire import BatchEndpoint, NoSuchBatch
from rlaif_ray.feedback.batches import Book, OpenBatch
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.check import patiently
from rlaif_ray.feedback.dataset import DataSet
from rlaif_ray.feedback.judge import ChatJudge, answers_decisions, key_for, request_body
from rlaif_ray.feedback.offline import Ended, Tally
from rlaif_ray.feedback.prices import batch_price, worst_case
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.records import record_of
from rlaif_ray.types import Label

__all__ = ["Batcher"]

logger = logging.getLogger(__name__)

# OpenAI's limits of one file (200 MB, 50,000 requests), with room for what counts as a megabyte.
MOST_BYTES = 190_000_000
MOST_REQUESTS = 50_000
# Looking costs nothing, but a batch may take a day.
FIRST_LOOK_S = 0.5
MOST_LOOK_S = 60.0
_LOOK_GROWS = 1.5
# A server that is away for some minutes is no reason to give up a batch that takes hours.
_LOOK_RETRIES = 15
_GONE = "the server doesn't know it any more"
_Result = TypeVar("_Result")


def check_batched(judge: JudgeConfig) -> None:
    """Raises ConfigError: a judge that isn't asked by chat completions."""
    if judge.kind not in ("builtin", "chat"):
        raise ConfigError(f"judge.kind: got {judge.kind!r}, allowed with --batch are 'builtin' and 'chat'")
    if answers_decisions(judge):
        raise ConfigError(
            f"judge.profile: got {judge.profile!r}, which answers typed questions; allowed with --batch are those that "
            "complete chats"
        )


class Batcher:
    """Sends a data set's questions in batches and takes their answers in.

    Raises ConfigError: the judge is not one that a Batch API knows; MissingKeyError.
    """

    def __init__(
        self,
        judge: ChatJudge,
        data: DataSet,
        questions: Questionnaire,
        config: Config,
        tally: Tally,
        stop: Callable[[], bool],
    ) -> None:
        check_batched(config.judge)
        self._judge, self._data, self._questions, self._config = judge, data, questions, config.judge
        self._keep_frames_mb = float(config.feedback.keep_frames_mb)
        self._caps, self._tally, self._stop = Caps.of(config.budget), tally, stop
        self._price = batch_price(config.judge)
        self._wire = BatchEndpoint(config.judge, key_for(config.judge))
        self._book = Book(data.store, data.run_id)
        self._intake = Intake(judge, questions.prompt, self._book, self._wire, tally, self._in_time)
        self._draw = ThreadPoolExecutor(1, thread_name_prefix="draw")

    async def run(self) -> Ended:
        """Everything, until each of the first ``tally.wanted`` episodes has its label; how that ended.

        Once ``stop()`` is true nothing more is sent and nothing waited for: what is out stays out (``in_flight``).

        Raises JudgeError: the judge can't be used at all. StoreError: likewise, or another process is at it.
        """
        for batch in self._book.take_over():
            await self._find_again(batch)
        while True:
            spent = await self._send_all()
            out = self._book.open()
            if not out:
                return self._ended(spent)
            before = self._intake.answered
            for batch in out:
                if not await self._wait_for(batch):
                    return "in_flight"
            if self._intake.refused is not None and self._intake.answered == before:
                raise self._intake.refused
            if self._intake.cancelled:
                return "cancelled"

    async def cancel(self) -> Ended:
        """Call off what is out; what was answered is paid for and kept. Raises as ``run``."""
        for batch in self._book.take_over():
            await self._find_again(batch)
        for batch in self._book.open():
            try:
                await self._soon(partial(self._wire.cancel, batch.remote_id or ""))
            except NoSuchBatch:
                self._book.close(batch, _GONE, billed=None)
                continue
            if not await self._wait_for(batch):
                return "in_flight"
        return "cancelled"

    async def close(self) -> None:
        self._draw.shutdown(wait=False, cancel_futures=True)
        await self._wire.close()

    def _ended(self, spent: bool) -> Ended:
        if self._stop():
            return "interrupted"
        return "budget" if spent else "done"

    async def _soon(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """A call whose failure the user should hear of. Raises JudgeUnreachable."""
        return await patiently(call, self._config.retries)

    async def _in_time(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """A call that may take minutes to succeed: what it is about takes hours. Raises JudgeUnreachable."""
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(_LOOK_RETRIES + 1),
                wait=wait_exponential(multiplier=0.5, max=30.0) + wait_random(0.0, 0.5),
                retry=retry_if_exception(lambda error: isinstance(error, AttemptFailed) and not self._stop()),
                reraise=True,
            ):
                with attempt:
                    return await call()
        except AttemptFailed as failure:
            raise JudgeUnreachable(f"the judge doesn't answer: {failure}; what is out stays out") from None
        raise AssertionError("tenacity ends with a return or a raise")

    # ----------------------------------------------------------------------------------------- sending

    async def _send_all(self) -> bool:
        """Send batches until every question that is left is in one; whether the budget was in the way."""
        todo = [number for number in self._data.pending(self._tally.wanted) if number not in self._intake.given_up][
            ::-1
        ]
        spent = False
        while todo and not spent and not self._stop():
            batch = self._book.begin()
            try:
                with tempfile.SpooledTemporaryFile(ON_DISK_FROM, dir=str(self._data.store.path.parent)) as file:
                    count, spent = await self._fill(batch, file, todo)
                    if count and not self._stop():
                        await self._send(batch, file, count)
                    else:
                        self._book.close(batch, "nothing was sent")
            except BaseException:
                self._forget_unsent(batch)
                raise
        self._tally.say("", now=True)
        return spent

    async def _fill(self, batch: OpenBatch, file: IO[bytes], todo: list[int]) -> tuple[int, bool]:
        """Draw, claim, reserve and write down questions until the file is full; how many, and whether the budget was in
        the way. Takes them off ``todo``."""
        count = size = 0
        loop = asyncio.get_running_loop()
        while todo and count < MOST_REQUESTS and not self._stop():
            self._tally.say(f"writing a batch, {count:,} questions")
            asked, line = await loop.run_in_executor(self._draw, self._drawn, todo[-1])
            if count and size + len(line) > MOST_BYTES:
                break
            try:
                added = self._put_in(batch, asked)
            except BudgetExhausted:
                return count, True
            todo.pop()
            if added:
                file.write(line)
                count, size = count + 1, size + len(line)
        return count, False

    def _drawn(self, number: int) -> tuple[Asked, bytes]:
        """The question about an episode, and its line of the file."""
        episode = self._data.episode(number)
        asked = Asked(self._questions.about(episode), episode, self._data.run_id)
        body = request_body(self._config, asked.question, self._judge.dialect)
        line = {"custom_id": asked.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return asked, json.dumps(line).encode() + b"\n"

    def _put_in(self, batch: OpenBatch, asked: Asked) -> bool:
        """Whether the question goes into the batch; not where its answer is known, or somebody else is asking it (a
        later batch of this command looks again). Raises BudgetExhausted."""
        record = record_of(asked, keep_frames=self._keep_frames_mb > 0)
        state = self._data.store.claim(record, batch.owner, self._config.replay, self._keep_frames_mb)
        if isinstance(state, Label):
            self._tally.count(state)
        if state != "claimed":
            return False
        try:
            self._book.put_in(
                batch, record.without_episode(), worst_case(asked.question, self._config, self._price), self._caps
            )
        except BudgetExhausted:
            self._data.store.unclaim(record.question_key, batch.owner)
            raise
        return True

    async def _send(self, batch: OpenBatch, file: IO[bytes], count: int) -> None:
        """Upload and begin. From ``sending`` on it may exist at the server, whatever we hear."""
        self._tally.say(f"sending a batch of {count:,} questions")
        file_id = await self._soon(lambda: self._wire.upload(file, batch.name))
        batch = self._book.note(batch, "sending", file_id=file_id)
        try:
            remote_id = await self._wire.create(file_id, batch.name)
        except AttemptFailed as failure:  # it may have been begun all the same
            logger.info("%s: %s", batch.name, failure)
            await self._find_again(batch, begin=True)
            return
        except JudgeError as error:  # known not to be begun
            self._book.close(batch, str(error))
            await self._tidy(file_id)
            raise
        self._sent(batch, remote_id)

    def _sent(self, batch: OpenBatch, remote_id: str) -> None:
        self._book.note(batch, "sent", remote_id=remote_id)
        self._tally.in_batches = self._data.in_batches(self._tally.wanted)
        self._tally.say("", now=True)

    async def _find_again(self, batch: OpenBatch, *, begin: bool = False) -> None:
        """What became of a batch that was not known to be sent. ``begin``: begin it, if it wasn't begun."""
        if batch.state == "sent":
            self._tally.in_batches = self._data.in_batches(self._tally.wanted)
            return
        if batch.state == "preparing" or batch.file_id is None:
            self._book.close(batch, "never sent")
            return
        file_id = batch.file_id
        remote_id = await self._soon(lambda: self._wire.find(batch.name))
        if remote_id is None and begin:
            remote_id = await self._begin_once(batch, file_id)
        if remote_id is None:  # without its file it can't be begun any more, however late the request may come
            await self._soon(lambda: self._wire.delete(file_id))
            remote_id = await self._soon(lambda: self._wire.find(batch.name))
        if remote_id is None:
            self._book.close(batch, "never begun")
        else:
            self._sent(batch, remote_id)

    async def _begin_once(self, batch: OpenBatch, file_id: str) -> str | None:
        """Another attempt to begin it; None where that is not known to have worked."""
        try:
            return await self._wire.create(file_id, batch.name)
        except AttemptFailed as failure:
            logger.info("%s: %s", batch.name, failure)
            return await self._soon(lambda: self._wire.find(batch.name))

    def _forget_unsent(self, batch: OpenBatch) -> None:
        """After an error, or Ctrl-C, before anything of it was sent."""
        for known in self._book.open():
            if known.batch_id == batch.batch_id and known.state == "preparing":
                self._book.close(known, "never sent")

    # ----------------------------------------------------------------------------------------- taking in

    async def _wait_for(self, batch: OpenBatch) -> bool:
        """Look now and then until it has ended, and take it in; False where ``stop()`` said so first."""
        pause_s = FIRST_LOOK_S
        while True:
            try:
                remote = await self._in_time(lambda: self._wire.look(batch.remote_id or ""))
            except NoSuchBatch:
                self._gone(batch)
                return True
            if remote.ended:
                break
            self._tally.answered_there = remote.answered
            self._tally.say(f"batch {remote.remote_id} is {remote.status.replace('_', ' ')}", now=True)
            if not await self._paused(pause_s):
                return False
            pause_s = min(MOST_LOOK_S, _LOOK_GROWS * pause_s)
            self._book.note(batch, "sent")  # a sign of life
        await self._intake.take_in(batch, remote)
        await self._tidy(batch.file_id)
        self._tally.in_batches, self._tally.answered_there = self._data.in_batches(self._tally.wanted), 0
        self._tally.say("", now=True)
        return True

    async def _tidy(self, file_id: str | None) -> None:
        """Take our file of requests away from the server, where that works: up to 200 MB that nobody needs again."""
        with contextlib.suppress(AttemptFailed, JudgeError):
            if file_id is not None:
                await self._wire.delete(file_id)

    def _gone(self, batch: OpenBatch) -> None:
        if self._config.kind == "builtin":  # it went with its server, which went with the command that started it
            self._book.close(batch, _GONE, billed=None)
            return
        raise JudgeError(
            f"{self._config.base_url} doesn't know batch {batch.remote_id} of this data set: another key, or another "
            "server? --cancel gives it up and writes it off"
        ) from None

    async def _paused(self, seconds: float) -> bool:
        """Wait; False as soon as ``stop()`` says so."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            if self._stop():
                return False
            await asyncio.sleep(min(0.2, max(0.0, until - loop.time())))
        return not self._stop()
