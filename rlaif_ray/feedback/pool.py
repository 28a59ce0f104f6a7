"""The pool: a driver-side handle on actors that ask, so that asking never blocks acting.

::

    pool = FeedbackPool(config, renderer=renderer, store_path=path, run_id="quickstart")
    pool.submit(episodes, inclusion_probability=0.02, step=steps)   # returns at once
    ...                                                             # act and learn
    labels = pool.poll()                                            # what has arrived since
"""

from __future__ import annotations

import logging
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from pydantic import SecretStr
from ray.exceptions import RayActorError, RayError

from rlaif_ray.config import Config
from rlaif_ray.errors import JudgeError, RlaifError, StoreError
from rlaif_ray.feedback.actors import Answered, StoreHandle, Why, questioner_actor
from rlaif_ray.feedback.budget import Account, Amount, Caps, share_at
from rlaif_ray.feedback.earlier import judged_in
from rlaif_ray.feedback.judge import judges_from, keys_for
from rlaif_ray.feedback.jury import check_words, parts_at_most
from rlaif_ray.feedback.pool_stats import PoolStats, last_line, least
from rlaif_ray.feedback.question import words_of_run
from rlaif_ray.feedback.records import LabelStats
from rlaif_ray.feedback.room import RECENT, Room
from rlaif_ray.feedback.staff import Questioner, Staff
from rlaif_ray.types import Draw, Episode, EpisodeRenderer, Judged, Label, Units, episode_key, episodes_of

__all__ = ["FeedbackPool", "PoolStats"]

logger = logging.getLogger(__name__)

# Episodes taken on beyond the questions in flight, as a multiple of them: a judge slower than the world must not pile
# up episodes whose verdicts would come too late to matter.
BACKLOG = 8
# Answers under way at the end are waited for this long: whoever pressed Ctrl-C is waiting too.
GRACE_S = 2.5
_MOMENT_S = 0.05
_RECENT = 200
# A question whose process died this often is let go: it may be what kills it.
_MOST_DEATHS = 3


@dataclass
class _Question:
    worker: Questioner
    units: tuple[Episode, ...]
    why: Why
    deaths: int = 0  # processes that died with it in flight


class FeedbackPool:
    """Asks about episodes in the background.

    ``store_path`` may be shared with other runs; ``detached_store`` keeps its actor alive for the next driver; ``home``
    is the node that the path belongs to (Ray's id; empty: this one).

    Raises ConfigError, MissingKeyError: the judge can't be asked as configured. StoreError: the store can't be opened.
    """

    def __init__(
        self,
        config: Config,
        *,
        renderer: EpisodeRenderer,
        store_path: Path,
        run_id: str,
        detached_store: bool = False,
        home: str = "",
    ) -> None:
        self._config, self._renderer, self._run_id = config, renderer, run_id
        self._caps = Caps.of(config.budget)
        # Mistakes are told here, not in a worker's log.
        prompt, _ = words_of_run(config)
        check_words(config.judge, prompt)
        self.compares = prompt.kind == "preference"  # questions are about two episodes
        self._parts = parts_at_most(config.judge, prompt.kind)  # billed questions of one label
        # A run that is replayed asks nobody.
        unused = tuple(SecretStr("unused") for _ in config.judge.members)
        self._keys = unused if config.judge.replay == "only" else keys_for(config.judge)
        judges_from(config.judge, self._keys)
        self._store = StoreHandle(Path(store_path), detached=detached_store, node=home)
        with self._store.opened() as store:
            store.open_run(run_id, self._caps)
            known = store.labels(run_id)
        self._seen = known[-1].label_id if known else 0  # labels up to here were delivered to an earlier driver
        self._delivered: set[int] = set()
        self._staff = Staff(self._hire, config.feedback.pool_actors, self._store)
        self._pending: dict[Any, _Question] = {}
        self._arrived: list[Label] = []
        self._latencies: deque[float] = deque(maxlen=_RECENT)
        self._stop: RlaifError | None = None
        self._stopped = False
        self._refused = False
        self._told: set[str] = set()  # what is said once
        self._notices: list[str] = []
        self._manners: tuple[str, ...] = ()  # how each judge is talked to, as far as it has answered
        self._failed = self._asked_again = 0
        self.turned_away = 0  # questions not taken on because as many as may wait were waiting
        self._looked: Callable[[], Any] | None = None  # where asking stood: an answer that may be under way
        self._room = Room(self._caps, self._parts)
        self._room.worst.append(self._store.call("dearest", run_id, RECENT))
        self._learn_room(*self._standing())

    # ---------------------------------------------------------------------------------------------- asking

    def submit(
        self,
        units: Sequence[Units],
        *,
        inclusion_probability: float | Sequence[float],
        step: int,
        reward_model_version: int = 0,
        doubts: Sequence[float] = (),
        draws: Sequence[Draw] = (),
    ) -> list[int]:
        """Have these episodes, or pairs to choose between, judged, without waiting; the ids of those taken on (of a
        pair's first), the first ones first.

        ``step`` says how much of the budget ``budget.schedule`` opens; ``reward_model_version`` is stored with the
        labels, as are ``inclusion_probability`` (one for each, or one for all) and ``draws`` (empty: all audit);
        ``doubts`` say for each how far the reward model's ensemble disagrees about it. Fewer than given where the
        budget or the backlog has no room for more (``room_at``), none once asking has stopped. With the budget used
        up, those that somebody has asked about already are taken on: the store may have their answer.
        """
        pairs = [episodes_of(unit) for unit in units]
        paid, share = self.room_at(step), self._share(step)
        chosen = [*range(min(paid, len(pairs))), *self._known(pairs, paid)][: self._backlog]
        self.turn_away(min(len(pairs), self._payable(share)) - self._backlog)
        why = Why(step, 1.0, share=share, reward_model_version=reward_model_version)
        for i in chosen:
            chance = inclusion_probability if isinstance(inclusion_probability, float) else inclusion_probability[i]
            now = replace(why, inclusion_probability=chance, doubt=doubts[i] if doubts else 0.0)
            now = replace(now, draw=draws[i]) if draws else now
            self._put(_Question(self._staff.idlest(), pairs[i], now))
        return [pairs[i][0].episode_id for i in chosen]

    def room_at(self, step: int) -> int:
        """Questions that would be taken on now, with what ``budget.schedule`` has opened by that step, and may be paid
        for, by what has been polled: nothing is looked at."""
        return max(0, min(self._payable(self._share(step)), self._backlog))

    def _share(self, step: int) -> float:
        by_now = self._config.feedback.progress(step, self._config.run.total_steps)
        return share_at(self._config.budget.schedule, by_now)

    def _payable(self, share: float) -> int:
        """Questions that the budget has room for."""
        labels = self._room.labels(share)
        return sys.maxsize if labels is None else labels - len(self._pending)

    @property
    def _backlog(self) -> int:
        most = BACKLOG * self._config.feedback.concurrency
        return 0 if self._stopped else max(0, most - len(self._pending))

    def turn_away(self, count: int) -> None:
        """So many that could be paid for are not asked about, since too many wait for their answer already: count them,
        and tell once."""
        if self._stopped or count <= 0:
            return
        self.turned_away += count
        at_once = self._config.feedback.concurrency
        self._say_once(
            "behind",
            f"The judge doesn't keep up: {len(self._pending):,} questions wait, at most {at_once:,} of them are out at "
            "once. Chosen episodes beyond are not asked about, and verdicts come late. Ask less (feedback.fraction, "
            "feedback.labels_per_iteration), raise feedback.concurrency, or have training wait (feedback.late: wait).",
        )

    def _known(self, units: Sequence[tuple[Episode, ...]], first: int) -> list[int]:
        """Which of them, from so many on, the store may answer for nothing."""
        rest = {} if self._stopped else {i: episode_key(units[i][0]) for i in range(first, len(units))}
        if not rest or self._config.judge.replay != "prefer":
            return []
        judged = self._store.call("judged", list(rest.values()))
        return [i for i, key in rest.items() if key in judged]

    def hush(self) -> None:
        """Begin no further question, also of those taken on; what is under way goes on."""
        self._stopped = True
        self._staff.hush()

    def notices(self) -> list[str]:
        """What a user should know, each thing once: how a judge is talked to that doesn't take all, and that the
        budget is spent."""
        notices, self._notices = self._notices, []
        return notices

    def poll(self) -> list[Label]:
        """Labels that arrived since the last poll, without waiting.

        Raises JudgeError, once and after everything that arrived before was handed out: the judge can't be used at
        all, and nothing more is asked. StoreError, ReplayMissError: likewise, for the store.
        """
        self._collect(0.0)
        return self._hand_out()

    def wait(self, deadline_s: float) -> list[Label]:
        """Like ``poll``, but wait up to so many seconds until everything in flight has arrived."""
        deadline = time.monotonic() + deadline_s
        self._collect(0.0)
        while self._pending and time.monotonic() < deadline:
            self._collect(deadline - time.monotonic())
        return self._hand_out()

    def stored(self) -> list[Judged]:
        """Every verdict of this run in the store with what it is about, oldest first. Raises StoreError."""
        with self._store.opened() as store:
            return judged_in(store, store.labels(self._run_id))

    @property
    def manners(self) -> tuple[str, ...]:
        """How each judge is talked to, as far as it has answered."""
        return self._manners

    @property
    def in_flight(self) -> int:
        """Episodes taken on whose answer hasn't arrived."""
        return len(self._pending)

    def look(self) -> None:
        """Ask the store where asking stands, and don't wait: the next ``stats`` tells how it stood now."""
        self._looked = self._store.begin("standing", self._run_id, self._caps)

    def stats(self) -> PoolStats:
        """Where asking stands, from the store: now, or at a ``look`` since the last time. Raises StoreError."""
        stats, account, own = self._standing()
        left = least(account.labels_left, own.labels_left)
        self._learn_room(stats, account, own)
        refused = self._refused or self._room.labels() == 0
        exhausted = account.empty or own.empty or (refused and account.reserved.labels == 0)
        if exhausted:
            spent = f"The budget is spent: {stats.labels:,} labels for USD {stats.spend_usd:.2f}"
            self._say_once("budget", f"{spent}. Asking is at its end, training goes on.")
        return PoolStats(
            **asdict(stats),
            labels_left=left,
            latency_s=sum(self._latencies) / len(self._latencies) if self._latencies else 0.0,
            exhausted=exhausted,
            failed=self._failed,
            asked_again=self._asked_again,
        )

    def close(self, grace_s: float = GRACE_S) -> None:
        """Ask nothing new, let answers under way arrive within the grace (they are stored), then end the actors.

        What is still in flight then is written off at its worst case. The store's file is left whole by itself.
        """
        deadline = time.monotonic() + grace_s
        self.hush()
        while self._pending and time.monotonic() < deadline:
            self._collect(deadline - time.monotonic())
        for worker in self._staff.members:
            try:
                self._staff.dismiss(worker, max(1.0, grace_s))
            except StoreError as error:  # the next to open the store writes off what a dead process left
                logger.warning("at the end of asking: %s", error)
        if self._staff.members:
            self._leave_whole()
        self._staff.members, self._pending = [], {}

    def _leave_whole(self) -> None:
        try:
            self._store.call("fold")
        except StoreError as error:  # nothing is lost: the log beside the file is read with it
            logger.warning("at the end of asking: %s", error)

    # ------------------------------------------------------------------------------------------- inside

    def _hand_out(self) -> list[Label]:
        arrived, self._arrived = self._arrived, []
        if not arrived and self._stop is not None:
            stop, self._stop = self._stop, None
            raise stop
        return arrived

    def _collect(self, timeout_s: float) -> None:
        """Take in what has come back; wait up to ``timeout_s`` for more, a moment at a time."""
        if not self._pending:
            return
        refs = list(self._pending)
        # All that came within a moment at once: Ray looks at every reference in each call.
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=min(_MOMENT_S, max(0.0, timeout_s)))
        for ref in ready:
            question = self._pending.get(ref)
            if question is None:
                continue  # it went with its worker, below
            try:
                answered = ray.get(ref)
            except RayActorError:
                self._replace(question.worker)
                continue
            except RayError as error:
                self._complain(last_line(getattr(error, "cause", error)))
            else:
                self._take(answered, question.why)
            del self._pending[ref]
            question.worker.in_flight -= 1

    def _put(self, question: _Question) -> None:
        question.worker.in_flight += 1
        # Ray pickles array by array, which takes three times as long as the call itself; the training step pays for it.
        packed = pickle.dumps(question.units, protocol=pickle.HIGHEST_PROTOCOL)
        self._pending[question.worker.actor.ask.remote(packed, question.why)] = question

    def _take(self, answered: Answered, why: Why) -> None:
        self._manners = tuple(dict.fromkeys([*self._manners, *answered.manners]))
        if answered.worst.labels and self._config.judge.replay != "only":  # none of what was never put
            self._room.worst.append(answered.worst)
        for said in answered.said:
            self._say_once(said, said)
        if answered.label is not None:
            self._deliver(answered.label)
        elif answered.stop is not None:
            if not self._stopped:
                self._stop, self._stopped = answered.stop, True
        elif answered.failed:
            self._complain(answered.failed)
        elif why.share >= 1.0 and not self._stopped:  # before, the schedule may yet make room; after, it was let go
            self._refused = True

    def _deliver(self, label: Label) -> None:
        if label.label_id in self._delivered:
            return
        self._delivered.add(label.label_id)
        self._arrived.append(label)
        if not label.replayed:
            self._latencies.append(label.outcome.usage.latency_s)
        usage = label.outcome.usage
        used = Amount(usage.cost_usd, self._parts, usage.input_tokens + usage.output_tokens)
        self._room.hear(used, billed=label.replayed == (self._config.judge.replay == "only"))

    def _say_once(self, what: str, notice: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._notices.append(notice)
            logger.warning("%s", notice)

    def _complain(self, detail: str) -> None:
        self._failed += 1
        if self._failed == 1:
            logger.warning("a question could not be put (others go on; told once): %s", detail)

    def _hire(self) -> Questioner:
        backlog = BACKLOG * self._config.feedback.concurrency + 1
        actor = questioner_actor(self._config, self._renderer, self._store, self._run_id, backlog)
        return Questioner(actor, actor.prepare.remote(self._keys))

    def _replace(self, dead: Questioner) -> None:
        """A questioner died. What it had in flight is written off, what it had stored is delivered all the same, and
        the rest is asked again, where the budget has room."""
        if dead not in self._staff.members:
            return
        lost = {ref: question for ref, question in self._pending.items() if question.worker is dead}
        for ref in lost:
            del self._pending[ref]
        try:
            fresh = self._staff.replace(dead)
        except JudgeError as trouble:
            self._failed += len(lost)
            self._stop, self._stopped = trouble, True
            return
        answered = set()
        for label in self._store.call("labels", self._run_id, self._seen):
            self._deliver(label)
            answered.add((label.episode_id, label.asked_at_step))
        again = 0
        for question in lost.values():
            if (question.units[0].episode_id, question.why.step) in answered:
                continue
            if question.deaths + 1 >= _MOST_DEATHS:
                self._failed += 1
                continue
            again += 1
            self._put(replace(question, worker=fresh, deaths=question.deaths + 1))
        self._asked_again += again
        logger.warning("a feedback process died with %d questions in flight; %d are put again", len(lost), again)

    def _standing(self) -> tuple[LabelStats, Account, Account]:
        looked, self._looked = self._looked, None
        return looked() if looked else self._store.call("standing", self._run_id, self._caps)  # type: ignore[no-any-return]

    def _learn_room(self, stats: LabelStats, account: Account, own: Account) -> None:
        if self._config.judge.replay == "only":  # as many as it could have bought: it ends where the one it repeats did
            account = own = Account(spent=Amount(labels=self._parts * stats.replayed))
        self._room.look(account, own)
