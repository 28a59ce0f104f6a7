"""Runs the study step by step, each as a process of its own, until a time limit; killed at any moment it goes on.

A training run goes on from its newest checkpoint, a data set where it was; what is finished has its file among the
results, which is written last and in one piece. One shard at a time: the lock is held by its steps' processes too, so
that whoever comes after a kill waits until what was left over has saved itself and ended.

A shard may run several steps side by side, each acting in its own process with one thread: a run alone leaves half of
two cores idle. Their minutes then say less, so that each result has ``jobs``. A thread of the shard waits for each
step; what computes is in the step's processes, and one that is killed touches no other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from homegrid_study.arms import Layout, Step
from homegrid_study.measure import failed, write_result
from homegrid_study.processes import CHANGED, environment
from homegrid_study.settings import digest
from rlaif_ray.config import Config, dump_config
from rlaif_ray.config.running import FINISHED
from rlaif_ray.errors import ConfigError
from rlaif_ray.files import write_whole

__all__ = ["Clock", "Shard", "run_shard"]

Ended = Literal["finished", "stopped", "failed"]
# Less time than a run's start and its first checkpoint take is not worth beginning with.
LEAST_S = 45.0
# A run that is told to stop ends its iteration, which may wait for answers, and saves itself.
GRACE_S = 150.0
LOCK_WAIT_S = 180.0
# A process that died of a cause outside it (memory, say) goes on so often.
RESTARTS = 2
TICK_S = 0.2


@dataclass
class Clock:
    """Seconds that a step has taken over all shards, and how many steps they ran side by side at most; on disk."""

    file: Path
    seconds: float = 0.0
    jobs: int = 1
    _since: float = field(default_factory=time.monotonic)

    @staticmethod
    def of(step: Step, jobs: int = 1) -> Clock:
        file = step.folder.with_name(f"{step.name}.clock")
        seconds, _, most = (file.read_text() if file.is_file() else "0").partition(" ")
        return Clock(file, float(seconds), max(jobs, int(most or 1)))

    @property
    def figures(self) -> dict[str, float]:
        """As a result has them."""
        return {"minutes": round(self.seconds / 60.0, 3), "jobs": self.jobs}

    def restart(self) -> None:
        """What is begun anew has taken no time yet."""
        self.seconds, self._since = 0.0, time.monotonic()

    def tick(self) -> None:
        """At most every few seconds' worth is lost by a kill."""
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        write_whole(self.file, f"{self.seconds:.1f} {self.jobs}")


@dataclass
class Shard:
    """What one call may do: until when, how much side by side, and whether somebody wants it to end."""

    layout: Layout
    until: float  # of time.monotonic
    lock: IO[str]
    say: Callable[[str], None]
    jobs: int = 1
    asked_to_stop: bool = False

    @property
    def left_s(self) -> float:
        return 0.0 if self.asked_to_stop else self.until - time.monotonic()

    # -------------------------------------------------------------------------------------- one step

    def do(self, step: Step) -> Ended:
        """Raises nothing for a step that fails: that is a result too."""
        step.result.unlink(missing_ok=True)  # of a run that is gone: what others begin with is what is told
        step.folder.parent.mkdir(parents=True, exist_ok=True)
        clock = Clock.of(step, self.jobs)
        if not step.begun:
            clock.restart()
            write_whole(step.begun_with, json.dumps(step.settings))
        for _ in range(RESTARTS + 1):
            code = 0 if self._done(step) else self._begin(step, clock)
            if self._done(step):
                code = self._measure(step, clock)
                if step.finished:
                    return "finished"
                if code == CHANGED:
                    self.say(f"{step.key}: the study's files have changed since this shard was begun; begin it anew")
                    self.asked_to_stop = True
            if self.left_s <= 0:  # whoever was stopped has not failed
                return "stopped"
            if code >= 0:  # it has said itself what is wrong
                break
            self.say(f"{step.key}: its process died (signal {-code}), going on from its checkpoint")
        clock.tick()
        write_result(step, failed(step, _last_line(self._log(step))) | clock.figures)
        return "failed"

    def _done(self, step: Step) -> bool:
        """Whether the process of the step has nothing left to do; an audit has none besides what measures."""
        if step.kind == "audit":
            return True
        if step.kind == "label":
            told = _read(self._told(step))
            return told.get("status") == "done" and told.get("episodes") == step.labels
        return _read(step.folder / "summary.json").get("status") in FINISHED

    def _command(self, step: Step) -> list[str]:
        """Begin, or go on."""
        words = [sys.executable, "-m", "homegrid_study.rlaif"]
        if step.kind == "label":
            source, judge = self.layout.runs / step.needs[0], step.config.judge
            return [*words, "label", str(source), "--episodes", str(step.labels), "--json",
                    "--run.dir", str(step.folder.parent), "--run.name", step.name, "--run.seed", str(step.seed),
                    "--judge.profile", judge.profile, "--judge.prompt", judge.prompt,
                    "--judge.seed", str(judge.seed), "--feedback.concurrency", "256"]  # fmt: skip
        if (step.folder / "config.yaml").is_file():
            return [*words, "train", "--resume", str(step.folder)]
        file = step.folder.with_name(f"{step.name}.yaml")
        file.write_text(dump_config(_side_by_side(step.config) if self.jobs > 1 else step.config))
        return [*words, "train", str(file)]

    def _log(self, step: Step) -> Path:
        return step.folder.with_name(f"{step.name}.log")

    def _told(self, step: Step) -> Path:
        """What the command printed on standard output."""
        return step.folder.with_name(f"{step.name}.out")

    def _begin(self, step: Step, clock: Clock) -> int:
        """The step's own process, until it ends or there is no time left; its exit code."""
        with open(self._told(step), "w") as out:
            return self._process(step, self._command(step), clock, out, lambda: self.left_s > 0)

    def _measure(self, step: Step, clock: Clock) -> int:
        """What comes of it, to the end: a minute, and nothing of it is kept before."""
        words = [step.key, "--settings", digest(step.settings), *self.layout.words]
        command = [sys.executable, "-m", "homegrid_study.after", *words]
        return self._process(step, command, clock, subprocess.DEVNULL, lambda: True)

    def _process(
        self, step: Step, command: Sequence[str], clock: Clock, out: IO[str] | int, may: Callable[[], bool]
    ) -> int:
        with open(self._log(step), "a") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True,
                pass_fds=[self.lock.fileno()], env=environment(one_thread=self.jobs > 1),
            )  # fmt: skip
            try:
                while process.poll() is None and may():
                    time.sleep(TICK_S)
                    clock.tick()
                return _ended(process)
            except BaseException:
                process.kill()
                raise


def _side_by_side(config: Config) -> Config:
    """One process and one thread for acting and learning: another run has the other cores."""
    resources = config.resources.model_copy(update={"env_runners": 0, "learner_threads": 1})
    return config.model_copy(update={"resources": resources})


def run_shard(
    steps: Sequence[Step], layout: Layout, hours: float, say: Callable[[str], None], jobs: int = 1
) -> dict[str, Any]:
    """Do what is unfinished of ``steps``, in order, ``jobs`` at a time, for at most so many hours: ``{"finished":
    [...], "failed": [...], "left": [...]}``, keys of steps. None is begun before all that it begins with is finished.

    Raises ConfigError: another shard runs here, or a run that is to be gone on with was begun with other settings.
    """
    layout.runs.mkdir(parents=True, exist_ok=True)
    with _locked(layout.runs / ".lock") as lock:
        shard = Shard(layout, time.monotonic() + 3_600 * hours, lock, say, jobs)
        with _stopped_by_signals(shard):
            done = _all_done(steps, shard)
    return {**done, "left": [step.key for step in steps if not step.finished]}


def _all_done(steps: Sequence[Step], shard: Shard) -> dict[str, list[str]]:
    done: dict[str, list[str]] = {"finished": [], "failed": []}
    by_key = {step.key: step for step in steps}
    waiting, running = _to_do(steps, by_key, shard.say), dict[Future[Ended], Step]()
    with ThreadPoolExecutor(shard.jobs) as threads:
        try:
            while True:
                under_way = {step.key for step in (*waiting, *running.values())}
                begins_with = {key: _usable(step) and key not in under_way for key, step in by_key.items()}
                ready = [step for step in waiting if all(begins_with[key] for key in step.needs)]
                for step in ready[: shard.jobs - len(running)] if shard.left_s >= LEAST_S else ():
                    waiting.remove(step)
                    shard.say(f"{time.strftime('%H:%M:%S')} {step.key} ...")
                    running[threads.submit(shard.do, step)] = step
                if not running:
                    return done
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    step, ended = running.pop(future), future.result()
                    shard.say(f"{time.strftime('%H:%M:%S')} {step.key}: {ended}")
                    if ended != "stopped":
                        done[ended].append(step.key)
        except BaseException:
            shard.asked_to_stop = True  # what runs beside saves itself before the error is told
            raise


def _to_do(steps: Sequence[Step], by_key: Mapping[str, Step], say: Callable[[str], None]) -> list[Step]:
    """What is unfinished, and what that begins with and was finished elsewhere: its result came with the repository,
    its run did not, and is made again."""
    wanted = {step.key for step in steps if not step.finished}
    for step in reversed(steps):  # each stands behind all that it begins with
        for key in step.needs if step.key in wanted else ():
            if _usable(by_key[key]) and not by_key[key].at_hand:
                wanted.add(key)
                say(f"{key}: its run isn't here any more, and {step.key} begins with it: it is run again")
    todo = [step for step in steps if step.key in wanted]
    for step in todo:
        _check_begun(step)
    return todo


def _check_begun(step: Step) -> None:
    """Nothing that was paid for is thrown away, and nothing goes by a name that isn't its own."""
    try:
        other = step.of_other_settings()
    except ConfigError:  # told by the run, which reads it too
        return
    if other:
        raise ConfigError(
            f"{step.folder}: begun with other settings than {step.key} has now ({'; '.join(other[:3])}"
            f"{', and more' if len(other) > 3 else ''}); move it and {step.name}.* beside it away, and it is begun anew"
        )


def _usable(step: Step) -> bool:
    """Whether another step can begin with what it has left."""
    made = step.made
    return made is not None and made.get("status") != "failed"


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[IO[str]]:
    with open(file, "a") as lock:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(f"{file.parent}: another shard of the study runs here; one at a time") from None
                time.sleep(TICK_S)
        yield lock


@contextlib.contextmanager
def _stopped_by_signals(shard: Shard) -> Iterator[None]:
    def hear(number: int, frame: object) -> None:
        shard.asked_to_stop = True
        shard.say("Stopping: what runs saves itself; the same command goes on.")

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _last_line(log: Path) -> str:
    text = log.read_text(errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _read(file: Path) -> dict[str, Any]:
    """{} where it isn't there or is torn."""
    try:
        read = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
