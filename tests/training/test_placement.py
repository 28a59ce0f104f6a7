"""Whether a cluster can hold a run, and what is said where it can't."""

import json
import math
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from rlaif_ray.config import load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.placement import Cluster, Node, check_room, cluster_address, current, growth

TWO = Cluster((Node(4.0), Node(8.0, gpus=1.0)), free_gpus=1.0)


def config(**resources):
    return load_config({}, {f"resources.{name}": value for name, value in resources.items()})


@pytest.mark.parametrize(
    ("device", "cluster", "gpu"),
    [
        ("auto", TWO, True),
        ("cpu", TWO, False),
        ("cuda", TWO, True),
        ("auto", Cluster((Node(8.0, gpus=1.0),), free_gpus=0.0), False),  # in use: not waited for
        ("cuda", Cluster((Node(8.0, gpus=1.0),), free_gpus=0.0), True),  # asked for: waited for
        ("auto", Cluster((Node(8.0),), most_cpus=8.0, most_gpus=2.0), False),  # no node is started for it
        ("cuda", Cluster((Node(8.0),), most_cpus=8.0, most_gpus=2.0), True),
    ],
)
def test_the_learner_gets_a_gpu_that_is_free_or_asked_for(device, cluster, gpu):
    assert check_room(config(env_runners=2, device=device), cluster) is gpu


def test_a_gpu_that_no_node_has_and_no_autoscaler_adds_is_refused():
    with pytest.raises(ConfigError, match=r"got 'cuda', .* the cluster has none, but 4 CPUs \(one node\)"):
        check_room(config(env_runners=2, device="cuda"), Cluster((Node(4.0),)))


def test_too_many_runners_are_refused_with_the_most_that_fit_and_share_the_environments_out():
    with pytest.raises(ConfigError, match=r"got 16, .* 16 CPUs.*has 12 CPUs \(2 nodes: 4 \+ 8\): .*runners 8,"):
        check_room(config(env_runners=16), TWO)  # 256 environments go into 8, not into 9 to 12


def test_a_cpu_in_parts_holds_no_runner():
    with pytest.raises(ConfigError, match="env-runners 2,"):
        check_room(config(env_runners=4), Cluster((Node(1.5), Node(1.5))))


def test_a_cluster_that_grows_is_measured_by_what_it_may_come_to():
    growing = Cluster((Node(2.0),), most_cpus=16.0)
    assert not check_room(config(env_runners=16), growing)
    with pytest.raises(ConfigError, match=r"has 2 CPUs \(one node\), and grows to 16: --resources\.env-runners 16,"):
        check_room(config(env_runners=32), growing)


def test_an_autoscaler_whose_end_is_not_known_is_waited_for():
    growing = Cluster((Node(0.0),), most_cpus=math.inf, most_gpus=math.inf)
    assert check_room(config(env_runners=64, device="cuda"), growing)
    assert str(growing) == "0 CPUs (one node), and grows"


def test_a_head_of_ray_up_knows_how_far_its_cluster_grows(tmp_path):
    """The file that `ray up` leaves there, made from ours by Ray's own loader."""
    ours = yaml.safe_load((Path(__file__).parents[2] / "cluster" / "aws.yaml").read_text())
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"
    bootstrap.write_text(json.dumps(prepare_config(ours)))
    assert growth(bootstrap, {}) == (8 * 16 + 4, 2)  # the runners and the judge's node; two nodes with a GPU
    bootstrap.write_text(json.dumps(prepare_config(ours | {"max_workers": 3})))
    assert growth(bootstrap, {}) == (3 * 16, 2)


def test_a_pod_of_kuberay_knows_whether_an_autoscaler_runs_beside_it(tmp_path):
    none = tmp_path / "none"
    assert growth(none, {}) == (0, 0)
    assert growth(none, {"KUBERAY_GEN_RAY_START_CMD": "ray start --head --num-cpus=4"}) == (0, 0)
    autoscaled = "ray start --head --no-monitor=true --num-cpus=0"
    assert growth(none, {"KUBERAY_GEN_RAY_START_CMD": autoscaled}) == (math.inf, math.inf)


def test_which_cluster_is_joined(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(config()) == ""
    assert cluster_address(config(address="auto")) == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # what a submitted job is given
    assert cluster_address(config()) == "10.0.0.1:6379"
    assert cluster_address(config(address="head:1234")) == "head:1234"
    for other in ("http://127.0.0.1:8265", "local"):  # where jobs are submitted; Ray's word for one's own
        monkeypatch.setenv("RAY_ADDRESS", other)
        assert cluster_address(config()) == ""


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265", "head", "a b:1"])
def test_a_cluster_is_joined_from_inside(address):
    with pytest.raises(ConfigError, match=r"resources\.address: got .* must be 'auto' or host:port .*ray job submit"):
        config(address=address)


def test_outside_a_cluster_nothing_is_reserved():
    assert current() is None
