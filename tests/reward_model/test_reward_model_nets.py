"""What both nets owe: causality, packing that changes nothing, vectors as well as grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from meeting_world import OBS_SHAPE, meeting_batch

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import CheckpointError, ShapeError, UnknownNameError
from rlaif_ray.products import one_thread
from rlaif_ray.reward_model import RewardModel, nets
from rlaif_ray.reward_model.packing import Bags
from rlaif_ray.types import Episode, EpisodeBatch

NETS = ["event-max", "cnn-lstm"]


def _vectors(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return EpisodeBatch.pack(
        [
            Episode(i, rng.normal(5, 3, (n + 1, 4)).astype(np.float32), None, np.zeros(n), 0.0, True, 0)
            for i, n in enumerate(lengths)
        ]
    )


def _model(net, shape=OBS_SHAPE, ensemble=1, seed=0):
    return RewardModel.create(RewardModelConfig(net=net, ensemble=ensemble), shape, seed)


def _batch(kind):
    return (meeting_batch(12, seed=3), OBS_SHAPE) if kind == "grid" else (_vectors([3, 1, 30, 7]), (4,))


@pytest.mark.parametrize("kind", ["grid", "vector"])
@pytest.mark.parametrize("net", NETS)
def test_belief_does_not_know_the_future(net, kind):
    batch, shape = _batch(kind)
    model = _model(net, shape)
    whole = model.score(batch).belief
    for episode, start in zip(batch, batch.obs_offsets, strict=False):
        cut = len(episode.obs) // 2
        other = episode.obs.copy()
        other[cut:] = np.random.default_rng(1).integers(0, 2, other[cut:].shape)
        offsets = np.array([0, len(other)])
        changed = 1 / (1 + np.exp(-model.logits(other, offsets)[0]))
        assert np.allclose(changed[:cut], whole[start : start + cut], atol=1e-6)
        assert not np.allclose(changed[cut:], whole[start + cut : start + len(other)], atol=1e-6)


@pytest.mark.parametrize("kind", ["grid", "vector"])
@pytest.mark.parametrize("net", NETS)
def test_packed_is_the_same_as_one_by_one(net, kind, monkeypatch):
    batch, shape = _batch(kind)
    model = _model(net, shape, ensemble=2)
    packed = model.score(batch)
    alone = [model.score(EpisodeBatch.pack([episode])).belief for episode in batch]
    assert np.allclose(packed.belief, np.concatenate(alone), atol=1e-6)
    assert np.allclose(packed.final, [belief[-1] for belief in alone], atol=1e-6)
    for chunk in (1, 7):  # chunks that cut episodes anywhere
        monkeypatch.setattr(nets.SequenceNet, "chunk", lambda self, n=chunk: n)
        assert np.allclose(model.score(batch).belief, packed.belief, atol=1e-6)


@pytest.mark.parametrize("kind", ["grid", "vector"])
@pytest.mark.parametrize("net", NETS)
def test_training_sees_what_scoring_sees(net, kind):
    batch, shape = _batch(kind)
    member = _model(net, shape).members[0]
    digests = [member.digest(episode.obs) for episode in batch]
    with torch.no_grad():
        final = member.final_logit(Bags.pack(digests)).numpy()
        every = member.logits(batch.obs, batch.obs_offsets).numpy()
    assert np.allclose(final, every[batch.obs_offsets[1:] - 1], atol=1e-5)


def test_event_max_is_a_convolution_and_two_maxima():
    batch = meeting_batch(4, seed=0)
    net = _model("event-max").members[0]
    kernel = net.local.weight.reshape(-1, 3, 3, OBS_SHAPE[-1]).permute(0, 3, 1, 2)
    with torch.no_grad():
        for episode, start in zip(batch, batch.obs_offsets, strict=False):
            planes = torch.from_numpy(episode.obs).float().permute(0, 3, 1, 2)
            local = torch.nn.functional.conv2d(planes, kernel, net.local.bias, padding=1).relu().amax((2, 3))
            logit = net.head(local.cummax(0).values)[:, 0]
            mine = net.logits(batch.obs, batch.obs_offsets)[start : start + len(logit)]
            assert torch.allclose(mine, logit, atol=1e-5)


def test_values_above_one_are_brought_into_range():
    batch = meeting_batch(4, seed=0)
    dim, bright = _model("cnn-lstm").members[0], _model("cnn-lstm").members[0]
    bright.normalise_by(batch.obs * 255)
    with torch.no_grad():
        same = [dim.logits(batch.obs, batch.obs_offsets), bright.logits(batch.obs * 255, batch.obs_offsets)]
    assert torch.allclose(*same, atol=1e-5)
    vectors = _vectors([40])
    net = _model("event-max", (4,)).members[0]
    net.normalise_by(vectors.obs)
    inputs = (net._tensor(vectors.obs) - net.shift) * net.scale
    assert torch.allclose(inputs.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(inputs.std(0, correction=0), torch.ones(4), atol=1e-4)


@pytest.mark.parametrize("net", NETS)
def test_state_round_trip(net):
    batch = meeting_batch(6, seed=0)
    model = _model(net, ensemble=2, seed=4)
    model.version, model.temperature = 7, 1.7
    again = RewardModel.from_state(model.state())
    scores, same = model.score(batch), again.score(batch)
    assert np.array_equal(scores.belief, same.belief)
    assert same.version.tolist() == [7] * 6
    assert (again.temperature, again.obs_shape, again.config) == (1.7, OBS_SHAPE, model.config)


def test_a_state_is_plain_and_its_own():
    model = _model("event-max")
    state = model.state()
    kinds = {type(v) for member in state["members"] for v in member.values()}
    assert kinds == {np.ndarray}
    for array in state["members"][0].values():
        array[...] = 0
    assert not np.array_equal(model.state()["members"][0]["local.weight"], state["members"][0]["local.weight"])


SPOILED = {
    "a key missing": lambda s: s.pop("members"),
    "another format": lambda s: s.update(format=99),
    "weights missing": lambda s: s["members"][0].popitem(),
    "a bad config": lambda s: s.update(config={"net": "nonsense"}),
    "another shape": lambda s: s.update(obs_shape=[3, 3, 9]),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_spoiled_state_is_refused(spoil):
    state = _model("event-max").state()
    spoil(state)
    with pytest.raises(CheckpointError):
        RewardModel.from_state(state)


def test_seeds_decide_the_weights_and_nothing_else_moves():
    before = torch.get_rng_state()
    a, b, c = (_model("event-max", seed=s).state()["members"][0]["local.weight"] for s in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_no_episodes_and_wrong_shapes():
    model = _model("event-max")
    none = np.zeros(0, np.int64)
    empty = EpisodeBatch(
        none, np.zeros((0, *OBS_SHAPE), np.uint8), None, none, np.zeros(1, np.int64), none, none, none, none
    )
    assert len(model.score(empty).belief) == 0
    with pytest.raises(ShapeError, match=r"\(4,\).*\(6, 7, 3\)"):
        model.score(_vectors([2]))
    with pytest.raises(ShapeError, match=r"\(5, 5\)"):
        _model("event-max", (5, 5))
    with pytest.raises(UnknownNameError, match="event-max"):
        nets.make_net(RewardModelConfig.model_construct(net="event-maks"), OBS_SHAPE, 0)


def test_scoring_gives_the_threads_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _model("event-max").score(meeting_batch(2, seed=0))
        assert torch.get_num_threads() == 2
        with pytest.raises(ShapeError), one_thread():
            _model("event-max", (5, 5))
        assert torch.get_num_threads() == 2
        with one_thread():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
