"""Policy networks against dense computations, and policies that come back from a file as they went in."""

import subprocess
import sys
import textwrap

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional

from rlaif_ray import envs, trunks
from rlaif_ray.columns import ColumnSampler
from rlaif_ray.config import PolicyConfig
from rlaif_ray.errors import CheckpointError, ConfigError, ShapeError, UnknownNameError
from rlaif_ray.evaluation import PolicyActor
from rlaif_ray.networks import ActorCritic, NetworkSpec, Policy, choose, load_policy, save_policy, spec_for, to_world
from rlaif_ray.patches import CnnTrunk

GRID = gym.spaces.Box(0, 1, (5, 7, 4), np.uint8)


def spec(network="mlp", shape=(5, 7, 4), hidden=(16, 8), **kwargs):
    defaults = {"action_kind": "discrete", "num_outputs": 4} | kwargs
    return NetworkSpec(network, hidden, shape, **defaults)


def grids(rng, B, H, W, C, density=0.4):
    """Random 0/1 grids with exactly one agent; some samples share most cells, as a world's walls do."""
    walls = rng.random((H, W, C)) < density
    flips = rng.random((B, H, W, C)) < 0.2
    obs = (walls[None] ^ flips).astype(np.uint8)
    obs[..., 0] = 0
    agent = rng.integers(0, H * W, B)
    obs.reshape(B, H * W, C)[np.arange(B), agent, 0] = 1
    return torch.from_numpy(obs)


def dense_window(trunk, obs):
    """The first layer as a plain dense product with the window cut out of a padded grid."""
    _, H, W, C = obs.shape
    padded = functional.pad(obs[..., 1:].float().permute(0, 3, 1, 2), (W - 1, W - 1, H - 1, H - 1))
    agent = obs[..., 0].flatten(1).argmax(1)
    windows = []
    for image, cell in zip(padded, agent.tolist(), strict=True):
        y, x = divmod(cell, W)
        windows.append(image[:, y : y + 2 * H - 1, x : x + 2 * W - 1].permute(1, 2, 0).reshape(-1))
    assert windows[0].numel() == (2 * H - 1) * (2 * W - 1) * (C - 1)
    seen = torch.stack(windows)
    if trunk.NAME == "ego-allocentric":  # then the grid as it lies, then the agent's cell
        here = functional.one_hot(agent, H * W).float()
        seen = torch.cat([seen, obs[..., 1:].flatten(1).float(), here], 1)
    return trunk.layers(torch.relu(seen @ trunk.rows + trunk.bias))


@pytest.mark.parametrize("shape", [(12, 14, 4), (5, 7, 4), (3, 3, 2), (1, 6, 3), (4, 1, 2)])
@pytest.mark.parametrize("B", [1, 2, 33])
@pytest.mark.parametrize("network", ["egocentric", "ego-allocentric"])
def test_egocentric_networks_are_the_dense_window_forward_and_backward(network, shape, B):
    torch.manual_seed(1)
    trunk = ActorCritic(spec(network, shape)).trunk
    obs = grids(np.random.default_rng(B), B, *shape)
    weight = torch.randn(B, 8)
    sums = {}
    for name, forward in (("sparse", trunk), ("dense", lambda o: dense_window(trunk, o))):
        trunk.zero_grad()
        out = forward(obs)
        (out * weight).sum().backward()
        sums[name] = [out.detach(), *(p.grad.clone() for p in trunk.parameters())]
    for sparse, dense in zip(sums["sparse"], sums["dense"], strict=True):
        assert torch.allclose(sparse, dense, atol=1e-5)
    assert sums["sparse"][1].abs().sum() > 0


def plain(trunk, obs):
    """The trunk as a network of floating-point numbers, which takes no account of what samples have in common."""
    return trunk(obs.float())


def worlds(rng, B, H, W, C, changes=3):
    """Grids that differ from one another in a few cells, as those of one world do."""
    obs = np.repeat((rng.random((1, H, W, C)) < 0.3).astype(np.uint8), B, 0)
    for grid in obs:
        for y, x, c in zip(*(rng.integers(0, n, changes) for n in (H, W, C)), strict=True):
            grid[y, x, c] ^= 1
    return torch.from_numpy(obs)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("shape", [(12, 14, 4), (5, 7, 4), (4, 4, 1), (6, 5, 3)])
@pytest.mark.parametrize("B", [1, 2, 64])
def test_sums_over_differences_are_the_plain_network_forward_and_backward(network, shape, B):
    torch.manual_seed(2)
    trunk = ActorCritic(spec(network, shape)).trunk
    torch.nn.init.normal_(trunk.bias)
    obs = worlds(np.random.default_rng(B), B, *shape)
    weight = torch.randn(B, 8)
    found = []
    for forward in (trunk, lambda o: plain(trunk, o)):
        trunk.zero_grad()
        out = forward(obs)
        (out * weight).sum().backward()
        found.append([out.detach(), *(p.grad.clone() for p in trunk.parameters())])
    for sums, dense in zip(*found, strict=True):
        assert torch.allclose(sums, dense, atol=1e-5 * max(1.0, float(dense.abs().max())))
    assert all(grad.abs().sum() > 0 for grad in found[0][1:])


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_the_short_way_is_taken_where_grids_are_alike_and_only_there(network, monkeypatch):
    shape = (12, 14, 4)
    trunk = ActorCritic(spec(network, shape)).trunk
    taken = []
    of, name = (trunks, "sum_of_rows") if network == "mlp" else (CnnTrunk, "_from_patches")
    sums = getattr(of, name)
    monkeypatch.setattr(of, name, lambda *args: taken.append(1) or sums(*args))
    rng = np.random.default_rng(0)
    alike = worlds(rng, 64, *shape)
    trunk(alike)
    assert taken.pop()
    others = [
        torch.from_numpy((rng.random((64, *shape)) < 0.5).astype(np.uint8)),  # nothing in common
        alike * 3,  # not 0/1
        alike.float(),
        alike[:1],
    ]
    for obs in others:
        assert torch.isfinite(trunk(obs)).all()
    assert not taken
    same = alike[:1].expand(8, -1, -1, -1)  # nothing differs
    assert torch.allclose(trunk(same), plain(trunk, same), atol=1e-5)


def test_two_patches_that_fall_on_one_hash_are_told_apart():
    trunk = ActorCritic(spec("cnn", (12, 14, 4))).trunk
    obs = worlds(np.random.default_rng(1), 32, 12, 14, 4)
    trunk.mark.zero_()  # every patch on the same hash
    assert torch.allclose(trunk(obs), plain(trunk, obs), atol=1e-5)


def test_egocentric_takes_empty_and_full_grids():
    """Nothing set beside the agent: the output is the bias alone; everything set: the dense product still holds."""
    trunk = ActorCritic(spec("egocentric")).trunk
    torch.nn.init.normal_(trunk.bias)
    obs = torch.zeros(3, 5, 7, 4, dtype=torch.uint8)
    obs[:, 2, 3, 0] = 1
    assert torch.allclose(trunk(obs), trunk.layers(torch.relu(trunk.bias)).expand(3, -1), atol=1e-6)
    obs[..., 1:] = 1
    assert torch.allclose(trunk(obs), dense_window(trunk, obs), atol=1e-5)


@pytest.mark.parametrize(("network", "same"), [("egocentric", True), ("ego-allocentric", False)])
def test_who_sees_the_same_when_agent_and_things_move_together(network, same):
    trunk = ActorCritic(spec(network)).trunk
    obs = torch.zeros(2, 5, 7, 4, dtype=torch.uint8)
    obs[0, 1, 1, 0], obs[0, 2, 3, 2] = 1, 1
    obs[1, 2, 4, 0], obs[1, 3, 6, 2] = 1, 1
    a, b = trunk(obs)
    assert torch.allclose(a, b, atol=1e-6) == same


@pytest.mark.parametrize("network", ["mlp", "cnn", "egocentric", "ego-allocentric"])
@pytest.mark.parametrize("hidden", [(16,), (16, 8, 12)])
def test_every_network_gives_action_inputs_value_and_embedding(network, hidden):
    net = ActorCritic(spec(network, hidden=hidden))
    logits, value, embedding = net(grids(np.random.default_rng(0), 6, 5, 7, 4))
    assert (logits.shape, value.shape, embedding.shape) == ((6, 4), (6,), (6, hidden[-1]))
    assert torch.isfinite(logits).all()
    assert logits.detach().std() < 0.1  # near uniform at the start, or PPO starts from a prejudice


def test_samples_of_a_batch_do_not_touch_each_other():
    obs = grids(np.random.default_rng(3), 9, 5, 7, 4)
    for network in ("mlp", "cnn", "egocentric", "ego-allocentric"):
        net = ActorCritic(spec(network))
        together = net(obs)[0]
        alone = torch.cat([net(one[None])[0] for one in obs])
        assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("network", ["cnn", "egocentric", "ego-allocentric"])
def test_grid_networks_refuse_vectors_in_words(network):
    with pytest.raises(ConfigError, match=rf"got '{network}' for observations of shape \(3,\).*'mlp'"):
        ActorCritic(spec(network, (3,)))


def test_impossible_specs_are_refused_in_words():
    with pytest.raises(ConfigError, match="1 channel, allowed are 2 or more"):
        ActorCritic(spec("egocentric", (5, 7, 1)))
    with pytest.raises(ConfigError, match="2 x 7 cells, allowed are 4 x 4"):
        ActorCritic(spec("cnn", (2, 7, 4)))
    with pytest.raises(UnknownNameError, match=r"'egocentrik'.*did you mean 'egocentric'"):
        spec("egocentrik")
    with pytest.raises(ConfigError, match=r"policy\.hidden: got \(\)"):
        spec(hidden=())


@pytest.mark.parametrize(
    ("obs", "act", "word"),
    [
        (gym.spaces.Discrete(4), gym.spaces.Discrete(2), "observations Discrete"),
        (gym.spaces.Dict({"a": GRID}), gym.spaces.Discrete(2), "observations Dict"),
        (GRID, gym.spaces.MultiDiscrete([2, 3]), "actions MultiDiscrete"),
        (GRID, gym.spaces.Box(-np.inf, np.inf, (2,)), "bounded"),
        (GRID, gym.spaces.Box(-1, 1, (2, 2)), "one-dimensional"),
        (GRID, gym.spaces.Discrete(3, start=1), "starting at 0"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(obs, act, word):
    with pytest.raises(ConfigError, match=word):
        spec_for(PolicyConfig(), obs, act)


def test_spec_survives_its_trip_through_json():
    import json
    from dataclasses import asdict

    one = spec_for(PolicyConfig(), gym.spaces.Box(-8, 8, (3,)), gym.spaces.Box(-2, 2, (1,)))
    assert NetworkSpec.from_json(json.dumps(asdict(one))) == one
    assert one.num_outputs == 2


# ------------------------------------------------------------------------------------------------ choosing


def test_sampled_frequencies_are_the_softmax():
    logits = torch.tensor([2.0, 0.0, -1.0, 0.5])
    n = 40_000
    actions, logp = choose(spec(), logits.expand(n, -1), torch.Generator().manual_seed(0), deterministic=False)
    want = logits.softmax(0)
    got = torch.bincount(actions, minlength=4) / n
    deviation = (want * (1 - want) / n).sqrt()
    assert ((got - want).abs() < 4.5 * deviation).all()
    assert torch.allclose(logp, logits.log_softmax(0)[actions])
    best, _ = choose(spec(), logits[None], torch.Generator(), deterministic=True)
    assert best.tolist() == [0]


def test_box_actions_have_the_normal_log_probability_and_the_asked_spread():
    box = spec(num_outputs=4, action_kind="box", action_low=(-2.0, 0.0), action_high=(2.0, 1.0), shape=(3,))
    inputs = torch.tensor([[0.3, -0.2, -1.0, 0.5]]).expand(20_000, -1)
    action, logp = choose(box, inputs, torch.Generator().manual_seed(0), deterministic=False)
    normal = torch.distributions.Normal(inputs[:, :2], inputs[:, 2:].exp())
    assert torch.allclose(logp, normal.log_prob(action).sum(-1), atol=1e-5)
    assert torch.allclose(action.mean(0), torch.tensor([0.3, -0.2]), atol=0.05)
    assert torch.allclose(action.std(0), torch.tensor([-1.0, 0.5]).exp(), rtol=0.03)
    mean, _ = choose(box, inputs[:1], torch.Generator(), deterministic=True)
    assert torch.allclose(mean, torch.tensor([[0.3, -0.2]]))


def test_box_actions_reach_the_world_within_its_bounds_exactly():
    low, high = (-2.0, 0.1, -1e-3), (2.0, 0.3, 3.3)
    box = spec(num_outputs=6, action_kind="box", action_low=low, action_high=high, shape=(3,))
    space = gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    for action in torch.tensor([[-9.0] * 3, [9.0] * 3, [-1.0] * 3, [1.0] * 3, [0.999999] * 3]):
        assert space.contains(to_world(box, action).numpy())
    assert to_world(box, torch.zeros(3)).tolist() == pytest.approx([0, 0.2, 1.6495])


def test_pendulum_is_stepped_within_bounds():
    env = envs.make_vec("Pendulum-v1", 6)
    one = spec_for(PolicyConfig(hidden=(8,)), env.single_observation_space, env.single_action_space)
    sampler = ColumnSampler(env)
    sampler.reset(1)
    taken = []
    step = env.step
    env.step = lambda action: taken.append(action.copy()) or step(action)
    fragment = sampler.sample(220, PolicyActor(Policy(ActorCritic(one)), False, 0), 0).fragment
    env.close()
    assert fragment.action.shape == (220, 6, 1)
    assert fragment.truncated.sum() == 6  # at 200 steps, each
    assert all(env.action_space.contains(a) for a in taken)
    assert np.abs(fragment.action).max() > 1  # the learner sees what was drawn, not what was clipped
    assert max(np.abs(a).max() for a in taken) == 2.0


# ------------------------------------------------------------------------------------------------ files


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    net = ActorCritic(spec("egocentric"))
    torch.nn.init.normal_(net.actor.weight)
    save_policy(tmp_path, net)
    return tmp_path, net


def test_a_policy_comes_back_as_it_went(saved):
    folder, net = saved
    obs = grids(np.random.default_rng(5), 40, 5, 7, 4).numpy()
    policy = load_policy(folder)
    assert all(torch.equal(a, b) for a, b in zip(policy.network.parameters(), net.parameters(), strict=True))
    with torch.no_grad():
        best = net(torch.from_numpy(obs))[0].argmax(-1)
    assert policy.act(obs, deterministic=True).tolist() == best.tolist()
    assert [int(policy.act(one, deterministic=True)) for one in obs] == best.tolist()
    assert policy.act(obs[0]).shape == ()
    assert policy.act(obs).dtype == np.int64
    assert load_policy(folder / "policy.pt").spec == net.spec


def test_a_seed_gives_the_same_actions_and_another_others(saved):
    obs = np.repeat(grids(np.random.default_rng(5), 1, 5, 7, 4).numpy(), 200, 0)
    first, again, other = (load_policy(saved[0], seed=s).act(obs).tolist() for s in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) > 1  # stochastic unless asked


def test_a_run_folder_gives_its_newest_checkpoint(saved, tmp_path):
    folder, net = saved
    last = tmp_path / "run" / "checkpoints" / "last"
    last.mkdir(parents=True)
    (folder / "policy.pt").rename(last / "policy.pt")
    assert load_policy(tmp_path / "run").spec == net.spec


@pytest.mark.parametrize("shape", [(5, 7, 3), (7, 5, 4), (2, 3, 5, 7, 4), (35, 4), ()])
def test_observations_of_another_shape_are_refused_with_both_shapes(saved, shape):
    with pytest.raises(ShapeError, match=r"expected \(5, 7, 4\)"):
        load_policy(saved[0]).act(np.zeros(shape, np.uint8))


def test_what_is_no_array_is_refused(saved):
    with pytest.raises(ShapeError, match="got a str, expected an array"):
        load_policy(saved[0]).act("x")


def test_a_file_that_is_no_policy_is_one_line(saved, tmp_path):
    folder, _ = saved
    whole = (folder / "policy.pt").read_bytes()
    torch.save({"weights": {}}, folder / "other.pt")
    torch.save([1, 2], folder / "list.pt")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    damaged = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello\nworld", "flipped": bytes(flipped)}
    damaged |= {"other": (folder / "other.pt").read_bytes(), "list": (folder / "list.pt").read_bytes()}
    for name, content in damaged.items():
        path = tmp_path / name / "policy.pt"
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or of another kind") as caught:
            load_policy(path.parent)
        assert "\n" not in str(caught.value), name
        assert len(str(caught.value)) < 400, name
    for path, word in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "holds no policy.pt")):
        (tmp_path / "policy.pt").unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match=word):
            load_policy(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "policy.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        load_policy(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_loading_needs_neither_ray_nor_http_clients_nor_the_world(saved):
    code = f"""
    import sys
    for name in ("ray", "openai", "aiohttp", "matplotlib", "pandas"):
        sys.modules[name] = None  # importing it fails from here on
    import numpy as np
    from rlaif_ray import load_policy
    print(load_policy({str(saved[0])!r}).act(np.zeros((2, 5, 7, 4), np.uint8)).shape)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(2,)", done.stderr
