"""The gate, rollback and alarm while the policy changes and harm becomes rare; mistakes, early stop, files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from meeting_world import OBS_SHAPE, meeting_batch, meeting_episodes, noisy_verdicts

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import CheckpointError
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer, ensemble, fitting, losses
from rlaif_ray.reward_model.labelled import mark, targets
from rlaif_ray.reward_model.nets import make_net
from rlaif_ray.types import EpisodeBatch

CONFIG = RewardModelConfig(min_labels=40, retrain_every=20, epochs=30)


def _as_policy_learns(counts, seed=0):
    """Episodes of policy versions 0, 1, ..., (good, bad) of each, and what a judge without mistakes says."""
    episodes, bad = meeting_episodes(3 * sum(map(sum, counts)), seed)
    pools = {side: [e for e, b in zip(episodes, bad, strict=True) if b == side] for side in (False, True)}
    made, values = [], []
    for version, (good, harm) in enumerate(counts):
        for side, n in ((False, good), (True, harm)):
            made += [replace(pools[side].pop(), policy_version=version) for _ in range(n)]
            values += [float(not side)] * n
    return made, values


@pytest.fixture(scope="module")
def rare():
    """Harm disappears: 300 labels of three policy versions."""
    return _as_policy_learns([(50, 50), (70, 30), (100, 0)])


def _trained(labels, config=CONFIG, until=None):
    trainer = RewardModelTrainer(config, OBS_SHAPE, seed=0)
    trainer.add(labels[0][:until], labels[1][:until])
    return trainer


def test_a_model_that_forgot_harm_is_rolled_back_although_no_new_episode_shows_any(rare, monkeypatch):
    trainer = _trained(rare, until=200)
    assert trainer.fit().report.gate_open
    real = ensemble.fit_net

    def forgets(net, data, *rest):  # learns that all is well
        return real(net, replace(data, target=np.ones_like(data.target)), *rest)

    monkeypatch.setattr(ensemble, "fit_net", forgets)
    trainer.add(rare[0][200:], rare[1][200:])
    published = trainer.fit()
    newest = published.report.on_policy
    assert newest.bad == 0  # on these alone "all is well" is always right
    assert published.state is None
    assert published.report.reason.startswith("rolled back")
    assert "anchor" in published.report.reason
    assert published.report.gate_open  # the one in service still counts


def test_the_gate_stays_open_where_harm_became_rare_and_on_policy_is_not_measurable(rare):
    report = _trained(rare).fit().report
    assert report.gate_open
    assert not math.isnan(report.balanced_accuracy)  # the anchor has both classes
    assert math.isnan(report.on_policy_accuracy)
    newest = report.on_policy
    assert newest.first == newest.last == 2
    assert newest.right == newest.n
    assert newest.zero_error_bound == pytest.approx(3 / newest.n)
    assert [(p.first, p.last) for p in report.periods][-1] == (2, 2)
    assert sum(p.n for p in report.periods) == report.heldout_n
    low, high = report.extra["exam_low"], report.extra["exam_high"]
    assert low < report.extra["exam_accuracy"] <= high
    assert (low, high) == (report.extra["balanced_low"], report.extra["balanced_high"])
    assert report.extra["exam_n"] == report.heldout_n  # fewer than 100 of each class: all of them


def test_with_enough_of_both_classes_the_gate_is_on_policy():
    """Version 1's judge says the opposite: the pooled figure would pass a gate of one half, the newest period not."""
    episodes, values = _as_policy_learns([(150, 150), (120, 120)], seed=5)
    values = values[:300] + [1 - v for v in values[300:]]
    config = CONFIG.model_copy(update={"gate_accuracy": 0.75})
    trainer = RewardModelTrainer(config, OBS_SHAPE, seed=0)
    trainer.add(episodes[:300], values[:300])
    assert trainer.fit().report.gate_open
    trainer.labels.add(episodes[300:], values[300:])
    monitored = trainer.fit().report
    assert monitored.on_policy.measurable
    assert monitored.on_policy.first == 1
    assert not monitored.gate_open
    assert "on-policy labels" in monitored.reason


def test_drift_raises_an_alarm_and_steadiness_does_not(monkeypatch):
    episodes, values = _as_policy_learns([(80, 80), (80, 80)], seed=7)
    steady = _trained((episodes, values)).fit().report
    assert not steady.drift_alarm
    assert steady.drift_p > 0.05
    turned = values[:160] + [1 - v for v in values[160:]]
    trainer = _trained((episodes[:160], turned[:160]))
    trainer.fit()
    monkeypatch.setattr(ensemble, "fit_net", lambda *_: 9.0)  # no new fit takes over
    trainer.add(episodes[160:], turned[160:])
    report = trainer.fit().report
    assert report.drift_alarm
    assert report.drift_p < 0.01


def test_one_content_belongs_to_the_newest_policy_that_made_it(rare):
    episode = rare[0][0]
    for first, second in ((2, 7), (7, 2)):
        trainer = RewardModelTrainer(CONFIG, OBS_SHAPE, seed=0)
        trainer.add([replace(episode, policy_version=first), replace(episode, policy_version=second)], [1.0, 1.0])
        (label,) = trainer.labels.in_order()
        assert label.policy_version == 7


def test_intervals_hold_their_figures_and_all_goes_into_a_summary(rare):
    report = _trained(rare).fit().report
    extra = report.extra
    assert report.heldout_low <= report.heldout_accuracy <= extra["heldout_high"]
    assert extra["balanced_low"] <= report.balanced_accuracy <= extra["balanced_high"]
    for name in ("brier", "calibration_error"):
        assert extra[f"{name}_low"] <= extra[name] <= extra[f"{name}_high"]
    figures = json.loads(json.dumps(report.figures(), allow_nan=True))
    assert figures["periods"][0]["first"] == 0
    assert figures["brier"] == extra["brier"]
    assert sum(b["n"] for b in figures["reliability"]) == report.heldout_n
    assert math.isnan(figures["on_policy_accuracy"])


# ------------------------------------------------------------------------------------------ mistakes of the judge


def test_flip_rates_are_estimated_and_undone():
    """A judge that approves a fifth of the bad: the belief in bad episodes falls where the loss knows of it."""
    episodes, bad = meeting_episodes(400, seed=3)
    u = np.random.default_rng(0).random(400)
    values = np.where(bad, u < 0.2, u >= 0.02).astype(float)
    fresh, truth = meeting_episodes(300, seed=4)
    batch, right, beliefs = EpisodeBatch.pack(fresh), {}, {}
    for noise in ("none", "estimated"):
        trainer = _trained((episodes, values.tolist()), CONFIG.model_copy(update={"noise": noise, "epochs": 60}))
        report = trainer.fit().report
        assert report.gate_open
        final = trainer.served.score(batch).final
        right[noise], beliefs[noise] = ((final > 0.5) == ~truth).mean(), report
    extra = beliefs["estimated"].extra
    assert extra["flip_bad_as_good"] == pytest.approx(0.2, abs=0.09)
    assert extra["flip_good_as_bad"] == pytest.approx(0.02, abs=0.05)
    assert "flip_bad_as_good" not in beliefs["none"].extra
    assert min(right.values()) >= 0.97


# ------------------------------------------------------------------------------------------ early stop


def _net_and_sets(n=120):
    episodes, bad = meeting_episodes(n, seed=8)
    net = make_net(CONFIG, OBS_SHAPE, 0)
    digests = [(net.digest(e.obs),) for e in episodes]
    value = 1.0 - bad
    sets = [fitting.TrainingSet.of(digests[a:b], value[a:b], np.ones(b - a)) for a, b in ((0, 80), (80, n))]
    return net, *sets


def test_validation_ends_a_fit_and_takes_the_best_weights_back():
    net, train, validation = _net_and_sets()
    config = CONFIG.model_copy(update={"epochs": 400})
    seen = []

    class Watched(fitting._ValidatedStop):
        def after(self, training_loss):
            ended = super().after(training_loss)
            seen.append(float(self._last.mean()))
            return ended

    watched = fitting._ValidatedStop
    fitting._ValidatedStop = Watched
    try:
        flipped = replace(train, target=np.where(np.arange(80) % 4 == 0, 1 - train.target, train.target))
        fitting.fit_net(net, flipped, config, 0, validation)  # learning the mistakes by heart is punished
    finally:
        fitting._ValidatedStop = watched
    assert len(seen) < 400
    assert float(validation.losses(net).mean()) <= seen[-1] + 1e-9
    assert float(validation.losses(net).mean()) == pytest.approx(min(seen), rel=1e-4) or seen[-1] < 1.5 * min(seen)
    net.eval()
    assert not net.training


def test_losses_of_each_label_add_up_to_the_loss():
    net, train, _ = _net_and_sets()
    net.eval()
    with torch.no_grad():
        assert float(train.loss(net)) == pytest.approx(train.losses(net).sum() / train.weight.sum(), rel=1e-5)


def test_validation_labels_are_neither_learned_from_nor_held_out(rare, monkeypatch):
    trainer = _trained(rare, CONFIG.model_copy(update={"early_stop": "validation"}))
    handed = []
    real = ensemble.fit_net
    monkeypatch.setattr(ensemble, "fit_net", lambda net, data, config, seed, validation: handed.append(
        (len(data), len(validation))) or real(net, data, config, seed, validation))  # fmt: skip
    report = trainer.fit().report
    ((learned, asked),) = handed
    assert learned + asked == report.train_n
    assert learned + asked + report.heldout_n == 300
    assert asked == pytest.approx(report.train_n / 8, abs=12)
    assert report.gate_open


def test_too_few_labels_leave_the_stop_to_the_training_loss(monkeypatch):
    episodes, bad = meeting_episodes(60, seed=1)
    trainer = _trained((episodes, (1.0 - bad).tolist()), CONFIG.model_copy(update={"early_stop": "validation"}))
    handed = []
    monkeypatch.setattr(ensemble, "fit_net", lambda net, data, config, seed, validation: handed.append(validation) or 1)
    trainer.fit()
    assert handed == [None]


# ------------------------------------------------------------------------------------------ files


def test_a_model_remembers_what_it_learned_from_and_goes_through_a_file(rare, tmp_path):
    trainer = _trained(rare)
    published = trainer.fit()
    train, held = trainer.parts()
    model = trainer.served
    model.save(tmp_path / "model.npz")
    again = RewardModel.load(tmp_path / "model.npz")
    assert again.trained_on == {mark(one.key) for one in train}
    assert again.calibrated_on == {mark(one.key) for one in held}
    assert not again.trained_on & again.calibrated_on
    batch = meeting_batch(10, seed=0)
    assert np.array_equal(again.score(batch).belief, RewardModel.from_state(published.state).score(batch).belief)
    older = {k: v for k, v in published.state.items() if k not in ("trained_on", "calibrated_on")}
    assert RewardModel.from_state(older).trained_on == frozenset()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"not a model at all"])
def test_no_model_s_file_is_refused(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.npz"):
        RewardModel.load(tmp_path / "bad.npz")
    with pytest.raises(CheckpointError, match="No such file"):
        RewardModel.load(tmp_path / "nowhere.npz")
    with pytest.raises(CheckpointError, match="No such file"):
        RewardModel.create(CONFIG, OBS_SHAPE, 0).save(tmp_path / "no" / "folder.npz")


# ------------------------------------------------------------------------------------------ ratings


def test_soft_labels_are_learned_as_such():
    """Ratings of five levels: the belief follows the level, not only its side."""
    episodes, bad = meeting_episodes(300, seed=9)
    noise = np.random.default_rng(0).integers(0, 2, 300)
    values = np.where(bad, np.array([0.0, 0.25])[noise], np.array([0.75, 1.0])[noise])
    trainer = _trained((episodes, values.tolist()), CONFIG.model_copy(update={"epochs": 60}))
    assert set(targets(trainer.labels.in_order()).tolist()) == {0.0, 0.25, 0.75, 1.0}
    assert trainer.fit().report.gate_open
    fresh, truth = meeting_episodes(200, seed=10)
    final = trainer.served.score(EpisodeBatch.pack(fresh)).final
    assert float(np.median(final[~truth])) == pytest.approx(0.875, abs=0.08)
    assert float(np.median(final[truth])) == pytest.approx(0.125, abs=0.08)
    assert losses.balanced_accuracy(final, 1.0 - truth) >= 0.97


def test_noisy_250_labels_with_everything_on(rare):
    episodes, bad = meeting_episodes(250, seed=0)
    config = RewardModelConfig(min_labels=40, noise="estimated", early_stop="validation")
    trainer = _trained((episodes, noisy_verdicts(bad, 0).tolist()), config)
    assert trainer.fit().report.gate_open
    fresh, truth = meeting_episodes(500, seed=77)
    assert ((trainer.served.score(EpisodeBatch.pack(fresh)).final > 0.5) == ~truth).mean() >= 0.98
