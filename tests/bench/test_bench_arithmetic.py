"""What the benches make of what they measured, on numbers worked by hand."""

from __future__ import annotations

import importlib
import json
import platform
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import breakdown
import common
import flops
import labels_rate
import memory_run
import numpy as np
import overlap
import pages
import processes
import psutil
import pytest
import quality
import runners_beyond
import stopwatch
import suites
import sweep_overhead
import torch
from duel import AHEAD_S, TURN_S, blocks_of, duel, ratio, ratio_against, summary, turn_of, without_judge
from journal import Journal
from plan import Plan
from this_machine import CORES, machine

MAIN = Path(__file__).parents[2] / "scripts" / "bench" / "__main__.py"


def row(steps, seconds, **more):
    return {"steps": steps, "seconds": seconds, "threads": 2} | more


# ------------------------------------------------------------------------------------------------ blocks


def test_a_summary_tells_median_and_ends_and_the_threads():
    found = summary([row(100, 1.0, sync_s=0.1), row(100, 2.0, sync_s=0.3), row(100, 4.0, sync_s=0.2)])
    assert (found["median"], found["low"], found["high"], found["blocks"]) == (50.0, 25.0, 100.0, 3)
    assert found["threads"] == 2
    assert found["sync_s_median"] == pytest.approx(0.2)


def test_a_ratio_is_of_blocks_next_to_each_other():
    fast, slow = [row(100, 1.0), row(100, 10.0)], [row(100, 2.0), row(100, 40.0)]
    assert ratio(fast, slow)["median"] == 3.0  # of 2 and 4: what slowed both down in the second round is not in it
    assert ratio(fast, slow)["pairs"] == 2


def test_who_takes_part_in_every_second_round_is_paired_with_the_blocks_beside():
    rounds = [{"a": row(1, 1.0), "b": row(1, 2.0)}, {"a": row(1, 9.0)}, {"a": row(1, 1.0), "b": row(1, 4.0)},
              {"a": row(1, 9.0)}]  # fmt: skip
    blocks = blocks_of(rounds)
    assert len(blocks["a"]) == 4
    assert ratio(blocks["a"], blocks["b"]) | {"median": 0} == {"median": 0, "low": 2.0, "high": 4.0, "pairs": 2}


def test_a_long_turn_is_held_against_the_turns_before_and_after_it(tmp_path):
    paces = {"off": iter([10.0, 30.0, 50.0]), "a": iter([10.0]), "b": iter([20.0])}

    class Turn:
        def __init__(self, name, what, log):
            assert "against" not in what
            self.name = name

        def ask(self, what="block", **_):
            return row(int(10 * next(paces[self.name])), 10.0)

        def close(self):
            """It has nothing open."""

    plan = Plan(tmp_path, Journal(tmp_path / "duel.jsonl", {}), Turn, tiny=True)
    who = {"off": {"kind": "ours"}, "a": {"kind": "ours", "against": "off"}, "b": {"kind": "ours", "against": "off"}}
    (found,) = duel(who, plan, part="p", rounds=1, warm_up=0)
    assert [ratio_against(found[name])["median"] for name in "ab"] == [10 / 20, 20 / 40]


def test_who_stops_stands_still_but_for_its_turns(tmp_path):
    happened = []

    class Turn:
        def __init__(self, name, what, log):
            assert "stops" not in what
            self.name = name

        def ask(self, what="block", **_):
            happened.append(("asked", self.name))
            return row(10, 1.0)

        def halt(self):
            happened.append(("halts", self.name))

        def go_on(self):
            happened.append(("goes on", self.name))

        def close(self):
            happened.append(("closed", self.name))

    plan = Plan(tmp_path, Journal(tmp_path / "duel.jsonl", {}), Turn)
    who = {"off": {"kind": "ours"}, "on": {"kind": "ours", "stops": True, "against": "off"}}
    list(duel(who, plan, part="p", rounds=1, warm_up=1))
    assert happened == [
        ("asked", "off"), ("asked", "on"), ("halts", "on"),
        ("asked", "off"), ("goes on", "on"), ("asked", "on"), ("halts", "on"), ("asked", "off"),
        ("closed", "off"), ("closed", "on"),
    ]  # fmt: skip


def test_a_signal_reaches_all_that_a_process_started():
    starts = "import subprocess as s, sys; s.Popen(['sleep', '60']); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", starts], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout.readline() == b"ready\n"
        top = psutil.Process(started.pid)
        both = [top, *top.children()]
        assert len(both) == 2
        for sent, stands in ((signal.SIGSTOP, True), (signal.SIGCONT, False)):
            processes.signal_all(started.pid, sent)
            deadline = time.monotonic() + 10.0
            while any((one.status() == psutil.STATUS_STOPPED) != stands for one in both):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        processes.signal_all(started.pid, signal.SIGKILL)


def test_the_judges_processor_time_is_shared_out_over_the_cores():
    assert without_judge([row(10, 3.0, judge_processor_s=CORES * 0.5)])[0]["seconds"] == 2.5
    assert without_judge([row(10, 3.0)])[0]["seconds"] == 3.0


def test_costs_of_feedback_tell_labels_a_second_and_processor_time_beside():
    off = [row(100, 1.0, labels=0.0, judge_processor_s=0.0, reward_model_processor_s=0.0, blocks=2,
               by_process={"driver": 0.2}) for _ in range(3)]  # fmt: skip
    asked = [row(100, 2.0, labels=10.0, judge_processor_s=CORES * 0.5, reward_model_processor_s=0.2, blocks=2,
                 by_process={"driver": 0.5, "store": 0.1}, against=row(200, 2.0)) for _ in range(3)]  # fmt: skip
    found = suites.costs({"off": off, "hybrid": asked})
    assert found["ratios"]["hybrid / off"]["median"] == 0.5
    assert found["ratios"][f"hybrid, {suites.JUDGE_S} / off"]["median"] == pytest.approx(1 / 1.5)
    name, labels_per_s, judge, model = found["tables"][0]["rows"][0]
    assert (name, labels_per_s) == ("hybrid", 5.0)
    assert judge == pytest.approx(100 * CORES * 0.25)
    assert model == pytest.approx(10.0)
    driver = [row[1] for row in found["tables"][1]["rows"]]
    assert driver == [pytest.approx(100.0), pytest.approx(250.0)]


def test_ratios_are_told_by_start():
    def one(start, seconds):
        return row(100, seconds, start=start, against=row(200, 2.0))

    table = suites.by_start({"a": [one("start 1", 1.0), one("start 1", 1.0), one("start 2", 2.0)],
                             "b": [one("start 1", 4.0)]})  # fmt: skip
    assert table["head"] == ["", "start 1", "start 2"]
    assert table["rows"] == [["a", 1.0, 0.5], ["b", 0.25, None]]


def test_who_samples_ahead_does_so_in_its_own_time():
    alone, ahead = {"kind": "ours"}, {"kind": "ours", "runners": 1}
    for plain in (alone, ahead | {"resources": {"overlap": False}}, {"kind": "rllib", "runners": 1}):
        assert turn_of(plain, tiny=False) == {"what": "train", "seconds": TURN_S}
    assert turn_of(ahead, tiny=False) == {"what": "train", "seconds": TURN_S, "lead_s": 1e-3, "settle_s": AHEAD_S}
    for what in suites.asking("", "", 1).values():
        assert turn_of(what, tiny=False) == {"what": "train", "seconds": suites.ASKING_S}  # it stops with all it has


# ------------------------------------------------------------------------------------------------ an iteration


def test_the_parts_of_an_iteration_add_up_to_it():
    spent = Counter({"acting": 0.5, "asking": 0.1, "scoring": 0.2, "advantage": 0.1, "all learning": 1.0,
                     "learning": 0.9, "weight sync": 0.1, "iteration": 2.3})  # fmt: skip
    for remote, ahead, sampling in ((False, False, 0.5), (True, False, 0.4), (True, True, 0.0)):
        parts = stopwatch.split(spent, 0.4, remote=remote, ahead=ahead)
        assert parts["sampling"] == sampling
        assert parts["waiting"] == pytest.approx(0.5 - sampling)
        assert parts["batching"] == pytest.approx(0.1)
        assert sum(parts[name] for name in stopwatch.PARTS) == pytest.approx(2.3)
        assert parts.get("sampled beside") == (0.4 if ahead else None)


def test_the_plain_networks_operations_are_those_of_its_layers():
    weights = 672 * 256 + 256 * 256 + 256 * 5
    behind = 256 * 256 + 256 * 5  # nobody asks for the gradient of the observation
    assert flops.operations("mlp", ours=False) == 2 * (2 * weights + behind)
    convolutions = 11 * 13 * 16 * 16 + 10 * 12 * 64 * 32 + 9 * 11 * 128 * 64
    behind += 6_336 * 256 + 10 * 12 * 64 * 32 + 9 * 11 * 128 * 64
    assert flops.operations("cnn", ours=False) == 2 * (2 * (6_336 * 256 + 256 * 261 + convolutions) + behind)


@pytest.mark.parametrize("network", ["mlp", "cnn", "egocentric", "ego-allocentric"])
def test_our_trunks_do_fewer_operations(network):
    ours, plain = flops.operations(network, ours=True), flops.operations(network, ours=False)
    assert 6 * 256 * 256 < ours < plain  # the second layer at least, forwards and backwards


def test_the_plain_egocentric_network_sees_what_ours_sees():
    obs = torch.zeros(2, 12, 14, 4)
    obs[0, 5, 6, 0] = obs[1, 0, 0, 0] = 1  # agents
    obs[0, 4, 6, 1] = obs[1, 0, 1, 2] = 1  # a fruit above one, a cat right of the other
    window = common.Centred()(obs).view(2, 23, 27, 3)
    assert window[0].nonzero().tolist() == [[10, 13, 0]]  # the agent is in the middle, at (11, 13)
    assert window[1].nonzero().tolist() == [[11, 14, 1]]


def test_a_learner_is_held_against_the_product_beside_it():
    rows = [row(300, 3.0, blocks=3, learn_s=0.5, product_gflops=2.0)]
    found = breakdown.learner("mlp", rows)
    assert found["passes_per_s"] == common.EPOCHS * 200.0
    assert found["as_dense"] == pytest.approx(800 * found["operations_dense"] / 2e9)
    assert found["of_limit"] / found["as_dense"] == pytest.approx(found["operations_ours"] / found["operations_dense"])


# ------------------------------------------------------------------------------------------------ growth


def test_more_runners_are_as_slow_as_the_slowest_of_them():
    parts = {"learn": [2.0], "else": [0.5], "handover": 0.25}
    rng = np.random.default_rng(0)
    assert set(runners_beyond.iterations([1.0], 4, parts, ahead=False, rng=rng)) == {1.0 + 0.25 + 2.0 + 0.5}
    assert set(runners_beyond.iterations([1.0], 4, parts, ahead=True, rng=rng)) == {2.0 + 0.5}
    one, many = (runners_beyond.iterations([1.0, 3.0], n, parts, ahead=False, rng=rng) for n in (1, 16))
    assert set(one) == {3.75, 5.75}
    assert (many == 5.75).mean() > 0.999  # that none of sixteen is slow has a chance of 1 in 65,536


def test_the_driver_is_told_apart_from_its_runner():
    parts = runners_beyond.parts_of([row(1, 4.0, blocks=2, learn_s=1.0, sample_s=0.7)], [0.5])
    assert parts["handover"] == pytest.approx(0.2)
    assert parts["else"] == pytest.approx([0.3])


def test_cores_for_a_rate_of_labels_and_the_stores_limit():
    cost = Counter({"questioners": 8.0, "store": 2.0, "server": 10.0})
    assert labels_rate.needed(100, cost) == "2.0"
    assert labels_rate.needed(1_000, cost) == "one store does 500/s at most"
    looks = [{"labels": 10, "seconds": 2.0, "blocked": 0.01, "cpu_s": {"store": 0.02, "server": 0.1}} for _ in range(2)]
    assert labels_rate.milliseconds(looks) == {"store": 2.0, "server": 10.0}
    assert labels_rate.table({5: looks})["rows"][0][:3] == [5, 5.0, "5.0 to 5.0"]


# ------------------------------------------------------------------------------------------------ quality, overlap


class Scripted:
    """A contender that gets so much better each second of training; the clock is its own."""

    def __init__(self, name, per_second, quickest=1.0):
        self.name, self.per_second, self.quickest, self.trained, self.turns = name, per_second, quickest, 0.0, 0

    def ask(self, what, seconds=0.0, **_):
        if what == "evaluate":
            quality_now = min(1.0, self.per_second * self.trained)
            return {"found": 1.0, "cat_survived": quality_now}
        self.turns += 1
        self.trained += max(seconds, self.quickest)
        return {"seconds": max(seconds, self.quickest), "steps": 10}


def test_a_race_ends_at_the_goal_or_at_ten_times_ours():
    ours, slow, never = Scripted("ours", 0.05), Scripted("slow", 0.01), Scripted("never", 0.0)
    found = quality.race([ours, slow, never], goal={"found": 0.95, "cat_survived": 0.95}, episodes=10, first_s=1.0)
    assert found["ours"]["seconds"] == pytest.approx(19.0, abs=0.5)
    assert found["ours"]["reached"]
    assert found["slow"]["reached"]
    assert 95.0 <= found["slow"]["seconds"] <= 95.0 * (1 + quality.SHARE)
    assert not found["never"]["reached"]
    limit = quality.CUT_OFF * found["ours"]["seconds"]
    assert limit <= found["never"]["seconds"] <= limit * (1 + quality.SHARE)
    assert found["never"]["steps"] == 10 * never.turns == found["never"]["curve"][-1][0]


def test_a_ratio_of_one_that_was_cut_off_is_a_lower_bound():
    def run(seconds, reached):
        return {"seconds": seconds, "steps": 5, "reached": reached, "curve": [[5, seconds, 1.0, 0.5]]}

    races = [{quality.OURS: run(10.0, True), quality.SAME: run(20.0, True), quality.PUBLISHED: run(100.0, False)},
             {quality.OURS: run(10.0, True), quality.SAME: run(40.0, True)}]  # fmt: skip
    found = quality.found(races, {"goal": quality.GOAL, "episodes": 10})
    same = found["ratios"][f"wall time, {quality.SAME} / ours"]
    assert (same["median"], same["pairs"], "at_least" in same) == (3.0, 2, False)
    published = found["ratios"][f"wall time, {quality.PUBLISHED} / ours"]
    assert published["at_least"]
    assert [r[1] for r in found["tables"][0]["rows"]] == ["2 of 2", "2 of 2", "0 of 1"]


def test_an_interval_over_seeds_is_students():
    mean, low, high = overlap.interval([0.90, 0.92, 0.94])
    assert mean == pytest.approx(0.92)
    assert high - mean == pytest.approx(4.303 * 0.02 / 3**0.5, rel=1e-3)
    assert mean - low == pytest.approx(high - mean)
    assert overlap.interval([1.0, 1.0, 0.9])[2] == 1.0  # there is no share above 1
    assert overlap.interval([0.5]) == (0.5, 0.5, 0.5)


def test_memory_is_held_against_the_first_look_after_the_mark():
    looks = [{"steps": s, "driver": d, "runners": 10.0, "object_store_mb": 99.0, "seconds": 5.0} for s, d in (
        (500, 10.0), (1_000, 90.0), (5_000, 100.0), (10_000, 93.0))]  # fmt: skip
    found = memory_run.found(looks, 1_000, {"copied": {"here": True}, "batch_mb": 1.0, "peak_batches": 2.0})
    (only,) = found["ratios"].values()
    assert only["median"] == pytest.approx(103 / 100)
    assert only["high"] == pytest.approx(110 / 100)


# ------------------------------------------------------------------------------------------------ journal, pages


def test_a_journal_is_gone_on_with_after_a_kill(tmp_path):
    path = tmp_path / "suite.jsonl"
    first = Journal(path, {"suite": "a"})
    first.add("mlp", {"ours": row(1, 2.0)})
    first.add("mlp", {"ours": row(1, 3.0)})
    with open(path, "a") as file:
        file.write('{"part": "mlp", "ro')
    again = Journal(path, {"suite": "a"}, resume=True)
    assert [r["ours"]["seconds"] for r in again.rounds("mlp")] == [2.0, 3.0]
    again.add("mlp", {"ours": row(1, np.float32(4.0))})
    assert [r["ours"]["seconds"] for r in Journal(path, {"suite": "a"}, resume=True).rounds("mlp")] == [2.0, 3.0, 4.0]


def test_a_journal_of_other_settings_is_refused_and_without_resume_begun_anew(tmp_path):
    path = tmp_path / "suite.jsonl"
    Journal(path, {"tiny": True}).add("mlp", {})
    with pytest.raises(SystemExit, match="without --resume"):
        Journal(path, {"tiny": False}, resume=True)
    assert Journal(path, {"tiny": True}).rounds("mlp") == []
    assert Journal(path, {"tiny": True}, resume=True).rounds("mlp") == []


def test_the_machine_is_described_once_and_the_same_everywhere():
    found = machine()
    assert set(found) == {
        "cores", "processor", "memory_gb", "system", "python", "torch", "ray", "numpy", "load_at_start", "when",
    }  # fmt: skip
    assert found["cores"] == CORES
    assert platform.release().split("-")[0] in found["system"]
    assert "-" not in found["system"]  # what a kernel's builder called it may name a host
    root = MAIN.parents[2]
    sources = [path for folder in ("rlaif_ray", "scripts") for path in (root / folder).rglob("*.py")]
    describes = [str(path.relative_to(root)) for path in sources if "/proc/cpuinfo" in path.read_text()]
    assert describes == ["rlaif_ray/processor.py"]


def test_a_page_has_every_table_with_its_command(tmp_path):
    found = {
        "command": "python scripts/bench quality", "machine": machine(), "finished": False,
        "contenders": {"ours": summary([row(100, 1.0)])},
        "ratios": {"a / b": {"median": 10.0, "low": 9.0, "high": 11.0, "pairs": 3, "at_least": True}},
        "tables": [{"title": "T", "head": ["", "x"], "rows": [["r", 1234.5], ["s", None]], "note": "why"}],
    }  # fmt: skip
    (tmp_path / "speed-quality.json").write_text(json.dumps(found))
    (tmp_path / "speed-gpu.json").write_text(json.dumps(found | {"not_run": "no GPU"}))
    page = pages.text(tmp_path)
    for line in ("`python scripts/bench quality`",
                 "| ours | 100 (100 to 100) | 2 | 1 |", "| r | 1,234 |", "| s |  |",
                 "| a / b | **>= 10.00** | 9.00 to 11.00 | 3 |", "Stopped before its last round",
                 "Not run: no GPU."):  # fmt: skip
        assert line in page, line
    assert pages.ratios(tmp_path, "quality")["a / b"]["pairs"] == 3
    assert pages.ratios(tmp_path, "memory") == {}


def test_a_ratio_lower_than_the_stored_one_is_told():
    compared = runpy.run_path(str(MAIN), run_name="bench")["compared"]
    now = {"kept": 0.9, "lost": 0.7, "as low as a turn": 0.7, "new": 1.0}
    stored = {"kept": 0.9, "lost": 0.8, "as low as a turn": 0.6}
    found = compared({name: {"median": value} for name, value in now.items()},
                     {name: {"median": 1.0, "low": low} for name, low in stored.items()})  # fmt: skip
    assert {name for name, one in found.items() if one["lower"]} == {"lost"}
    assert found["new"]["stored"] is None


@pytest.mark.parametrize("path", sorted(MAIN.parent.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_every_script_finds_what_it_imports(path):
    importlib.import_module(path.stem)


def test_what_a_sweep_costs_is_told_for_the_preset_s_steps():
    """0.5 s an iteration and 30 s besides, against 4 % more and 33 s."""
    pairs = [{"train": 0.5, "sweep": 0.5 * ratio} for ratio in (1.0, 1.04, 1.04, 1.3)]
    found = sweep_overhead.summary(pairs, [{"train": 30.0, "sweep": 33.0}] * 2)
    iterations = 2_000_000 / 8_192
    assert found["iteration_ratio"]["median"] == pytest.approx(1.04)
    assert found["whole_s"]["train"] == pytest.approx(30 + 0.5 * iterations)
    assert found["overhead_pct"] == pytest.approx(100 * ((33 + 0.52 * iterations) / (30 + 0.5 * iterations) - 1))
