"""The Ray side of asking: thin shells around ``store.LabelStore`` and ``ask.Asker``.

Questioners draw, encode and ask. One on the node where the store's file is writes into it itself, which costs less
than calls of an actor; from elsewhere in the cluster everybody calls the file's one actor. Nothing here imports a
deep-learning library: a questioner's process stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import ray
from pydantic import SecretStr
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlaif_ray.config import Config
from rlaif_ray.errors import JudgeError, RlaifError, StoreError
from rlaif_ray.feedback.ask import AsyncStore, Circumstances, LocalStore
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.database import owner_id
from rlaif_ray.feedback.judge import judges_from
from rlaif_ray.feedback.jury import Jury
from rlaif_ray.feedback.limits import Heard, Pace, Wait
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.records import Record
from rlaif_ray.feedback.store import ClaimState, LabelStore
from rlaif_ray.priority import ASKING, give_way
from rlaif_ray.types import Abstention, Draw, Episode, EpisodeRenderer, Label, Verdict

__all__ = ["Answered", "Questioner", "RemoteStore", "StoreHandle", "Why", "questioner_actor", "store_actor"]

NAMESPACE = "rlaif_ray"
# How long the store may be away, restarting for instance, and how often it is looked for meanwhile.
_STORE_CALL_S = 60.0
_STORE_POLL_S = 0.2
# Questions a questioner has drawn beyond those that may be in flight.
DRAWN_AHEAD = 16
# Ray would keep a record of each call for its dashboard: some 12 kB a question, 250 MB after 20,000.
_TASK_EVENTS = False


@dataclass(frozen=True)
class Answered:
    """What became of one submitted episode. All empty: the budget had no room for it, or the run was at its end."""

    label: Label | None = None
    stop: RlaifError | None = None  # the judge or the store can't be used: stop asking
    failed: str = ""  # this one question could not be put; the others can
    manners: tuple[str, ...] = ()  # how each judge that has answered is talked to
    said: tuple[str, ...] = ()  # what judges don't take of what was to be sent
    worst: Amount = field(default_factory=Amount)  # what one attempt at it may cost, of the judge that may cost most


@dataclass(frozen=True)
class Why:
    """Under what circumstances an episode was submitted."""

    step: int  # environment steps of the run
    inclusion_probability: float
    draw: Draw = "audit"
    share: float = 1.0  # of the caps that may be spent so far
    reward_model_version: int = 0
    doubt: float = 0.0  # standard deviation of the reward model's belief about it, over its ensemble


class StoreHandle:
    """The store's actor of a file, from anywhere in the cluster; one that died for good is replaced.

    An actor whose process was killed is restarted by Ray. It is gone for good when whoever made it has ended (another
    trial, an earlier driver): then the next to need it makes it anew. Calls may be repeated: the store knows them.
    """

    def __init__(self, path: Path, *, detached: bool = False, node: str = "") -> None:
        self.path, self._detached = Path(path).absolute(), detached
        self.node: str = node or ray.get_runtime_context().get_node_id()  # where the file is
        self._found: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_found": None}

    @property
    def actor(self) -> Any:
        if self._found is None:
            self._found = store_actor(self.path, detached=self._detached, node=self.node)
        return self._found

    @property
    def here(self) -> bool:
        """Whether the file is on the node of whoever asks."""
        return bool(self.node == ray.get_runtime_context().get_node_id())

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """The store for some calls in turn: its file where it is on this node, which tells best what is wrong with it,
        else its actor. Raises StoreError."""
        if self.here:
            with LabelStore(self.path) as store:
                yield store
        else:
            yield self.calls

    @property
    def calls(self) -> Any:
        """The actor under the store's own methods: each is one ``call``."""
        return _Calls(self)

    def call(self, method: str, *args: Any) -> Any:
        """One call, waited for. Raises StoreError, its own or that nobody answers."""
        return self._answer(None, method, *args)

    def begin(self, method: str, *args: Any) -> Callable[[], Any]:
        """One call under way; what comes back waits for its answer, as ``call`` does, and raises what that does."""
        ref = None  # where its process has just gone it is called when it is waited for
        with contextlib.suppress(RayActorError, ValueError):
            ref = getattr(self.actor, method).remote(*args)
        return partial(self._answer, ref, method, *args)

    def _answer(self, under_way: Any, method: str, *args: Any) -> Any:
        deadline = time.monotonic() + _STORE_CALL_S
        while True:
            try:
                ref = getattr(self.actor, method).remote(*args) if under_way is None else under_way
                return ray.get(ref, timeout=_STORE_CALL_S)
            except (RayActorError, GetTimeoutError, ValueError) as error:
                self._lost(error, deadline)
            except RayTaskError as error:
                raise _cause(error) from None
            under_way = None
            time.sleep(_STORE_POLL_S)

    async def acall(self, method: str, *args: Any) -> Any:
        """The same on an event loop."""
        deadline = time.monotonic() + _STORE_CALL_S
        while True:
            try:
                return await getattr(self.actor, method).remote(*args)
            except (RayActorError, ValueError) as error:
                self._lost(error, deadline)
            except RayTaskError as error:
                raise _cause(error) from None
            await asyncio.sleep(_STORE_POLL_S)

    def _lost(self, error: BaseException, deadline: float) -> None:
        self._found = None
        cause = getattr(error, "cause", None)
        if time.monotonic() > deadline or isinstance(cause, RlaifError):
            raise StoreError(f"the label store's process doesn't answer: {type(error).__name__}") from None


class _Calls:
    """``handle.call`` under the methods' own names."""

    def __init__(self, handle: StoreHandle) -> None:
        self._handle = handle

    def __getattr__(self, method: str) -> Any:
        return partial(self._handle.call, method)


def _cause(error: RayTaskError) -> BaseException:
    """The error itself, not Ray's wrapping with its stack as the message."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, RlaifError) else StoreError(f"the label store: {type(cause or error).__name__}")


class RemoteStore:
    """The store's actor as an asker on another node sees it."""

    def __init__(self, handle: StoreHandle) -> None:
        self._handle = handle

    async def claim(
        self, record: Record, owner: str, replay: Literal["prefer", "only", "off"], keep_frames_mb: float
    ) -> Label | ClaimState:
        return cast("Label | ClaimState", await self._handle.acall("claim", record, owner, replay, keep_frames_mb))

    async def unclaim(self, question_key: str, owner: str) -> None:
        await self._handle.acall("unclaim", question_key, owner)

    async def admit(self, record: Record, worst: Amount, caps: Caps, owner: str, pace: Pace) -> int | Wait:
        return cast("int | Wait", await self._handle.acall("admit", record, worst, caps, owner, pace))

    async def hear(self, ticket: int, heard: Heard, pace: Pace, used_tokens: int) -> None:
        await self._handle.acall("hear", ticket, heard, pace, used_tokens)

    async def settle(self, ticket: int, used: Amount, detail: str) -> None:
        await self._handle.acall("settle", ticket, used, detail)

    async def write_off(self, ticket: int, detail: str) -> None:
        await self._handle.acall("write_off", ticket, detail)

    async def answer(self, record: Record, outcome: Verdict | Abstention, ticket: int | None, used: Amount) -> Label:
        return cast("Label", await self._handle.acall("answer", record, outcome, ticket, used))


class Questioner:
    """Draws episodes, asks about them and has the answers stored; many at once on one event loop."""

    def __init__(self, config: Config, renderer: EpisodeRenderer, store: StoreHandle, run_id: str) -> None:
        give_way(ASKING)
        self._config, self._renderer, self._run_id = config, renderer, run_id
        self._store: AsyncStore = LocalStore(LabelStore(store.path)) if store.here else RemoteStore(store)
        # Drawing takes some milliseconds: on a thread, answers that arrive meanwhile are taken at once.
        self._draw = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._stopped: RlaifError | None = None
        self._hushed = False
        # The limit itself is kept in the store, over all actors and runs; here it bounds what is asked at once, and
        # what is drawn: somewhat more, so that the next are ready when an answer makes room.
        self._gate = asyncio.Semaphore(config.feedback.concurrency)
        self._drawing = asyncio.Semaphore(config.feedback.concurrency + DRAWN_AHEAD)
        self._prepared = asyncio.Event()  # calls of an asynchronous actor may overtake each other

    async def prepare(self, keys: Sequence[SecretStr | None]) -> str:
        """Take the judges' API keys, which travel in this call alone, and connect; returns who this process is."""
        feedback, seed = self._config.feedback, self._config.run.seed
        self._judges = judges_from(self._config.judge, keys)
        self._jury = Jury(
            self._judges,
            self._store,
            Caps.of(self._config.budget),
            self._config.judge,
            concurrency=feedback.concurrency,
            keep_frames_mb=feedback.keep_frames_mb,
            seed=seed,
        )
        self._questions = Questionnaire.of(self._config.judge, self._renderer, self._jury.identity, seed=seed)
        self._prepared.set()
        return owner_id()

    async def hush(self) -> None:
        """Begin no further question: the run is at its end."""
        self._hushed = True

    async def ask(self, packed: bytes, why: Why) -> Answered:
        """One episode, or two to choose between (pickled), from states to label. Never raises: one question gone wrong
        doesn't end the pool."""
        await self._prepared.wait()
        async with self._drawing:
            if self._at_an_end is not None:
                return self._at_an_end
            try:
                asked = await asyncio.get_running_loop().run_in_executor(self._draw, self._drawn, packed, why)
                async with self._gate:
                    return self._at_an_end or await self._put(asked, why)
            except (JudgeError, StoreError) as error:
                self._stopped = error
                return Answered(stop=error)
            except Exception as error:  # noqa: BLE001 - whatever a renderer or a reply did, the pool goes on
                return Answered(failed=f"{type(error).__name__}: {error}")

    @property
    def _at_an_end(self) -> Answered | None:
        """What becomes of a question where nothing more is to be asked."""
        if self._stopped is not None:
            return Answered(stop=self._stopped)
        return Answered() if self._hushed else None

    async def _put(self, asked: Asked, why: Why) -> Answered:
        now = Circumstances(why.share, why.reward_model_version, why.doubt)
        label = await self._jury.ask(asked, now)
        manners = tuple(judge.manner for judge in self._judges if judge.manner)
        said = tuple(s for judge in self._judges for s in judge.said)
        cases = [judge.worst_case(asked.question) for judge in self._judges]
        worst = Amount(max(one.usd for one in cases), 1, max(one.tokens for one in cases))
        return Answered(label, manners=manners, said=said, worst=worst)

    def _drawn(self, packed: bytes, why: Why) -> Asked:
        units: tuple[Episode, ...] = pickle.loads(packed)
        first, second = units[0], units[1] if len(units) > 1 else None
        question = self._questions.about(first) if second is None else self._questions.between(first, second)
        return Asked(question, first, self._run_id, why.step, why.inclusion_probability, second, why.draw)


def store_actor(path: Path, *, detached: bool = False, node: str = "") -> Any:
    """The store's actor, on the node where the file is (this one), found again by the file's path."""
    name = f"labels-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    here = NodeAffinitySchedulingStrategy(node or ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(LabelStore)
        .options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached" if detached else None,
            enable_task_events=_TASK_EVENTS,
            scheduling_strategy=here,
        )
        .remote(str(path.resolve()))
    )


def questioner_actor(config: Config, renderer: EpisodeRenderer, store: StoreHandle, run_id: str, backlog: int) -> Any:
    """One questioner; up to ``backlog`` calls may be under way in it, those beyond its concurrency waiting.

    A judge on loopback answers on the store's node only; any other is asked from whichever node has least to do.
    """
    beside = any(member.local for member in config.judge.members)  # a judge on loopback answers here alone
    there = NodeAffinitySchedulingStrategy(store.node, soft=False) if beside else "SPREAD"
    options = {"max_concurrency": backlog, "scheduling_strategy": there, "enable_task_events": _TASK_EVENTS}
    return ray.remote(num_cpus=0)(Questioner).options(**options).remote(config, renderer, store, run_id)
