"""Where the parts of a run go on a Ray cluster; room for them is reserved before anything starts.

Runners are spread over the nodes and the learner goes to a GPU, in a Ray placement group: another run can't take half
of the places, and an autoscaler is told at once what is needed. What has to do with files or with this machine's
loopback (label store and budget, a judge at 127.0.0.1 and who asks it, checkpoints) stays at *home*: the node where the
command runs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif_ray.config import Config
from rlaif_ray.errors import ConfigError

__all__ = [
    "Cluster",
    "Node",
    "Reservation",
    "check_room",
    "cluster_address",
    "current",
    "growth",
    "home_node",
    "reserved",
]

WAIT_S = 900.0  # a cloud's node takes some minutes to come, and a GPU node's image some more
QUIET_S = 5.0  # a wait longer than this is told
LOOK_S = 0.5
HEAD = "node:__internal_head__"
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # JSON in fact; Tune too knows a cluster of `ray up` by it
KUBERAY = "KUBERAY_GEN_RAY_START_CMD"
RUNNER, LEARNER = {"CPU": 1.0}, {"GPU": 1.0}  # the place of each; a learner without a GPU is the command's own process


@dataclass(frozen=True)
class Node:
    """A node of a cluster: what it offers in all, whoever uses it now."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """What a cluster has, and what it may come to have where an autoscaler adds nodes.

    The latter is 0 where nobody adds nodes, infinite where how many is not known here.
    """

    nodes: tuple[Node, ...]
    free_gpus: float = 0.0
    most_cpus: float = 0.0
    most_gpus: float = 0.0

    @classmethod
    def joined(cls) -> Cluster:
        """The one this process has joined."""
        import ray

        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most_cpus, most_gpus = growth(BOOTSTRAP.expanduser(), os.environ)
        return cls(
            tuple(Node(one.get("CPU", 0.0), one.get("GPU", 0.0)) for one in alive),
            free_gpus=ray.available_resources().get("GPU", 0.0),
            most_cpus=most_cpus,
            most_gpus=most_gpus,
        )

    @property
    def places(self) -> float:
        """Runners, of one CPU each, that it can hold."""
        return max(sum(int(node.cpus) for node in self.nodes), self.most_cpus)

    @property
    def gpus(self) -> float:
        return max(sum(int(node.gpus) for node in self.nodes), self.most_gpus)

    def __str__(self) -> str:
        each = " + ".join(f"{node.cpus:g}" for node in self.nodes)
        cpus = f"{sum(node.cpus for node in self.nodes):g} CPUs"
        nodes = f"{len(self.nodes)} nodes: {each}" if len(self.nodes) > 1 else "one node"
        more = self.most_cpus > sum(node.cpus for node in self.nodes)
        return f"{cpus} ({nodes})" + (", and grows" + f" to {self.most_cpus:g}" * math.isfinite(self.most_cpus)) * more


def growth(bootstrap: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """CPUs and GPUs that a cluster may come to have by its autoscaler, as far as its head knows.

    `ray up` leaves its file on the head; in a pod of KubeRay the command that started Ray says whether an autoscaler of
    KubeRay's runs beside it, but not how far it goes.
    """
    if bootstrap.is_file():
        config = json.loads(bootstrap.read_text())
        types = [one for name, one in config["available_node_types"].items() if name != config.get("head_node_type")]
        return _most(types, "CPU", config["max_workers"]), _most(types, "GPU", config["max_workers"])
    if "--no-monitor" in environment.get(KUBERAY, ""):
        return math.inf, math.inf
    return 0.0, 0.0


def _most(types: Sequence[Mapping[str, Any]], resource: str, nodes: int) -> float:
    """The most of a resource that so many workers can have, the largest first."""
    most = 0.0
    for one in sorted(types, key=lambda one: -one["resources"].get(resource, 0)):
        taken = min(nodes, one.get("max_workers", 0))
        most, nodes = most + taken * one["resources"].get(resource, 0), nodes - taken
    return most


@dataclass(frozen=True)
class Reservation:
    """Places on a cluster. ``group``: Ray's placement group; None where nothing needs a place of its own."""

    group: Any
    gpu: bool  # one of the places is a GPU, for the learner


_CURRENT: ContextVar[Reservation | None] = ContextVar("reservation", default=None)


def current() -> Reservation | None:
    """The reservation that is being run in; None outside one (on one machine, in Tune's trials)."""
    return _CURRENT.get()


def cluster_address(config: Config) -> str:
    """The cluster to join: ``resources.address``, or the one that a submitted job is told to join; empty: none."""
    told = os.environ.get("RAY_ADDRESS", "")
    if not config.resources.address and ("://" in told or told == "local"):
        return ""  # the dashboard's address, for `ray job submit`, or Ray's word for a Ray of one's own
    return config.resources.address or told


def check_room(config: Config, cluster: Cluster) -> bool:
    """Whether the learner gets a GPU of the cluster. Raises ConfigError where the cluster can never hold the run."""
    wanted, places = config.resources.env_runners, cluster.places
    if wanted > places:
        fits = max(n for n in range(int(places) + 1) if n == 0 or config.env.num_envs % n == 0)
        raise ConfigError(
            f"resources.env_runners: got {wanted}, which needs {wanted} CPUs; the cluster has {cluster}: "
            f"--resources.env-runners {fits}, or add nodes"
        )
    device = config.resources.device
    if device == "cuda" and cluster.gpus < 1:
        raise ConfigError(
            f"resources.device: got 'cuda', which needs a GPU; the cluster has none, but {cluster}: "
            "--resources.device cpu, or add a node with a GPU"
        )
    # Who leaves it open takes a GPU that is free; nobody's GPU is waited for, and no node is started for it.
    return device == "cuda" or (device == "auto" and cluster.free_gpus >= 1)


@contextlib.contextmanager
def reserved(config: Config, stop: Callable[[], bool], say: Callable[[str], None]) -> Iterator[Reservation]:
    """Places for a run's runners and learner; what is built inside goes there, and they are given back at the end.

    Waits where others hold them or an autoscaler adds nodes. Raises ConfigError: the cluster can't hold the run, or no
    room came in a quarter of an hour; KeyboardInterrupt where ``stop()`` says so meanwhile.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    cluster = Cluster.joined()
    gpu = check_room(config, cluster)
    places = [RUNNER] * config.resources.env_runners + [LEARNER] * gpu
    group = placement_group(places, strategy="SPREAD") if places else None
    try:
        if group is not None:
            _wait(group, f"{_listed(config, gpu)}; the cluster has {cluster}", stop, say)
        token = _CURRENT.set(Reservation(group, gpu))
        try:
            yield Reservation(group, gpu)
        finally:
            _CURRENT.reset(token)
    finally:
        if group is not None:
            remove_placement_group(group)


def _listed(config: Config, gpu: bool) -> str:
    return f"{config.resources.env_runners} CPUs" + " and a GPU" * gpu


def _wait(group: Any, needs: str, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
    began, told = time.monotonic(), False
    while not group.wait(LOOK_S):
        waited = time.monotonic() - began
        if stop():
            raise KeyboardInterrupt
        if waited > WAIT_S:
            raise ConfigError(
                f"resources: no room in {WAIT_S / 60:.0f} minutes for {needs}, all or some of it in use (`ray status` "
                "says by whom): ask for fewer --resources.env-runners, or add nodes"
            )
        if waited > QUIET_S and not told:
            told = True
            say(f"Waiting for room: {needs}, in use or still to be started.")


def home_node(wanted: str = "") -> str:
    """Id of the node where a run's files are: ``wanted`` while it lives; else a driver's own, and a trial's the head's.

    A trial of Tune may run anywhere; the store it shares with the others is one file on one node.
    """
    import ray

    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    if wanted in alive:
        return wanted
    context = ray.get_runtime_context()
    here = str(context.get_node_id())
    if context.get_actor_id() is None:
        return here
    return next((name for name, resources in alive.items() if HEAD in resources), here)
