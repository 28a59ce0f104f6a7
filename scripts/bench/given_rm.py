"""One reward model, fitted once on few labels of the built-in judge and given to everybody alike.

The labels are of episodes between random and shortest-path play on training's starts: nobody's policy has had a say.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from asking import answered
from mixed_play import episodes

from rlaif_ray.config import Config, RewardModelConfig
from rlaif_ray.loop import FeedbackLoop
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer
from rlaif_ray.reward_model.trainer import Published
from rlaif_ray.types import Units

__all__ = ["LABELS", "Given", "fitted", "give", "read"]

LABELS = 400


def fitted(path: Path, labels: int = LABELS, seed: int = 0) -> Path:
    """Fit it and write it down, unless it has been. Raises SystemExit where its own gate would refuse it."""
    if path.exists():
        return path
    print(f"fitting the reward model on {labels} labels", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        judged, values = answered(Path(folder), list(islice(episodes(seed, "train"), labels)), seed)
    trainer = RewardModelTrainer(RewardModelConfig(), judged[0].obs.shape[1:], seed)
    trainer.add(judged, values)
    published = trainer.fit()
    if published.state is None or not published.report.gate_open:
        raise SystemExit(f"the reward model's gate stayed shut with {labels} labels: {published.report.reason}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(published))
    return path


def read(path: str | Path) -> Published:
    """What ``fitted`` wrote."""
    published: Published = pickle.loads(Path(path).read_bytes())
    return published


def facts(path: str | Path) -> dict[str, Any]:
    """For the page: on what it was fitted and how well it does on labels it never saw."""
    report = read(path).report
    return {
        "labels": report.train_n + report.heldout_n,
        "heldout_n": report.heldout_n,
        "heldout_accuracy": report.heldout_accuracy,
        "fit_s": report.fit_s,
    }


class Given:
    """A reward model that has learned all it will: the loop's trainer, with nothing to train."""

    def __init__(self, published: Published) -> None:
        # It is the first version of whatever it is given to.
        state = None if published.state is None else {**published.state, "version": 1}
        self._first: list[Published] = [Published(state, replace(published.report, version=1))]

    def add(self, units: Sequence[Units], values: Sequence[float]) -> None:
        """Labels change nothing."""

    def poll(self) -> Sequence[Published]:
        first, self._first = self._first, []
        return first

    def wait(self, deadline_s: float) -> Sequence[Published]:
        return self.poll()

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """There is nothing to go back to."""

    def close(self) -> None:
        """It has no process."""


def give(algorithm: Any, config: Config, published: Published) -> None:
    """Have a silent algorithm learn from the reward model's score of every episode, as ``config.mix`` says."""
    algorithm.rlaif = config
    algorithm.loop = FeedbackLoop(
        config, None, Given(published), choose=lambda *_: (np.zeros(0, np.int64), 1.0), load=RewardModel.from_state
    )
    algorithm.loop.stopping = algorithm.stopping
