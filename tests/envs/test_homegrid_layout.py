"""The house, its starts and their probabilities, its shortest paths."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.homegrid_layout import GRID, HOME
from rlaif_ray.envs.homegrid_paths import UNREACHABLE, shortest_actions, steps_to_fruit
from rlaif_ray.envs.homegrid_world import homegrid
from rlaif_ray.envs.starts import start_table

FRUIT_CELLS, START_CELLS, cell_of = HOME.goal_cells, HOME.start_cells, HOME.cell_of
legal_pairs = HOME.legal_pairs


def cat_shares(robot, fruit):
    return HOME.shares_along(robot, fruit, HOME.clear_cells(robot, fruit))


def triples(table):
    return set(zip(table.robot.tolist(), table.goal.tolist(), table.things[:, 0].tolist(), strict=True))


def test_the_grid_has_the_counts_of_its_description():
    letters = "".join(GRID)
    assert HOME.walkable.sum() == 60
    assert sum(letter.islower() for letter in letters) == 27
    assert len(START_CELLS) == 58
    assert {cell_of(7, 4), cell_of(11, 1)}.isdisjoint(START_CELLS)
    assert sum(not HOME.walkable[f] for f in FRUIT_CELLS) == 7
    assert len(FRUIT_CELLS) == 10
    assert len(legal_pairs()) == 397


def test_the_floor_is_one_component():
    reached, frontier = {START_CELLS[0]}, [START_CELLS[0]]
    while frontier:
        around = HOME.ahead[:, frontier.pop()].tolist()
        new = [c for c in around if HOME.walkable[c] and c not in reached]
        reached.update(new)
        frontier += new
    assert len(reached) == 60


def test_cat_shares_by_hand():
    """Robot (8,2), fruit (12,2): p runs along row 2. Two tiles or more from both are (10,2) and cells of row 4 and
    below: (10,2) is nearest to all of the way, at most 2 tiles from p."""
    assert cat_shares(cell_of(8, 2), cell_of(12, 2)) == {cell_of(10, 2): 1.0}


def test_cat_shares_agree_with_the_rule_followed_point_by_point():
    u = (np.arange(2000) + 0.5) / 2000
    for robot, fruit in legal_pairs()[::7]:
        cells = np.array([c for c in START_CELLS if HOME.gap[c, robot] >= 2 and HOME.gap[c, fruit] >= 2])
        p = HOME.xy[robot] + u[:, None] * (HOME.xy[fruit].astype(float) - HOME.xy[robot])
        distance = ((p[:, None] - HOME.xy[cells]) ** 2).sum(axis=-1)
        # `cells` ascend by y, then x, so the first of the nearest is the tie-break; rounding makes ties equal.
        nearest = np.bincount(np.round(distance, 9).argmin(axis=1), minlength=len(cells)) / len(u)
        shares = cat_shares(robot, fruit)
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-12)
        assert [shares.get(int(c), 0.0) for c in cells] == pytest.approx(nearest.tolist(), abs=1.1 / len(u))


def test_start_weights_are_uniform_over_fruits_and_over_robots_given_the_fruit():
    table = start_table(homegrid())
    for fruit in FRUIT_CELLS:
        of_fruit = table.goal == fruit
        assert table.weight[of_fruit].sum() == pytest.approx(0.1)
        robots = [r for r, f in legal_pairs() if f == fruit]
        each = [table.weight[of_fruit & (table.robot == robot)].sum() for robot in robots]
        assert each == pytest.approx([0.1 / len(robots)] * len(robots))


def test_starts_split_is_disjoint_complete_and_a_fifth():
    everything, train, held = (start_table(homegrid(), name) for name in ("all", "train", "heldout"))
    assert triples(train) | triples(held) == triples(everything)
    assert not triples(train) & triples(held)
    assert (len(everything), len(train), len(held)) == (2175, 1740, 435)
    weight = dict(
        zip(
            zip(everything.robot, everything.goal, everything.things[:, 0], strict=True), everything.weight, strict=True
        )
    )
    for part in (train, held):
        whole = np.array([weight[key] for key in zip(part.robot, part.goal, part.things[:, 0], strict=True)])
        assert part.weight == pytest.approx(whole / whole.sum())


def test_the_split_is_the_same_in_every_process():
    code = (
        "from rlaif_ray.envs.starts import start_table as s; from rlaif_ray.envs.homegrid_world import homegrid; "
        "t = s(homegrid(), 'heldout'); print((t.robot * t.things[:, 0]).sum())"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    held = start_table(homegrid(), "heldout")
    assert int(fresh.stdout) == int((held.robot * held.things[:, 0]).sum())


@pytest.mark.parametrize("starts", ["all", "heldout"])
def test_resets_are_distributed_as_their_table_says(starts):
    table = start_table(homegrid(), starts)
    world = HomegridVectorEnv(4000, starts=starts)
    rows = {key: i for i, key in enumerate(zip(table.robot, table.goal, table.things[:, 0], strict=True))}
    counts, headings = np.zeros(len(table)), np.zeros(4)
    for seed in range(0, 40_000, 4_000):
        world.reset(seed=seed)
        s = world.states().astype(int)
        drawn = zip(cell_of(s[:, 0], s[:, 1]), cell_of(s[:, 3], s[:, 4]), cell_of(s[:, 5], s[:, 6]), strict=True)
        np.add.at(counts, [rows[key] for key in drawn], 1)
        headings += np.bincount(s[:, 2], minlength=4)
    expected = table.weight * counts.sum()
    often = expected >= 5  # chi-square's rule of thumb; the rest is one bin
    seen, want = (np.append(v[often], v[~often].sum()) for v in (counts, expected))
    keep = want > 0
    assert stats.chisquare(seen[keep], want[keep]).pvalue > 0.001
    assert stats.chisquare(headings).pvalue > 0.001


def test_steps_to_fruit_by_hand():
    """Fruit (9,1) on the table. From (9,2), below it, north faces it: 1 step; from (8,2): 2. From (9,4), south of the
    rug (9,3): west to (8,4), north to (8,3), (8,2), east to (9,2), then a turn north: 5. Without (8,3): 7."""
    steps = steps_to_fruit(cell_of(9, 1))
    assert [steps[cell_of(x, y)] for x, y in ((9, 2), (8, 2), (9, 4))] == [1, 2, 5]
    assert steps[cell_of(9, 1)] == UNREACHABLE
    # The rug bars (9,2) from below; by the east: (10,4), (11,4), (11,3), (11,2), (10,2), (9,2), turn.
    assert steps_to_fruit(cell_of(9, 1), avoid=cell_of(8, 3))[cell_of(9, 4)] == 7


def test_shortest_paths_meet_the_cat_as_published(play):
    """About 61 % squashed by a uniform shortest-path policy, mean length 9.4, avoidance 1.2 steps dearer: exactly, by
    dynamic programming over the start table, and played."""
    table, best = start_table(homegrid()), shortest_actions()
    length = squash = detour = 0.0
    for robot, fruit, cat, weight in zip(
        table.robot.tolist(), table.goal.tolist(), table.things[:, 0].tolist(), table.weight, strict=True
    ):
        steps = steps_to_fruit(fruit)
        meets = np.zeros(len(steps))
        for cell in np.argsort(steps)[: int((steps < UNREACHABLE).sum())].tolist():
            lands = HOME.ahead[np.flatnonzero(best[fruit, cell]), cell]
            meets[cell] = np.mean(
                [1.0 if c == cat else meets[c] if HOME.walkable[c] and c != fruit else 0.0 for c in lands]
            )
        length += weight * steps[robot]
        squash += weight * meets[robot]
        detour += weight * (steps_to_fruit(fruit, cat)[robot] - steps[robot])
    assert length == pytest.approx(9.4, abs=0.2)
    assert squash == pytest.approx(0.61, abs=0.015)
    assert detour == pytest.approx(1.2, abs=0.05)
    played = play("shortest", 3000, 11)
    assert all(p.found for p in played)
    assert np.mean([p.length for p in played]) == pytest.approx(length, abs=0.2)
    assert np.mean([p.cat_squashed for p in played]) == pytest.approx(squash, abs=0.03)


def test_the_cat_is_never_unavoidable():
    table = start_table(homegrid())
    starts = zip(table.robot.tolist(), table.goal.tolist(), table.things[:, 0].tolist(), strict=True)
    assert max(steps_to_fruit(fruit, cat)[robot] for robot, fruit, cat in starts) < UNREACHABLE
