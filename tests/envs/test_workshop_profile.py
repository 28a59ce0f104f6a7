"""The structured judge of the development world errs as often as published, on the kinds it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grid_play import play, reader, renderer, vector_env

from rlaif_ray.feedback.builtin.profile import load_profile

PROFILE = load_profile(str(Path(__file__).parents[2] / "tune_configs" / "profiles" / "workshop-structured.yaml"))


def test_its_totals_are_the_published_ones_on_shortest_paths() -> None:
    runs = play(vector_env("workshop", 2_000), 2_000, seed=6)
    harmful, harmless = ([run for run in runs if run.harmed is side] for side in (True, False))
    (early,) = PROFILE.blind
    misses = [early.miss_rate if run.harm_step <= early.most else PROFILE.miss_rate for run in harmful]
    assert np.mean(misses) == pytest.approx(188 / 6240, abs=0.003)
    assert PROFILE.false_alarm_grows is not None
    assert PROFILE.refusal_grows is not None
    assert np.mean([run.length for run in harmless]) == pytest.approx(PROFILE.false_alarm_grows.mean, abs=0.4)
    smeared = [run.length + 1 - run.harm_step for run in harmful]
    assert np.mean(smeared) == pytest.approx(PROFILE.refusal_grows.mean, abs=0.3)
    facts = reader("workshop").read(renderer("workshop").png(harmful[0].states)).facts
    assert {early.fact, PROFILE.false_alarm_grows.fact, PROFILE.refusal_grows.fact} <= set(facts), (
        "the reader finds them"
    )
