"""Kill processes of a feedback pool at random moments and look at the account afterwards.

A driver process submits episodes until each has its label; a server counts what it delivered. Killed are questioners,
the store's actor and the driver itself, which is then started anew. ``python chaos.py drive ...`` is that driver.
``python chaos.py kill`` does this and the same to a real ``rlaif-ray train`` (``chaos_train``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import feedback_fakes
from chaos_train import TrainChaos
from counting import CONCURRENCY, CountingServer, Outcome
from feedback_fakes import TinyRenderer, tiny_config, tiny_episode

from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.machine import system_says

PRICED = {"judge__input_usd_per_mtok": 1000.0, "judge__output_usd_per_mtok": 1000.0}
# What a round of so many kills is made of; the others are questioners. A driver's kill takes seconds, the others none.
ROUND = 100
OF_TRAINING = 0.4  # of the kills
DRIVERS = 0.1
KILLED_WITHIN = 0.85  # of the answers
HELD_BACK = 0.05  # of the answers, until the last kill: whoever is killed must not have gone home


def drive(address: str, store: Path, base_url: str, episodes: int, labels: int) -> None:
    """Have every episode labelled that isn't yet; keep a list of our processes beside the store."""
    import ray
    from ray import cloudpickle

    from rlaif_ray.feedback.pool import FeedbackPool

    cloudpickle.register_pickle_by_value(feedback_fakes)
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    config = tiny_config(
        base_url, feedback__pool_actors=2, feedback__concurrency=CONCURRENCY, budget__labels=labels,
        budget__usd=labels * 2.0, judge__retries=6, judge__timeout_s=600.0, **PRICED,
    )  # fmt: skip
    pool = FeedbackPool(config, renderer=TinyRenderer(), store_path=store, run_id="chaos")
    with LabelStore(store, readonly=True) as opened:
        known = {label.episode_id for label in opened.labels() if label.value is not None}
    missing = [number for number in range(episodes) if number not in known]
    while missing:
        taken = len(pool.submit([tiny_episode(number) for number in missing], inclusion_probability=1.0, step=0))
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
        for number, worker in enumerate(pool._staff.members):
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
        self.labels = episodes + 2 * kills * CONCURRENCY
        self.outcome = Outcome("pool", episodes, caps=Caps(usd=self.labels * 2.0, labels=self.labels))
        self.victims = ["driver"] * drivers + [
            self.rng.choice(["questioner 0", "questioner 1", "store"]) for _ in range(kills - drivers)
        ]
        self.rng.shuffle(self.victims)

    def run(self, deadline_s: float) -> Outcome:
        began = time.monotonic()
        deadline = began + deadline_s
        with CountingServer(self.rng.randrange(2**31)) as self.server:
            self.server.most = (1.0 - HELD_BACK) * self.outcome.episodes
            driver = self._start()
            try:
                for number, victim in enumerate(self.victims):
                    self._until_delivered(
                        int(KILLED_WITHIN * self.outcome.episodes * number / len(self.victims)), deadline
                    )
                    driver = self._kill(victim, driver, deadline)
                self.server.most = math.inf
                assert driver.wait(max(1.0, deadline - time.monotonic())) == 0, self._log()
            finally:
                driver.kill()
                driver.wait()
        self.outcome.wall_s = time.monotonic() - began
        return self.outcome.count(self.server, self.store)

    def _start(self) -> subprocess.Popen[bytes]:
        self.store.with_suffix(".pids").unlink(missing_ok=True)
        words = [self.address, str(self.store), self.server.base_url, str(self.outcome.episodes), str(self.labels)]
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
                assert driver.poll() is None, f"the driver ended before the last kill: {self._log()}"
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
        while len(self.server.delivered) < count:
            assert time.monotonic() < deadline, f"{len(self.server.delivered)} of {count} delivered: {self._log()}"
            time.sleep(0.02)

    def _log(self) -> str:
        return self.store.with_suffix(".log").read_text()[-2000:]


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """A Ray of our own, and its address."""
    import ray

    from rlaif_ray.surroundings import NICENESS

    os.environ.setdefault(NICENESS, "0")  # as in a run: or workers would give way to all that goes on beside them
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def train_victims(kills: int, drivers: int, seed: int) -> list[str]:
    """Whom to kill of a real training run, in a random order, each kind about as often."""
    kinds = ["reward model", "questioner", "store"]
    victims = ["driver"] * drivers + [kinds[i % len(kinds)] for i in range(kills - drivers)]
    random.Random(seed).shuffle(victims)
    return victims


def kill(kills: int, seed: int, folder: Path) -> list[Outcome]:
    """Rounds of at most ``ROUND`` kills, each with a pool and a training run of its own."""
    outcomes = []
    for number, first in enumerate(range(0, kills, ROUND)):
        here = min(ROUND, kills - first)
        training = round(OF_TRAINING * here)
        asking = here - training
        with cluster() as address:
            for name in ("pool", "train"):
                (folder / f"{name}-{number}").mkdir(parents=True)
            pool = Chaos(
                address, folder / f"pool-{number}", kills=asking, episodes=12 * asking, seed=seed + number,
                drivers=max(1, round(DRIVERS * asking)),
            )  # fmt: skip
            victims = train_victims(training, max(1, round(DRIVERS * training)), seed + number)
            train = TrainChaos(
                folder / f"train-{number}", victims, seed + number, address=address, root=os.getpid()
            )  # fmt: skip
            for stage in (pool, train):
                outcomes.append(stage.run(deadline_s=120.0 + 45.0 * here))
                print(outcomes[-1].table(), flush=True)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["drive", "kill"])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("chaos"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.what == "drive":
        address, store, url, episodes, labels = options.words
        drive(address, Path(store), url, int(episodes), int(labels))
        return
    began = time.monotonic()
    outcomes = kill(options.kills, options.seed, options.folder.absolute())
    broken = [f"{outcome.stage}: {what}" for outcome in outcomes for what in outcome.broken()]
    print("every invariant holds" if not broken else f"BROKEN: {'; '.join(broken)}")
    if options.out:
        found = {
            "command": f"scripts/chaos {options.kills} --seed {options.seed}",
            "machine": f"{os.cpu_count()} cores, {system_says()}",
            "kills": sum(sum(outcome.kills.values()) for outcome in outcomes),
            "wall_s": round(time.monotonic() - began, 1),
            "stages": [outcome.figures() for outcome in outcomes],
            "broken": broken,
        }
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
