"""Where asking prefers some episodes, a reward model is graded on those that were drawn from all alike."""

from __future__ import annotations

import numpy as np
import pytest
import ray

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import ShapeError
from rlaif_ray.reward_model import LocalRewardModel, RewardModelClient, RewardModelTrainer
from rlaif_ray.reward_model.labelled import Labels, is_held_out, mark
from rlaif_ray.types import Episode, EpisodeBatch

CONFIG = RewardModelConfig(min_labels=40, retrain_every=1, epochs=30, holdout=0.2)
STEPS = 5


def world(n, seed, hard):
    """Episodes of which the share ``hard`` is a toss-up to the judge, and shows that it is; of the others, it approves
    where the first feature is positive. And what the judge says."""
    rng = np.random.default_rng(seed)
    episodes, verdicts = [], []
    for i in range(n):
        odd, good = rng.random() < hard, bool(rng.integers(2))
        obs = np.zeros((STEPS + 1, 3), np.float32)
        obs[:, 0] = 0.0 if odd else (1.0 if good else -1.0) * rng.uniform(0.5, 1.5)
        obs[:, 1], obs[:, 2] = odd, rng.normal()  # the last one tells nothing: no two episodes are alike
        episodes.append(Episode(i, obs, None, np.zeros(STEPS), 0.0, True, 0))
        verdicts.append(float(rng.integers(2) if odd else good))
    return episodes, verdicts


def labels_of(n, targeted, seed=0, holdout=0.2, source=""):
    """``n`` labels, the first ``targeted`` of them so."""
    episodes, verdicts = world(n, seed, 0.0)
    draws = ["targeted"] * targeted + ["audit"] * (n - targeted)
    labels = Labels((3,), holdout)
    labels.add(episodes, verdicts, draws=draws, source=source)
    return labels, episodes, verdicts, draws


@pytest.mark.parametrize(("share", "holdout"), [(0.2, 0.2), (0.5, 0.2), (0.1, 0.05), (0.1, 0.2)])
def test_what_was_held_out_once_is_never_learned_from(share, holdout):
    """Labels come bit by bit, and the share of audits among them wanders about the one that was meant."""
    episodes, verdicts = world(500, 4, 0.0)
    draws = np.where(np.random.default_rng(5).random(500) < share, "audit", "targeted").tolist()
    labels = Labels((3,), holdout, audit_share=share)
    held, learned = set[str](), set[str]()
    for i in range(0, 500, 20):
        labels.add(episodes[i : i + 20], verdicts[i : i + 20], draws=draws[i : i + 20])
        for one in labels.in_order():
            (held if one.held_out else learned).add(one.key)
    assert not held & learned
    assert len(held) == pytest.approx(500 * min(holdout, share), rel=0.35)


def test_a_model_that_is_right_about_all_is_not_shut_out_for_the_hard_ones_that_were_asked_about():
    """One episode of twenty is a toss-up, and the asking goes for those: of 160 labels half are."""
    toss_ups, fair = world(160, 1, hard=0.5), world(40, 2, hard=0.05)
    episodes, verdicts = toss_ups[0] + fair[0], toss_ups[1] + fair[1]
    draws = ["targeted"] * 160 + ["audit"] * 40
    trainer = RewardModelTrainer(CONFIG, (3,), seed=0)
    trainer.add(episodes, verdicts, draws=draws)
    report = trainer.fit().report
    assert report.gate_open
    fresh, said = world(2_000, 3, hard=0.05)
    truly = np.mean((trainer.served.score(EpisodeBatch.pack(fresh)).final > 0.5) == np.array(said))
    assert report.heldout_accuracy == pytest.approx(truly, abs=0.06)
    assert report.heldout_low < truly
    blind = RewardModelTrainer(CONFIG, (3,), seed=0)  # the same labels, as if all had been drawn alike
    blind.add(episodes, verdicts)
    wrong = blind.fit().report
    assert not wrong.gate_open
    assert wrong.heldout_accuracy < truly - 0.15


@pytest.mark.parametrize(
    ("n", "targeted", "holdout", "share"),
    [(2_000, 1_000, 0.2, 0.2), (2_000, 1_600, 0.1, 0.1), (400, 360, 0.2, 0.1), (400, 0, 0.2, 0.2), (300, 300, 0.2, 0)],
)
def test_only_audit_labels_are_held_out_and_of_all_labels_the_share_that_is_wanted(n, targeted, holdout, share):
    labels, *_ = labels_of(n, targeted, holdout=holdout)
    held = [one for one in labels.in_order() if one.held_out]
    assert all(one.draws == {"": {"audit"}} for one in held)
    assert len(held) / n == pytest.approx(share, abs=3 * (0.2 * 0.8 / n) ** 0.5 if share != 0.1 else 0.03)
    if targeted == 360:
        assert len(held) == 40  # there are no more


def test_where_none_is_preferred_it_is_as_it_was():
    episodes, verdicts = world(300, 0, 0.0)
    labels = Labels((3,), 0.2)
    labels.add(episodes[:200], verdicts[:200])
    labels.add(episodes[200:], verdicts[200:], draws=["known"] * 100)  # the store had their answers
    assert all(one.held_out == is_held_out(one.key, 0.2) for one in labels.in_order())


def test_what_no_draw_asked_for_is_not_held_out_where_some_are_preferred():
    labels, *_ = labels_of(100, 50)
    episodes, verdicts = world(50, 7, 0.0)
    labels.add(episodes, verdicts, draws=["known"] * 50)
    held = [one for one in labels.in_order() if one.held_out]
    assert 10 <= len(held) <= 50  # 30 are wanted
    assert all(one.draws[""] == {"audit"} for one in held)


def test_the_order_in_which_labels_come_and_come_again_does_not_matter():
    labels, episodes, verdicts, draws = labels_of(200, 120)
    other = Labels((3,), 0.2)
    order = np.random.default_rng(0).permutation(200).tolist()
    for part in (order[:70], order[70:71], order[60:]):
        other.add([episodes[i] for i in part], [verdicts[i] for i in part], draws=[draws[i] for i in part])
    assert [(one.key, one.held_out) for one in other.in_order()] == [
        (one.key, one.held_out) for one in labels.in_order()
    ]


def test_each_source_gives_its_own_share():
    """Labels bought before, all alike, and a tenth of this run's: the new ones don't have the old ones held out more,
    nor are they held out less for being few."""
    labels, *_ = labels_of(1_000, 0, source="earlier")
    episodes, verdicts = world(500, 5, 0.0)
    labels.add(episodes, verdicts, draws=["targeted"] * 400 + ["audit"] * 100)
    held = [one for one in labels.in_order() if one.held_out]
    assert sum("" in one.draws for one in held) == 100
    assert sum("earlier" in one.draws for one in held) == pytest.approx(200, abs=40)
    again, *_ = labels_of(1_000, 0, source="earlier")
    before = {one.key for one in again.in_order() if one.held_out}
    assert {one.key for one in held if "earlier" in one.draws} == before


def test_nobody_is_graded_on_what_it_learned_from_before_an_audit_asked_about_it():
    episodes, verdicts = world(200, 0, 0.0)
    trainer = RewardModelTrainer(CONFIG, (3,), seed=0)
    trainer.add(episodes, verdicts, draws=["targeted"] * 150 + ["audit"] * 50)
    first = trainer.fit()
    learned = trainer.served.trained_on
    assert first.state is not None
    trainer.add(episodes[:150], verdicts[:150], draws=["audit"] * 150)
    train, held = trainer.parts()
    left = [one for one in held if mark(one.key) not in learned]
    assert 5 <= len(left) < len(held)
    second = trainer.fit()
    assert second.report.heldout_n == len(left)
    assert second.report.train_n == len(train)
    if second.state is not None:  # it has learned from none of them
        assert trainer.fit().report.heldout_n == len(held)


def test_a_pair_is_held_out_only_where_both_were_drawn_alike():
    episodes, verdicts = world(400, 0, 0.0)
    trainer = RewardModelTrainer(CONFIG, (3,), seed=0)
    pairs = list(zip(episodes[::2], episodes[1::2], strict=True))
    better = [0.5 + (a - b) / 2 for a, b in zip(verdicts[::2], verdicts[1::2], strict=True)]
    trainer.add(pairs, better, draws=["targeted"] * 170 + ["audit"] * 30)
    train, held = trainer.parts()
    assert len(held) == 30
    assert all(one.draws == {"": {"audit"}} for one in held)
    assert {"targeted"} in [one.draws[""] for one in train]


def test_draws_that_are_none_are_refused():
    episodes, verdicts = world(2, 0, 0.0)
    labels = Labels((3,), 0.2)
    with pytest.raises(ShapeError, match="got 1 draws, 2 values"):
        labels.add(episodes, verdicts, draws=["audit"])
    with pytest.raises(ShapeError, match="got draw 'chosen', expected one of audit, targeted, known"):
        labels.add(episodes, verdicts, draws=["audit", "chosen"])


@pytest.mark.ray
def test_an_actor_that_is_replaced_is_told_the_draws_again(ray_session):
    episodes, verdicts = world(160, 0, 0.0)
    draws = ["targeted"] * 120 + ["audit"] * 40
    local = LocalRewardModel(CONFIG, obs_shape=(3,), seed=0)
    client = RewardModelClient(CONFIG, obs_shape=(3,), seed=0)
    try:
        for handle in (local, client):
            handle.skip(6)
            handle.add(episodes[:100], verdicts[:100], ["audit"] * 100, "earlier")
            handle.wait(60.0)
        ray.kill(client._actor)
        for handle in (local, client):
            handle.add(episodes, verdicts, draws)
        (ours,), (theirs,) = local.wait(60.0), client.wait(60.0)
        assert (theirs.report.heldout_n, theirs.report.train_n) == (ours.report.heldout_n, ours.report.train_n)
        assert ours.report.heldout_n >= 40
        assert theirs.report.version == ours.report.version > 6
    finally:
        client.close()
