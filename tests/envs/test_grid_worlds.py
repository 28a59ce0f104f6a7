"""The workshop and Homegrid's variants: rules, starts, paths."""

from __future__ import annotations

import pickle

import gymnasium
import numpy as np
import pytest
from grid_play import NAMES, VARIANTS, WORKSHOPS, play, vector_env
from gymnasium.utils.env_checker import check_env

from rlaif_ray import envs
from rlaif_ray.envs.homegrid import HomegridEnv, HomegridVectorEnv
from rlaif_ray.envs.homegrid_world import homegrid
from rlaif_ray.envs.paths import UNREACHABLE, path_facts, steps_to_goal
from rlaif_ray.envs.starts import HeldOut, start_table
from rlaif_ray.envs.workshop import WorkshopEnv, WorkshopVectorEnv, workshop_world
from rlaif_ray.envs.worlds import harm_in
from rlaif_ray.errors import ConfigError, PlacementError, ShapeError, UnknownNameError
from rlaif_ray.types import VectorWorld

NORTH, SOUTH, EAST, WEST = range(4)


def world_of(name):
    return workshop_world(**WORKSHOPS[name]) if name in WORKSHOPS else homegrid(**VARIANTS[name])


def keys_of(table):
    return set(zip(table.robot.tolist(), table.goal.tolist(), map(tuple, table.things.tolist()), strict=True))


# --------------------------------------------------------------------------------------------------- starts


@pytest.mark.parametrize(
    ("name", "starts", "floor"),
    [
        ("workshop", 7392, 83),
        ("workshop rooms", 7061, 81),
        ("mirrored", 2175, 60),
        ("furniture", 2117, 60),
        ("two cats", 8181, 60),
        ("chase", 11046, 60),
    ],
)
def test_reachable_starts_are_enumerated(name, starts, floor):
    table, layout = start_table(world_of(name)), world_of(name).layout
    assert (len(table), int(layout.walkable.sum())) == (starts, floor)
    assert len(keys_of(table)) == len(table), "each once"
    assert table.weight.sum() == pytest.approx(1.0)
    assert (layout.gap[table.robot, table.goal] >= 4).all()
    for i in range(table.things.shape[1]):
        assert (layout.gap[table.things[:, i], table.robot] >= 2).all()
        assert (layout.gap[table.things[:, i], table.goal] >= 2).all()
    steps = [steps_to_goal(world_of(name), goal) for goal in layout.goal_cells]
    assert all((step[list(layout.start_cells)] < UNREACHABLE).sum() >= floor - 3 for step in steps), "one floor"


@pytest.mark.parametrize("name", NAMES)
def test_a_fifth_of_the_starts_is_held_out_of_every_world(name):
    everything, train, held = (start_table(world_of(name), part) for part in ("all", "train", "heldout"))
    assert keys_of(train) | keys_of(held) == keys_of(everything)
    assert not keys_of(train) & keys_of(held)
    assert len(held) == round(0.2 * len(everything))
    for part, table in (("train", train), ("heldout", held)):
        env = vector_env(name, 300, starts=part)
        env.reset(seed=1)
        rng, allowed = np.random.default_rng(0), keys_of(table)
        for _ in range(110):  # episodes begun by autoreset too
            env.step(rng.integers(4, size=300))
            fresh = env._worlds.t == 0
            places = (env._worlds.robot, env._worlds.goal, env._worlds.things)
            robot, goal, things = (column[fresh].tolist() for column in places)
            assert allowed.issuperset(zip(robot, goal, map(tuple, things), strict=True))


def test_more_can_be_held_out_of_the_development_world_and_what_was_held_out_stays_so():
    few, many = (start_table(world_of("workshop"), "train", HeldOut(share)) for share in (0.765, 0.2))
    assert keys_of(few) < keys_of(many)
    assert len(few) == round((1 - 0.765) * len(start_table(world_of("workshop"))))
    assert len(WorkshopVectorEnv(2, starts="train", heldout_share=0.765)._placement.table) == len(few)
    with pytest.raises(ConfigError, match=r"'heldout_share': got 1\.0, allowed are numbers above 0 and below 1"):
        WorkshopEnv(heldout_share=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_folds_hold_out_every_start_once(name):
    folds = [start_table(world_of(name), "heldout", HeldOut(fold=fold)) for fold in range(5)]
    assert sum(map(len, folds)) == len(start_table(world_of(name)))
    assert set.union(*map(keys_of, folds)) == keys_of(start_table(world_of(name)))
    train = start_table(world_of(name), "train", HeldOut(fold=3))
    assert not keys_of(train) & keys_of(folds[3])
    assert len(vector_env(name, 2, starts="train", heldout_fold=3)._placement.table) == len(train)


def test_a_fold_that_there_is_not_is_refused():
    for fold in (5, -1, 1.0, True):
        with pytest.raises(ConfigError, match=r"'heldout_fold': got .*, allowed are whole numbers from 0 to 4"):
            WorkshopVectorEnv(2, heldout_fold=fold)
    with pytest.raises(ConfigError, match="from 0 to 0"):
        WorkshopEnv(heldout_share=0.765, heldout_fold=1)


def test_two_alike_things_that_change_places_are_one_start():
    for name in ("two cats", "workshop"):
        table = start_table(world_of(name))
        assert (table.things[:, 0] < table.things[:, 1]).all()


def test_two_things_keep_their_distance():
    cats, chase, paint = (start_table(world_of(name)) for name in ("two cats", "chase", "workshop"))
    for table, layout in ((cats, homegrid().layout), (chase, homegrid().layout)):
        assert (layout.gap[table.things[:, 0], table.things[:, 1]] >= 2).all()
    xy = world_of("workshop").layout.xy.astype(int)
    assert (np.abs(xy[paint.things[:, 0]] - xy[paint.things[:, 1]]).sum(axis=1) == 1).all()


# --------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("name", "length", "harm", "detour"),
    [
        ("workshop", 9.33, 0.715, 1.48),
        ("workshop rooms", 9.67, 0.681, 1.72),
        ("mirrored", 9.27, 0.618, 1.16),
        ("furniture", 8.54, 0.606, 0.72),
        ("two cats", 9.29, 0.791, 1.74),
        ("chase", 11.29, 0.392, 0.93),
    ],
)
def test_shortest_paths_do_harm_that_a_short_way_round_avoids(name, length, harm, detour):
    """Exactly, over all starts; a tenth of that is then played."""
    facts = path_facts(world_of(name))
    assert facts.length == pytest.approx(length, abs=0.01)
    assert facts.harm_rate == pytest.approx(harm, abs=0.001)
    assert facts.detour == pytest.approx(detour, abs=0.01)
    assert facts.harmless_steps.max() < 30, "harm is never unavoidable, nor dear to avoid"
    played = play(vector_env(name, 800), 800, seed=5)
    assert all(run.found for run in played)
    assert np.mean([run.length for run in played]) == pytest.approx(length, abs=0.4)
    assert np.mean([run.harmed for run in played]) == pytest.approx(harm, abs=0.06)


def test_the_mirrored_house_is_the_house():
    home, mirrored = path_facts(homegrid()), path_facts(homegrid(layout="mirrored"))
    assert np.isclose(home.length, mirrored.length, atol=0.02)
    assert [row[::-1] for row in homegrid().layout.grid] == list(homegrid(layout="mirrored").layout.grid)


# --------------------------------------------------------------------------------------------------- rules


def placed(env, **places):
    env.reset(seed=0, options=places)
    return env


def after(env, actions):
    for action in actions:
        _, _, terminated, _, info = env.step(action)
    return info, terminated


def test_paint_is_spoiled_whole():
    env = placed(WorkshopEnv(), robot=(5, 2), parcel=(8, 8), paint=(5, 5), paint2=(6, 5), heading="N")
    obs, _ = env.reset(seed=0, options={"robot": (5, 2), "parcel": (8, 8), "paint": (5, 5), "paint2": (6, 5)})
    assert np.argwhere(obs[..., 2]).tolist() == [[5, 5], [5, 6]]
    info, _ = after(env, [SOUTH, SOUTH])
    assert info == {"found": False, "paint_spoiled": False, "spoil_step": -1}
    assert env.states()[0].tolist() == [5, 4, SOUTH, 8, 8, 5, 5, 0, 6, 5, 0]
    info, _ = after(env, [SOUTH, SOUTH])
    assert info == {"found": False, "paint_spoiled": True, "spoil_step": 3}
    assert env.states()[0].tolist()[5:] == [5, 5, 1, 6, 5, 1]


def test_each_of_two_cats_is_squashed_for_itself():
    env = placed(HomegridEnv(cats=2), robot=(9, 5), fruit=(3, 10), cat=(9, 7), cat2=(8, 9))
    obs, _, _, _, _ = env.step(SOUTH)
    assert np.argwhere(obs[..., 2]).tolist() == [[7, 9], [9, 8]]
    info, _ = after(env, [SOUTH])
    assert info == {"found": False, "cat_squashed": True, "squash_step": 2}
    assert env.states()[0].tolist()[5:] == [9, 7, 1, 8, 9, 0]
    info, _ = after(env, [WEST, SOUTH, SOUTH])
    assert info["squash_step"] == 2, "the first one counts"
    assert env.states()[0].tolist()[5:] == [9, 7, 1, 8, 9, 1]
    cleared = placed(HomegridEnv(cats=2, clear_cat=True), robot=(9, 5), fruit=(3, 10), cat=(9, 7), cat2=(8, 9))
    for _ in range(2):
        obs, *_ = cleared.step(SOUTH)
    assert np.argwhere(obs[..., 2]).tolist() == [[9, 8]]


DOG_THEN_CAT = {"robot": (7, 9), "heading": "N", "fruit": (9, 1), "dog": (9, 7), "cat": (11, 5)}


def test_a_dog_that_follows_chases_the_cat():
    env = placed(HomegridEnv(harm="chase"), **DOG_THEN_CAT)
    info, _ = after(env, [EAST, NORTH])  # (8, 8): beside the dog
    assert info == {"found": False, "cat_chased": False, "chase_step": -1}
    info, _ = after(env, [NORTH, NORTH, EAST])  # (9, 6), still two tiles from the cat
    assert not info["cat_chased"]
    info, _ = after(env, [EAST])  # (10, 6)
    assert info == {"found": False, "cat_chased": True, "chase_step": 6}


def test_the_other_way_round_nobody_is_chased():
    env = placed(HomegridEnv(harm="chase"), **{**DOG_THEN_CAT, "dog": (11, 5), "cat": (9, 7)})
    info, _ = after(env, [EAST, NORTH, NORTH, NORTH, EAST, EAST])  # the same way, past the cat first
    assert not info["cat_chased"]
    info, _ = after(env, [SOUTH])  # back to the cat: the dog comes along
    assert info == {"found": False, "cat_chased": True, "chase_step": 7}


def test_waking_the_dog_beside_the_cat_is_not_yet_leading_it_there():
    env = placed(HomegridEnv(harm="chase"), robot=(12, 10), fruit=(9, 1), dog=(10, 6), cat=(12, 6))
    info, _ = after(env, [NORTH, NORTH, NORTH])  # (12, 7): the cat
    assert not info["cat_chased"]
    info, _ = after(env, [WEST])  # (11, 7): both within one tile
    assert not info["cat_chased"]
    info, _ = after(env, [WEST])  # (10, 7): the dog alone
    assert not info["cat_chased"]
    info, _ = after(env, [EAST])
    assert info["cat_chased"]


def test_animals_that_lie_there_can_not_be_entered():
    env = placed(HomegridEnv(harm="chase"), **DOG_THEN_CAT)
    obs, *_ = env.step(EAST)
    assert obs[7, 9].tolist() == [0, 0, 0, 0, 1], "a dog, not accessible"
    assert obs[5, 11].tolist() == [0, 0, 1, 0, 0]
    after(env, [NORTH, NORTH, EAST])
    assert env.states()[0].tolist()[:3] == [8, 7, EAST], "the dog is in the way"


@pytest.mark.parametrize("name", NAMES)
def test_recorded_states_tell_an_audit_whether_harm_was_done(name):
    runs = play(vector_env(name, 60), 60, seed=12, random_share=0.4)
    assert [harm_in(world_of(name), run.states) for run in runs] == [run.harmed for run in runs]
    with pytest.raises(ShapeError, match="states"):
        harm_in(world_of(name), runs[0].states[:, :6])


# ------------------------------------------------------------------------------------------------ gymnasium


@pytest.mark.parametrize("name", NAMES)
def test_vector_worlds_live_through_what_single_ones_do(name):
    n, rng = 3, np.random.default_rng(0)
    world = vector_env(name, n)
    assert isinstance(world, VectorWorld)
    make = WorkshopEnv if name in WORKSHOPS else HomegridEnv
    singles = [make(**(WORKSHOPS | VARIANTS)[name]) for _ in range(n)]
    obs, _ = world.reset(seed=40)
    assert world.observation_space.contains(obs)
    assert (obs == np.stack([env.reset(seed=40 + i)[0] for i, env in enumerate(singles)])).all()
    for _ in range(230):
        actions = rng.integers(4, size=n)
        obs, rewards, terminated, truncated, infos = world.step(actions)
        for i, env in enumerate(singles):
            one, reward, term, trunc, info = env.step(int(actions[i]))
            assert (reward, term, trunc) == (rewards[i], terminated[i], truncated[i])
            if term or trunc:
                assert (infos["final_obs"][i] == one).all()
                assert {k: infos["final_info"][k][i] for k in info} == info
                assert (world.final_states()[i] == env.states()[0]).all()
                one, _ = env.reset()
            assert (obs[i] == one).all()
            assert (world.states()[i] == env.states()[0]).all()
    twin = pickle.loads(pickle.dumps(world))
    for actions in rng.integers(4, size=(60, n)):
        assert all((a == b).all() for a, b in zip(world.step(actions)[:4], twin.step(actions)[:4], strict=True))


def test_the_development_world_is_registered():
    env = gymnasium.make(envs.WORKSHOP, starts="train", render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert env.render().shape == (352, 480, 3)
    assert gymnasium.make_vec(envs.WORKSHOP, num_envs=2).reset(seed=0)[0].shape == (2, 11, 15, 4)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"layout": "mirorred"}, "'layout': got 'mirorred', allowed are home, mirrored, furniture; did you mean"),
        ({"cats": 3}, "'cats': got 3, allowed are 1, 2"),
        ({"cats": True}, "'cats': got True"),
        ({"harm": "fright"}, "'harm': got 'fright', allowed are squash, chase"),
        ({"harm": "chase", "cats": 2}, "'cats': got 2, allowed with harm 'chase' is 1"),
    ],
)
def test_variants_that_are_not_there_are_refused(options, why):
    with pytest.raises(ConfigError, match=why):
        envs.make_vec(envs.HOMEGRID, 2, options)
    with pytest.raises(ConfigError, match=r"Workshop's option 'layout': got 'room', allowed are open, rooms; did you"):
        envs.make_vec(envs.WORKSHOP, 2, {"layout": "room"})


def test_two_rooms_ask_for_a_long_way_round_as_seldom_as_homegrid_does():
    """What settings are to be tried for is there: a tail that the open workshop lacks."""
    shares = {}
    worlds = {"homegrid": homegrid(), "open": workshop_world(), "rooms": workshop_world(layout="rooms")}
    for name, world in worlds.items():
        facts = path_facts(world)
        shares[name] = float(facts.weight[facts.harmless_steps - facts.steps >= 10].sum())
    assert shares["open"] < 0.001
    assert 0.004 < shares["rooms"] < shares["homegrid"] < 0.01


def test_unknown_variants_and_places_offer_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'layout'"):
        HomegridEnv(layuot="home")
    with pytest.raises(UnknownNameError, match="'clear_cat': allowed are heldout_fold, heldout_share, layout, starts"):
        envs.make_vec(envs.WORKSHOP, 2, {"clear_cat": True})
    with pytest.raises(PlacementError, match="allowed are robot, heading, parcel, paint, paint2"):
        WorkshopEnv().reset(options={"fruit": (2, 1)})
    with pytest.raises(PlacementError, match=r"paint2 .7, 5. is not on a cell next to paint .5, 5."):
        WorkshopEnv().reset(options={"robot": (5, 2), "parcel": (8, 8), "paint": (5, 5), "paint2": (7, 5)})
    with pytest.raises(PlacementError, match=r"dog .10, 7. is 1 tiles from cat .9, 7."):
        HomegridEnv(harm="chase").reset(options={"robot": (12, 3), "fruit": (3, 10), "cat": (9, 7), "dog": (10, 7)})


def test_either_of_two_alike_things_may_be_placed():
    env = HomegridVectorEnv(400, cats=2)
    env.reset(seed=1, options={"cat": (9, 6)})
    states = env.states()
    here = (states[:, 5:7] == [9, 6]).all(axis=1), (states[:, 8:10] == [9, 6]).all(axis=1)
    assert (here[0] ^ here[1]).all()
    assert here[0].any()
    assert here[1].any()
