"""Kill processes of a feedback pool at random moments and look at the account afterwards.

A driver process submits episodes until each has its label; a server counts what it delivered. Killed are questioners,
the store's actor and the driver itself, which is then started anew. ``python chaos.py drive ...`` is that driver.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import feedback_fakes
from feedback_fakes import FakeServer, TinyRenderer, completion, tiny_config, tiny_episode

from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.store import LabelStore

PRICED = {"judge__input_usd_per_mtok": 1000.0, "judge__output_usd_per_mtok": 1000.0}
USD_AN_ANSWER = 0.12
CONCURRENCY = 8


@dataclass
class Outcome:
    """What was counted, by the server and in the store."""

    episodes: int
    kills: Counter[str] = field(default_factory=Counter)
    delivered: int = 0
    distinct: int = 0
    labelled: int = 0
    answers: int = 0
    spent: Amount = field(default_factory=Amount)
    reserved: Amount = field(default_factory=Amount)
    written_off: int = 0
    caps: Caps = field(default_factory=Caps)

    def broken(self) -> list[str]:
        """The invariants that don't hold."""
        again = self.delivered - self.distinct
        holds = {
            "each episode has its label": self.labelled == self.distinct == self.episodes,
            "nothing is left reserved": self.reserved.labels == 0,
            "billed by the server <= spent": self.delivered <= self.spent.labels
            and self.delivered * USD_AN_ANSWER <= self.spent.usd + 1e-6,
            "spent <= caps": self.spent.labels <= (self.caps.labels or 0)
            and self.spent.usd <= (self.caps.usd or 0.0) + 1e-6,
            "answers lost <= in flight at a kill": self.delivered - self.answers <= self.written_off,
            "asked again <= in flight at a kill": again <= self.written_off,
            "written off <= kills * concurrency": self.written_off <= sum(self.kills.values()) * CONCURRENCY,
        }
        return [name for name, held in holds.items() if not held]

    def table(self) -> str:
        kills = ", ".join(f"{count} {what}" for what, count in sorted(self.kills.items()))
        return (
            f"killed: {kills}; episodes {self.episodes}, labelled {self.labelled}; delivered {self.delivered}, answers "
            f"stored {self.answers}, asked again {self.delivered - self.distinct}; written off {self.written_off}, "
            f"spent {self.spent.labels} labels, ${self.spent.usd:.2f} (billed ${self.delivered * USD_AN_ANSWER:.2f})"
        )


def drive(address: str, store: Path, base_url: str, episodes: int, labels: int) -> None:
    """Have every episode labelled that isn't yet; keep a list of our processes beside the store."""
    import ray
    from ray import cloudpickle

    from rlaif_ray.feedback.pool import FeedbackPool

    cloudpickle.register_pickle_by_value(feedback_fakes)
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    config = tiny_config(
        base_url, feedback__pool_actors=2, feedback__concurrency=CONCURRENCY, budget__labels=labels,
        budget__usd=labels * 2.0, judge__retries=6, **PRICED,
    )  # fmt: skip
    pool = FeedbackPool(config, renderer=TinyRenderer(), store_path=store, run_id="chaos")
    with LabelStore(store, readonly=True) as opened:
        known = {label.episode_id for label in opened.labels() if label.value is not None}
    missing = [number for number in range(episodes) if number not in known]
    while missing:
        taken = pool.submit([tiny_episode(number) for number in missing], inclusion_probability=1.0, step=0)
        waiting, arrived = set(missing[:taken]), set[int]()
        while pool.in_flight:
            _tell(store.with_suffix(".pids"), pool)
            arrived |= {label.episode_id for label in pool.wait(0.2) if label.value is not None}
        arrived |= {label.episode_id for label in pool.poll() if label.value is not None}
        missing = sorted((waiting - arrived) | set(missing[taken:]))
        assert taken or not missing, f"the budget ended early: {pool.stats()}"
    pool.close()


def _tell(path: Path, pool: Any) -> None:
    import ray

    pids: dict[str, int] = {}
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        for number, worker in enumerate(pool._workers):
            pids[f"questioner {number}"] = int(ray.get(worker.identity, timeout=0.2).split(":")[1])
        call = pool._store.actor.__ray_call__.remote(lambda _: os.getpid())
        pids["store"] = ray.get(call, timeout=1.0)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(pids))
    beside.replace(path)


class Chaos:
    """``kills`` random kills, spread evenly over the answers of ``episodes`` episodes."""

    def __init__(self, address: str, folder: Path, *, kills: int, episodes: int, seed: int, drivers: int) -> None:
        self.address, self.store = address, folder / "labels.sqlite"
        self.rng = random.Random(seed)
        self.delivered: Counter[str] = Counter()
        self.outcome = Outcome(episodes)
        self.labels = episodes + 2 * kills * CONCURRENCY
        self.victims = ["driver"] * drivers + [
            self.rng.choice(["questioner 0", "questioner 1", "store"]) for _ in range(kills - drivers)
        ]
        self.rng.shuffle(self.victims)

    def run(self, deadline_s: float) -> Outcome:
        deadline = time.monotonic() + deadline_s
        with FakeServer(self._respond) as server:
            self.url = server.base_url
            driver = self._start()
            try:
                for number, victim in enumerate(self.victims):
                    self._until_delivered((number + 1) * self.outcome.episodes // (len(self.victims) + 1), deadline)
                    driver = self._kill(victim, driver, deadline)
                assert driver.wait(max(1.0, deadline - time.monotonic())) == 0, self._log()
            finally:
                driver.kill()
                driver.wait()
        return self._counted()

    async def _answer(self, name: str) -> Any:
        await asyncio.sleep(self.rng.uniform(0.05, 0.4))
        self.delivered[name] += 1
        return completion(answer="yes" if int(name[:8], 16) % 2 else "no")

    def _respond(self, _: int, body: dict[str, Any]) -> Any:
        content = json.dumps(body["messages"][-1]["content"], sort_keys=True)
        return self._answer(hashlib.sha256(content.encode()).hexdigest())

    def _start(self) -> subprocess.Popen[bytes]:
        self.store.with_suffix(".pids").unlink(missing_ok=True)
        words = [self.address, str(self.store), self.url, str(self.outcome.episodes), str(self.labels)]
        log = self.store.with_suffix(".log").open("ab")
        with log:
            return subprocess.Popen([sys.executable, __file__, "drive", *words], stdout=log, stderr=log)

    def _kill(self, victim: str, driver: subprocess.Popen[bytes], deadline: float) -> subprocess.Popen[bytes]:
        if victim == "driver":
            self._victim("store", deadline)  # it has come as far as asking
            driver.kill()
            driver.wait()
            driver = self._start()
        else:
            while True:
                try:
                    os.kill(self._victim(victim, deadline), signal.SIGKILL)
                    break
                except ProcessLookupError:  # an old list
                    time.sleep(0.1)
        self.outcome.kills[victim.split(maxsplit=1)[0]] += 1
        return driver

    def _victim(self, name: str, deadline: float) -> int:
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, KeyError):
                return int(json.loads(self.store.with_suffix(".pids").read_text())[name])
            time.sleep(0.05)
        raise AssertionError(f"no {name} to kill: {self._log()}")

    def _until_delivered(self, count: int, deadline: float) -> None:
        while len(self.delivered) < count:
            assert time.monotonic() < deadline, f"{len(self.delivered)} of {count} delivered: {self._log()}"
            time.sleep(0.02)

    def _log(self) -> str:
        return self.store.with_suffix(".log").read_text()[-2000:]

    def _counted(self) -> Outcome:
        found = self.outcome
        found.delivered, found.distinct = sum(self.delivered.values()), len(self.delivered)
        found.caps = Caps(usd=self.labels * 2.0, labels=self.labels)
        with LabelStore(self.store) as store:  # opening it writes off what the last ones left
            account = store.account(found.caps)
            found.spent, found.reserved = account.spent, account.reserved
            found.labelled = len({label.episode_id for label in store.labels() if label.value is not None})
            with store.reading() as db:
                (found.answers,) = db.execute("SELECT count(*) FROM answers WHERE reason IS NULL").fetchone()
                (found.written_off,) = db.execute(
                    "SELECT count(*) FROM attempts WHERE state = 'written_off'"
                ).fetchone()
        return found


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """A Ray of our own, and its address."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["drive", "kill"])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("chaos"))
    options = parser.parse_args()
    if options.what == "drive":
        address, store, url, episodes, labels = options.words
        drive(address, Path(store), url, int(episodes), int(labels))
        return
    options.folder.mkdir(parents=True)
    kills = options.kills
    with cluster() as address:
        chaos = Chaos(
            address, options.folder, kills=kills, episodes=20 * kills, seed=options.seed, drivers=max(1, kills // 10)
        )
        outcome = chaos.run(deadline_s=60.0 + 30.0 * kills)
    print(outcome.table())
    broken = outcome.broken()
    print("every invariant holds" if not broken else f"BROKEN: {'; '.join(broken)}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
