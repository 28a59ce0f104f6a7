"""No episode stands on both sides: pairs that share episodes, in tournaments, by contents that recur, as they come."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from rlaif_ray.cli.label_sources import PooledLabels
from rlaif_ray.cli.reward_model import _unseen
from rlaif_ray.config import RewardModelConfig
from rlaif_ray.reward_model import LocalRewardModel, RewardModel, RewardModelTrainer, ensemble
from rlaif_ray.reward_model.apart import apart, mark
from rlaif_ray.reward_model.labelled import Labels, is_held_out
from rlaif_ray.types import Episode, Judged

CONFIG = RewardModelConfig(min_labels=40, retrain_every=1, epochs=40, holdout=0.2)


def noise(n, seed):
    """Episodes of which nothing can be known but by heart, and a score of each that has nothing to do with them."""
    rng = np.random.default_rng(seed)
    made = [Episode(i, rng.normal(size=(4, 6)).astype(np.float32), None, np.zeros(3), 0.0, True, 0) for i in range(n)]
    return made, rng.random(n)


def tournament(n=30, seed=0):
    """Every episode against every other; the one of the higher score is preferred."""
    episodes, score = noise(n, seed)
    pairs = list(combinations(range(n), 2))
    return [(episodes[i], episodes[j]) for i, j in pairs], [float(score[i] > score[j]) for i, j in pairs]


def contents(labels):
    return {key for one in labels for key in one.key.split("|")}


def held_train_unused(labels):
    known = labels.in_order()
    return tuple([one for one in known if one.held_out is side] for side in (True, False, None))


def test_what_was_learned_by_heart_opens_no_gate():
    trainer = RewardModelTrainer(CONFIG, (6,), seed=0)
    trainer.add(*tournament())
    train, held = trainer.parts()
    assert not contents(train) & contents(held)
    report = trainer.fit().report
    assert not report.gate_open
    assert report.heldout_accuracy < 0.8
    assert (report.train_n, report.heldout_n) == (len(train), len(held))


def test_a_tournament_leaves_parts_to_learn_from_and_to_grade_by():
    shares = []
    for seed in range(20):
        labels = Labels((6,), 0.2)
        labels.add(*tournament(seed=seed))
        held, train, unused = held_train_unused(labels)
        assert not contents(train) & contents(held)
        assert len(held) + len(train) + len(unused) == 435
        assert labels.unused == len(unused)
        shares.append((len(held) / 435, len(train) / 435))
    held, train = np.mean(shares, 0)
    assert held == pytest.approx(0.2, abs=0.06)
    assert train == pytest.approx((1 - 0.2**0.5) ** 2, abs=0.08)
    assert min(n for of in shares for n in of) > 0.02


def test_pairs_that_share_nothing_are_all_used():
    episodes, score = noise(2_000, 0)
    pairs = list(zip(episodes[::2], episodes[1::2], strict=True))
    labels = Labels((6,), 0.2)
    labels.add(pairs, (score[::2] > score[1::2]).astype(float))
    held, train, unused = held_train_unused(labels)
    assert unused == []
    assert len(held) / 1_000 == pytest.approx(0.2, abs=5 * 0.0127)
    assert len(train) == 1_000 - len(held)


@pytest.mark.parametrize("audits", [1.0, 0.1])
def test_a_few_contents_that_recur_cost_few_pairs(audits):
    """Three contents stand in every tenth pair; also where so few pairs may be held out that each of them is."""
    lost, held_n = [], []
    for seed in range(10):
        episodes, score = noise(800, seed)
        rng = np.random.default_rng(seed)
        pairs = [(episodes[int(rng.integers(3))] if i < 40 else episodes[400 + i], episodes[i + 3]) for i in range(397)]
        draws = np.where(rng.random(397) < audits, "audit", "targeted").tolist()
        labels = Labels((6,), 0.2, audit_share=audits)
        labels.add(pairs, (score[:397] > 0.5).astype(float), draws=draws)
        held, train, unused = held_train_unused(labels)
        assert not contents(train) & contents(held)
        lost.append(len(unused) / 397)
        held_n.append(len(held) / 397)
    assert np.mean(lost) < 0.05
    assert np.mean(held_n) == pytest.approx(min(0.2, audits), abs=0.03)


@pytest.mark.parametrize("audits", [1.0, 0.5, 0.1])
def test_what_was_held_out_once_is_never_learned_from_as_pairs_come(audits):
    units, values = tournament(24)
    order = np.random.default_rng(0).permutation(len(units)).tolist()
    draws = np.where(np.random.default_rng(1).random(len(units)) < audits, "audit", "targeted").tolist()
    labels, graded_on = Labels((6,), 0.2, audit_share=audits), set[str]()
    for i in range(0, len(order), 20):
        part = order[i : i + 20]
        labels.add([units[k] for k in part], [values[k] for k in part], draws=[draws[k] for k in part])
        held, train, _ = held_train_unused(labels)
        graded_on |= {one.key for one in held}
        assert not graded_on & {one.key for one in train}
        assert not contents(train) & contents(held)
    assert graded_on
    assert train


def test_labels_on_one_episode_are_drawn_as_they_were():
    keys = [f"{i:032x}" for i in range(500)]
    shares = [0.1 + 0.8 * (i % 3) / 2 for i in range(500)]
    assert apart(keys, "held out", shares, 0.2) == [is_held_out(k, s) for k, s in zip(keys, shares, strict=True)]


def test_the_part_that_ends_a_fit_shares_no_episode_with_what_it_learns_from(monkeypatch):
    given = []
    real = ensemble.training_set

    def seen(net, labels, *rest, **more):
        given.append(list(labels))
        return real(net, labels, *rest, **more)

    monkeypatch.setattr(ensemble, "training_set", seen)
    trainer = RewardModelTrainer(CONFIG.model_copy(update={"early_stop": "validation", "epochs": 1}), (6,), seed=0)
    trainer.add(*tournament(60))
    trainer.fit()
    asked, learned = given
    assert len(asked) >= 10
    assert len(learned) >= 100
    assert not contents(asked) & contents(learned)


def test_nobody_is_graded_on_pairs_with_an_episode_that_it_learned_from():
    """A model that was fitted on some pairs of a tournament, then asked about all of them."""
    units, values = tournament()
    trainer = RewardModelTrainer(CONFIG, (6,), seed=0)
    trainer.add(units[::4], values[::4])
    trainer.fit()
    train, _ = trainer.parts()
    model = RewardModel.create(CONFIG, (6,), 0)
    model.trained_on = frozenset(mark(one.key) for one in train)
    model = RewardModel.from_state(model.state())
    judged = [Judged(unit, value) for unit, value in zip(units, values, strict=True)]
    known, unseen = _unseen(model, PooledLabels({"all": judged}))
    assert known == 435
    assert unseen
    assert not contents(unseen) & contents(train)


def test_a_model_that_remembers_pairs_alone_still_knows_those():
    pairs = ["a|b", "c|d"]
    model = RewardModel.create(CONFIG, (6,), 0)
    model.trained_on = frozenset(mark(key).split(":")[0] for key in pairs)  # as earlier versions wrote it
    assert all(mark(key) in model.trained_on for key in pairs)
    assert mark("a|c") not in model.trained_on
    model.trained_on = frozenset(map(mark, pairs))
    assert mark("a|c") in model.trained_on
    assert mark("a") in model.trained_on
    assert mark("e|f") not in model.trained_on


def test_a_report_says_how_many_pairs_are_unused():
    model = LocalRewardModel(CONFIG, obs_shape=(6,), seed=0)
    model.add(*tournament())
    (published,) = model.poll()
    known = published.report
    assert known.extra["unused_n"] == 435 - known.train_n - known.heldout_n > 0
