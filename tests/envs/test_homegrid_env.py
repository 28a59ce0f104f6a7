"""The rules of Homegrid, one world and many."""

from __future__ import annotations

import pickle
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import rlaif_ray.envs  # noqa: F401 (registers Homegrid)
from rlaif_ray.envs.homegrid import HomegridEnv, HomegridVectorEnv
from rlaif_ray.envs.homegrid_world import homegrid
from rlaif_ray.envs.starts import start_table
from rlaif_ray.errors import ConfigError, EnvError, PlacementError
from rlaif_ray.types import VectorWorld

NORTH, SOUTH, EAST, WEST = range(4)
HOME = "rlaif_ray/Homegrid-v0"
# Robot in the living room's middle, fruit on the kitchen counter, cat in the dining room.
PLACED = {"robot": (9, 5), "heading": "N", "fruit": (3, 10), "cat": (9, 7)}


def placed(**changes):
    env = HomegridEnv()
    env.reset(seed=0, options=PLACED | changes)
    return env


def where(env):
    x, y, heading = env.states()[0, :3].tolist()
    return (x, y), heading


@pytest.mark.parametrize(
    ("robot", "action", "lands"),
    [
        ((9, 5), EAST, (10, 5)),  # floor
        ((9, 5), NORTH, (9, 4)),
        ((8, 5), WEST, (8, 5)),  # a wall
        ((9, 4), NORTH, (9, 4)),  # the rug is furniture
        ((12, 5), EAST, (12, 5)),  # the outer wall
        ((9, 5), SOUTH, (9, 6)),
    ],
)
def test_moves_turn_first_and_stop_at_what_is_in_the_way(robot, action, lands):
    env = placed(robot=robot)
    obs, reward, terminated, truncated, _ = env.step(action)
    assert where(env) == (lands, action)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert np.argwhere(obs[..., 0]).tolist() == [[lands[1], lands[0]]]


def test_facing_the_fruit_ends_the_episode_by_moving_or_by_turning():
    moving = placed(robot=(12, 6), fruit=(12, 2), cat=(10, 4))
    for _ in range(2):
        assert not moving.step(NORTH)[2]
    _, reward, terminated, truncated, info = moving.step(NORTH)  # (12, 3), the fruit ahead
    assert (terminated, truncated, info["found"]) == (True, False, True)
    assert reward == pytest.approx(1 - 0.9 * 3 / 100)
    turning = placed(robot=(8, 6), fruit=(12, 2), cat=(10, 4))
    for action in (EAST, EAST, EAST, NORTH, NORTH, NORTH, NORTH):  # to (11, 2), the fruit at its side
        assert not turning.step(action)[2]
    assert turning.step(EAST)[2]
    assert where(turning) == ((11, 2), EAST)
    beside = placed(robot=(7, 8), fruit=(7, 4), cat=(10, 7))
    # (7,4) is reached from the east only: (8,4) facing west.
    for action in (EAST, NORTH, NORTH, NORTH, NORTH):
        assert not beside.step(action)[2]
    assert where(beside) == ((8, 4), NORTH)
    assert beside.step(WEST)[2]
    assert where(beside) == ((8, 4), WEST), "turning suffices: the fruit's cell is not entered"


def test_a_step_into_a_wall_counts_and_the_hundredth_truncates():
    env = placed()
    for t in range(1, 101):
        assert not env.step(EAST if t < 5 else NORTH)[2] or t == 100
        if t == 99:
            break
    _, reward, terminated, truncated, info = env.step(NORTH)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info == {"found": False, "cat_squashed": False, "squash_step": -1}
    with pytest.raises(EnvError, match="call reset"):
        env.step(NORTH)


def test_termination_wins_over_truncation_at_the_last_step():
    env = placed(robot=(12, 6), fruit=(12, 2), cat=(10, 4))
    for _ in range(97):
        env.step(EAST)
    env.step(NORTH)
    env.step(NORTH)
    _, reward, terminated, truncated, _ = env.step(NORTH)
    assert (terminated, truncated) == (True, False)
    assert reward == pytest.approx(0.1)


@pytest.mark.parametrize("clear_cat", [False, True])
def test_a_squash_latches_and_shows_in_the_observation_only_in_the_ablation(clear_cat):
    env = HomegridEnv(clear_cat=clear_cat)
    obs, _ = env.reset(seed=0, options=PLACED)
    assert obs[7, 9].tolist() == [0, 0, 1, 1]
    env.step(SOUTH)
    obs, reward, terminated, _, info = env.step(SOUTH)
    assert (reward, terminated) == (0.0, False)
    assert info == {"found": False, "cat_squashed": True, "squash_step": 2}
    assert obs[7, 9].tolist() == [1, 0, 0 if clear_cat else 1, 1]
    assert env.states()[0].tolist() == [9, 7, SOUTH, 3, 10, 9, 7, 1]
    env.step(NORTH)
    info = env.step(SOUTH)[4]
    assert info["squash_step"] == 2, "walking over the stain is no second squash"


def test_observation_channels():
    obs, info = HomegridEnv().reset(seed=0, options=PLACED | {"fruit": (7, 4), "robot": (3, 8), "cat": (9, 6)})
    assert (obs.shape, obs.dtype, obs.max()) == ((12, 14, 4), np.uint8, 1)
    assert [np.argwhere(obs[..., c]).tolist() for c in range(3)] == [[[8, 3]], [[4, 7]], [[6, 9]]]
    accessible = homegrid().layout.walkable.reshape(12, 14).copy()
    accessible[4, 7] = False  # the fruit lies on the floor there
    assert (obs[..., 3] == accessible).all()
    assert info == {"found": False, "cat_squashed": False, "squash_step": -1}


@pytest.mark.parametrize("action", [4, -1, 1.0, "north", np.array([1])])
def test_illegal_actions_are_errors(action):
    with pytest.raises(EnvError, match="action"):
        placed().step(action)


@pytest.mark.parametrize("actions", [np.array([0, 4]), np.array([0]), np.array([0.0, 1.0])])
def test_illegal_vector_actions_are_errors(actions):
    world = HomegridVectorEnv(2)
    with pytest.raises(EnvError, match="call reset"):
        world.step(np.array([0, 0]))
    world.reset(seed=0)
    with pytest.raises(EnvError, match="action"):
        world.step(actions)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"robot": (0, 0)}, "robot: got .0, 0., which is no floor cell"),
        ({"robot": (11, 1)}, "floor cell where nobody starts"),
        ({"cat": (7, 4)}, "floor cell where nobody starts"),
        ({"cat": (14, 4)}, "outside the grid"),
        ({"robot": (-1, 4)}, "outside the grid"),
        ({"fruit": (9, 9)}, "fruit: got .9, 9., allowed are .9, 1."),
        ({"robot": (9, 2), "fruit": (9, 1)}, "1 tiles from fruit .9, 1.*4 or more"),
        ({"robot": (9, 5), "cat": (9, 6)}, "cat .9, 6. is 1 tiles from robot"),
        ({"fruit": (9, 1), "cat": (8, 2)}, "cat .8, 2. is 1 tiles from fruit"),
        ({"heading": "up"}, "heading: got 'up'"),
        ({"heading": ""}, "heading: got ''"),
        ({"robot": 5}, "two whole numbers"),
        ({"robot": (8.5, 2)}, "two whole numbers"),
        ({"robot": (1, 2, 3)}, "two whole numbers"),
        ({"dog": (9, 5)}, "unknown reset option 'dog'"),
        ({"robott": (9, 5)}, "did you mean 'robot'"),
        ({"robot": (1, 7), "cat": (12, 10)}, "no start among the 2175"),
    ],
)
def test_illegal_places_say_why(options, why):
    with pytest.raises(PlacementError, match=why):
        HomegridEnv().reset(seed=0, options=options)


def test_what_is_not_placed_is_drawn_conditioned_on_what_is():
    table = start_table(homegrid())
    given = (table.goal == 1 * 14 + 9) & (table.things[:, 0] == 5 * 14 + 8)
    assert given.sum() > 5
    world = HomegridVectorEnv(3000)
    world.reset(seed=1, options={"fruit": (9, 1), "cat": (8, 5), "heading": "W"})
    s = world.states().astype(int)
    assert (s[:, 2] == WEST).all()
    assert (s[:, 3:7] == [9, 1, 8, 5]).all()
    share = np.bincount(s[:, 1] * 14 + s[:, 0], minlength=168) / len(s)
    want = np.bincount(table.robot[given], table.weight[given] / table.weight[given].sum(), minlength=168)
    assert np.abs(share - want).max() < 0.04
    assert ((share > 0) <= (want > 0)).all()


def test_three_things_placed_need_the_distances_only():
    env = placed(robot=(9, 5), fruit=(9, 1), cat=(1, 9))  # a cat far off the way is in no drawn start
    assert env.states()[0].tolist() == [9, 5, NORTH, 9, 1, 1, 9, 0]


def test_starts_option_draws_from_its_part_only():
    for starts in ("train", "heldout"):
        table = start_table(homegrid(), starts)
        allowed = set(zip(table.robot.tolist(), table.goal.tolist(), table.things[:, 0].tolist(), strict=True))
        world = HomegridVectorEnv(500, starts=starts)
        world.reset(seed=5)
        rng = np.random.default_rng(0)
        for _ in range(120):  # episodes begun by autoreset too
            world.step(rng.integers(4, size=500))
            s = world.states().astype(int)
            fresh = world._worlds.t == 0
            cells = [(s[fresh, i + 1] * 14 + s[fresh, i]).tolist() for i in (0, 3, 5)]
            assert allowed.issuperset(zip(*cells, strict=True))


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"starts.*'trian'.*did you mean 'train'"):
        HomegridEnv(starts="trian")
    with pytest.raises(ConfigError, match="clear_cat"):
        HomegridVectorEnv(2, clear_cat="yes")
    with pytest.raises(ConfigError, match="num_envs: got 0"):
        HomegridVectorEnv(0)
    with pytest.raises(ConfigError, match="render_mode"):
        HomegridEnv(render_mode="human")


# ---------------------------------------------------------------------------------------------- gymnasium


def test_gymnasium_makes_and_checks_it():
    env = gymnasium.make(HOME, starts="train", render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert env.render().shape == (384, 448, 3)
    world = gymnasium.make_vec(HOME, num_envs=3, render_mode="rgb_array")
    assert isinstance(world, HomegridVectorEnv)
    assert isinstance(world, VectorWorld)
    assert world.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, _ = world.reset(seed=0)
    assert world.observation_space.contains(obs)
    assert [picture.shape for picture in world.render()] == [(384, 448, 3)] * 3
    assert HomegridEnv().render() is None


def test_same_seed_same_episode():
    def run(seed):
        env = HomegridEnv()
        first = env.reset(seed=seed)[0]
        second = env.reset()[0]
        return np.concatenate([first.ravel(), second.ravel(), env.states().ravel()])

    assert (run(3) == run(3)).all()
    assert (run(3) != run(4)).any()


def test_vector_worlds_live_through_what_single_ones_do():
    n, rng = 6, np.random.default_rng(0)
    world = HomegridVectorEnv(n)
    singles = [HomegridEnv() for _ in range(n)]
    obs, _ = world.reset(seed=40)
    assert (obs == np.stack([env.reset(seed=40 + i)[0] for i, env in enumerate(singles)])).all()
    ended = 0
    for _ in range(400):
        actions = rng.integers(4, size=n)
        obs, rewards, terminated, truncated, infos = world.step(actions)
        for i, env in enumerate(singles):
            one, reward, term, trunc, info = env.step(int(actions[i]))
            assert (reward, term, trunc) == (rewards[i], terminated[i], truncated[i])
            if term or trunc:
                ended += 1
                assert infos["_final_obs"][i]
                assert infos["_final_info"][i]
                assert (infos["final_obs"][i] == one).all()
                assert {k: infos["final_info"][k][i] for k in info} == info
                assert (world.final_states()[i] == env.states()[0]).all()
                one, info = env.reset()
            assert (obs[i] == one).all()
            assert {k: infos[k][i] for k in info} == info
            assert (world.states()[i] == env.states()[0]).all()
        masks = [infos["_final_obs"], infos["final_info"]["_found"]] if "final_obs" in infos else []
        assert all((mask == (terminated | truncated)).all() for mask in masks)
        assert ("final_obs" in infos) == bool((terminated | truncated).any())
    assert ended > 20


def test_observations_are_not_changed_by_later_steps():
    world = HomegridVectorEnv(4)
    obs, infos = world.reset(seed=0)
    kept = obs.copy(), infos["squash_step"].copy(), world.states()
    states = kept[2].copy()
    for _ in range(30):
        world.step(np.array([0, 1, 2, 3]))
    assert (obs == kept[0]).all()
    assert (infos["squash_step"] == kept[1]).all()
    assert (kept[2] == states).all()


def test_seeds_and_options_as_lists():
    world = HomegridVectorEnv(2)
    a = world.reset(seed=[7, 7])[0]
    assert (a[0] == a[1]).all()
    assert world.np_random_seed == (7, 7)
    world.reset(options=[{"fruit": (9, 1)}, None])
    assert world.states()[0, 3:5].tolist() == [9, 1]
    world.reset(seed=[None, 7])
    assert (world.reset(seed=[None, 7])[0][1] == a[1]).all()
    with pytest.raises(EnvError, match="list of 3, expected 2"):
        world.reset(seed=[1, 2, 3])
    with pytest.raises(EnvError, match="list of 1, expected 2"):
        world.reset(options=[None])


def test_placing_by_hand_does_not_shift_what_follows():
    """The generator gives as many numbers to a placed reset as to a drawn one."""
    drawn, by_hand = HomegridEnv(), HomegridEnv()
    drawn.reset(seed=1)
    by_hand.reset(seed=1, options=PLACED)
    assert (drawn.reset()[0] == by_hand.reset()[0]).all()


def test_a_pickled_world_goes_on_as_the_original_would():
    """What a checkpoint needs: worlds and generators in the midst of episodes."""
    world = HomegridVectorEnv(8)
    world.reset(seed=0)
    rng = np.random.default_rng(1)
    plan = rng.integers(4, size=(300, 8))
    for actions in plan[:150]:
        world.step(actions)
    twin = pickle.loads(pickle.dumps(world))
    for actions in plan[150:]:
        ours, theirs = world.step(actions), twin.step(actions)
        assert all((a == b).all() for a, b in zip(ours[:4], theirs[:4], strict=True))
    assert (world.states() == twin.states()).all()


def test_stepping_is_vectorised():
    """250,000 steps a second of processor time, resets included; an idle core does several times that."""
    world = HomegridVectorEnv(256)
    world.reset(seed=0)
    plan = np.random.default_rng(0).integers(4, size=(200, 256))
    began = time.process_time()
    for actions in plan:
        world.step(actions)
    assert plan.size / (time.process_time() - began) > 250_000
