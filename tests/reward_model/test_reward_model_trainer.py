"""Adding labels, fitting, the gate, versions, rollback, checkpoints."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from meeting_world import OBS_SHAPE, meeting_episodes, noisy_verdicts

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import CheckpointError, ShapeError
from rlaif_ray.reward_model import RewardModel, RewardModelTrainer, fitting, grading
from rlaif_ray.reward_model.examining import examine
from rlaif_ray.reward_model.labelled import is_held_out, observation_key
from rlaif_ray.types import Episode, EpisodeBatch

CONFIG = RewardModelConfig(min_labels=40, retrain_every=20)


@pytest.fixture(scope="module")
def world():
    """300 episodes and whether the two met."""
    return meeting_episodes(300, seed=0)


@pytest.fixture(scope="module")
def fitted(world):
    """A trainer with 250 noisy labels, and what its first fit published."""
    episodes, bad = world
    trainer = RewardModelTrainer(CONFIG, OBS_SHAPE, seed=0)
    trainer.add(episodes[:250], noisy_verdicts(bad, 0)[:250].tolist())
    return trainer, trainer.fit()


def _fresh(episodes, values, config=CONFIG, seed=0):
    trainer = RewardModelTrainer(config, OBS_SHAPE, seed)
    trainer.add(episodes, list(values))
    return trainer


def test_250_noisy_labels_teach_event_max_the_truth(fitted):
    trainer, published = fitted
    episodes, bad = meeting_episodes(1_000, seed=77)
    model = RewardModel.from_state(published.state)
    assert ((model.score(EpisodeBatch.pack(episodes)).final > 0.5) == ~bad).mean() >= 0.99
    report = published.report
    assert report.gate_open
    assert report.reason == ""
    assert (report.version, model.version) == (1, 1)
    assert report.train_n + report.heldout_n == 250 == len(trainer)
    assert 0.93 <= report.heldout_accuracy <= 1
    assert report.heldout_low < report.heldout_accuracy
    assert 0 < report.extra["brier"] < 0.08
    assert math.isfinite(report.loss)


def test_belief_drops_where_they_meet(fitted):
    _, published = fitted
    model = RewardModel.from_state(published.state)
    episodes, bad = meeting_episodes(200, seed=78)
    batch = EpisodeBatch.pack([e for e, b in zip(episodes, bad, strict=True) if b])
    scores = model.score(batch)
    drops = 0
    for episode, start in zip(batch, batch.obs_offsets, strict=False):
        met = int(np.argmax((episode.obs[..., 0] & episode.obs[..., 1]).any((1, 2))))
        belief = scores.belief[start : start + len(episode.obs)]
        drops += met > 0 and belief[met - 1] > 0.5 > belief[met]
    assert drops >= 0.95 * len(batch)


def test_same_labels_same_model_whatever_their_order(world):
    episodes, bad = world
    values = noisy_verdicts(bad, 0)
    one = _fresh(episodes[:60], values[:60])
    other = RewardModelTrainer(CONFIG, OBS_SHAPE, seed=0)
    for i in reversed(range(60)):
        other.add([episodes[i]], [values[i]])
    a, b = one.fit(), other.fit()
    assert a.report.heldout_n == b.report.heldout_n
    assert a.report.loss == b.report.loss
    c = _fresh(episodes[:60], values[:60], seed=1).fit()
    assert c.report.loss != a.report.loss
    assert c.report.heldout_n == a.report.heldout_n  # who is held out does not depend on the seed


def test_random_labels_leave_the_gate_shut(world):
    episodes, _ = world
    values = np.random.default_rng(5).integers(0, 2, 300).astype(float)
    trainer = _fresh(episodes, values)
    published = trainer.fit()
    assert not published.report.gate_open
    assert published.state is None
    assert published.report.version == 0
    assert "below the gate" in published.report.reason
    assert trainer.served is None


def test_one_class_or_too_few_held_out_are_told_apart(world):
    episodes, _ = world
    report = _fresh(episodes[:60], np.ones(60)).fit().report
    assert not report.gate_open
    assert "0 bad" in report.reason
    assert math.isnan(report.heldout_accuracy)
    few = [e for e in episodes if not is_held_out(observation_key(e.obs), CONFIG.holdout)][:50]
    report = _fresh(few, [0.0, 1.0] * 25).fit().report
    assert not report.gate_open
    assert "0 held-out labels" in report.reason


def test_due_counts_distinct_episodes(world):
    episodes, bad = world
    values = noisy_verdicts(bad, 0)
    trainer = _fresh(episodes[:39], values[:39])
    assert not trainer.due()
    trainer.add(episodes[:10], values[:10])  # known already
    assert len(trainer) == 39
    assert not trainer.due()
    assert trainer.learn([episodes[39]], [values[39]])[0].report.train_n < 40
    assert not trainer.due()
    trainer.add(episodes[40:59], values[40:59])
    assert not trainer.due()
    trainer.add([episodes[59]], [values[59]])
    assert trainer.due()


def test_refits_come_further_apart_as_labels_grow(world):
    episodes, bad = world
    values = noisy_verdicts(bad, 0)
    due_after = {}
    for growth in (0.0, 0.5):
        trainer = RewardModelTrainer(CONFIG.model_copy(update={"retrain_growth": growth}), episodes[0].obs.shape[1:], 0)
        trainer.learn(episodes[:80], values[:80])
        while not trainer.due():
            trainer.add([episodes[len(trainer)]], [values[len(trainer)]])
        due_after[growth] = len(trainer)
    assert due_after == {0.0: 100, 0.5: 120}


@pytest.mark.parametrize(("updates", "passes"), [(0, 60), (10, 3), (400, 60)])
def test_a_fit_ends_with_the_pass_that_makes_its_last_gradient_step(world, updates, passes, monkeypatch):
    episodes, bad = world
    made, real = [], fitting._one_pass

    def counted(net, data, optimiser, batches):
        real(net, data, optimiser, batches)
        made.append(len(batches))
        return 1 / len(made)  # ever better: nothing else ends the fit

    monkeypatch.setattr(fitting, "_one_pass", counted)
    trainer = RewardModelTrainer(CONFIG.model_copy(update={"updates": updates}), OBS_SHAPE, 0)
    trainer.learn(episodes[:60], noisy_verdicts(bad, 0)[:60])
    assert made == [fitting.FEWEST_BATCHES] * passes


def test_asking_twice_averages_and_keeps_the_side(world):
    episodes, _ = world
    trainer = _fresh([episodes[0], episodes[0]], [1.0, 0.0])
    (label,) = trainer.labels.in_order()
    assert label.value == 0.5
    other_heading = replace(episodes[0], states=np.ones((len(episodes[0].obs), 3), np.int16), episode_id=99)
    trainer.add([other_heading], [1.0])  # the reward model sees no states: the same episode to it
    assert len(trainer) == 1


def test_held_out_share_is_about_what_was_asked_for():
    keys = [observation_key(np.array([[i]], np.int64)) for i in range(4_000)]
    share = np.mean([is_held_out(key, 0.2) for key in keys])
    assert share == pytest.approx(0.2, abs=0.02)
    assert {k for k in keys if is_held_out(k, 0.1)} < {k for k in keys if is_held_out(k, 0.2)}


def test_a_worse_fit_is_rolled_back(world, monkeypatch):
    episodes, bad = world
    values = noisy_verdicts(bad, 0)
    trainer = _fresh(episodes[:150], values[:150])
    good = trainer.fit()
    assert good.report.gate_open
    monkeypatch.setattr("rlaif_ray.reward_model.ensemble.fit_net", lambda *a: 9.0)  # nothing is learned
    trainer.add(episodes[150:], values[150:])
    after = trainer.fit()
    assert after.state is None
    assert after.report.reason.startswith("rolled back")
    assert after.report.gate_open  # the one in service still passes, on today's held-out labels
    assert after.report.version == 1
    assert after.report.heldout_n > good.report.heldout_n
    assert after.report.heldout_accuracy > 0.9 > after.report.extra["candidate_accuracy"]
    assert trainer.served.state()["version"] == 1
    monkeypatch.undo()
    again = trainer.fit()
    assert again.report.version == 2
    assert again.state["version"] == 2


@pytest.mark.parametrize("restored", [False, True])
def test_a_refused_fit_s_figures_are_not_taken_for_those_of_the_version_in_service(world, monkeypatch, restored):
    episodes, bad = world
    values = noisy_verdicts(bad, 0)
    trainer = _fresh(episodes[:150], values[:150], CONFIG.model_copy(update={"noise": "estimated"}))
    good = trainer.fit().report
    if restored:
        state = pickle.loads(pickle.dumps(trainer.state()))
        trainer = _fresh([], [], trainer.config)
        trainer.restore(state)
        trainer.add(episodes[:150], values[:150])
    monkeypatch.setattr("rlaif_ray.reward_model.ensemble.fit_net", lambda *a: 9.0)  # nothing is learned
    trainer.add(episodes[150:], values[150:])
    after = trainer.fit().report
    assert after.reason.startswith("rolled back")
    assert (good.about, after.about) == ("served", "served")
    assert (after.loss, after.train_n) == (good.loss, good.train_n)
    assert after.extra["temperature"] == good.extra["temperature"] == trainer.served.temperature
    assert after.extra["flip_bad_as_good"] == good.extra["flip_bad_as_good"]
    assert after.extra["candidate_loss"] == 9.0
    assert after.extra["candidate_train_n"] > good.train_n
    assert {"candidate_temperature", "candidate_flip_bad_as_good"} <= set(after.extra)
    assert "candidate_loss" not in good.extra
    assert after.figures()["about_version"] == 1


def test_where_both_fail_the_gate_all_is_told_of_the_version_in_service(world, monkeypatch):
    episodes, bad = world
    trainer = _fresh(episodes[:150], 1.0 - bad[:150])
    good = trainer.fit().report
    assert good.gate_open
    monkeypatch.setattr("rlaif_ray.reward_model.ensemble.fit_net", lambda *a: 9.0)  # nothing is learned
    turned = [replace(one, policy_version=1) for one in episodes[150:]]
    trainer.add(turned, bad[150:].astype(float))  # the judge has changed its mind
    after = trainer.fit().report
    assert (after.gate_open, after.version, after.about) == (False, 1, "served")
    served = examine(trainer.served, trainer.parts()[1])
    assert after.periods == served.periods
    assert after.heldout_accuracy == served.pooled.accuracy
    assert (after.drift_p, after.drift_alarm) == (served.drift_p, True)
    assert after.loss == good.loss != after.extra["candidate_loss"]
    assert after.reason.startswith("the new fit: balanced")
    assert "the version in service: balanced" in after.reason


def test_a_candidate_that_is_refused_before_any_was_published_is_called_so(world):
    episodes, _ = world
    values = np.random.default_rng(5).integers(0, 2, 300).astype(float)
    report = _fresh(episodes, values).fit().report
    assert (report.version, report.about, report.figures()["about_version"]) == (0, "candidate", 0)
    assert not [name for name in report.extra if name.startswith("candidate_") and name != "candidate_accuracy"]
    assert _fresh(episodes[:60], np.ones(60)).fit().report.about == ""  # nothing was fitted


def test_the_gate_shuts_again_when_the_judge_changes_its_mind(world):
    episodes, bad = world
    trainer = _fresh(episodes[:100], 1.0 - bad[:100])
    assert trainer.fit().report.gate_open
    noise = np.random.default_rng(0).integers(0, 2, 300).astype(float)
    for _ in range(8):  # many later answers about the same episodes say nothing
        trainer.add(episodes, noise)
    after = trainer.fit()
    assert not after.report.gate_open
    assert after.state is None
    assert after.report.version == 1


def _grade(right, wrong, n=20):
    target = np.array([1.0, 0.0] * (n // 2))
    belief = target.copy()
    belief[:wrong] = 1 - belief[:wrong]
    assert right + wrong == n
    return grading.grade(belief, target)


def test_decisions():
    good, bad, mid = _grade(20, 0), _grade(10, 10), _grade(18, 2)

    def decide(candidate, incumbent, on_training=good):
        return grading.decide(candidate=candidate, on_training=on_training, incumbent=incumbent, gate_accuracy=0.85)

    assert decide(good, None).publish
    assert decide(mid, None).publish
    assert decide(good, mid).publish
    assert decide(good, bad).publish
    worse = decide(mid, good)
    assert (worse.publish, worse.gate_open, worse.shown) == (False, True, good)
    refused = decide(bad, None)
    assert (refused.publish, refused.gate_open, refused.shown) == (False, False, bad)
    other_bad = _grade(9, 11)
    both_shut = decide(bad, other_bad)
    assert (both_shut.publish, both_shut.gate_open, both_shut.shown) == (False, False, other_bad)
    unlearned = decide(good, None, on_training=bad)
    assert not unlearned.publish
    assert "one class was not learned" in unlearned.reason


def test_gate_is_plain_where_a_class_is_missing():
    all_good = grading.grade(np.array([0.9] * 9 + [0.1]), np.ones(10))
    assert grading.gate_shut_because(all_good, 0.9) == ""
    assert "plain held-out accuracy 90.0% on 10 labels" in grading.gate_shut_because(all_good, 0.95)
    lopsided = grading.grade(np.ones(10), np.array([1.0] * 9 + [0.0]))  # plain 90 %, balanced 50 %
    assert "balanced held-out accuracy 50.0%" in grading.gate_shut_because(lopsided, 0.85)


def test_goes_on_after_a_restart_as_if_there_had_been_none(world):
    episodes, bad = world
    values = noisy_verdicts(bad, 0)
    one = _fresh(episodes[:60], values[:60])
    one.fit()
    state = pickle.loads(pickle.dumps(one.state()))
    other = RewardModelTrainer(CONFIG, OBS_SHAPE, seed=0)
    other.restore(state)
    other.add(episodes[:60], values[:60])
    assert not other.due()  # the stored labels were considered before
    results = []
    for trainer in (one, other):
        (published,) = trainer.learn(episodes[60:140], values[60:140])
        results.append((published.report.version, published.report.loss, published.report.heldout_accuracy))
    assert results[0] == results[1]


@pytest.mark.parametrize("spoiled", [{}, {"format": 2}, {"format": 1, "version": 1, "considered": 3, "served": {}}])
def test_restore_refuses_what_is_no_state(spoiled):
    with pytest.raises(CheckpointError):
        RewardModelTrainer(CONFIG, OBS_SHAPE, seed=0).restore(spoiled)


def test_restore_refuses_another_world_s(fitted):
    trainer, _ = fitted
    with pytest.raises(CheckpointError, match=r"\(6, 7, 3\).*\(5, 5, 2\)"):
        RewardModelTrainer(CONFIG, (5, 5, 2), seed=0).restore(trainer.state())


@pytest.mark.parametrize(("values", "weights"), [([1.5], None), ([np.nan], None), ([1.0], [0.0]), ([1.0, 0.0], None)])
def test_labels_are_checked(world, values, weights):
    with pytest.raises(ShapeError):
        RewardModelTrainer(CONFIG, OBS_SHAPE, seed=0).add([world[0][0]], values, weights)
    with pytest.raises(ShapeError, match=r"\(6, 7, 3\).*\(9,\)"):
        RewardModelTrainer(CONFIG, (9,), seed=0).add([world[0][0]], [1.0])


def test_an_ensemble_averages_members_that_differ(world):
    episodes, bad = world
    published = _fresh(episodes[:150], noisy_verdicts(bad, 0)[:150], RewardModelConfig(ensemble=3)).fit()
    model = RewardModel.from_state(published.state)
    batch = EpisodeBatch.pack(episodes[150:])
    logits = model.logits(batch.obs, batch.obs_offsets)
    assert logits.shape == (3, len(batch.obs))
    assert not np.allclose(logits[0], logits[1])
    want = (1 / (1 + np.exp(-logits.astype(np.float64) / model.temperature))).mean(axis=0)
    assert np.allclose(model.score(batch).belief, want, atol=1e-6)
    assert ((model.score(batch).final > 0.5) == ~bad[150:]).mean() >= 0.97


def test_cnn_lstm_learns_too(world):
    episodes, bad = meeting_episodes(500, seed=11, longest=10)
    config = RewardModelConfig(net="cnn-lstm", epochs=40)
    published = _fresh(episodes, 1.0 - bad, config).fit()
    fresh, truth = meeting_episodes(300, seed=12, longest=10)
    assert published.report.gate_open
    assert (
        (RewardModel.from_state(published.state).score(EpisodeBatch.pack(fresh)).final > 0.5) == ~truth
    ).mean() >= 0.9


def test_order_is_beyond_event_max_and_within_cnn_lstm():
    """Good: the first of two signals comes before the second. Both episodes show the same observations."""
    rng = np.random.default_rng(0)
    episodes, good = [], []
    for i in range(240):
        obs = np.zeros((10, 2), np.float32)
        first, second = sorted(rng.choice(10, 2, replace=False))
        good.append(bool(rng.integers(2)))
        obs[first, 0 if good[-1] else 1] = 1
        obs[second, 1 if good[-1] else 0] = 1
        episodes.append(Episode(i, obs, None, np.zeros(9), 0.0, True, 0))
    by_net = {}
    for net in ("event-max", "cnn-lstm"):
        trainer = RewardModelTrainer(RewardModelConfig(net=net), (2,), seed=0)
        trainer.add(episodes, [float(g) for g in good])
        by_net[net] = trainer.fit().report
    assert by_net["cnn-lstm"].gate_open
    assert not by_net["event-max"].gate_open
