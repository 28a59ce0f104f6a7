"""Episodes scored while they grow: the same beliefs as when they are looked at whole, and no second look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_reward_model_nets import NETS, _batch, _model

from rlaif_ray.errors import ShapeError
from rlaif_ray.packed import take_episodes
from rlaif_ray.reward_model import RewardModel
from rlaif_ray.reward_model.following import Followed, Following
from rlaif_ray.reward_model.nets import SequenceNet
from rlaif_ray.types import EpisodeBatch


def prefixes(batch, lengths):
    """The first so many observations of each episode."""
    cut = [replace(one, obs=one.obs[:n], states=None, actions=one.actions[: n - 1])
           for one, n in zip(batch, lengths, strict=True)]  # fmt: skip
    return EpisodeBatch.pack(cut)


def fragments(batch, seed):
    """Episodes as fragments show them: those that end in one and those that run on; new ones begin between."""
    rng = np.random.default_rng(seed)
    whole = batch.lengths + 1
    order = rng.permutation(len(batch))
    running, waiting, shown = list(order[:3]), list(order[3:]), np.zeros(len(batch), int)
    while running:
        shown[running] = np.minimum(whole[running], shown[running] + rng.integers(1, 6, len(running)))
        ended = [e for e in running if shown[e] == whole[e]]
        running = [e for e in running if shown[e] < whole[e]]
        yield take_episodes(batch, np.array(ended, int)), prefixes(batch, np.maximum(shown, 1)), running
        running += [waiting.pop() for _ in ended if waiting]


@pytest.mark.parametrize("ensemble", [1, 2])
@pytest.mark.parametrize("kind", ["grid", "vector"])
@pytest.mark.parametrize("net", NETS)
def test_beliefs_are_those_of_whole_episodes(net, kind, ensemble):
    batch, shape = _batch(kind)
    model = _model(net, shape, ensemble=ensemble)
    following, ended = Following(model), 0
    for finished, so_far, running in fragments(batch, seed=len(net) + ensemble):
        going = take_episodes(so_far, np.array(running, int))
        for got, part in zip(following.score(finished, going), (finished, going), strict=True):
            want = model.score(part)
            assert np.allclose(got.belief, want.belief, atol=1e-5)
            assert np.array_equal(got.version, want.version)
            assert (got.spread is None) == (want.spread is None)
            if want.spread is not None:
                assert np.allclose(got.spread, want.spread, atol=1e-5)
        ended += len(finished)
    assert ended == len(batch)


@pytest.mark.parametrize("net", NETS)
def test_each_observation_is_looked_at_once(net, monkeypatch):
    batch, shape = _batch("grid")
    following, looked, real = Following(_model(net, shape)), [], SequenceNet.features
    monkeypatch.setattr(SequenceNet, "features", lambda self, obs, at: looked.append(len(obs)) or real(self, obs, at))
    longest = int(batch.lengths.max()) + 1
    nobody = take_episodes(batch, np.zeros(0, int))
    for n in range(1, longest + 1):
        following.score(nobody, prefixes(batch, np.minimum(batch.lengths + 1, n)))
    # Once, and as what a change is a change from: never once more for each step that an episode lasts.
    assert sum(looked) <= len(batch.obs) + len(batch) * longest
    alone = sum(int(np.minimum(batch.lengths + 1, n).sum()) for n in range(1, longest + 1))
    assert alone > 2 * sum(looked)


def test_who_is_not_there_any_more_is_forgotten():
    batch, shape = _batch("grid")
    model = _model("event-max", shape)
    following, nobody = Following(model), take_episodes(batch, np.zeros(0, int))
    following.score(nobody, prefixes(batch, np.full(len(batch), 2)))
    following.score(nobody, nobody)
    _, again = following.score(nobody, batch)
    assert np.allclose(again.belief, model.score(batch).belief, atol=1e-6)


def test_observations_of_another_shape_are_an_error():
    batch, _ = _batch("grid")
    with pytest.raises(ShapeError, match="expected"):
        Following(_model("event-max", (4,))).score(batch, batch)


# ------------------------------------------------------------------------------------------------ versions


def states(*versions):
    found = {}
    for version in versions:
        model = _model("event-max", seed=version)
        model.version = version
        found[version] = model.state()
    return found


def test_an_episode_is_followed_by_the_version_that_was_in_service_when_it_began():
    batch, _ = _batch("grid")
    state, nobody = states(4, 5, 6), take_episodes(batch, np.zeros(0, int))
    first, second = np.arange(3), np.arange(3, 6)
    followed = Followed.serving(state[4], None)
    followed.score(nobody, take_episodes(prefixes(batch, np.full(len(batch), 2)), first))
    followed = Followed.serving(state[5], followed)
    both = np.concatenate([first, second])
    shown = followed.score(nobody, take_episodes(prefixes(batch, np.full(len(batch), 3)), both))
    assert [shown[v][1].version.tolist() for v in (4, 5)] == [[4, 4, 4, 0, 0, 0], [0, 0, 0, 5, 5, 5]]
    followed = Followed.serving(state[6], followed)
    ended = followed.score(take_episodes(batch, both), take_episodes(batch, np.arange(6, 9)))
    for version, whose in ((4, first), (5, second)):
        scores = ended[version][0]
        rows = np.repeat(scores.version == version, batch.lengths[both] + 1)
        whole = RewardModel.from_state(state[version]).score(take_episodes(batch, whose))
        assert np.allclose(scores.belief[rows], whole.belief, atol=1e-5)
        assert not scores.belief[~rows].any()
    assert (followed.version, ended[6][1].version.tolist()) == (6, [6, 6, 6])
    assert set(followed.score(nobody, take_episodes(batch, np.arange(6, 9)))) == {6}  # the others have nobody left


def test_a_version_told_twice_goes_on_and_none_ends_it():
    state = states(4)
    followed = Followed.serving(state[4], None)
    assert Followed.serving(state[4], followed) is followed
    assert Followed.serving(None, followed) is None


def test_one_that_was_about_to_begin_is_followed_by_the_version_it_begins_under():
    batch, _ = _batch("grid")
    state, nobody = states(1, 2), take_episodes(batch, np.zeros(0, int))
    followed = Followed.serving(state[1], None)
    followed.score(nobody, prefixes(batch, np.ones(len(batch), int)))
    followed = Followed.serving(state[2], followed)
    assert set(followed.score(nobody, prefixes(batch, np.full(len(batch), 2)))[2][1].version.tolist()) == {2}
