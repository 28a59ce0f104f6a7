"""Kill processes of a real ``rlaif-ray train`` at random moments: questioner, store, reward model, and the command.

The command is gone on with by ``--resume`` each time. After every kill the training must be seen to go on before the
next; at the end it is stopped as a user would stop it, and the account is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from counting import CONCURRENCY, CountingServer, Outcome

from rlaif_ray.feedback.budget import Caps
from rlaif_ray.reward_model.actor import MOST_RESTARTS

COMMAND = [sys.executable, "-c", "import sys; from rlaif_ray.cli import main; sys.exit(main())", "train"]
# Ray calls a process by its actor's class, and by the method while one runs.
TITLES = {"questioner": "ray::Questioner", "store": "ray::LabelStore", "reward model": "ray::_Worker"}
MOST = 1_000_000  # of labels and of dollars
SMALL = {
    "run.name": "chaos", "run.total-steps": 50_000_000, "run.evaluate-episodes": 0, "run.checkpoint-every-s": 3,
    "env.num-envs": 16, "ppo.train-batch-size": 512, "ppo.minibatch-size": 256, "ppo.num-epochs": 1,
    "policy.network": "mlp", "policy.hidden": 32, "feedback.start-step": 0, "feedback.stop-step": 0,
    "feedback.fraction": 1, "feedback.labels-per-iteration": 1, "feedback.concurrency": CONCURRENCY,
    "feedback.late": "rm", "mix.start-step": 1024, "mix.ramp-steps": 4096, "judge.kind": "chat", "judge.model": "tiny",
    "judge.frames": "spread", "judge.frames-k": 2, "judge.frames-scale": 0.25, "judge.input-usd-per-mtok": 1000,
    "judge.output-usd-per-mtok": 1000, "judge.retries": 6, "budget.labels": MOST, "budget.usd": MOST,
    "reward-model.min-labels": 12, "reward-model.retrain-every": 8, "reward-model.gate-accuracy": 0,
    "reward-model.epochs": 5, "resources.env-runners": 1, "resources.object-store-mb": 100, "resources.device": "cpu",
}  # fmt: skip


class TrainChaos:
    """``victims`` in their order; their processes are looked for below ``root``, or below the command itself."""

    def __init__(self, folder: Path, victims: Sequence[str], seed: int, *, address: str = "", root: int = 0) -> None:
        self.folder, self.victims, self.root = folder, list(victims), root
        self.run_path = folder / "runs" / "chaos"
        self.settings = SMALL | ({"resources.address": address} if address else {})
        self.rng = random.Random(seed)
        self.outcome = Outcome("train", caps=Caps(usd=float(MOST), labels=MOST))

    def run(self, deadline_s: float) -> Outcome:
        began = time.monotonic()
        self.deadline = began + deadline_s
        with CountingServer(self.rng.randrange(2**31)) as self.server:
            self.settings["judge.base-url"] = self.server.base_url
            self._start()
            try:
                for victim in self.victims:
                    self._goes_on(victim)
                    self._kill(victim)
                self._goes_on("the end")
                self._learns_from_all()
                self._stop()
            finally:
                self.driver.kill()
                self.driver.wait()
                self._until(lambda: not self.server.in_flight, "the last answers")
        self._look_at_versions()
        self.outcome.wall_s = time.monotonic() - began
        return self.outcome.count(self.server, self.run_path / "labels.sqlite")

    # ------------------------------------------------------------------------------------------ the command

    def _start(self) -> None:
        """Begin, or go on where there is a run to go on with."""
        if (self.run_path / "config.yaml").is_file():
            words = ["--resume", str(self.run_path)]
        else:
            words = ["homegrid", *(str(word) for key, value in self.settings.items() for word in (f"--{key}", value))]
        self.rows_before, self.delivered_before = self._rows(), 0
        self.rows_at_start, self.fits_before, self.in_a_row = self.rows_before, 0, 0
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen([*COMMAND, *words], stdout=log, stderr=log, cwd=self.folder)

    def _stop(self) -> None:
        """Ctrl-C, as a user would."""
        self.driver.send_signal(signal.SIGINT)
        code = self.driver.wait(max(1.0, self.deadline - time.monotonic()))
        status = json.loads((self.run_path / "summary.json").read_text())["status"]
        if (code, status) != (0, "interrupted"):
            self.outcome.trouble.append(f"ended with exit code {code} and status {status!r}")

    def _kill(self, victim: str) -> None:
        if victim == "driver":
            self.driver.kill()
            self.driver.wait()
            self._start()
        else:
            if victim == "reward model":
                self._mind_the_limit()
            os.kill(self._process(victim), signal.SIGKILL)
            self.rows_before = self._rows()
        self.delivered_before = len(self.server.delivered)
        self.outcome.kills[victim] += 1

    def _mind_the_limit(self) -> None:
        """Deaths in a row with no work between end a run, as they should: after so many, the next waits for a fit."""
        if self.fits() > self.fits_before:
            self.in_a_row = 0
        if self.in_a_row == MOST_RESTARTS:
            self._until(lambda: self.fits() > self.fits_before, "a fit of the reward model")
            self.in_a_row = 0
        self.in_a_row, self.fits_before = self.in_a_row + 1, self.fits()

    def fits(self) -> int:
        """How often the reward model's figures have changed since the command began or went on."""
        known = [row["rm"]["train_n"] for row in self._read_rows()[self.rows_at_start :]]
        return sum(a != b for a, b in zip([known[0], *known], known, strict=False)) if known else 0

    def _process(self, victim: str) -> int:
        found: list[int] = []

        def there() -> bool:
            below = psutil.Process(self.root or self.driver.pid).children(recursive=True)
            found[:] = [process.pid for process in below if _title(process).startswith(TITLES[victim])]
            return bool(found)

        self._until(there, f"a {victim} to kill")
        return self.rng.choice(found)

    # ------------------------------------------------------------------------------------------ what is waited for

    def _goes_on(self, before: str) -> None:
        """Iterations and answers are seen to come again; then a random moment."""
        rows, answers = self.rows_before + self.rng.randint(1, 3), self.delivered_before + self.rng.randint(1, 10)
        self._until(lambda: self._rows() >= rows and len(self.server.delivered) >= answers, f"work before {before}")
        time.sleep(self.rng.uniform(0.0, 1.0))

    def _learns_from_all(self) -> None:
        """The reward model that was restarted or restored last has been given what the store holds."""
        with contextlib.closing(sqlite3.connect(self.run_path / "labels.sqlite")) as db:
            (labels,) = db.execute("SELECT count(DISTINCT episode_key) FROM labels").fetchone()
        self._until(lambda: self._known() >= 0.9 * labels, f"a reward model that knows {labels} labels")

    def _known(self) -> float:
        row = self._read_rows()[-1].get("rm", {})
        return float(row.get("train_n", 0.0) + row.get("heldout_n", 0.0))

    def _until(self, done: Any, what: str) -> None:
        while not done():
            log = (self.folder / "driver.log").read_text()[-2000:]
            assert time.monotonic() < self.deadline, f"waited too long for {what}: {log}"
            assert self.driver.returncode is not None or self.driver.poll() is None, f"it ended by itself: {log}"
            time.sleep(0.05)

    def _rows(self) -> int:
        path = self.run_path / "result.json"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    def _read_rows(self) -> list[dict[str, Any]]:
        rows = []
        for line in (self.run_path / "result.json").read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # torn by a kill
                rows.append(json.loads(line))
        return rows

    def _look_at_versions(self) -> None:
        """The reward model in use never falls behind while one command runs, and steps only go on."""
        version = steps = 0.0
        for row in self._read_rows():
            if row["iterations_since_restore"] == 1:
                version = steps = 0.0
            if row["rm"]["version"] < version or row["steps"] <= steps:
                self.outcome.trouble.append(f"at step {row['steps']}: version {row['rm']['version']} after {version}")
            version, steps = row["rm"]["version"], row["steps"]
        if not version:
            self.outcome.trouble.append("no reward model was ever in use")


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error, IndexError):
        return str(process.cmdline()[0])
    return ""
