"""Taking a batch's answers in: each line is stored and settled, and what has no answer is freed, to be asked again.

==========================================  ==================================================================
a line says                                 it becomes
==========================================  ==================================================================
status 200                                  a verdict or an abstention, settled by its ``usage``
a content filter's 400                      an abstention
429, 500, 503 ...                           asked again, nothing charged
502, 504 ...                                asked again, charged at the worst case
not carried out (expired, cancelled)        asked again, nothing charged
401, 403, 404, 400                          nothing charged; ends the asking where nothing else was answered
nothing, in no file                         asked again; charged at the worst case unless the server counts it as
                                            not carried out
==========================================  ==================================================================
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import AttemptFailed, JudgeError, JudgeRejectsRequest
from rlaif_ray.feedback.batch_wire import BatchEndpoint, Line, NoSuchBatch, RemoteBatch, read_line
from rlaif_ray.feedback.batches import Book, OpenBatch, OpenLine
from rlaif_ray.feedback.budget import Amount
from rlaif_ray.feedback.dialect import Dialect
from rlaif_ray.feedback.judge import ChatJudge, complaint_of
from rlaif_ray.feedback.offline import Tally
from rlaif_ray.feedback.prices import batch_price
from rlaif_ray.feedback.prompt import Prompt
from rlaif_ray.feedback.reply import Wording, read_reply, verdict_of
from rlaif_ray.types import Abstention, Usage, Verdict

__all__ = ["ON_DISK_FROM", "Intake"]

# Files larger than this are not held in memory.
ON_DISK_FROM = 4 * 2**20

InTime = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


@dataclass
class Intake:
    """What comes back from the batches of one command, and what was made of it so far."""

    judge: ChatJudge
    prompt: Prompt
    book: Book
    wire: BatchEndpoint
    tally: Tally
    in_time: InTime  # makes a call again for as long as is reasonable
    answered: int = 0
    cancelled: bool = False
    refused: JudgeError | None = None  # said by a line, or of a whole batch
    given_up: set[int] = field(default_factory=set)  # episodes whose question is not asked again now
    _failures: Counter[str] = field(default_factory=Counter)  # question key -> attempts without an answer
    _charged_usd: defaultdict[str, float] = field(
        default_factory=lambda: defaultdict(float)
    )  # question key -> for those, where nobody knows

    def __post_init__(self) -> None:
        self._config: JudgeConfig = self.judge.config
        self._price = batch_price(self._config)

    async def take_in(self, batch: OpenBatch, remote: RemoteBatch) -> None:
        """Store what was answered and settle all of it."""
        left, lost, spoken = self.book.lines(batch), False, self.judge.dialect
        self.tally.say(f"taking in batch {remote.remote_id}, {remote.status}", now=True)
        for file_id in remote.files:
            with tempfile.SpooledTemporaryFile(ON_DISK_FROM) as file:
                try:
                    await self.in_time(partial(self.wire.download, file_id, file))
                except NoSuchBatch:
                    lost = True
                    continue
                file.seek(0)
                for raw in file:
                    line = read_line(self.wire.clean(raw))
                    if line is not None and line.custom_id in left:
                        self._take(batch, left.pop(line.custom_id), line, (remote, spoken))
        self._take_rest(batch, list(left.values()), remote, lost=lost)
        self.book.close(batch, remote.status)
        self.cancelled = self.cancelled or remote.status == "cancelled"

    def _take(self, batch: OpenBatch, line: OpenLine, said: Line, asked: tuple[RemoteBatch, Dialect]) -> None:
        """One request's reply."""
        remote, spoken = asked
        if said.status == 0:
            late = remote.status == "expired"
            self._failed(batch, line, AttemptFailed(said.error, reason="timeout" if late else "http", billed=False))
            return
        try:
            outcome = self._outcome(line, said, remote)
        except AttemptFailed as failure:
            self._failed(batch, line, failure)
            return
        except JudgeError as error:
            self._refused(batch, line, error, spoken)
            return
        usage, key = outcome.usage, line.record.question_key
        used = Amount(usage.cost_usd, 1, usage.input_tokens + usage.output_tokens)
        before = self._charged_usd[key]
        usage = replace(usage, attempts=self._failures[key] + 1, cost_usd=usage.cost_usd + before)
        self.answered += 1
        self.tally.count(self.book.store.answer(line.record, replace(outcome, usage=usage), line.ticket, used))

    def _outcome(self, line: OpenLine, said: Line, remote: RemoteBatch) -> Verdict | Abstention:
        """Raises AttemptFailed, JudgeError."""
        if said.status != 200:
            return self.wire.refused(said.status, said.body, {})
        worst, most = line.worst, self._config.max_tokens
        charged = Usage(worst.tokens - most, most, worst.usd)
        reply = read_reply(json.dumps(said.body), self._price, charged, remote.seconds)
        return self.judge.keyless(verdict_of(reply, Wording(self.prompt.kind, self.prompt)))

    def _failed(self, batch: OpenBatch, line: OpenLine, failure: AttemptFailed) -> None:
        """Ask again in the next batch; after so many attempts the question is an abstention."""
        key = line.record.question_key
        self.book.let_go(batch, line, billed=failure.billed, detail=str(failure))
        self._failures[key] += 1
        if failure.billed is None:
            self._charged_usd[key] += line.worst.usd
        if self._failures[key] <= self._config.retries:
            return
        usage = Usage(cost_usd=self._charged_usd[key], attempts=self._failures[key])
        self.given_up.add(line.record.episode_id)
        abstained = Abstention(failure.reason, str(failure), usage)
        self.tally.count(self.book.store.answer(line.record, abstained, None, Amount()))

    def _refused(self, batch: OpenBatch, line: OpenLine, error: JudgeError, spoken: Dialect) -> None:
        """The judge doesn't take this request. What of it the complaint names is left out from the next batch on."""
        looser = spoken.without(complaint_of(error)) if isinstance(error, JudgeRejectsRequest) else None
        if looser is not None and self._config.answer_form in ("auto", looser.form):
            self.judge.dialect = looser
        else:
            self.refused = self.refused or error
        self._failed(batch, line, AttemptFailed(str(error), billed=False))

    def _take_rest(self, batch: OpenBatch, left: list[OpenLine], remote: RemoteBatch, *, lost: bool) -> None:
        """Questions of which no file says anything: not carried out where the whole batch failed, or where the server
        counts so many that weren't; else nobody knows."""
        if remote.status == "failed":
            self.refused = JudgeRejectsRequest(f"the judge doesn't take the batch: {remote.errors or 'no reason'}")
        free = remote.status == "failed" or (len(left) <= remote.unfinished and not lost)
        for line in left:
            detail = f"in no file of a batch that is {remote.status}"
            self._failed(batch, line, AttemptFailed(detail, billed=False if free else None))
