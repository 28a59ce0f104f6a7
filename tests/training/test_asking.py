"""Whom the loop asks about, with which chances, and that a verdict pays for those it stands for."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from test_feedback_loop import Belief, Disagreeing, Pairs, Pool, Trainer, loop_of, published, runner, turn, verdict
from test_loop_pays import paid_by_episode

from rlaif_ray.asking import fraction_at
from rlaif_ray.config import load_config
from rlaif_ray.feedback.select import choose
from rlaif_ray.loop import FeedbackLoop
from rlaif_ray.types import Judged

REWEIGHT = {"mix.unjudged": "reweight", "feedback.late": "defer"}
DIRECT = {"mix.source": "direct", "mix.credit": "terminal"}


@dataclass
class Fair(Pool):
    """Its labels have the chances that the questions were put with; it says yes to episodes of odd number."""

    def __post_init__(self):
        self.said, self.answer = {}, self.judged

    def submit(self, episodes, *, inclusion_probability, draws=(), **more):
        taken = super().submit(episodes, inclusion_probability=inclusion_probability, draws=draws, **more)
        self.said.update(zip(taken, zip(inclusion_probability, draws, strict=True), strict=False))
        return taken

    def judged(self, episode):
        episode = episode[0] if isinstance(episode, tuple) else episode
        probability, draw = self.said[episode.episode_id]
        label = verdict(episode.episode_id, float(episode.episode_id % 2))
        return replace(label, inclusion_probability=probability, draw=draw)


class Unsure(Belief):
    """Sure of nearly all episodes, and not at all of those of the last environment."""

    def score(self, batch):
        scores = super().score(batch)
        number = batch.obs[:, 0].astype(int)
        return replace(scores, belief=np.where(number == 3, 0.5, 0.99).astype(np.float32))


# ------------------------------------------------------------------------------------------------ reweight


@pytest.mark.parametrize(
    ("credit", "by_hand"),
    [("terminal", [0, 0, 8]), ("redistribute", [0.4, 0.4, 8 - 0.8]), ("potential", [0.396, 0.392, 8 - 0.8])],
)
def test_a_verdict_pays_for_those_it_stands_for(credit, by_hand):
    """Weight 2, chance 1/4, verdict 1: as much as four would be paid. Beliefs 0, 0.05, 0.1, 0.15; gamma 0.99."""
    pool = Pool(lambda e: replace(verdict(e.episode_id, 1.0), inclusion_probability=0.25))
    loop = loop_of(pool, Trainer([published(1)]), **REWEIGHT, **{"mix.credit": credit})
    loop.learn_to_judge()
    loop.asking._chances = lambda units, *_: ([0.25] * len(units), ["audit"] * len(units))
    (mixed,), figures = turn(loop, [runner((3,))(3)], 10)
    assert mixed.feedback[:, 0] == pytest.approx(by_hand, abs=1e-5)
    assert mixed.counts["direct"] == 1
    assert figures["mix"]["reweight_mean"] == 4.0
    assert figures["mix"]["reweight_lost"] == 0.0


def test_an_episode_without_a_verdict_gets_the_tasks_reward_alone():
    loop = loop_of(Pool(), Trainer([published(1)]), **REWEIGHT, **{"feedback.fraction": 0.0})
    loop.learn_to_judge()
    (mixed,), figures = turn(loop, [runner((3,))(3)], 10)
    assert mixed.counts["task"] == 1
    assert (mixed.feedback == 0).all()
    assert np.isnan(figures["mix"]["reweight_mean"])


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize(
    "how",
    [DIRECT, DIRECT | {"feedback.select": "newest"}, {"feedback.select": "uncertain"}],
    ids=["uniform", "newest", "uncertain"],
)
def test_on_average_the_feedback_is_as_much_as_if_all_were_judged(how, delay):
    """Also where verdicts come two iterations late and parts are kept back for them."""
    fraction = {"feedback.fraction": 0.2, "feedback.audit_share": 0.3, "mix.weight": 1.0}
    trainer = None if "mix.source" in how else Trainer([published(1)])
    loop = loop_of(Fair(delay=delay), trainer, **REWEIGHT, **fraction, **how)
    loop._load = lambda state: Unsure(state["version"])
    loop.learn_to_judge()
    sample = runner((2, 3, 2, 5))
    paid, due, ended, direct = [], [], 0, 0
    for step in range(200):
        rollout = sample(30)
        loop.ask([rollout], step)
        fragments = [loop.mix(rollout, step), *(mixed for _, mixed in loop.release())]
        loop.end_iteration(step)
        first = 0.5 if trainer else 0.0  # beliefs of environment 3; the others' are 0.99
        start = np.where(rollout.episodes.obs[rollout.episodes.obs_offsets[:-1], 0] == 3, first, 0.99 if trainer else 0)
        due.append(float((rollout.episodes.episode_id % 2 - start).sum()))
        paid.append(sum(float(one.feedback.sum()) for one in fragments))
        ended += len(rollout.episodes)
        direct += sum(one.counts["direct"] for one in fragments)
    assert 0.18 < direct / ended < 0.22
    error = np.std(np.array(paid) - due) * len(paid) ** 0.5
    assert abs(sum(paid) - sum(due)) < 4.5 * error
    assert error < 0.1 * ended  # that it could have been seen


def test_what_the_clip_cuts_off_is_told():
    keys = DIRECT | {"feedback.fraction": 0.125, "feedback.select": "newest", "mix.reweight_clip": 4.0}
    loop = loop_of(Fair(), None, **REWEIGHT, **keys)
    rollout = runner((2,) * 8)(4)
    (mixed,), figures = turn(loop, [rollout], 10)
    stands = [1 / chance for chance, _ in loop.pool.said.values()]
    assert figures["mix"]["reweight_mean"] == pytest.approx(np.mean(stands))
    assert figures["mix"]["reweight_lost"] == pytest.approx(1 - np.mean(np.minimum(stands, 4.0)) / np.mean(stands))
    assert figures["mix"]["reweight_lost"] > 0.1
    paid = paid_by_episode([rollout], [mixed])
    for i, (chance, _) in loop.pool.said.items():
        assert paid[i] == pytest.approx(2.0 * (i % 2) * min(4.0, 1 / chance))


def test_a_part_kept_back_knows_its_chance_after_a_restart():
    keys = DIRECT | {"feedback.fraction": 0.25}
    loop = loop_of(Fair(delay=9), None, **REWEIGHT, **keys)
    rollout = runner((2,) * 8)(2)
    turn(loop, [rollout], 10)
    held = {one.episode_id for one in loop.payer.held}
    assert len(held) == 2
    again = loop_of(Fair(), None, **REWEIGHT, **keys)
    again.restore(loop.state(), [Judged(e, 1.0) for e in rollout.episodes if e.episode_id in held])
    released = again.release()
    assert [float(mixed.feedback.sum()) for _, mixed in released] == pytest.approx([8.0, 8.0])  # weight 2, 1 / pi = 4
    state = loop.state()
    again.restore(
        state | {"inclusion": dict.fromkeys(state["inclusion"], np.inf)}, [Judged(e, 1.0) for e in rollout.episodes]
    )
    assert [mixed.counts["task"] for _, mixed in again.release()] == [1, 1]  # no draw asked for them


# ------------------------------------------------------------------------------------------------ chances


def test_each_question_goes_with_its_own_chance():
    pool = Fair()
    loop = loop_of(pool, Trainer([published(1)]), **{"feedback.select": "uncertain", "feedback.fraction": 0.25})
    loop._load = lambda state: Unsure(state["version"])
    loop.learn_to_judge()
    sample, watched = runner((2, 2, 2, 2)), 0
    for step in range(60):
        _, figures = turn(loop, [sample(8)], step)  # sixteen episodes, four of the environment in doubt
        watched += figures["feedback"]["audit_verdicts"]
    by_environment = np.bincount([int(e.obs[0, 0]) for e in pool.asked], minlength=4)
    assert by_environment[3] > 2 * by_environment[:3].max()
    assert by_environment.sum() == 240
    assert {round(pool.said[e.episode_id][0], 6) for e in pool.asked if e.obs[0, 0] == 3} == {
        round(max(pool.said[e.episode_id][0] for e in pool.asked), 6)
    }
    audit = [draw for draw in pool.draws if draw == "audit"]
    assert 8 < len(audit) < 48  # a tenth of 240
    assert set(pool.draws) == {"audit", "targeted"}
    assert watched == len(audit)  # the watch over the reward model goes by nothing else


def test_where_the_pool_has_room_for_some_chances_fall_and_the_rest_is_only_looked_up():
    """Of sixteen, room for four: the first four asked had a quarter of their chance; the rest counts for nothing."""
    hits, times = np.zeros(16), 400
    for seed in range(times):
        pool = Fair()
        pool.room = 4
        loop = loop_of(pool, Trainer(), **{"run.seed": seed, "feedback.fraction": 1.0})
        loop.ask([runner((1,) * 16)(1)], 10)
        assert [chance for chance, _ in pool.said.values()] == [0.25] * 4
        assert pool.draws == ["audit"] * 4 + ["known"] * 12
        hits[[int(e.obs[0, 0]) for e in pool.asked]] += 1
    np.testing.assert_allclose(hits / times, 0.25, atol=5 * 0.0217)


def test_an_answer_that_no_draw_asked_for_trains_and_stands_for_nothing():
    trainer, pool = Trainer([published(1)]), Pool()
    pool.answer = lambda e: replace(verdict(e.episode_id, 1.0), draw="known")
    loop = loop_of(pool, trainer, **REWEIGHT)
    (mixed,), figures = turn(loop, [runner((3,))(3)], 10)
    assert len(trainer.added) == 1
    assert mixed.counts["direct"] == 0
    assert (mixed.feedback == 0).all()
    assert figures["feedback"]["verdicts"] == 1
    assert figures["feedback"]["audit_verdicts"] == 0
    assert np.isnan(figures["feedback"]["approval_rate"])
    paid = loop_of(Pool(pool.answer), Trainer([published(1)]))  # where verdicts stand for themselves it pays
    assert turn(paid, [runner((3,))(3)], 10)[0][0].counts["direct"] == 1


def test_the_approval_rate_counts_a_verdict_for_as_many_as_it_stands_for():
    def answer(episode):
        odd = episode.episode_id % 2 == 1
        label = verdict(episode.episode_id, float(odd))
        return replace(label, inclusion_probability=0.5 if odd else 0.125, draw="targeted" if odd else "audit")

    _, figures = turn(loop_of(Pool(answer), Trainer()), [runner((1,) * 8)(1)], 10)
    assert figures["feedback"]["approval_rate"] == pytest.approx(4 * 2 / (4 * 2 + 4 * 8))
    assert figures["feedback"]["audit_verdicts"] == 4
    assert figures["feedback"]["audit_approval"] == 0.0


def test_pairs_say_the_chance_of_being_in_one():
    """Of nine drawn one is left over: 8 / 9; a pair is audit where both are."""
    pool = Fair()
    loop = FeedbackLoop(
        load_config({}, {"mix.source": "distilled", "feedback.fraction": 1.0, "reward_model.pace": "go"}),
        pool, Pairs(), choose=choose, load=lambda state: Belief(state["version"]), compares=True,
    )  # fmt: skip
    turn(loop, [runner((1,) * 9)(1)], 10)
    assert [chance for chance, _ in pool.said.values()] == pytest.approx([8 / 9] * 4)
    assert pool.draws == ["audit"] * 4


def test_what_was_asked_about_is_no_candidate_again():
    pool = Pool(delay=99)
    loop = loop_of(pool, Trainer(), **{"feedback.fraction": 0.5, "reward_model.retrain_every": 30})
    rollout = runner((1,) * 40)(1)
    loop.ask([rollout], 10)
    assert pool.steps == [(10, 0.5)]
    pool.hangs = True
    loop.hold([rollout], 10, deadline_s=0.01)
    assert pool.steps[1:] == [(10, 0.5)]  # ten of the twenty that are left
    assert len({e.episode_id for e in pool.asked}) == 30


# ------------------------------------------------------------------------------------------------ scored once


@pytest.mark.parametrize("cascade", [False, True])
def test_candidates_are_scored_once_for_choosing_doubting_and_mixing(cascade):
    keys = {"feedback.select": "disagreement", "reward_model.ensemble": 2}
    if cascade:
        keys["judge.cascade"] = {"strong": {"profile": "perfect"}, "when": ["rm-disagrees"]}
    scorer = Disagreeing(1)
    loop = loop_of(pool := Pool(), Trainer([published(1)]), **keys)
    loop._load = lambda state: scorer
    loop.learn_to_judge()
    sample = runner((3, 5))
    for step in range(1, 4):
        before = scorer.scored
        rollout = sample(15)
        turn(loop, [rollout], step)
        assert scorer.scored - before == len(rollout.episodes) + len(rollout.open)
    assert bool(pool.doubts) is cascade


def test_scores_are_shared_with_episodes_of_an_older_version_beside_them():
    scorers = {}
    trainer = Trainer([published(1)])
    loop = loop_of(Pool(), trainer, **{"feedback.select": "uncertain"})
    loop._load = lambda state: scorers.setdefault(state["version"], Belief(state["version"]))
    loop.learn_to_judge()
    sample = runner((4, 2))
    turn(loop, [sample(3)], 1)  # one episode of four steps is under way, scored by version 1
    trainer.publish = [published(2)]
    loop.learn_to_judge()
    rollout = sample(3)
    before = {version: one.scored for version, one in scorers.items()}
    turn(loop, [rollout], 2)
    fresh = {version: one.scored - before[version] for version, one in scorers.items()}
    old = 2  # the long one that had begun, and the short one that had
    assert fresh[2] == len(rollout.episodes) + len(rollout.open)
    assert fresh[1] <= old


# ------------------------------------------------------------------------------------------------ over time


def test_the_fraction_goes_along_a_line():
    def at(step, **keys):
        config = load_config({}, {f"feedback.{name}": value for name, value in keys.items()})
        return fraction_at(step, config.feedback, 1000)

    assert [at(step, fraction=0.3) for step in (0, 500, 2000)] == [0.3] * 3
    line = {"fraction": 0.4, "fraction_final": 0.0, "start_step": 200}
    assert [at(step, **line) for step in (0, 200, 600, 1000, 2000)] == pytest.approx([0.4, 0.4, 0.2, 0.0, 0.0])
    assert [at(step, **line, stop_step=400) for step in (200, 300, 399)] == pytest.approx([0.4, 0.2, 0.002])
    assert at(300, **line | {"fraction": 0.1, "fraction_final": 0.5}, stop_step=400) == pytest.approx(0.3)


def test_more_is_asked_where_the_line_is_high():
    pool = Pool()
    keys = {"feedback.fraction": 0.5, "feedback.fraction_final": 0.0, "run.total_steps": 100, "mix.start_step": 0}
    loop = loop_of(pool, Trainer(), **keys)
    sample = runner((1,) * 40)
    asked = []
    for step in (0, 50, 100):
        before = len(pool.asked)
        turn(loop, [sample(1)], step)
        asked.append(len(pool.asked) - before)
    assert asked == [20, 10, 0]
    assert [chance for _, chance in pool.steps] == pytest.approx([0.5, 0.25])
