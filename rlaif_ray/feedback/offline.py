"""Label a data set without Ray: draw, ask and store, so many questions at once, however many episodes there are.

Only what is being asked about at the moment is drawn and held. Whoever is stopped, or killed, goes on where it was:
what is stored is neither sampled nor asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

from rlaif_ray.config import Config
from rlaif_ray.errors import JudgeError
from rlaif_ray.feedback.ask import Asker, LocalStore
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.dataset import DataSet
from rlaif_ray.feedback.judge import Judge
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.types import Episode, Label, Verdict

__all__ = ["Ended", "Progress", "Source", "Tally", "label_now", "sample_ahead"]

Ended = Literal["done", "budget", "interrupted", "in_flight", "cancelled"]
# How often whoever looks on is told, beside each answer.
_TELL_EVERY_S = 0.5


class Source(Protocol):
    """Where episodes come from, a chunk at a time; the same chunk always begins with the same episodes."""

    chunk_size: int

    def chunk(self, number: int) -> Sequence[Episode]:
        """``chunk_size`` episodes; fewer, or none, where the source has no more."""


@dataclass(frozen=True)
class Progress:
    """Where labelling stands; counts are of episodes."""

    wanted: int
    before: int  # had their label when this command began
    labelled: int  # by this command: verdicts and abstentions, those for nothing included
    abstained: int
    replayed: int  # for nothing: the store had the answer
    in_batches: int  # sent in a batch whose answer has not come
    answered_there: int  # of those, answered at the server as far as it says
    spend_usd: float  # of this data set, all commands
    reserved_usd: float
    elapsed_s: float
    doing: str = ""  # what is being done beside asking, e.g. "sampling"


@dataclass
class Tally:
    """Counts while labelling goes on, and whom to tell."""

    data: DataSet
    wanted: int
    tell: Callable[[Progress], None]
    before: int = 0
    labelled: int = 0
    abstained: int = 0
    replayed: int = 0
    good: int = 0
    verdicts: int = 0
    in_batches: int = 0
    answered_there: int = 0
    doing: str = ""
    started: float = field(default_factory=time.monotonic)
    _told_at: float = 0.0

    def count(self, label: Label) -> None:
        """One more label."""
        self.labelled += 1
        self.replayed += label.replayed
        if isinstance(label.outcome, Verdict):
            self.verdicts += 1
            self.good += label.outcome.value > 0.5
        else:
            self.abstained += 1
        self.say()

    def say(self, doing: str | None = None, *, now: bool = False) -> None:
        """Tell how things stand, not too often."""
        changed = doing is not None and doing != self.doing
        self.doing = self.doing if doing is None else doing
        clock = time.monotonic()
        if not (now or changed) and clock - self._told_at < _TELL_EVERY_S:
            return
        self._told_at = clock
        stats = self.data.store.stats(self.data.run_id)
        self.tell(
            Progress(
                self.wanted, self.before, self.labelled, self.abstained, self.replayed, self.in_batches,
                self.answered_there, stats.spend_usd, stats.reserved_usd, clock - self.started, self.doing,
            )
        )  # fmt: skip


def sample_ahead(data: DataSet, source: Source, wanted: int, tally: Tally, stop: Callable[[], bool]) -> int:
    """Have so many episodes stored; how many there are, fewer where the source has no more or ``stop()`` said so.

    Takes up where an earlier command left off. Raises what the source raises; StoreError.
    """
    stored = len(data)
    while stored < wanted and not stop():
        tally.say(f"sampling, {stored:,} of {wanted:,} episodes")
        number, known = divmod(stored, source.chunk_size)
        fresh = source.chunk(number)[known:]
        if not fresh:
            break
        data.add(fresh)
        stored += len(fresh)
    tally.doing = ""
    return min(stored, wanted)


async def label_now(
    judge: Judge,
    data: DataSet,
    questions: Questionnaire,
    config: Config,
    tally: Tally,
    stop: Callable[[], bool],
) -> Ended:
    """Ask about each of the first ``tally.wanted`` episodes that has no label; how that ended.

    ``config`` gives budget, retries, rate limits and how many questions are in flight. Once ``stop()`` is true nothing
    new is asked, and what is under way is waited for.

    Raises JudgeError: the judge can't be used at all (what was answered until then is stored). StoreError.
    """
    labelling = _Labelling(judge, data, questions, config, tally, stop)
    try:
        return await labelling.run()
    finally:
        labelling.close()


class _Labelling:
    def __init__(
        self,
        judge: Judge,
        data: DataSet,
        questions: Questionnaire,
        config: Config,
        tally: Tally,
        stop: Callable[[], bool],
    ) -> None:
        feedback = config.feedback
        self._data, self._questions, self._tally, self._stop = data, questions, tally, stop
        self._workers = feedback.concurrency
        self._asker = Asker(
            judge, LocalStore(data.store), Caps.of(config.budget), config.judge, concurrency=feedback.concurrency,
            keep_frames_mb=feedback.keep_frames_mb,
        )  # fmt: skip
        self._todo = data.pending(tally.wanted)[::-1]
        self._draw = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._asking = 0
        self._came_back = asyncio.Event()
        self._line = asyncio.Lock()
        self._error: JudgeError | None = None
        self._spent = False  # the budget has no room, and nothing in flight may make some

    async def run(self) -> Ended:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._workers, len(self._todo))):
                    group.create_task(self._work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        self._tally.say("", now=True)
        if self._error is not None:
            raise self._error
        if self._stop():
            return "interrupted"
        return "budget" if self._spent else "done"

    def close(self) -> None:
        self._draw.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._todo and self._goes_on():
            asked = await loop.run_in_executor(self._draw, self._drawn, self._todo.pop())
            try:
                if not await self._answered(asked):
                    async with self._line:  # of those for whom there is no room: one at a time looks again
                        await self._when_there_is_room(asked)
            except JudgeError as error:  # what else is under way may be answered yet, and is paid for
                self._error = self._error or error

    def _goes_on(self) -> bool:
        return not self._spent and self._error is None and not self._stop()

    async def _answered(self, asked: Asked) -> bool:
        """Whether the question was disposed of; False: the budget has no room for it at the moment."""
        self._asking += 1
        try:
            label = await self._asker.ask(asked)
        finally:
            self._asking -= 1
            self._came_back.set()
        if label is None:
            return asked.key in self._asker.batched
        self._tally.count(label)
        return True

    async def _when_there_is_room(self, asked: Asked) -> None:
        """An answer that comes settles below what was reserved for it; with none under way, no room will come."""
        while self._goes_on() and not await self._answered(asked):
            self._spent = self._asking == 0
            self._came_back.clear()
            if not self._spent:
                await self._came_back.wait()

    def _drawn(self, episode_id: int) -> Asked:
        episode = self._data.episode(episode_id)
        return Asked(self._questions.about(episode), episode, self._data.run_id)
