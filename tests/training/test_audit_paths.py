"""How a label was drawn reaches the reward model on every path; pairs of an audit; scores are counted once."""

from collections import Counter

import numpy as np
import pytest
from test_asking import Fair, Unsure
from test_deferral import deferring
from test_deferral import turn as deferred_turn
from test_feedback_loop import Pairs, Pool, Trainer, loop_of, published, runner, turn, verdict

from rlaif_ray.config import load_config
from rlaif_ray.feedback.select import choose
from rlaif_ray.loop import FeedbackLoop
from rlaif_ray.pairing import paired
from rlaif_ray.types import Episode, Judged
from rlaif_ray.warm_start import EARLIER, learn_from_earlier


def episode(number):
    return Episode(number, np.full((2, 1), number, np.float32), None, np.zeros(1, np.int64), 0.0, True, 0)


@pytest.mark.parametrize("version", [0, 1])
def test_answers_are_handed_on_with_their_draw(version):
    """Before the reward model counts, and when it does."""
    trainer = Trainer([published(1)] if version else [])
    loop = loop_of(pool := Fair(), trainer, **{"feedback.select": "uncertain", "feedback.audit_share": 0.3})
    loop._load = lambda state: Unsure(state["version"])
    loop.learn_to_judge()
    sample = runner((2,) * 12)
    for step in range(10):
        turn(loop, [sample(2)], step)
    assert trainer.draws == [pool.said[i][1] for i, _ in trainer.added]
    assert set(trainer.draws) == {"audit", "targeted"}
    assert Counter(trainer.draws)["audit"] / len(trainer.draws) == pytest.approx(0.3, abs=0.15)


def test_labels_bought_before_are_a_source_of_their_own():
    trainer = Trainer()
    loop = loop_of(Pool(), trainer)
    learn_from_earlier(loop, [Judged(episode(1), 1.0, "audit"), Judged(episode(2), 0.0, "targeted")], lambda: True)
    loop.take_up([Judged(episode(3), 1.0, "known")])
    assert trainer.draws == ["audit", "targeted", "known"]
    assert trainer.sources == [EARLIER, ""]


# ------------------------------------------------------------------------------------------------ pairs


def test_pairs_of_an_audit_meet_each_other():
    rng, met = np.random.default_rng(0), Counter()
    for _ in range(400):
        audit = np.arange(9) < 4
        order = rng.permutation(9)
        pairs = paired([episode(int(i)) for i in order], audit[order], rng)
        assert len(pairs) == 4
        assert len({one.episode_id for pair in pairs for one in pair}) == 8
        for place, (a, b) in enumerate(pairs):
            kind = int(audit[a.episode_id]) + int(audit[b.episode_id])
            met[kind] += 1
            met["first is audit"] += place == 0 and kind == 2
            met[frozenset((a.episode_id, b.episode_id))] += kind == 2
    # The one left over is an audit episode in 4 of 9: then there is one pair and one that is mixed, else there are two.
    assert met[2] / 400 == pytest.approx(4 / 9 + 2 * 5 / 9, abs=0.1)
    assert met[1] / 400 == pytest.approx(4 / 9, abs=0.1)
    assert met["first is audit"] / met[2] == pytest.approx(1 / 4, abs=0.06)  # in no order
    of_each = [count for key, count in met.items() if isinstance(key, frozenset) and count]
    assert len(of_each) == 6
    assert max(of_each) < 1.4 * min(of_each)  # and each of the six as often as another


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("pairs", [1, 3, 10])
def test_the_audit_has_its_share_of_pairs_however_few_there_are(pairs, version):
    """While the reward model is waited for, and by what it says; each audit pair of all two as often as another."""
    pool, trainer = Fair(), Pairs([published(1)] if version else [])
    keys = {"mix.source": "distilled", "feedback.fraction": 1.0, "reward_model.pace": "go", "feedback.audit_share": 0.1}
    loop = FeedbackLoop(
        load_config({}, keys | {"feedback.select": "uncertain", "feedback.labels_per_iteration": pairs}),
        pool, trainer, choose=choose, load=lambda state: Unsure(state["version"]), compares=True,
    )  # fmt: skip
    loop.learn_to_judge()
    sample, times = runner((1,) * 24), 1_500 // pairs
    for step in range(times):
        turn(loop, [sample(1)], step)
    assert len(pool.draws) == pairs * times
    assert Counter(pool.draws)["audit"] / len(pool.draws) == pytest.approx(0.1, abs=5 * (0.09 / 1_500) ** 0.5)
    assert trainer.draws == [pool.said[i][1] for i, _, _ in trainer.added]
    unsure = Counter(draw for (a, b), draw in zip(pool.asked, pool.draws, strict=True)
                     if 3 in (int(a.obs[0, 0]), int(b.obs[0, 0])))  # fmt: skip
    chance = 1 / 12  # of an audit pair: one of its two is any of the 24
    assert unsure["audit"] / Counter(pool.draws)["audit"] == pytest.approx(chance, abs=0.12)
    if version:  # it is what the others are about
        assert unsure["targeted"] / times > 0.15


# ------------------------------------------------------------------------------------------------ scores


def test_a_score_counts_when_its_episode_ends_and_not_again_when_its_part_is_released():
    """Beliefs rise by 0.05 a step. One episode of four steps is kept back, then shorter ones end."""
    loop = deferring(lambda e: verdict(e.episode_id, 1.0), 1)
    sample = runner((4,))
    _, released, figures = deferred_turn(loop, sample(4))
    assert released == []
    assert figures["rm"]["score_mean"] == pytest.approx(0.2)
    mixed, released, figures = deferred_turn(loop, sample(3))  # nothing ends
    assert len(released) == 1
    assert mixed.counts["direct"] == 0
    assert np.isnan(figures["rm"]["score_mean"])
    assert figures["mix"]["share_direct"] == 1.0  # it is learned from here, and here alone
    assert loop.totals["direct"] == 1


def test_what_verdicts_stand_for_counts_once_for_parts_kept_back():
    keys = {"mix.unjudged": "reweight", "mix.source": "direct", "mix.credit": "terminal", "feedback.fraction": 0.5}
    loop = loop_of(Fair(delay=1), None, **keys | {"feedback.late": "defer"})
    sample = runner((2,) * 4)
    _, released, figures = deferred_turn(loop, sample(2))
    assert released == []
    assert figures["mix"]["share_task"] == 1.0  # of the two that nobody was asked about
    assert np.isnan(figures["mix"]["reweight_mean"])
    _, released, figures = deferred_turn(loop, sample(1))
    assert len(released) == 2
    assert figures["mix"]["reweight_mean"] == 2.0
    assert figures["mix"]["share_direct"] == 1.0
    assert loop.totals == {"task": 2, "direct": 2, "distilled": 0, "dropped": 0, "abstained": 0}
