"""`--resources.address auto` on a cluster of two nodes made of real `ray start` processes."""

import pytest
from two_nodes import TwoNodes

# On a busy machine two nodes take minutes to start; all marked long, they stay together in one process of pytest-xdist.
pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1_200)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    nodes = TwoNodes(tmp_path_factory.mktemp("r"))  # a short name: Ray's sockets lie below it
    yield nodes
    nodes.stop()


@pytest.fixture(scope="module")
def run(cluster, tmp_path_factory):
    return cluster.probe("train", str(tmp_path_factory.mktemp("runs")))


def test_a_run_on_two_nodes_ends_as_on_one_machine(run):
    assert run["exit_code"] == 0
    assert run["summary"]["status"] == "done"
    assert run["summary"]["steps"] == 1_024
    assert run["summary"]["labels"] == 6
    assert run["summary"]["provenance"]["direct"] > 0
    assert run["checkpoint"]


def test_runners_are_spread_and_the_learner_is_where_the_gpu_is(run):
    """Left to itself, Ray fills half of one node before it takes the next."""
    assert run["actors"]["ColumnarEnvRunner"] == ["head", "worker"]
    assert run["actors"]["_WrappedExecutable"] == ["worker"]  # RLlib's learner


def test_a_trial_that_asks_for_a_gpu_is_sent_to_where_one_is(run):
    """The driver of a sweep has none itself."""
    assert run["on_gpu"]


def test_the_store_and_who_asks_a_judge_on_loopback_are_at_the_head(run):
    assert run["actors"]["LabelStore"] == ["head"]
    assert run["actors"]["Questioner"] == ["head"]


def test_an_actor_on_another_node_uses_the_store_at_the_head(run):
    elsewhere = run["elsewhere"]
    assert not elsewhere["is_home"]
    assert elsewhere["actors"]["LabelStore"] == ["head"]
    assert elsewhere["labels"] == elsewhere["stored"] == 6


def test_a_trial_on_another_node_asks_the_store_what_it_and_its_ancestors_used(run):
    assert run["elsewhere"]["trial"] == {"last": 6, "used": 6, "of_clone": 5, "inherited": 5}


def test_what_the_cluster_can_never_hold_is_refused_with_what_to_ask_for(run):
    assert run["refused"] == (
        "resources.env_runners: got 9, which needs 9 CPUs; the cluster has 4 CPUs (2 nodes: 2 + 2): "
        "--resources.env-runners 4, or add nodes"
    )


def test_what_others_hold_is_waited_for_and_everything_is_given_back(run):
    assert run["left"] == {"CPU": 4, "GPU": 1}
    assert run["waited"]["stopped"]
    assert run["waited"]["said"][0].startswith("Waiting for room: 2 CPUs and a GPU; the cluster has 4 CPUs (2 nodes")
    assert run["waited"]["state"] == "CREATED"
    given = [(place.get("CPU"), place.get("GPU")) for place in run["waited"]["places"]]
    assert given == [(1, None), (1, None), (None, 1)]


def test_a_cluster_that_wants_its_token_says_how_to_give_it(cluster):
    said = cluster.join(RAY_AUTH_MODE="disabled", RAY_NUM_REDIS_GET_RETRIES="1")
    assert "ConfigError: resources.address: got 'auto', which can't be joined: the cluster wants its token" in said
    assert "RAY_AUTH_MODE=token" in said
