"""Every suite the whole way in its tiny form: real contenders, a batch of 512 steps, figures of no meaning."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import before
import breakdown
import compiling
import growth
import labels_rate
import memory_run
import overlap
import pages
import pytest
import quality
import ray
import suites
import torch
from common import EPOCHS
from contenders import Performer
from duel import Contestant, duel
from flops import SAMPLES
from journal import Journal
from plan import TINY, Plan
from processes import memory_mb
from stopwatch import PARTS
from this_machine import machine

from rlaif_ray.config import load_config
from rlaif_ray.networks import load_policy

pytestmark = pytest.mark.ray
MAIN = Path(__file__).parents[2] / "scripts" / "bench" / "__main__.py"


class Here:
    """A contender in the tests' own process, where Ray runs already; the driver samples itself unless runners are what
    is looked at: each one's process takes seconds to start."""

    def __init__(self, name, what, log, runners=False):
        self.name = name
        self.perform = Performer({**what} if runners else {k: v for k, v in what.items() if k != "runners"})

    def ask(self, what="block", **options):
        return json.loads(json.dumps(self.perform(what, **options), default=float))

    def memory_mb(self):
        return memory_mb()

    def halt(self):
        """It runs only when it is asked."""

    go_on = halt

    def close(self):
        self.perform.contender.close()


def with_runners(name, what, log):
    return Here(name, what, log, runners=True)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plan(tmp_path, given):
    (tmp_path / "given-rm.pickle").write_bytes(given.read_bytes())
    return Plan(tmp_path, Journal(tmp_path / "suite.jsonl", {}), Here, rounds=1, tiny=True)


def last(suite, plan):
    """What a suite found, as it is stored and shown."""
    found = json.loads(json.dumps(list(suite(plan))[-1], default=float))
    stored = {"command": "python scripts/bench", "machine": machine(), **found}
    (plan.logs / "speed-quality.json").write_text(json.dumps(stored))
    for table in found.get("tables", []):
        assert all(len(row) == len(table["head"]) for row in table["rows"]), table["title"]
        assert table["rows"]
    assert "## " in pages.text(plan.logs)
    return found


# ------------------------------------------------------------------------------------------------ against others


def test_learners_are_compared_with_both_others(ray_session, plan, monkeypatch):
    everybody = suites.candidates("mlp")
    few = [next(name for name in everybody if name.startswith(kind)) for kind in ("ours", "SB3", "RLlib")]
    monkeypatch.setattr(suites, "candidates", lambda network: {name: everybody[name] for name in few})
    found = last(lambda p: suites.learners(p, ["mlp"]), plan)
    assert set(found["contenders"]) == {f"mlp: {name}" for name in few}
    ratio = found["ratios"]["mlp: ours / SB3"]
    medians = [found["contenders"][f"mlp: {name}"]["median"] for name in few]
    assert ratio["median"] == pytest.approx(medians[0] / medians[1])
    limits = found["limits"]["mlp"]["products"]
    assert [one["of"] for one in limits] == ["PyTorch's", "ours"]
    for one in limits:
        assert one["ours_over_it"] * one["steps_per_s"] == pytest.approx(medians[0])
    assert found["contenders"][f"mlp: {few[0]}"]["threads"] == suites.CORES


def test_the_published_settings_are_four_environments_and_sb3s_defaults(ray_session, plan):
    found = last(suites.published, plan)
    assert {"ours, mlp", "ours, planning (the preset's)", "SB3, published settings"} == set(found["contenders"])
    assert len(found["ratios"]) == 2
    model = Performer({"kind": "sb3-published"}).contender.model
    assert (model.n_envs, model.n_steps, model.batch_size, model.n_epochs) == (4, 2_048, 64, 10)


def test_a_race_is_run_by_all_three(ray_session, plan):
    found = last(quality.suite, plan)
    (race,) = plan.journal.rounds("race")
    assert set(race) == {quality.OURS, quality.SAME, quality.PUBLISHED}
    assert all(one["reached"] and len(one["curve"]) == 1 for one in race.values())  # the tiny goal is 0 %
    assert race[quality.OURS]["steps"] == TINY["batch"]
    assert found["reward_model_given"]["heldout_accuracy"] > 0.85
    assert [row[1] for row in found["tables"][0]["rows"]] == ["1 of 1"] * 3


def test_a_short_look_is_at_those_who_were_fastest(ray_session, plan, monkeypatch):
    monkeypatch.setattr(suites, "SMOKED", (("mlp", 0.35, ("SB3",)),))
    fastest = ["ours, 1 thread", "SB3, 64 envs, 2 threads"]
    monkeypatch.setattr(suites, "CORES", 2)
    found = suites.smoke(plan, 600.0, {"mlp: ours / SB3": {"of": fastest}})
    assert set(plan.journal.rounds("mlp")[0]) == set(fastest)
    assert list(found) == ["mlp: ours / SB3", "hybrid, 3 questions an iteration, deferred / off"]
    assert all(one["median"] > 0 for one in found.values())


@pytest.mark.parametrize("stored", [{}, {"of": ["ours, 7 threads", "SB3, 64 envs, 2 threads"]}])
def test_nobody_unknown_takes_part_in_a_short_look(stored):
    everybody = suites.candidates("mlp")
    assert set(suites._pair(stored, "stock RLlib", everybody)) <= set(everybody)


# ------------------------------------------------------------------------------------------------ ours alone


def test_an_iterations_parts_are_timed(ray_session, plan):
    found = last(suites.SUITES["breakdown"], plan)
    parts, limits = found["tables"]
    column = {row[0]: row[1] for row in parts["rows"]}  # of the driver alone
    assert column["iteration"] == pytest.approx(sum(column[name] for name in PARTS))
    assert min(column[name] for name in ("sampling", "scoring", "advantage", "learning")) > 0
    assert limits["rows"][0][0] == "mlp"


def test_feedback_is_held_against_none(ray_session, plan, monkeypatch):
    asking = suites.asking
    kept = ("off", "distilled, every", "hybrid, 20")
    monkeypatch.setattr(suites, "asking", lambda given, policy, per_turn: {
        name: what for name, what in asking(given, policy, per_turn).items() if name.startswith(kept)})  # fmt: skip
    found = last(suites.feedback, plan)
    assert len(found["ratios"]) in (2, 3)  # with the judge's time taken off where it has taken any
    assert plan.journal.rounds("calibration")[0]["questions"] >= 1
    assert [row[0] for row in found["tables"][0]["rows"]] == [n for n in found["contenders"] if n != "off"]
    assert all(row[1] > 0 for row in found["tables"][1]["rows"])  # each has a driver that did something
    assert found["tables"][2]["head"] == ["", "start 1"]
    assert [row[0] for row in found["tables"][3]["rows"]] == ["nothing", "counting in Python"]
    assert load_policy(plan.logs / "given-policy").spec.network == load_config("homegrid").policy.network


def test_sizes_grow(ray_session, plan, monkeypatch):
    monkeypatch.setattr(labels_rate, "DISTINCT", 60)
    monkeypatch.setattr(growth, "RATES", (10,))
    found = last(growth.suite, plan)
    titles = [table["title"] for table in found["tables"]]
    assert len(titles) == 6
    beyond = next(table for table in found["tables"] if "simulated" in table["title"])
    assert [row[0] for row in beyond["rows"]] == [1, 2]
    assert beyond["rows"][0][3] > 0  # one runner was measured ...
    assert beyond["rows"][1][3] is None  # ... two weren't
    (labels,) = plan.journal.rounds("labels, 10")
    assert labels["put"] == 10
    assert 0 < labels["labels"] <= 10
    assert labels["cpu_s"]["server"] > 0


def test_memory_and_copies_of_a_run_with_a_runner(ray_session, plan):
    from dataclasses import replace

    found = last(memory_run.suite, replace(plan, start=with_runners))
    assert next(iter(found["ratios"].values()))["median"] == pytest.approx(1.0, abs=0.2)
    copies = {row[0].split(" (")[0]: row[1] for row in found["tables"][1]["rows"]}
    assert copies["from the runner's process to the driver"] == "no"
    assert copies["shuffled"] == "yes"


def test_ahead_and_in_turn_are_compared_seed_by_seed(ray_session, plan):
    found = last(overlap.suite, plan)
    (curve,) = plan.journal.rounds("curves")
    assert [sum(row["steps"] for row in curve[name]) for name in ("off", "on")] == [2_048, 2_048]
    assert len(found["tables"][0]["rows"]) == 2


def test_fits_of_a_reward_model_are_timed_on_each_device(plan):
    table = breakdown.fits(plan, ["cpu"])
    assert [row[0] for row in table["rows"]] == ["event-max, cpu", "cnn-lstm, cpu"]
    assert all(row[1] > 0 for row in table["rows"])


def test_without_a_gpu_it_says_so_and_writes_it_down(tmp_path, capsys):
    words = ["gpu", "--tiny", "--results", tmp_path / "r", "--page", tmp_path / "page.md", "--work", tmp_path / "w"]
    assert runpy.run_path(str(MAIN), run_name="bench")["main"](list(map(str, words))) == 0
    stored = json.loads((tmp_path / "r" / "speed-gpu.json").read_text())
    assert stored["finished"]
    assert stored["command"] == "python scripts/bench gpu --tiny"
    if not torch.cuda.is_available():
        assert "Not run: PyTorch sees no GPU" in (tmp_path / "page.md").read_text()


# ------------------------------------------------------------------------------------------------ in turn


class Counts:
    """Says how often it was asked; ``fails_at``: is stopped then."""

    started = 0

    def __init__(self, name, what, log):
        self.name, self.fails_at, self.asked, self.closed = name, what.get("fails_at"), 0, False
        Counts.started += 1

    def ask(self, what="block", **_):
        if self.asked == self.fails_at:
            raise KeyboardInterrupt
        self.asked += 1
        return {"steps": 10, "seconds": float(self.asked), "threads": 1}

    def close(self):
        self.closed = True


def test_a_duel_that_was_stopped_goes_on_with_whole_rounds(tmp_path):
    def plan_of(resume):
        return Plan(tmp_path, Journal(tmp_path / "j", {}, resume=resume), Counts)  # not tiny: it warms up

    both = {"a": {}, "b": {"fails_at": 3}}  # one to warm up, two rounds; the third is never whole
    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(duel(both, plan_of(False), part="p", rounds=5, warm_up=1))
    plan = plan_of(True)
    assert [set(rows) for rows in plan.journal.rounds("p")] == [{"a", "b"}] * 2
    blocks = list(duel({"a": {}, "b": {}}, plan, part="p", rounds=5, warm_up=1))[-1]
    assert {name: len(rows) for name, rows in blocks.items()} == {"a": 5, "b": 5}
    before = Counts.started
    assert len(list(duel({"a": {}, "b": {}}, plan, part="p", rounds=5, warm_up=1))) == 1  # there is nothing left to do
    assert Counts.started == before


def test_a_contender_in_a_process_of_its_own_answers_line_by_line(tmp_path):
    one = Contestant("sb3", {"kind": "sb3", "network": "mlp", "threads": 1, "sizes": TINY}, tmp_path / "log")
    try:
        trained = one.ask("train", steps=TINY["batch"] + 1)
        assert (trained["steps"], trained["blocks"], trained["threads"]) == (2 * TINY["batch"], 2, 1)
        assert trained["processor_s"] > 0
        outcome = one.ask("evaluate", episodes=4, starts="heldout")
        assert outcome["episodes"] == 4
        assert 0 <= outcome["found"] <= 1
        assert one.memory_mb()["driver"] > 50
    finally:
        one.close()
    with pytest.raises(SystemExit, match="nobody ended unexpectedly"):
        Contestant("nobody", {"kind": "nobody"}, tmp_path / "log")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of its own, inside torch.compile
def test_compiling_is_weighed_against_what_it_wins(plan, monkeypatch):
    monkeypatch.setattr(compiling, "NETWORKS", ("mlp",))
    found = last(compiling.suite, plan)
    ((network, plain_ms, compiled_ms, compile_s, _),) = found["tables"][0]["rows"]
    assert network == "mlp"
    assert min(plain_ms, compiled_ms) > 0
    assert compile_s > compiled_ms / 1e3  # the first pass compiles
    minibatches = load_config("homegrid").run.total_steps * EPOCHS / SAMPLES
    won = {"plain_ms": 3.0, "compiled_ms": 2.0, "compile_s": minibatches / 1e3}
    assert compiling.verdict(won) == "1.00"  # each is a millisecond shorter
    assert compiling.verdict(won | {"compiled_ms": 3.5}) == "never"


def test_the_package_of_a_commit_trains_beside_this_one(ray_session, plan, monkeypatch):
    address = ray.get_runtime_context().gcs_address  # a Ray of its own takes each run seconds to start
    monkeypatch.setitem(before.TINY, "resources", {"env_runners": 0, "address": address})
    found = last(lambda p: before.suite(p, "HEAD"), plan)
    ends, parts = found["tables"]
    assert [row[0] for row in ends["rows"]] == ["found %", "cat_survived %", "mean_length"]
    assert len(parts["rows"]) == before.POINTS
    (runs,) = found["runs"]
    assert set(runs) == {"before", "after"}
    for run in runs.values():
        assert run["end"]["mean_length"] >= 1
        assert all(0 <= share <= 1 for point in run["curve"] if point for share in point)
    assert (plan.logs / "package" / "rlaif_ray" / "loop.py").is_file()
    missing = last(lambda p: before.suite(p, "0" * 40), plan)
    assert "isn't in this copy's history" in missing["not_run"]
