"""The feedback half of a training step against small fakes: what is asked, what is paid, what is remembered."""

import itertools
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlaif_ray.columns import Acted, ColumnSampler
from rlaif_ray.config import load_config
from rlaif_ray.errors import ConfigError, JudgeError, JudgeRejectsKey
from rlaif_ray.feedback.select import choose
from rlaif_ray.loop import FeedbackLoop
from rlaif_ray.packed import packed_ranges
from rlaif_ray.types import Abstention, Judged, Label, RewardModelReport, Scores, Usage, Verdict

# ------------------------------------------------------------------------------------------------ fakes


class Walk(gym.Env):
    """Ends after so many steps as it was told; observation (number of the environment, count); reward 0.25 a step."""

    def __init__(self, length, number):
        self.observation_space = gym.spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.length, self.number = length, number

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.array([self.number, 0], np.float32), {}

    def step(self, action):
        self.count += 1
        return np.array([self.number, self.count], np.float32), 0.25, self.count == self.length, False, {}


class Still:
    def act(self, obs):
        zeros = np.zeros(len(obs), np.float32)
        return Acted(zeros.astype(int), zeros.astype(int), zeros, np.zeros((len(obs), 2), np.float32), zeros)

    def values(self, obs):
        return np.zeros(len(obs), np.float32)


def runner(lengths=(5,), number=0):
    makers = [lambda n=n, i=i: Walk(n, i) for i, n in enumerate(lengths)]
    sampler = ColumnSampler(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), number)
    sampler.reset(0)
    return lambda T, version=0: sampler.sample(T, Still(), version)


def verdict(episode_id, value, label_id=1):
    outcome = Verdict("approval", value, "text", Usage(cost_usd=0.01), approved=value > 0.5)
    return Label(label_id, f"q{label_id}", episode_id, outcome, "fake", "hash", 0, 0, False, 1.0)


def abstention(episode_id, label_id=1):
    return replace(verdict(episode_id, 0.0, label_id), outcome=Abstention("refusal", "no", Usage(cost_usd=0.01)))


@dataclass
class Pool:
    """Answers when told to: ``answer(episode)`` gives a label or None (never); ``delay`` polls go by before."""

    answer: object = lambda episode: verdict(episode.episode_id, 1.0)
    delay: int = 0
    room: int = 10**9
    exhausted: bool = False
    fail: Exception | None = None
    asked: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    waits: list = field(default_factory=list)
    versions: list = field(default_factory=list)
    due: list = field(default_factory=list)
    polls: int = 0
    closed: bool = False
    hangs: bool = False
    latency_s: float = 0.0

    hushed: bool = False
    doubts: list = field(default_factory=list)
    draws: list = field(default_factory=list)

    def submit(self, episodes, *, inclusion_probability, step, reward_model_version=0, doubts=(), draws=()):
        self.doubts += list(doubts)
        self.draws += list(draws)
        self.versions.append(reward_model_version)
        taken = list(episodes)[: self.room]
        self.room -= len(taken)
        self.asked += taken
        self.steps.append((step, inclusion_probability[0]))
        self.due += [(self.polls + self.delay, e) for e in taken]
        return [(e[0] if isinstance(e, tuple) else e).episode_id for e in taken]

    def hush(self):
        self.hushed = True

    def notices(self):
        return []

    manners = ()

    def poll(self):
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        ready = [e for at, e in self.due if at <= self.polls]
        self.due = [(at, e) for at, e in self.due if at > self.polls]
        self.polls += 1
        return [label for label in map(self.answer, ready) if label is not None]

    def wait(self, deadline_s):
        self.waits.append(deadline_s)
        if self.hangs:
            time.sleep(deadline_s)
            return []
        self.polls = max((at for at, _ in self.due), default=self.polls)
        return self.poll()

    @property
    def in_flight(self):
        return len(self.due)

    def stats(self):
        left = None if self.room > 10**6 else self.room
        return SimpleNamespace(
            labels=len(self.asked), abstained=0, replayed=0, spend_usd=0.0, reserved_usd=0.0, cap_usd=None,
            labels_left=left, latency_s=self.latency_s, exhausted=self.exhausted,
        )  # fmt: skip

    def close(self, grace_s=5.0):
        self.closed = True


@dataclass
class Trainer:
    publish: list = field(default_factory=list)
    added: list = field(default_factory=list)
    restored: object = None
    when_waited: list = field(default_factory=list)

    draws: list = field(default_factory=list)
    sources: list = field(default_factory=list)
    skipped: int = 0

    def add(self, episodes, values, draws=(), source=""):
        self.draws += draws
        self.sources.append(source)
        self.added += list(zip([e.episode_id for e in episodes], values, strict=True))

    def skip(self, version):
        self.skipped = max(self.skipped, version)

    def poll(self):
        out, self.publish = self.publish, []
        return out

    def wait(self, deadline_s):
        out, self.when_waited = self.when_waited, []
        return [*self.poll(), *out]

    def state(self):
        return {"added": list(self.added)}

    def restore(self, state):
        self.restored = state

    def close(self):
        self.closed = True


class Belief:
    """Believes 0.1 a step and 0.5 a version, so that every belief says which version and step it is of."""

    def __init__(self, version):
        self.version = version
        self.scored = 0

    def score(self, batch):
        self.scored += len(batch)
        step = packed_ranges(np.zeros(len(batch), int), batch.lengths + 1)
        belief = (0.5 * (self.version - 1) + 0.05 * step).astype(np.float32)
        return Scores(belief, batch.obs_offsets, np.full(len(batch), self.version))


class Disagreeing(Belief):
    """Its members part by a hundredth a step."""

    def score(self, batch):
        scores = super().score(batch)
        return replace(scores, spread=0.01 * packed_ranges(np.zeros(len(batch), int), batch.lengths + 1))


class Pairs(Trainer):
    def add(self, pairs, values, draws=(), source=""):
        self.draws += draws
        self.added += [(a.episode_id, b.episode_id, v) for (a, b), v in zip(pairs, values, strict=True)]


def published(version, gate_open=True, state=True):
    report = RewardModelReport(version, gate_open, 0.9, 50, 0.8, 0.9, 200, 0.1, 0.2)
    return SimpleNamespace(state={"version": version} if state else None, report=report)


def loop_of(pool=None, trainer=None, **overrides):
    defaults = {"mix.source": "hybrid", "mix.start_step": 0, "mix.ramp_steps": 0, "mix.weight": 2.0,
                "feedback.fraction": 1.0, "reward_model.pace": "go", "mix.credit": "redistribute"}  # fmt: skip
    config = load_config({}, defaults | overrides)
    return FeedbackLoop(config, pool, trainer, choose=choose, load=lambda state: Belief(state["version"]))


def turn(loop, rollouts, step):
    """One iteration as the algorithm takes it."""
    loop.ask(rollouts, step)
    loop.learn_to_judge()
    mixed = [loop.mix(r, step) for r in rollouts]
    return mixed, loop.end_iteration(step)


# ------------------------------------------------------------------------------------------------ paying


def paid_by_episode(rollouts, mixed):
    """Feedback paid to every episode, over all fragments."""
    sums = {}
    for rollout, one in zip(rollouts, mixed, strict=True):
        for i in np.unique(rollout.fragment.episode_id):
            sums[int(i)] = sums.get(int(i), 0.0) + float(one.feedback[rollout.fragment.episode_id == i].sum())
    return sums


@pytest.mark.parametrize("T", [1, 2, 3, 7, 11])
@pytest.mark.parametrize("unjudged", ["rm", "task", "drop"])
def test_what_an_episode_is_paid_sums_to_verdict_minus_first_belief_however_it_is_cut(T, unjudged):
    loop = loop_of(Pool(lambda e: verdict(e.episode_id, 0.75)), Trainer([published(1)]), **{"mix.unjudged": unjudged})
    loop.learn_to_judge()
    sample = runner((5, 3, 8))
    rollouts = [sample(T) for _ in range(40 // T)]
    mixed = [turn(loop, [r], 1000)[0][0] for r in rollouts]
    paid = paid_by_episode(rollouts, mixed)
    finished = [int(i) for r in rollouts for i in r.episodes.episode_id]
    assert len(finished) > 10
    for i in finished:
        assert paid[i] == pytest.approx(2.0 * (0.75 - 0.0), abs=1e-5)
    for rollout, one in zip(rollouts, mixed, strict=True):
        assert one.reward == pytest.approx(rollout.fragment.task_reward + one.feedback)
        assert one.learn.all()


def test_weight_and_version_stay_what_they_were_when_the_episode_began():
    """The ramp goes on and a new version comes out while an episode runs; the next episode gets both."""
    trainer = Trainer([published(1)])
    loop = loop_of(
        Pool(lambda e: None), trainer, **{"mix.ramp_steps": 100, "mix.weight": 1.0, "run.total_steps": 10_000}
    )
    sample = runner((6,))
    turn(loop, [sample(6)], 0)  # an episode that began at weight 0 is the task's alone
    one, two = sample(3), sample(3)
    first = turn(loop, [one], 50)[0][0]
    trainer.publish = [published(2)]
    second = turn(loop, [two], 100)[0][0]
    assert loop.version == 2
    assert first.feedback[:, 0] == pytest.approx([0.5 * 0.05] * 3)
    assert second.feedback[:, 0] == pytest.approx([0.5 * 0.05] * 3)  # of version 1, at half weight, to its end
    third = turn(loop, [sample(3)], 100)[0][0]
    assert third.feedback[:, 0] == pytest.approx([0.05] * 3)  # full weight from here
    assert set(loop._scorers) == {2}


def test_versions_are_kept_as_long_as_an_episode_is_scored_by_them_and_no_longer():
    trainer = Trainer([published(1)])
    loop = loop_of(Pool(lambda e: None), trainer)
    long, short = runner((40,), 1), runner((2,), 2)
    turn(loop, [long(2), short(2)], 10)
    for version in range(2, 7):
        trainer.publish = [published(version)]
        turn(loop, [long(2), short(2)], 10)
        assert set(loop._scorers) == {1, version}
    assert set(loop.state()["scorers"]) == {1, 6}


def test_a_question_says_which_reward_model_was_in_use():
    pool, trainer = Pool(), Trainer()
    loop = loop_of(pool, trainer)
    sample = runner((3,))
    turn(loop, [sample(3)], 10)
    trainer.publish = [published(4)]
    turn(loop, [sample(3)], 10)
    turn(loop, [sample(3)], 10)
    assert pool.versions == [0, 0, 4]


def test_pins_of_runners_that_died_are_forgotten_in_the_end():
    loop = loop_of(Pool(lambda e: None), Trainer([published(1)]))
    turn(loop, [runner((400,), 1)(2)], 10)
    survivor = runner((4,), 2)
    for _ in range(110):
        turn(loop, [survivor(1)], 10)
    assert len(loop.payer.pins) <= 1


@pytest.mark.parametrize("credit", ["redistribute", "potential", "terminal"])
@pytest.mark.parametrize("source", ["distilled", "hybrid"])
def test_ramp_starts_when_there_is_something_to_pay_with(credit, source):
    trainer = Trainer()
    loop = loop_of(
        Pool(lambda e: None), trainer,
        **{"mix.source": source, "mix.credit": credit, "mix.start_step": 100, "mix.ramp_steps": 100,
           "run.total_steps": 10_000},
    )  # fmt: skip
    sample = runner((3,))
    assert turn(loop, [sample(3)], 50)[1]["mix"]["weight"] == 0
    turn(loop, [sample(3)], 500)
    verdicts_alone = source == "hybrid" and credit == "terminal"
    assert loop.payer.ramp_from == (500 if verdicts_alone else None)
    trainer.publish = [published(1)]
    turn(loop, [sample(3)], 600)
    assert loop.payer.ramp_from == (500 if verdicts_alone else 600)
    assert turn(loop, [sample(3)], 650)[1]["mix"]["weight"] == pytest.approx(2.0 if verdicts_alone else 1.0)


def test_before_the_gate_opens_nothing_is_paid_and_nothing_counts_as_feedback():
    loop = loop_of(Pool(), Trainer([published(1, gate_open=False)]))
    sample = runner((3, 5))
    mixed, figures = turn(loop, [sample(15)], 10)
    assert (mixed[0].feedback == 0).all()
    assert mixed[0].counts["task"] == 8
    assert loop.version == 0
    assert figures["rm"]["gate_open"] == 0
    assert figures["feedback"]["asked"] == 8


def test_a_gate_that_shuts_and_opens_again_needs_no_new_version():
    trainer = Trainer([published(1)])
    loop = loop_of(Pool(lambda e: None), trainer)
    sample = runner((3,))
    turn(loop, [sample(3)], 10)
    for gate_open, version in ((False, 0), (True, 1)):
        trainer.publish = [published(1, gate_open=gate_open, state=False)]
        turn(loop, [sample(3)], 10)
        assert loop.version == version


# ------------------------------------------------------------------------------------------------ asking


def test_an_answer_in_time_is_direct_and_a_late_one_trains_the_reward_model_only():
    trainer = Trainer([published(1)])
    loop = loop_of(Pool(lambda e: verdict(e.episode_id, 1.0), delay=1), trainer)
    sample = runner((3,))
    (mixed,), figures = turn(loop, [sample(3)], 10)
    assert mixed.counts["distilled"] == 1
    assert figures["mix"]["share_direct"] == 0
    (mixed,), figures = turn(loop, [sample(3)], 20)
    assert mixed.counts["distilled"] == 1  # the first episode's verdict is not this one's
    assert [v for _, v in trainer.added] == [1.0]
    assert figures["mix"]["staleness"] == 1


def test_late_wait_makes_every_verdict_direct_and_is_not_waited_for_where_nothing_is_out():
    pool = Pool(lambda e: verdict(e.episode_id, 1.0), delay=5)
    loop = loop_of(pool, Trainer([published(1)]), **{"feedback.late": "wait", "feedback.wait_s": 9.0})
    sample = runner((3, 4))
    mixed, _ = turn(loop, [sample(12)], 10)
    assert mixed[0].counts["direct"] == 7
    assert pool.waits
    assert max(pool.waits) <= 9.0
    waits = len(pool.waits)
    turn(loop, [runner((50,), 3)(4)], 20)  # no episode ended: nothing to wait for
    assert len(pool.waits) == waits


def test_late_wait_ends_at_its_deadline_and_when_the_run_is_to_stop():
    pool = Pool(hangs=True, delay=99)
    loop = loop_of(pool, Trainer([published(1)]), **{"feedback.late": "wait", "feedback.wait_s": 1.5})
    began = time.monotonic()
    mixed, _ = turn(loop, [runner((3,))(3)], 10)
    assert 1.4 < time.monotonic() - began < 4
    assert not mixed[0].learn.any()
    assert len(loop.payer.held) == 1  # its verdict is paid for: it is kept back
    loop.stopping = lambda: True
    began = time.monotonic()
    turn(loop, [runner((3,), 2)(3)], 10)
    assert time.monotonic() - began < 0.5


def test_an_abstention_is_no_score():
    pool = Pool(lambda e: abstention(e.episode_id))
    scored, trainer = loop_of(pool, Trainer([published(1)])), Trainer()
    (mixed,), figures = turn(scored, [runner((3,))(3)], 10)
    assert mixed.counts["distilled"] == 1  # the reward model's score, as if never asked
    assert mixed.feedback.sum() == pytest.approx(2.0 * (0.15 - 0.0))
    assert figures["feedback"]["approval_rate"] != figures["feedback"]["approval_rate"]  # nan: nobody approved
    alone = loop_of(pool, trainer, **{"mix.credit": "terminal", "mix.unjudged": "task"})
    (mixed,), _ = turn(alone, [runner((3,))(3)], 10)
    assert mixed.counts["abstained"] == 1
    assert mixed.feedback.sum() == 0
    assert trainer.added == []
    assert alone.totals["abstained"] == 1


def test_bad_verdicts_and_good_ones_differ_and_abstentions_are_neither():
    paid = {}
    for name, answer in (
        ("good", lambda e: verdict(e.episode_id, 1.0)),
        ("bad", lambda e: verdict(e.episode_id, 0.0)),
        ("none", lambda e: abstention(e.episode_id)),
    ):
        loop = loop_of(Pool(answer), Trainer([published(1)]))
        paid[name] = float(turn(loop, [runner((3,))(3)], 10)[0][0].feedback.sum())
    assert paid["good"] == pytest.approx(2.0)
    assert paid["bad"] == pytest.approx(0.0)
    assert paid["bad"] < paid["none"] < paid["good"]


def test_a_judge_that_fails_for_good_ends_the_asking_and_not_the_training():
    pool, trainer = Pool(delay=1), Trainer([published(1)])
    loop = loop_of(pool, trainer, **{"reward_model.pace": "wait"})
    sample = runner((3,))
    turn(loop, [sample(3)], 10)
    pool.fail = JudgeRejectsKey("401")
    mixed, _ = turn(loop, [sample(3)], 20)
    assert mixed[0].counts["distilled"] == 1
    assert isinstance(loop.judge_error, JudgeError)
    assert len(pool.asked) == 2
    for step in (30, 40):
        mixed, _ = turn(loop, [sample(3)], step)
    assert len(pool.asked) == 2  # nothing was asked after it
    assert len(trainer.added) == 2  # what had been answered is used all the same
    assert not loop.holding


def test_the_limit_of_an_iteration_is_shared_by_all_runners():
    pool = Pool()
    loop = loop_of(pool, Trainer(), **{"feedback.labels_per_iteration": 4})
    runners = [runner((2, 2), i) for i in range(3)]
    for i in range(10):
        turn(loop, [sample(10) for sample in runners], i)
        assert len(pool.asked) == 4 * (i + 1)
    assert [p for _, p in pool.steps] == pytest.approx([4 / 30] * 10)
    by_runner = np.bincount([e.episode_id >> 40 for e in pool.asked])
    assert (by_runner > 4).all()  # and falls on all of them


def test_a_fraction_is_asked_with_its_inclusion_probability_and_only_in_its_window():
    pool = Pool()
    loop = loop_of(pool, Trainer(), **{"feedback.fraction": 0.25, "feedback.start_step": 10, "feedback.stop_step": 30})
    sample = runner((2,) * 8)
    for step in (0, 9, 10, 29, 30, 99):
        turn(loop, [sample(20)], step)
    assert [s for s, _ in pool.steps] == [10, 29]
    assert len(pool.asked) == 2 * 20
    assert {p for _, p in pool.steps} == {0.25}


def test_questions_that_nobody_takes_are_not_awaited():
    pool = Pool(lambda e: None, room=3)
    loop = loop_of(pool, Trainer())
    sample = runner((2,) * 4)
    turn(loop, [sample(4)], 0)
    assert len(pool.asked) == 3
    turn(loop, [sample(4)], 1)
    assert loop.asking.awaited == {}  # unanswered for good: their observations must not pile up


def test_what_is_asked_is_the_whole_episode_and_a_copy_of_it():
    pool = Pool()
    rollout = runner((5, 3))(9)
    turn(loop_of(pool, Trainer()), [rollout], 0)
    for episode in pool.asked:
        assert episode.obs[:, 1].tolist() == list(range(len(episode) + 1))
        assert not np.shares_memory(episode.obs, rollout.episodes.obs)


# ------------------------------------------------------------------------------------------------ dropping


@pytest.mark.parametrize(("source", "credit"), [("direct", "terminal"), ("hybrid", "redistribute")])
def test_drop_leaves_out_the_unjudged_and_nothing_else(source, credit):
    pool = Pool(lambda e: verdict(e.episode_id, 1.0) if e.episode_id % 2 else None)
    trainer = Trainer([published(1)]) if source == "hybrid" else None
    loop = loop_of(pool, trainer, **{"mix.source": source, "mix.credit": credit, "mix.unjudged": "drop"})
    rollout = runner((3, 4, 5))(11)
    (mixed,), figures = turn(loop, [rollout], 10)
    kept = np.isin(rollout.fragment.episode_id, [i for i in rollout.episodes.episode_id if i % 2])
    still_open = np.isin(rollout.fragment.episode_id, rollout.open.episode_id)
    assert np.array_equal(mixed.learn, kept | still_open)
    assert 0 < kept.sum() < kept.size
    assert figures["mix"]["dropped_steps"] == (~mixed.learn).sum()
    assert mixed.counts["dropped"] == sum(int(i) % 2 == 0 for i in rollout.episodes.episode_id)


def test_nothing_is_dropped_in_the_task_phase():
    loop = loop_of(
        Pool(lambda e: None), None,
        **{"mix.source": "direct", "mix.credit": "terminal", "mix.unjudged": "drop", "mix.start_step": 100},
    )  # fmt: skip
    assert turn(loop, [runner((3,))(9)], 50)[0][0].learn.all()


def test_distilled_scores_everything_so_unjudged_can_not_say_otherwise():
    with pytest.raises(ConfigError, match=r"mix\.unjudged: got 'task'.*'distilled' is 'rm'"):
        loop_of(Pool(), Trainer(), **{"mix.source": "distilled", "mix.unjudged": "task"})


# ------------------------------------------------------------------------------------------------ holding


def test_hold_waits_for_answers_and_a_fit_and_ends_when_the_gate_opens():
    pool, trainer = Pool(delay=50), Trainer(when_waited=[published(1)])
    loop = loop_of(
        pool, trainer,
        **{"reward_model.pace": "wait", "reward_model.min_labels": 40, "reward_model.retrain_every": 12},
    )  # fmt: skip
    assert loop.holding
    loop.hold([runner((2,) * 4)(20)], 100)
    assert len(pool.asked) == 12  # enough for a fit, not all there is
    assert len(trainer.added) == 12
    assert loop.version == 1
    assert not loop.holding


def test_hold_does_not_ask_more_while_enough_is_in_flight():
    pool = Pool(hangs=True, delay=99)
    loop = loop_of(pool, Trainer(), **{"reward_model.pace": "wait", "reward_model.retrain_every": 12})
    sample = runner((2,) * 4)
    for _ in range(3):
        loop.hold([sample(20)], 100, deadline_s=0.05)
    assert len(pool.asked) == 12


def test_hold_hears_that_the_run_is_to_stop():
    loop = loop_of(Pool(hangs=True, delay=99), Trainer(), **{"reward_model.pace": "wait"})
    asked = itertools.count()
    loop.stopping = lambda: next(asked) > 1
    began = time.monotonic()
    loop.hold([runner((2,) * 4)(20)], 100, deadline_s=30)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("pace", "exhausted", "in_flight", "holds"),
    [("go", False, 0, False), ("wait", False, 0, True), ("wait", True, 3, True), ("wait", True, 0, False)],
)
def test_the_feedback_phase_is_held_only_while_an_answer_can_still_open_the_gate(pace, exhausted, in_flight, holds):
    pool = Pool(exhausted=exhausted, due=[(99, None)] * in_flight)
    assert loop_of(pool, Trainer(), **{"reward_model.pace": pace}).holding is holds


def test_an_episode_is_asked_about_once():
    pool = Pool(delay=99)
    loop = loop_of(pool, Trainer(), **{"feedback.fraction": 0.5, "reward_model.retrain_every": 500})
    rollout = runner((2,) * 4)(20)
    loop.ask([rollout], 100)
    pool.hangs = True
    loop.hold([rollout], 100, deadline_s=0.01)
    ids = [e.episode_id for e in pool.asked]
    assert len(ids) == len(set(ids)) == 40


# ------------------------------------------------------------------------------------------------ state


def test_state_comes_back_and_goes_on_alike():
    def fresh(trainer):
        return loop_of(Pool(), trainer, **{"feedback.fraction": 0.5, "mix.ramp_steps": 100})

    a = fresh(Trainer([published(1), published(2)]))
    sample = runner((2, 3))
    for step in (10, 20, 30):
        turn(a, [sample(12)], step)
    state = a.state()
    restored, stored = Trainer(), sample(12).episodes[0]
    b = fresh(restored)
    b.restore(state, [Judged(stored, 1.0, "targeted")], published=5)
    assert restored.restored == state["trainer"]
    assert restored.skipped == 5
    assert (restored.added, restored.draws) == ([(stored.episode_id, 1.0)], ["targeted"])
    same = ("version", "iteration", "totals", "report")
    assert [getattr(b, n) for n in same] == [getattr(a, n) for n in same]
    assert b.payer.ramp_from == a.payer.ramp_from == 10
    assert b.version == 2
    assert b.state()["store_position"] == state["store_position"] == 1
    rollout = sample(30)
    a.payer.pins.clear()
    one, two = (turn(x, [rollout], 60)[0][0] for x in (a, b))
    assert np.array_equal(one.feedback, two.feedback)
    assert [e.episode_id for e in a.pool.asked[-9:]] == [e.episode_id for e in b.pool.asked[-9:]]


def test_totals_add_up_to_the_episodes_that_ended():
    loop = loop_of(Pool(lambda e: verdict(e.episode_id, 1.0) if e.episode_id % 3 else None), Trainer([published(1)]))
    sample = runner((2, 3, 5))
    ended = 0
    for step in range(1, 8):
        rollout = sample(7)
        ended += len(rollout.episodes)
        _, figures = turn(loop, [rollout], step)
        shares = [v for k, v in figures["mix"].items() if k.startswith("share_")]
        assert sum(shares) == pytest.approx(1)
    assert sum(loop.totals.values()) == ended
    assert loop.totals["direct"] > 0
    assert loop.totals["distilled"] > 0


def test_a_silent_loop_learns_on_the_task_reward_alone():
    loop = FeedbackLoop.silent(load_config({}))
    rollout = runner((3,))(9)
    (mixed,), figures = turn(loop, [rollout], 10)
    assert np.array_equal(mixed.reward, rollout.fragment.task_reward)
    assert mixed.learn.all()
    assert mixed.counts["task"] == 3
    assert set(figures) == {"mix"}
    loop.drain(1.0)
    loop.close()
    assert loop.pool_stats() is None
    assert not loop.holding


def test_at_a_normal_end_no_further_question_is_put_and_what_is_under_way_is_waited_for():
    pool = Pool(delay=5)
    loop = loop_of(pool, Trainer())
    loop.ask([runner((3,))(9)], 10)
    assert pool.in_flight
    loop.drain(1.0)
    assert pool.hushed
    assert pool.waits
    assert not pool.in_flight


def test_pairs_are_drawn_by_seed_each_episode_once_and_pay_nobody():
    asked = []
    for _ in range(2):
        pool, trainer = Pool(answer=lambda pair: verdict(pair[0].episode_id, 1.0)), Pairs()
        loop = FeedbackLoop(
            load_config({}, {"mix.source": "distilled", "feedback.fraction": 1.0, "reward_model.pace": "go"}),
            pool, trainer, choose=choose, load=lambda state: Belief(state["version"]), compares=True,
        )  # fmt: skip
        (mixed,), figures = turn(loop, [runner((1,) * 9)(1)], 10)
        pairs = [(one.episode_id, other.episode_id) for one, other in pool.asked]
        assert len({i for pair in pairs for i in pair}) == 8  # of nine, one is left over
        assert trainer.added == [(*pair, 1.0) for pair in pairs]
        assert mixed.counts["direct"] == 0
        assert figures["feedback"]["asked"] == 4
        asked.append(pairs)
    assert asked[0] == asked[1]
    assert asked[0] != sorted(asked[0])


def test_the_reward_models_doubt_goes_with_the_question():
    cascade = {"strong": {"profile": "perfect"}, "when": ["rm-disagrees"]}
    pool = Pool()
    loop = loop_of(pool, Trainer(), **{"judge.cascade": cascade, "reward_model.ensemble": 2})
    rollout = runner((3, 5))(15)
    loop.ask([rollout], 10)
    assert pool.doubts == [0.0] * 8  # without a version of it, it doubts nothing
    loop = loop_of(pool := Pool(), Trainer([published(1)]), **{"judge.cascade": cascade, "reward_model.ensemble": 2})
    loop._load = lambda state: Disagreeing(state["version"])
    loop.learn_to_judge()
    loop.ask([rollout], 10)
    assert pool.doubts == pytest.approx([0.01 * len(e) for e in pool.asked])
    assert set(pool.doubts) == {0.03, 0.05}


def test_closing_closes_both():
    pool, trainer = Pool(), Trainer()
    loop_of(pool, trainer).close()
    assert pool.closed
    assert trainer.closed
