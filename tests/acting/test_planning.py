"""The planning trunk: values are those of best ways, and gradients lie along them."""

import heapq

import numpy as np
import pytest
import torch

from rlaif_ray import envs, planning
from rlaif_ray.errors import ConfigError
from rlaif_ray.networks import ActorCritic, NetworkSpec
from rlaif_ray.planning import NOWHERE, Ways, best_ways, ways, where_on

HIGH, WIDE = 7, 9  # with the frame


def spec(shape=(12, 14, 4), hidden=(16, 8)):
    return NetworkSpec("planning", hidden, shape, "discrete", 4)


def framed(rng, maps=5):
    """Random gains and losses of grids in a frame; a third of the cells are all but closed."""
    gain, loss = -8.0 * rng.random((maps, HIGH, WIDE)), -0.01 - rng.random((maps, HIGH, WIDE))
    loss[rng.random(loss.shape) < 0.3] = -50.0
    for one in (gain, loss):
        one[:, [0, -1]] = NOWHERE
        one[:, :, [0, -1]] = NOWHERE
    return (torch.from_numpy(one.reshape(maps, -1)) for one in (gain, loss))


def by_dijkstra(gain, loss):
    """Value of the best way from each cell of one map, by a queue: cells are settled best first."""
    value = dict(enumerate(gain.tolist()))
    queue = [(-v, c) for c, v in value.items()]
    heapq.heapify(queue)
    while queue:
        v, cell = heapq.heappop(queue)
        if -v < value[cell]:
            continue
        for beside in (cell - WIDE, cell - 1, cell + 1, cell + WIDE):
            if 0 <= beside < len(gain) and loss[beside] > NOWHERE and loss[beside] - v > value[beside]:
                value[beside] = float(loss[beside]) - v
                heapq.heappush(queue, (-value[beside], beside))
    return [value[c] for c in range(len(gain))]


def by_iteration(gain, loss):
    """(M, P) values by the recursion that defines them, which autograd can follow."""
    value = gain
    for _ in range(HIGH * WIDE):
        grid = value.view(-1, HIGH, WIDE)
        around = torch.full((len(grid), HIGH + 2, WIDE + 2), NOWHERE, dtype=grid.dtype)
        around[:, 1:-1, 1:-1] = grid
        best = torch.stack([around[:, :-2, 1:-1], around[:, 2:, 1:-1], around[:, 1:-1, :-2], around[:, 1:-1, 2:]])
        value = torch.maximum(gain, loss + best.amax(0).flatten(1))
    return value


def inside():
    grid = torch.zeros(HIGH, WIDE, dtype=torch.bool)
    grid[1:-1, 1:-1] = True
    return grid.flatten()


def in_rows(one):
    """(M, P) -> (H, W, M)."""
    return one.T.reshape(HIGH, WIDE, -1)


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_the_best_ways(seed):
    gain, loss = framed(np.random.default_rng(seed))
    value = best_ways(in_rows(gain), in_rows(loss))
    of_each, maps = value.flatten(0, 1).T, len(gain)
    goes = where_on(value, in_rows(gain), in_rows(loss)).long()
    onward = torch.arange(len(goes)) + torch.tensor(ways(WIDE, maps))[goes]
    for m in range(maps):
        assert of_each[m][inside()].numpy() == pytest.approx(np.array(by_dijkstra(gain[m], loss[m]))[inside().numpy()])
        for start in inside().nonzero()[:, 0].tolist():
            cell, lost = start, 0.0
            while (after := int(onward[cell * maps + m]) // maps) != cell:  # every way ends
                lost, cell = lost + float(loss[m, cell]), after
            assert lost + float(gain[m, cell]) == pytest.approx(float(of_each[m, start]))


def test_gradients_are_those_of_the_recursion():
    """Of three maps over five grids of six kinds of cells and a frame."""
    rng = np.random.default_rng(7)
    kind = torch.from_numpy(rng.integers(0, 6, (5, HIGH * WIDE)))
    kind[:, ~inside()] = 6
    tables = [torch.from_numpy(-8.0 * rng.random((7, 3))), torch.from_numpy(-0.01 - 3.0 * rng.random((7, 3)))]
    for table in tables:
        table[6] = NOWHERE
        table.requires_grad_()
    cells = inside().nonzero()[:, 0]
    places = (cells[:, None, None] * 5 + torch.arange(5)[:, None]) * 3 + torch.arange(3)  # cell, grid, map
    weight = torch.randn(places.shape, dtype=torch.float64)
    by_kind = in_rows(kind).contiguous()
    whole = torch.stack(
        [by_iteration(*(table[:, m][kind] for table in tables)) for m in range(3)], -1
    )  # grid, cell, map
    found = []
    for value in (Ways.apply(*tables, by_kind, places.flatten()).view(places.shape), whole[:, cells].transpose(0, 1)):
        tables[0].grad = tables[1].grad = None
        (value * weight).sum().backward(retain_graph=True)
        found.append([value.detach(), *(table.grad[:6].clone() for table in tables)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs)
    assert (found[0][2] != 0).sum() > 9


def homegrids(count, steps=5):
    env, rng = envs.make_vec("rlaif_ray/Homegrid-v0", count, {}), np.random.default_rng(0)
    env.reset(seed=1)
    for _ in range(steps):
        obs = env.step(rng.integers(0, 4, count))[0]
    return torch.from_numpy(np.array(obs))


@pytest.mark.parametrize("rows", [slice(None), slice(3, 4), [5, 5, 0, 31]])
def test_any_rows_of_a_digest_are_what_the_observations_are_forward_and_backward(rows):
    torch.manual_seed(1)
    net, obs = ActorCritic(spec()), homegrids(32)
    columns = net.digest(obs)
    found = []
    for embedding in (net.embed({key: one[rows] for key, one in columns.items()}), net.trunk(obs[rows])):
        net.zero_grad()
        (embedding * torch.linspace(-1, 1, embedding.numel()).view_as(embedding)).sum().backward()
        found.append([embedding.detach(), *(p.grad.clone() for p in net.trunk.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert all(grad.abs().sum() > 0 for grad in found[0][1:])


def test_grids_that_fall_on_one_hash_are_told_apart():
    net, obs = ActorCritic(spec()), homegrids(16)
    expected = net.trunk(obs)
    net.trunk.mark.zero_()
    assert torch.allclose(net.trunk(obs), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [3, planning.FEW_CHANNELS + 4])
def test_samples_do_not_touch_each_other_and_corners_are_cells_like_others(channels):
    net = ActorCritic(spec((5, 7, channels)))
    obs = (torch.rand(35, 5, 7, channels) < 0.3).to(torch.uint8)
    obs[..., 0] = torch.eye(35).view(35, 5, 7).to(torch.uint8)  # an agent on every cell
    together = net(obs)[0]
    assert torch.allclose(together, torch.cat([net(one[None])[0] for one in obs]), atol=1e-5)
    assert torch.isfinite(together).all()
    assert together.detach().std() < 0.1  # near uniform at the start


class ByHand(torch.nn.Module):
    """Goals draw, things are dear, floor is cheap, the rest is all but closed."""

    dear = 3.0

    def forward(self, bits):  # goal, thing, floor, frame
        gain = torch.where(bits[:, 0] > 0, -10.0, 10.0)
        loss = torch.where(bits[:, 1] > 0, self.dear, torch.where(bits[:, 2] > 0, 0.0, 20.0))
        return torch.cat([one[:, None].expand(-1, planning.MAPS) for one in (gain, loss)], 1)


def test_a_way_is_found_round_what_costs_much():
    trunk = ActorCritic(spec((5, 7, 4))).trunk
    trunk.cell, trunk.layers = ByHand(), torch.nn.Identity()
    trunk.stood.fill_(True)
    obs = torch.zeros(1, 5, 7, 4, dtype=torch.uint8)
    obs[..., 3] = 1
    obs[0, 2, 2, 0] = obs[0, 2, 5, 1] = 1  # agent, goal
    own, north, south, east, west = trunk(obs)[0, :5].tolist()
    assert east == 0.0
    assert max(own, north, south, west) < 0.0
    obs[0, 1:4, 3, 2] = 1  # a row of things, with gaps above and below
    own, north, south, east, west = trunk(obs)[0, :5].tolist()
    assert north == south == 0.0
    assert max(own, east, west) < 0.0


def walled(agent):
    """A grid with a wall from north to south but for the southernmost row, a thing in the wall, the goal behind it."""
    obs = torch.zeros(1, 5, 7, 4, dtype=torch.uint8)
    obs[..., 3] = 1
    obs[0, :4, 3, 3] = 0
    obs[0, 1, 3, 2:] = 1
    obs[0, 1, 5, 1] = 1
    obs[(0, *agent, 0)] = 1
    return obs


def onward(trunk, agent):
    """Which of north, south, east and west leads on from (y, x), by every map."""
    with torch.no_grad():
        beside = trunk(walled(agent))[0, : 5 * planning.MAPS].view(planning.MAPS, 5)[:, 1:]
    return {"nsew"[i] for i in beside.argmax(1).tolist()}


def test_no_way_leads_through_what_nobody_was_ever_seen_on():
    trunk = ActorCritic(spec((5, 7, 4))).trunk
    trunk.cell, trunk.layers = ByHand(), torch.nn.Identity()
    assert trunk.digest(walled((2, 1))) is not None  # somebody on the floor
    assert onward(trunk, (2, 2)) == {"s"}, "round by the south, though the thing is nearer"
    with torch.no_grad():
        trunk(walled((1, 3)))
    assert onward(trunk, (2, 2)) == {"s"}, "who acts changes nothing"
    trunk(walled((1, 3)))  # as it is learned from: somebody on the thing
    trunk.cell.dear = -3.0
    assert onward(trunk, (2, 2)) == {"n"}
    trunk.cell.dear = 3.0
    assert onward(trunk, (2, 2)) == {"s"}, "and then by what it costs"
    trunk.eval()
    trunk(walled((0, 3)))
    assert onward(trunk, (0, 2)) == {"s"}, "evaluation changes nothing"


def test_what_was_stood_on_travels_with_the_weights():
    one, other = ActorCritic(spec()), ActorCritic(spec())
    one.digest(homegrids(32))
    other.load_state_dict(one.state_dict())
    assert other.trunk.stood.tolist() == one.trunk.stood.tolist()
    assert 0 < int(one.trunk.stood.sum()) < len(one.trunk.stood)


def test_more_kinds_of_cells_than_slots_share_them():
    trunk = ActorCritic(spec((5, 7, 30))).trunk
    assert len(trunk.stood) == planning.SLOTS
    obs = torch.zeros(1, 5, 7, 30, dtype=torch.uint8)
    obs[0, 2, 2, [0, 29]] = 1
    trunk.digest(obs)
    assert torch.isfinite(trunk(obs)).all()


def test_costs_are_told_in_logarithms_and_their_gradient_never_ends():
    told = torch.tensor([-3.0, 0.0, 2.0, planning.DEAR, planning.DEAR + 50.0], requires_grad=True)
    costs = planning.cost(told)
    assert costs[:4].tolist() == pytest.approx(np.exp(told[:4].tolist()))
    assert costs[4].item() == pytest.approx(np.exp(planning.DEAR) * 51)
    costs.sum().backward()
    assert (told.grad > 0).all()
    assert told.grad[4].item() == pytest.approx(np.exp(planning.DEAR))


@pytest.mark.parametrize("floor", [True, False])
@pytest.mark.parametrize("goal", [1, 2])
def test_before_it_has_learned_anything_a_way_leads_to_whatever_is_shown(goal, floor):
    """Of what no way leads to nothing is learned: that mustn't be a matter of the seed."""
    obs = torch.zeros(1, 12, 14, 4, dtype=torch.uint8)
    obs[..., 3] = floor
    obs[0, 5, 3, 0] = obs[0, 5, 11, goal] = 1  # eight cells to the east
    for seed in range(100):
        torch.manual_seed(seed)
        trunk = ActorCritic(spec()).trunk
        trunk.layers = torch.nn.Identity()
        beside = trunk(obs)[0, : 5 * planning.MAPS].detach().view(planning.MAPS, 5)
        assert float((beside[:, 3] - beside[:, 4]).amax()) > 0.1, seed


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((3,), "'planning' for observations of shape"),
        ((5, 7, 1), "grid of 1 channels"),
        ((5, 7, 31), "allowed are 2 to 30"),
    ],
)
def test_what_it_can_not_plan_on_is_refused_in_words(shape, why):
    with pytest.raises(ConfigError, match=why):
        ActorCritic(spec(shape))
