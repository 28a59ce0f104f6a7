"""A number of a policy's or a reward model's version names one thing, over rollbacks and restarts."""

import hashlib
import json
import shutil
from collections import defaultdict

import pytest
from test_paying import TINY
from test_watch import gamed  # noqa: F401 - a fixture

from rlaif_ray import experiment
from rlaif_ray.checkpoints import check_checkpoint
from rlaif_ray.config import load_config
from rlaif_ray.errors import CheckpointError
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.numbering import FILE, NumberAbove, Numbering
from rlaif_ray.ppo import FeedbackPPO
from rlaif_ray.scorebook import read_scores


class Learner:
    def __init__(self, number):
        self._weights_seq_no = number


def test_what_was_used_is_remembered_and_never_falls(tmp_path):
    fresh = Numbering(tmp_path)
    assert (fresh.policy, fresh.reward_model) == (-1, 0)
    assert not (tmp_path / FILE).exists()
    fresh.note(policy=0)
    fresh.note(policy=7, reward_model=2)
    fresh.note(policy=3)
    fresh.note(reward_model=1)
    again = Numbering(tmp_path)
    assert (again.policy, again.reward_model) == (7, 2)
    (tmp_path / FILE).write_text('{"policy": 7}')
    with pytest.raises(CheckpointError, match=r"versions\.json' is damaged"):
        Numbering(tmp_path)


@pytest.mark.parametrize(("used", "number", "then"), [(-1, 0, 0), (4, 9, 9), (4, 5, 5), (4, 4, 5), (9, 4, 10)])
def test_weights_are_numbered_above_what_was_used(used, number, then):
    learner = Learner(number)
    NumberAbove(used)(learner)
    assert learner._weights_seq_no == then


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture
def seen(monkeypatch):
    """What each number named, over all processes of a run: digests of weights, and of states of the reward model."""
    named = {"policy": defaultdict(set), "reward_model": defaultdict(set), "acted": []}
    act, look = FeedbackPPO._act, FeedbackPPO._look

    def acting(self):
        digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in self.get_learner_module().parameters()))
        rollouts = act(self)
        (version,) = {r.fragment.policy_version for r in rollouts}
        named["policy"][version].add(digest.hexdigest())
        named["acted"].append(version)
        return rollouts

    def looking(self, *given):
        for version, state in self.loop._states.items():
            weights = b"".join(a.tobytes() for one in state["members"] for a in one.values())
            named["reward_model"][version].add(hashlib.sha256(weights).hexdigest())
        return look(self, *given)

    monkeypatch.setattr(FeedbackPPO, "_act", acting)
    monkeypatch.setattr(FeedbackPPO, "_look", looking)
    return named


def one_thing_a_number(seen):
    assert len(seen["policy"]) > 3
    assert len(seen["reward_model"]) > 2
    assert {len(things) for things in seen["policy"].values()} == {1}
    assert {len(things) for things in seen["reward_model"].values()} == {1}
    assert seen["acted"] == sorted(seen["acted"])  # the newest has the highest


@pytest.mark.ray
def test_numbers_go_on_after_a_rollback(gamed, seen):  # noqa: F811
    done, _, restored = gamed("rollback", times=2)
    assert len(restored) == 2
    one_thing_a_number(seen)
    with LabelStore(done.path / "labels.sqlite", readonly=True) as store:
        assert {one.policy_version for one in store.labels()} <= set(seen["policy"])
    assert {one.reward_model_version for one in read_scores(done.path)} <= set(seen["reward_model"])
    kept = json.loads((done.path / FILE).read_text())
    assert kept == {"policy": max(seen["policy"]), "reward_model": max(seen["reward_model"])}


@pytest.mark.ray
@pytest.mark.parametrize("first", ["an older checkpoint", "no checkpoint"])
def test_numbers_go_on_after_a_kill(first, ray_session, tmp_path, seen):
    """What was done after the checkpoint, or since the start, is lost; its labels and scores aren't."""
    keys = TINY | {"run.dir": str(tmp_path), "run.checkpoint_every_s": 1e-6, "run.keep_checkpoints": 100}
    config, rows = load_config({}, keys | {"reward_model.pace": "go", "run.total_steps": 11_200}), []
    path = experiment.train(config, monitor=rows.append, stop=lambda: len(rows) >= 5).path
    used = max(seen["reward_model"])
    assert used >= 2
    checkpoints = path / "checkpoints"
    older = sorted(checkpoints.glob("step-*"))[1]
    if first == "no checkpoint":
        shutil.rmtree(checkpoints)
    else:
        (checkpoints / "last").unlink()
        (checkpoints / "last").symlink_to(older.name)
        assert check_checkpoint(path)[0].name == older.name
    experiment.train(config, resume=path)
    one_thing_a_number(seen)
    assert max(seen["reward_model"]) > used
