"""The feedback half of a training step against small fakes: what is remembered. What is asked and what is paid by the
same fakes is in ``test_loop_asks`` and ``test_loop_pays``."""

import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlaif_ray.columns import Acted, ColumnSampler
from rlaif_ray.config import load_config
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
    turned_away: int = 0
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
        self.turned_away += len(episodes) - len(taken)
        self.asked += taken
        self.steps.append((step, inclusion_probability[0]))
        self.due += [(self.polls + self.delay, e) for e in taken]
        return [(e[0] if isinstance(e, tuple) else e).episode_id for e in taken]

    def room_at(self, step):
        return self.room

    def turn_away(self, count):
        self.turned_away += count

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

    def look(self):
        pass

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
        assert figures["feedback"]["asked"] == figures["feedback"]["verdicts"] == 4
        assert np.isnan([figures["feedback"][name] for name in ("approval_rate", "audit_approval")]).all()
        assert figures["feedback"]["stands_for"] == 0
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
