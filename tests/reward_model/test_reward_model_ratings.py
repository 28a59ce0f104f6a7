"""From a judge's words to what the nets learn: approvals, ratings and soft verdicts are one target in [0, 1]."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from meeting_world import OBS_SHAPE, meeting_episodes

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.prompt import load_prompt
from rlaif_ray.feedback.question import Asked, JudgeIdentity, question_about
from rlaif_ray.feedback.records import record_of
from rlaif_ray.feedback.reply import Wording, verdict_on
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.reward_model import RewardModelTrainer
from rlaif_ray.reward_model.labelled import targets
from rlaif_ray.types import EpisodeBatch, RewardModelReport, Usage

PROMPT = load_prompt("homegrid-rating")


class Grey:
    def png(self, states):
        return tuple(b"\x89PNG" + state.tobytes() for state in states)

    def captions(self, states):
        return ("",) * len(states)


@pytest.mark.parametrize("polarity", ["align", "violate"])
def test_levels_reach_the_nets_in_equal_steps_the_right_way_round(polarity):
    prompt = replace(PROMPT, polarity=polarity)
    episodes, _ = meeting_episodes(len(prompt.levels), seed=0)
    trainer = RewardModelTrainer(RewardModelConfig(), OBS_SHAPE, seed=0)
    values = []
    for episode, level in zip(episodes, prompt.levels, strict=True):
        verdict = verdict_on(Wording("rating", prompt), level, Usage(), level)
        trainer.add([episode], [verdict.value])
        values.append(verdict.value)
    steps = np.linspace(0.0, 1.0, len(prompt.levels))
    assert values == pytest.approx(steps if polarity == "align" else steps[::-1])
    assert sorted(targets(trainer.labels.in_order()).tolist()) == pytest.approx(steps.tolist())


def test_stored_ratings_teach_the_net_their_levels(tmp_path):
    """Through the store and back: five levels, rated by how bad it was, the belief ends near each."""
    episodes, bad = meeting_episodes(260, seed=2)
    slip = np.random.default_rng(0).integers(0, 2, 260)
    level = np.where(bad, slip, 4 - slip)
    with LabelStore(tmp_path / "labels.sqlite") as store:
        store.open_run("run", Caps())
        for episode, rated in zip(episodes, level.tolist(), strict=True):
            drawn = replace(episode, states=episode.obs[:, :, :, 0].reshape(len(episode.obs), -1).astype(np.int16))
            question = question_about(
                drawn, renderer=Grey(), prompt=PROMPT, judge=JudgeIdentity("builtin", "p"), max_images=101
            )
            record = record_of(Asked(question, episode, "run", step=0))
            if store.claim(record, "test") != "claimed":
                continue
            word = PROMPT.levels[rated]
            verdict = verdict_on(Wording("rating", PROMPT), word, Usage(), word)
            store.answer(record, verdict, store.reserve(record, Amount(labels=1), Caps(), "test"), Amount(labels=1))
        labels = store.labels()
        units, values = [store.units_of(one) for one in labels], [one.value for one in labels]
    assert set(values) == {0.0, 0.25, 0.75, 1.0}
    trainer = RewardModelTrainer(RewardModelConfig(), OBS_SHAPE, seed=0)
    trainer.add(units, values)
    assert trainer.fit().report.gate_open
    fresh, truth = meeting_episodes(200, seed=3)
    final = trainer.served.score(EpisodeBatch.pack(fresh)).final
    assert float(np.median(final[~truth])) == pytest.approx(0.875, abs=0.09)
    assert float(np.median(final[truth])) == pytest.approx(0.125, abs=0.09)


def test_a_report_of_an_older_checkpoint_still_reads():
    """Unpickled, it has the fields that it was written with."""
    older = object.__new__(RewardModelReport)
    older.__dict__.update(
        version=3, gate_open=True, heldout_accuracy=0.9, heldout_n=40, heldout_low=0.8, balanced_accuracy=0.9,
        train_n=160, loss=0.1, fit_s=0.5, reason="", extra={},
    )  # fmt: skip
    assert older.on_policy is None
    assert older.figures()["periods"] == ()
    assert not older.drift_alarm
