"""``scripts/bench/reward_model_fits.py``: every way of fitting gets the same labels, and the table's arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
import reward_model_fits as fits
from reward_model_speed import play

from rlaif_ray.types import EpisodeBatch


def test_every_way_is_measured_at_every_stage(monkeypatch):
    fast = {"epochs": 1}
    monkeypatch.setattr(fits, "WAYS", {name: (way, {**differs, **fast}) for name, (way, differs) in fits.WAYS.items()})
    episodes, squashed = play(30, seed=1)
    ways = list(fits.WAYS)
    found = fits.measure("published", 0, [30, 40], ways, "event-max", (EpisodeBatch.pack(episodes), 1.0 - squashed))
    assert [(one.way, one.labels) for one in found] == [(name, stage) for stage in (30, 40) for name in fits.WAYS]
    assert all(0.0 <= one.balanced <= 1.0 and one.fit_s > 0.0 for one in found)
    first = {one.way: one.balanced for one in found[: len(fits.WAYS)]}
    assert first["warm, all passes"] == first["refit"]  # there was nothing to go on from


def test_labels_err_as_the_judge_does():
    squashed = np.random.default_rng(0).random(20_000) < 0.5
    said = fits.verdicts(squashed, "misses-20", 0)
    assert said[squashed].mean() == pytest.approx(0.2, abs=0.02)
    assert said[~squashed].min() == 1.0
    assert np.array_equal(said, fits.verdicts(squashed, "misses-20", 0))


def test_the_table_pairs_seeds_by_hand():
    made = [
        fits.Measured("published", way, 60, seed, base + seed / 10, 2.0)
        for way, base in ((name, 0.5 if name == "refit" else 0.6) for name in fits.WAYS)
        for seed in range(3)
    ]
    lines = fits.table(made)
    assert lines[1].split() == ["refit", "60.00%", "2.00"]
    assert "+10.00 +- 0.00" in lines[2]  # the seeds' own spread is no error of a paired difference
