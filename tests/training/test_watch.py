"""The Goodhart watch: how often it cries wolf, how soon it sees a wolf, and what a run does then."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from test_feedback_loop import Pool, Trainer, abstention, loop_of, published, runner, turn, verdict
from test_paying import TINY

from rlaif_ray import experiment
from rlaif_ray.checkpoints import check_checkpoint, newest_up_to
from rlaif_ray.config import RunConfig, WatchConfig, load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.loop import FeedbackLoop
from rlaif_ray.networks import load_policy
from rlaif_ray.paying import Payer
from rlaif_ray.ppo import FeedbackPPO
from rlaif_ray.watch import ALARM, BETS, MARGIN, TOLERANCE, WINDOW, Audited, Watch, onset

# ------------------------------------------------------------------------------------------------ the statistics


def audits(rng, belief, approved, step=0):
    """One episode: what is believed of it, and whether the judge approves."""
    return [Audited(step, belief, float(rng.random() < approved))]


def delays(gap, runs=200, most=400, before=0):
    """Audited episodes until an alarm, of runs in which the model promises all and the judge approves 1 - gap."""
    found = []
    for seed in range(runs):
        rng, watch = np.random.default_rng(seed), Watch(WatchConfig())
        watch.take([one for _ in range(before) for one in audits(rng, 0.97, 0.97)], 0)
        assert not watch.alarms
        taken = (n for n in range(1, most + 1) if watch.take(audits(rng, 1.0, 1.0 - gap), n))
        found.append(next(taken, math.inf))
    return np.array(found)


def test_evidence_by_hand():
    watch = Watch(WatchConfig())
    watch.take([Audited(5, 1.0, 0.0), Audited(6, 0.4, 1.0)], 7)
    first, second = 1 + BETS * (1.0 - TOLERANCE), 1 + BETS * (-0.6 - TOLERANCE)
    assert watch.evidence == pytest.approx(float(((first + 1) * second).mean()))
    assert watch.figures() == pytest.approx(
        {"audited": 2, "evidence": watch.evidence, "belief": 0.7, "verdict": 0.5, "alarms": 0}
    )


def test_no_bet_can_be_ruined():
    assert (1 + BETS * (0.0 - 1.0 - TOLERANCE) > 0).all()


def test_promises_kept_or_broken_by_no_more_than_the_tolerance_raise_few_alarms():
    """The bound: of runs with 100 audited episodes, at most one in ten, with the gap at the tolerance all the time."""
    alarms = np.zeros(3)
    for seed in range(400):
        rng = np.random.default_rng(seed)
        belief = rng.beta(4, 1, 100)
        for i, gap in enumerate((0.0, 0.05, TOLERANCE)):
            watch = Watch(WatchConfig())
            approved = rng.random(100) < np.clip(belief - gap, 0, 1)
            watch.take([Audited(0, *both) for both in zip(belief, approved.astype(float), strict=True)], 0)
            alarms[i] += len(watch.alarms) > 0
    assert alarms[0] == 0
    assert alarms[1] <= 4
    assert alarms[2] <= 400 * 100 / ALARM


@pytest.mark.parametrize(("gap", "typical"), [(0.9, 16), (0.5, 30), (0.3, 80)])
def test_a_gap_is_seen_the_sooner_the_wider_it_is(gap, typical):
    assert np.median(delays(gap)) <= typical
    assert np.median(delays(gap, before=200)) <= typical  # a long good time before doesn't count in its favour


def test_an_onset_by_hand():
    """log e of the middle bet is 0.34 for a gap of 1 and -0.05 for one of 0: a margin of 5 is 35 kept promises."""
    kept, broken = np.zeros(100), np.ones(10)
    gap = np.concatenate([kept, broken])
    assert onset(gap, 1.0) == 100
    small = -np.log1p(-BETS[1] * TOLERANCE)
    assert onset(gap, MARGIN) == 100 - int(np.log(MARGIN) / small)
    assert onset(np.concatenate([broken, kept, broken]), 1.0) == 110
    assert onset(broken, MARGIN) == 0
    assert onset(kept, 1.0) == 99  # of nothing suspicious, the newest


def test_an_onset_moves_forward_only():
    gap = np.random.default_rng(2).uniform(-0.7, 0.7, 300)
    found = [onset(gap[:n], MARGIN) for n in range(1, 301)]
    assert found == sorted(found)
    assert found[-1] > 200


def test_an_alarm_says_since_when_it_was_acted_and_what_was_before():
    rng, watch = np.random.default_rng(3), Watch(WatchConfig())
    late = 50
    for step in range(100):
        watch.take(audits(rng, 0.9, 0.9, step), step + late)
    alarm = next(a for a in (watch.take(audits(rng, 0.95, 0.2, step), step + late) for step in range(100, 200)) if a)
    assert 70 <= alarm.since <= 100  # not 150, when the first verdict of it came
    assert alarm.step - alarm.since >= late
    assert alarm.audited == alarm.step - late - alarm.since + 1
    assert alarm.belief > 0.9
    assert alarm.verdict < 0.75
    assert (alarm.belief_before, alarm.verdict_before) == pytest.approx((0.9, 0.9), abs=0.1)
    assert "has promised 9" in str(alarm)
    assert watch.evidence == 0  # the next one needs evidence of its own


def test_verdicts_that_overtake_each_other_are_put_in_the_order_of_what_they_are_about():
    kept, broken = [
        [Audited(step, 1.0, value) for step in steps] for value, steps in ((1.0, range(60)), (0.0, [60] * 20))
    ]
    in_turn, mixed = Watch(WatchConfig(action="rollback")), Watch(WatchConfig(action="rollback"))
    in_turn.take(kept + broken[:8], 0)
    mixed.take(kept[:50] + broken[:8] + kept[50:], 0)
    assert in_turn.onset == mixed.onset < 60
    assert not in_turn.alarms + mixed.alarms


def test_only_a_run_that_may_go_back_has_a_checkpoint_kept():
    for action, want in (("rollback", 9), ("report", None), ("stop", None)):
        watch = Watch(WatchConfig(action=action))
        assert watch.onset == (None if want is None else 0)  # nothing was heard: anything may be
        watch.take([Audited(9, 1.0, 1.0)], 12)
        assert watch.onset == want


def test_state_comes_back():
    rng, watch = np.random.default_rng(0), Watch(WatchConfig(action="stop"))
    watch.take([one for _ in range(WINDOW) for one in audits(rng, 0.9, 0.6, 4)], 5)
    other = Watch(WatchConfig(action="stop"))
    other.restore(copy.deepcopy(watch.state()))
    later = [one for _ in range(60) for one in audits(rng, 0.9, 0.2, 6)]
    assert str(watch.take(later, 9)) == str(other.take(later, 9)) != "None"
    assert str(other.summary()) == str(watch.summary())
    assert other.stopped
    older = Watch(WatchConfig())
    older.restore({})
    assert older.figures()["audited"] == 0


def test_a_state_that_does_not_say_when_an_episode_was_acted_is_gone_on_from():
    rng, watch = np.random.default_rng(1), Watch(WatchConfig())
    watch.take([one for _ in range(60) for one in audits(rng, 0.9, 0.3, 4)][:15], 5)
    state = {name: value for name, value in watch.state().items() if name != "_heard"}
    sums = {"_before": np.array([3.0, 2.7, 3.0]), "_since": np.array([12.0, 10.8, 4.0])}
    older = Watch(WatchConfig())
    older.restore(state | sums | {"_excursion": 3.0, "_began": 4})
    later = [one for _ in range(60) for one in audits(rng, 0.9, 0.1, 6)]
    assert str(older.take(later, 9)) == str(watch.take(later, 9)) != "None"
    assert older.alarms[0].since == 4
    assert older.state().keys() == watch.state().keys()


# ------------------------------------------------------------------------------------------------ in the loop


def test_belief_and_verdict_of_the_same_episode_meet_whenever_the_verdict_comes():
    for delay in (0, 2):
        loop = loop_of(Pool(lambda e: verdict(e.episode_id, 1.0), delay=delay), Trainer([published(1)]))
        loop.learn_to_judge()
        loop.end_iteration(0)
        seen = []
        take, loop.watch.take = loop.watch.take, lambda pairs, step, seen=seen: seen.extend(pairs)
        sample = runner((3, 4))
        for step in range(6):
            turn(loop, [sample(12)], step)
        assert len(seen) == 7 * (6 - delay)
        assert {(round(one.belief, 3), one.verdict) for one in seen} == {(0.15, 1.0), (0.2, 1.0)}
        assert callable(take)


@pytest.mark.parametrize(("runners", "overlap", "behind"), [(0, True, 1), (2, False, 1), (2, True, 2)])
def test_an_audited_episode_says_when_the_policy_was_made_that_began_it(runners, overlap, behind):
    """Iteration n samples 10 steps, up to 10 n, by the policy of the end of the one before, or of the one before that;
    an episode of two fragments was begun one iteration earlier. Its verdict comes two later."""
    keys = {"resources.env_runners": runners, "resources.overlap": overlap}
    loop = loop_of(Pool(lambda e: verdict(e.episode_id, 1.0), delay=2), Trainer([published(1)]), **keys)
    heard = {}
    loop.watch.take = lambda audited, step: heard.setdefault(step, [one.step for one in audited])
    sample = runner((6,))
    for n in range(1, 10):
        turn(loop, [sample(3, max(0, n - behind))], 10 * n)  # the version's number: updates
    ended = {n: 10 * max(0, n - 1 - behind) for n in (2, 4, 6)}
    assert {step: acted for step, acted in heard.items() if acted} == {10 * (n + 2): [at] for n, at in ended.items()}


def test_after_going_back_policies_are_of_the_steps_gone_back_to():
    loop = loop_of(Pool(lambda e: verdict(e.episode_id, 1.0), delay=1), Trainer([published(1)]))
    state = loop.state()
    heard = []
    loop.watch.take = lambda audited, step: heard.extend(one.step for one in audited)
    sample = runner((3,))
    for n in (1, 2):
        turn(loop, [sample(3, n)], 10 * n)
    loop.restore(state, step=50)
    loop.learn_to_judge()
    loop._adopt([published(2)])
    for n in (3, 4):
        turn(loop, [sample(3, n)], 50 + 10 * (n - 2))
    assert heard[-1] == 50


def test_what_a_version_may_have_learned_from_is_no_audit_of_it():
    trainer = Trainer()
    loop = loop_of(Pool(lambda e: verdict(e.episode_id, 1.0)), trainer)
    sample = runner((3,))
    for version, audited in ((1, 0), (None, 1), (2, 1), (None, 2)):
        trainer.publish = [published(version)] if version else []
        turn(loop, [sample(3)], 10)
        assert loop.watch.audited == audited


def test_without_a_version_or_a_verdict_there_is_nothing_to_compare():
    pool = Pool(lambda e: abstention(e.episode_id))
    loop = loop_of(pool, Trainer([published(1)]))
    for _ in range(3):
        _, figures = turn(loop, [runner((3,))(9)], 10)
    assert figures["watch"]["audited"] == 0
    assert math.isnan(figures["watch"]["belief"])
    assert loop.payer.promised({}, ()) == []
    unversioned = loop_of(Pool(lambda e: verdict(e.episode_id, 1.0)), Trainer())
    assert turn(unversioned, [runner((3,))(9)], 10)[1]["watch"]["audited"] == 0
    assert "watch" not in turn(FeedbackLoop.silent(load_config({})), [runner((3,))(9)], 10)[1]


# ------------------------------------------------------------------------------------------------ whole runs


def test_it_needs_a_reward_model():
    with pytest.raises(ConfigError, match=r"watch\.action: got 'stop' with mix\.source 'none'.*reward model"):
        load_config({}, {"watch.action": "stop"})


GAMED = TINY | {
    "run.total_steps": 16_000, "run.checkpoint_every_s": 1e-6, "run.keep_checkpoints": 100, "reward_model.pace": "go",
    "mix.source": "distilled", "feedback.labels_per_iteration": 8,
}  # fmt: skip


def same(network, other):
    ours, theirs = network.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name].cpu(), theirs[name]) for name in ours)


def broken_promises(algorithm):
    """What was audited is made out to have been promised and refused."""
    return [Audited(algorithm.steps, 1.0, 0.0)] * 20


@pytest.fixture
def gamed(monkeypatch, ray_session, tmp_path):
    """Runs whose watch hears something made up from the ``first`` iteration named on, so many times."""

    def run(action, times=1, hear=broken_promises, first=6, **changes):
        left, restored = [times], []
        step, load = FeedbackPPO.step, FeedbackPPO.load_checkpoint

        def stepping(self):
            row = step(self)
            if self.iteration + 1 >= first and left[0]:
                left[0] -= 1
                self.loop.watch.take(hear(self), self.steps)
            return row

        def loading(self, folder):
            load(self, folder)
            kept = FeedbackPPO.get_state(self)["rlaif"]["steps"]
            restored.append((kept, same(self.get_learner_module().network, load_policy(folder).network)))

        monkeypatch.setattr(FeedbackPPO, "step", stepping)
        monkeypatch.setattr(FeedbackPPO, "load_checkpoint", loading)
        rows = []
        config = load_config({}, GAMED | {"run.dir": str(tmp_path), "watch.action": action} | changes)
        return experiment.train(config, monitor=rows.append), rows, restored

    return run


def test_a_run_that_is_told_to_stop_stops_and_says_why(gamed):
    done, rows, _ = gamed("stop")
    assert done.exit_code == 0
    assert done.summary["status"] == "stopped_by_watch"
    assert len(rows) == 6
    assert any("Goodhart watch, step" in notice for notice in rows[-1]["notices"])
    written = json.loads((done.path / "summary.json").read_text())["watch"]
    assert written["action"] == "stop"
    assert written["raised"][0]["verdict"] < 0.5 < written["raised"][0]["belief"]


def test_a_run_goes_back_to_before_the_gap_and_on_from_there_and_is_not_led_back_for_ever(gamed):
    done, rows, restored = gamed("rollback", times=3)
    assert done.summary["status"] == "stopped_by_watch"  # at the third alarm
    assert done.summary["watch"]["rollbacks"] == 2 == len(restored)
    assert len(done.summary["watch"]["raised"]) == 3
    steps = [row["steps"] for row in rows]
    first_alarm = done.summary["watch"]["raised"][0]
    kept, _ = restored[0]
    assert kept <= first_alarm["since"]
    assert steps[6] == kept + TINY["ppo.train_batch_size"]  # it went on from there
    assert all(led_back for _, led_back in restored)  # the learner too, though its weights were newer
    checkpoints = done.path / "checkpoints"
    assert check_checkpoint(checkpoints / "last")[1]["steps"] == done.summary["steps"]
    assert newest_up_to(checkpoints, done.summary["steps"] - 1) is not None
    assert newest_up_to(checkpoints, -1) is None


def test_with_the_usual_number_of_checkpoints_there_is_one_to_go_back_to_however_late_the_verdicts(gamed, monkeypatch):
    """The policy of the third iteration's end is gamed, which is heard of five iterations later."""
    batch, usual = TINY["ppo.train_batch_size"], {"run.keep_checkpoints": RunConfig().keep_checkpoints}
    opened, late = 3 * batch, 5 * batch
    monkeypatch.setattr(Payer, "promised", lambda *_: [])  # nothing is heard but what is made up

    def hear(algorithm):
        acted = algorithm.steps - late
        one = Audited(acted, 1.0, 0.0) if acted >= opened else Audited(acted, 0.0, 1.0)
        return [one] * 12 if acted >= 0 else []

    done, _, restored = gamed("rollback", times=9, hear=hear, first=1, **usual)
    (alarm,) = done.summary["watch"]["raised"]
    assert alarm["since"] <= opened <= alarm["step"] - late
    ((kept, led_back),) = restored
    assert 0 < kept <= alarm["since"]
    assert led_back
    assert done.summary["status"] == "done"
