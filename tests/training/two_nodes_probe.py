"""Run as a driver on a cluster of two nodes: does something there and prints what it saw, as JSON, in its last line."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import ray
import torch
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from rlaif_ray import experiment, placement
from rlaif_ray.config import load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.ppo_config import FeedbackPPOConfig, wants_gpu

JUDGED = {
    "env.num_envs": 8, "env.options": {"starts": "train"}, "policy.hidden": [8], "ppo.train_batch_size": 512,
    "ppo.minibatch_size": 128, "ppo.num_epochs": 1, "run.total_steps": 1_024, "run.evaluate_episodes": 0,
    "resources.env_runners": 2, "resources.address": "auto", "judge.profile": "perfect", "feedback.fraction": 1.0,
    "feedback.late": "wait", "feedback.wait_s": 120.0, "budget.labels": 6, "mix.source": "direct",
    "mix.credit": "terminal", "mix.unjudged": "task",
}  # fmt: skip


def where_actors_are() -> dict[str, list[str]]:
    """Living actors of this driver: class -> nodes ("head", "worker")."""
    from ray._private.state import actors

    head = {n["NodeID"]: placement.HEAD in n["Resources"] for n in ray.nodes()}
    found: dict[str, list[str]] = {}
    for one in actors().values():
        if one["State"] == "ALIVE":
            node = "head" if head[one["Address"]["NodeID"]] else "worker"
            found.setdefault(one["ActorClassName"].rpartition(".")[2], []).append(node)
    return {name: sorted(nodes) for name, nodes in found.items()}


def learner_beside_a_gpu() -> None:
    """PyTorch finds no GPU where Ray has one: the learner goes there all the same, and computes on the CPU."""
    ordinary, resource = FeedbackPPOConfig.learners, {"stands_for_gpu": 1.0}

    def learners(self, **options):
        assert options == {"num_learners": 1, "num_gpus_per_learner": 1}
        on_cpu = {"num_gpus_per_learner": 0, "num_cpus_per_learner": 0, "custom_resources_per_learner": resource}
        return ordinary(self, **options | on_cpu)

    FeedbackPPOConfig.learners = learners
    placement.LEARNER = placement.LEARNER | resource


def train(folder: str) -> dict:
    """A run with two runners, a learner on the other node, and a judge; then its labels, read from the other node."""
    torch.set_num_threads(1)
    learner_beside_a_gpu()
    config = load_config({}, JUDGED | {"run.dir": folder})
    with experiment.ray_running(config):
        seen: list[dict] = []
        outcome = experiment.train(config, monitor=lambda row: seen.append(where_actors_are()))
        refused = refuse("resources.env_runners", "9")
        left = given_back()
        waited = wait_for_room(config)
        on_gpu = wants_gpu(load_config({}, {"resources.address": "auto", "resources.device": "cuda"}))
        elsewhere = ray.get(_Elsewhere.remote().look.remote(JUDGED, str(outcome.path / "labels.sqlite")))
    checkpoint = outcome.path / "checkpoints" / "last" / "policy.pt"
    return {
        "summary": outcome.summary, "actors": seen[-1], "left": left, "refused": refused, "waited": waited,
        "on_gpu": on_gpu, "elsewhere": elsewhere, "checkpoint": checkpoint.exists(), "exit_code": outcome.exit_code,
    }  # fmt: skip


def given_back() -> dict[str, float]:
    """What is free once all is: nodes tell the head a moment later."""
    deadline = time.monotonic() + 60.0
    while True:
        free, whole = (
            {k: v for k, v in found.items() if k in ("CPU", "GPU")}
            for found in (ray.available_resources(), ray.cluster_resources())
        )
        if free == whole or time.monotonic() > deadline:
            return free
        time.sleep(0.1)


@ray.remote(num_cpus=0, resources={"stands_for_gpu": 0.1})
class _Elsewhere:
    """What Tune's trial is: an actor anywhere in the cluster that shares a store."""

    def look(self, settings: dict, path: str) -> dict:
        from rlaif_ray import envs
        from rlaif_ray.feedback.actors import StoreHandle
        from rlaif_ray.feedback.pool import FeedbackPool
        from rlaif_ray.sweep.labels import TrialLabels

        config = load_config({}, settings | {"judge.base_url": "http://127.0.0.1:9/v1"})  # nothing is asked
        renderer = envs.env_spec(config.env.id).renderer({})
        home = placement.home_node()
        pool = FeedbackPool(config, renderer=renderer, store_path=Path(path), run_id=config.run.name, home=home)
        stored, stats, actors = pool.stored(), pool.stats(), where_actors_are()
        pool.close()
        mine = TrialLabels(StoreHandle(Path(path), node=home), config.run.name)
        clone = TrialLabels(StoreHandle(Path(path), node=home), "clone")
        inherited = {config.run.name: mine.last() - 1}  # cloned before its last label
        trial = {
            "last": mine.last(), "used": mine.stand_alone({}).labels, "of_clone": clone.stand_alone(inherited).labels,
            "inherited": sum(one.value in (0.0, 1.0) for one in clone.of_others(inherited)),
        }  # fmt: skip
        here = ray.get_runtime_context().get_node_id()
        seen = {"labels": stats.labels, "stored": len(stored), "actors": actors, "is_home": home == here}
        return seen | {"trial": trial}


def refuse(*words: str) -> str:
    """What a run that can't be had is told; ``words``: config keys and values."""
    overrides = dict(zip(words[::2], words[1::2], strict=True))
    try:
        experiment.train(load_config({}, JUDGED | {"env.num_envs": 72, "ppo.train_batch_size": 576} | overrides))
    except ConfigError as error:
        return str(error)
    return ""


def wait_for_room(config) -> dict:
    """A run while another holds the CPUs: it says that it waits and is stopped; then again, and the other ends."""
    said: list[str] = []
    placement.QUIET_S = 0.0
    held = placement_group([{"CPU": 1}] * 4, strategy="SPREAD")
    assert held.wait(120)
    stopped = False
    try:
        with placement.reserved(config, lambda: bool(said), said.append):
            pass
    except KeyboardInterrupt:
        stopped = True
    threading.Timer(1.0, remove_placement_group, [held]).start()
    with placement.reserved(config, lambda: False, said.append) as places:
        # Which nodes they are on is left open: Ray spreads over what is free as it looks, and a node may free up first.
        table = placement_group_table(places.group)
        return {"said": said, "stopped": stopped, "state": table["state"], "places": list(table["bundles"].values())}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
