"""The files of `cluster/`, by the schemas that Ray ships and by what has to fit together in them."""

import ast
import importlib.metadata
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from rlaif_ray.config import load_config

CLUSTER = Path(__file__).parents[2] / "cluster"
VERSION = "2.60.0"
RAY_UP = ["aws", "gcp"]
KUBERAY = ["kuberay-cluster", "kuberay-job"]


def read(name):
    return list(yaml.safe_load_all((CLUSTER / f"{name}.yaml").read_text()))


def ray_cluster(name):
    """The spec of a RayCluster, in a manifest of its own or in a RayJob's."""
    (spec,) = [doc["spec"] for doc in read(name) if doc["apiVersion"] == "ray.io/v1"]
    return spec.get("rayClusterSpec", spec)


def strings(tree):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from strings(key)
            yield from strings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value)
    else:
        yield str(tree)


# ------------------------------------------------------------------------------------------------ all


def test_every_file_is_for_the_version_of_ray_that_is_locked():
    assert importlib.metadata.version("ray") == VERSION
    files = [path for path in CLUSTER.iterdir() if path.is_file()]
    named = {path.name: path.read_text().count(VERSION) for path in files}
    pinned = {"Dockerfile", "aws.yaml", "gcp.yaml", "kuberay-cluster.yaml", "kuberay-job.yaml"}
    assert {name for name, count in named.items() if count} >= pinned
    for path in files:
        for image in (word for line in path.read_text().splitlines() for word in line.split() if "rayproject/" in word):
            assert f":{VERSION}-py311-" in image, f"{path.name}: {image}"


@pytest.mark.parametrize("name", [*RAY_UP, *KUBERAY, "judge"])
def test_no_file_holds_a_secret(name):
    for word in strings(read(name)):
        assert not word.startswith(("sk-", "hf_", "AKIA", "AIza"))
    text = (CLUSTER / f"{name}.yaml").read_text()
    assert "env_vars" not in text  # a runtime environment is shown to whoever may look at the cluster


# ------------------------------------------------------------------------------------------------ ray up


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_takes_the_file(name):
    (config,) = read(name)
    whole = prepare_config(config)  # what `ray up` does before it calls the cloud
    validate_config(whole)
    types = whole["available_node_types"]
    assert whole["head_node_type"] in types
    assert sum(one.get("max_workers", 0) for key, one in types.items() if key != "head") <= whole["max_workers"]
    assert types["runners"]["resources"]["CPU"] > 0
    assert types["head"]["resources"] == {"CPU": 0}  # runners go elsewhere
    assert types["learner"]["resources"] == {"CPU": 0, "GPU": 1}
    assert types["judge"]["resources"]["judge"] == 1


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_refuses_a_file_with_a_wrong_key(name):
    (config,) = read(name)
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config | {"max_worker": 3}))


@pytest.mark.parametrize("name", RAY_UP)
def test_nodes_of_the_cloud_have_the_package_and_want_the_token(name):
    (config,) = read(name)
    assert config["file_mounts"]["/home/ray/rlaif_ray"] == "."
    assert ".venv" in config["rsync_exclude"]
    types = config["available_node_types"]
    for commands in (config["head_setup_commands"], config["worker_setup_commands"],
                     types["learner"]["worker_setup_commands"], types["judge"]["worker_setup_commands"]):  # fmt: skip
        assert "--editable /home/ray/rlaif_ray" in commands[0]
        assert "--constraint /home/ray/rlaif_ray/constraints.txt" in commands[0]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


# ------------------------------------------------------------------------------------------------ Kubernetes


@pytest.mark.parametrize("name", KUBERAY)
def test_a_manifest_makes_a_cluster_of_this_version_with_a_token(name):
    spec = ray_cluster(name)
    assert spec["rayVersion"] == VERSION
    assert spec["authOptions"] == {"mode": "token"}
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"runners", "learner", "judge"}
    for group in groups.values():
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in [spec["headGroupSpec"], *groups.values()]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # KubeRay takes nothing else
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"].startswith("REGISTRY/rlaif-ray:")
        for what, amount in container["resources"]["requests"].items():
            limit = container["resources"]["limits"][what]
            assert amount == limit or int(amount) <= int(limit)
    gpus = {n: g["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
            for n, g in groups.items()}  # fmt: skip
    assert gpus == {"runners": None, "learner": "1", "judge": "1"}
    resources = groups["judge"]["rayStartParams"]["resources"]
    assert json.loads(json.loads(resources)) == {"judge": 1}  # quoted twice: once for YAML, once for the pod's shell


def test_the_judges_key_comes_from_a_secret_and_to_the_head_alone():
    for name in KUBERAY:
        spec = ray_cluster(name)
        (key,) = spec["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
        assert key["name"] == load_config("homegrid-openai").judge.api_key_env
        assert key["valueFrom"]["secretKeyRef"]["name"] == "rlaif-ray-judge"
        assert all("env" not in g["template"]["spec"]["containers"][0] for g in spec["workerGroupSpecs"])


def test_the_job_runs_on_the_same_cluster_and_keeps_its_run_on_the_volume():
    assert ray_cluster("kuberay-job") == ray_cluster("kuberay-cluster")
    (job,) = read("kuberay-job")
    assert job["kind"] == "RayJob"
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    spec = ray_cluster("kuberay-cluster")["headGroupSpec"]["template"]["spec"]
    claim = next(doc for doc in read("kuberay-cluster") if doc["kind"] == "PersistentVolumeClaim")
    assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert spec["containers"][0]["volumeMounts"] == [{"name": "runs", "mountPath": "/home/ray/runs"}]


def test_the_jobs_command_starts_a_run_and_goes_on_with_it_when_repeated(tmp_path):
    (job,) = read("kuberay-job")
    command = job["spec"]["entrypoint"].replace("/home/ray", str(tmp_path))
    fake = tmp_path / "rlaif-ray"
    fake.write_text('#!/bin/sh\necho "$@"\nmkdir -p runs/homegrid-job\ntouch runs/homegrid-job/config.yaml\n')
    fake.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = [subprocess.run(command, shell=True, env=env, capture_output=True, text=True, check=True).stdout
            for _ in range(2)]  # fmt: skip
    assert said == [
        "train homegrid --run.name homegrid-job --resources.env-runners 16\n",
        "train --resume runs/homegrid-job\n",
    ]
    assert load_config("homegrid", {"resources.env_runners": 16}).resources.env_runners == 16


# ------------------------------------------------------------------------------------------------ the judge


def fields(path, name):
    """Fields of a pydantic class in Ray's source: to import these modules Ray wants Serve's and vLLM's packages."""
    tree = ast.parse((Path(ray.__file__).parent / path).read_text())
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    return {node.target.id for node in found.body if isinstance(node, ast.AnnAssign)}


def test_serve_knows_every_key_of_the_judge():
    (deploy,) = read("judge")
    assert set(deploy) <= fields("serve/schema.py", "ServeDeploySchema")
    assert set(deploy["http_options"]) <= fields("serve/schema.py", "HTTPOptionsSchema")
    (application,) = deploy["applications"]
    assert set(application) <= fields("serve/schema.py", "ServeApplicationSchema")
    assert set(application["args"]) <= fields("llm/_internal/serve/core/ingress/builder.py", "LLMServingArgs")
    (model,) = application["args"]["llm_configs"]
    configs = "llm/_internal/serve/core/configs/llm_config.py"
    assert set(model) <= fields(configs, "LLMConfig")
    assert set(model["model_loading_config"]) <= fields(configs, "ModelLoadingConfig")
    assert (Path(ray.__file__).parent / "serve" / "llm" / "__init__.py").read_text().count("def build_openai_app") == 1


def test_the_config_asks_the_judge_that_is_served_where_it_is_served():
    (deploy,) = read("judge")
    (model,) = deploy["applications"][0]["args"]["llm_configs"]
    config = load_config(CLUSTER / "homegrid-served.yaml")
    assert config.judge.local  # price 0, no key; asked from the head, where Serve's proxy is
    assert config.judge.base_url == f"http://127.0.0.1:{deploy['http_options']['port']}/v1"
    assert config.judge.model == model["model_loading_config"]["model_id"]
    assert config.judge.max_images <= model["engine_kwargs"]["limit_mm_per_prompt"]["image"]
    assert config.feedback.concurrency <= model["deployment_config"]["max_ongoing_requests"]
    assert config.resources.address == "auto"


def test_the_judges_places_are_on_the_node_that_offers_them():
    arguments = read("judge")[0]["applications"][0]["args"]
    (bundle,) = arguments["llm_configs"][0]["placement_group_config"]["bundles"]
    ingress = arguments["ingress_deployment_config"]["ray_actor_options"]
    for name in RAY_UP:
        offered = read(name)[0]["available_node_types"]["judge"]["resources"]
        assert bundle["CPU"] + ingress["num_cpus"] <= offered["CPU"]
        assert bundle["GPU"] <= offered["GPU"]
        assert bundle["judge"] + ingress["resources"]["judge"] <= offered["judge"]


# ------------------------------------------------------------------------------------------------ keys


def with_key(*words, **env):
    show = [sys.executable, "-c", "import os; print(os.environ.get('OPENAI_API_KEY'), os.environ.get('OTHER'))"]
    return subprocess.run(
        [sys.executable, str(CLUSTER / "with_key.py"), *words, "--", *show],
        env={"PATH": os.environ["PATH"], "HOME": str(Path.home())} | env,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_command_gets_the_key_of_a_file_that_nobody_else_may_read(tmp_path):
    file = tmp_path / "key"
    file.write_text("made-up\n")
    file.chmod(0o600)
    assert with_key(f"file:{file}").stdout == "made-up None\n"
    assert with_key(f"file:{file}", "--env", "OTHER").stdout == "None made-up\n"
    file.chmod(0o644)
    refused = with_key(f"file:{file}")
    assert refused.returncode == 1
    assert "may be read by others: chmod 600" in refused.stderr
    assert "made-up" not in refused.stderr + refused.stdout


@pytest.mark.parametrize("secret", ["vault:x", "aws:", "file:/not/there"])
def test_a_secret_that_cannot_be_read_is_wrong_usage(secret):
    refused = with_key(secret)
    assert refused.returncode == 2
    assert "error:" in refused.stderr


def test_a_key_is_asked_for_as_the_clouds_libraries_want_it(tmp_path):
    """The libraries are on Ray's images, not here: what stands in for them notes how it was called."""
    (tmp_path / "boto3.py").write_text(
        "class client:\n"
        "    def __init__(self, name): assert name == 'secretsmanager'\n"
        "    def get_secret_value(self, SecretId): return {'SecretString': f'of {SecretId}'}\n"
    )
    (tmp_path / "googleapiclient").mkdir()
    (tmp_path / "googleapiclient" / "discovery.py").write_text(
        "import base64\n"
        "class build:\n"
        "    def __init__(self, name, version, cache_discovery): assert (name, version) == ('secretmanager', 'v1')\n"
        "    def projects(self): return self\n"
        "    secrets = versions = projects\n"
        "    def access(self, name): self.name = name; return self\n"
        "    def execute(self): return {'payload': {'data': base64.b64encode(f'of {self.name}'.encode())}}\n"
    )
    (tmp_path / "googleapiclient" / "__init__.py").touch()
    for secret in ("aws:judge", "gcp:projects/p/secrets/judge/versions/latest"):
        assert with_key(secret, PYTHONPATH=str(tmp_path)).stdout == f"of {secret.partition(':')[2]} None\n"


# ------------------------------------------------------------------------------------------------ Slurm


def submit(tmp_path, key_mode=0o600):
    """The script with everything of Slurm's and Ray's replaced by commands that note how they were called."""
    bin_ = tmp_path / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "activate").write_text(f"export PATH={bin_}:$PATH\n")
    note = f'echo "$(basename $0) $* [${{RAY_ADDRESS:-}}] [${{JUDGE_KEY:-}}]" >>{tmp_path}/calls\n'
    # The job's end ends its nodes, which may not have come to say anything yet.
    said = f'for i in {{1..600}}; do [ "$(grep -c ^srun {tmp_path}/calls)" = 2 ] && break; sleep 0.1; done\n'
    scripts = {
        "scontrol": "printf 'n1\\nn2\\nn3\\n'\n",
        "srun": note + "exec sleep 60\n",
        "python": note + f'[ "$1" = -c ] && exec {sys.executable} "$@"; exit 0\n',
        "rlaif-ray": note + f"ls -l {tmp_path}/.ray-token-* | cut -c1-10 >>{tmp_path}/calls\n{said}exit 3\n",
    }
    for name, text in scripts.items():
        (bin_ / name).write_text(f"#!/bin/bash\n{text}")
        (bin_ / name).chmod(0o755)
    keys = tmp_path / "keys"
    keys.write_text("JUDGE_KEY=made-up\n")
    keys.chmod(key_mode)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SLURM_SUBMIT_DIR": str(tmp_path),
           "SLURM_JOB_ID": "41234", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CPUS_PER_TASK": "16",
           "RLAIF_RAY_ENV": str(keys)}  # fmt: skip
    words = ["bash", str(CLUSTER / "slurm.sh"), "homegrid", "--run.name", "try 1"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=150)
    return done, sorted((tmp_path / "calls").read_text().splitlines())


def test_slurm_starts_a_head_and_the_others_and_gives_the_key_to_the_run_alone(tmp_path):
    done, calls = submit(tmp_path)
    assert done.returncode == 3, done.stderr  # the run's own
    (run,) = [call for call in calls if call.startswith("rlaif-ray")]
    assert run == "rlaif-ray train homegrid --run.name try 1 [n1:21234] [made-up]"
    starts = [call for call in calls if call.startswith("srun")]
    assert len(starts) == 2
    (head,) = [call for call in starts if "--head" in call]
    (others,) = [call for call in starts if "--head" not in call]
    assert "--nodelist=n1 ray start" in head
    assert "--port=21234 --num-cpus=8 " in head
    assert "--nodes=2 --ntasks=2 --exclude=n1 ray start --block --address=n1:21234 --num-cpus=16 " in others
    assert all(call.endswith("[n1:21234] []") for call in starts)
    assert "python cluster/wait_for_nodes.py 3 [n1:21234] []" in calls
    assert "-rw-------" in calls  # the token while it is needed
    assert not list(tmp_path.glob(".ray-token-*"))


def test_slurm_refuses_a_key_file_that_others_may_read(tmp_path):
    done, calls = submit(tmp_path, key_mode=0o640)
    assert done.returncode == 2
    assert "chmod 600" in done.stderr
    assert not [call for call in calls if call.startswith("rlaif-ray")]


def test_the_slurm_script_is_ready_to_be_submitted():
    script = CLUSTER / "slurm.sh"
    assert stat.S_IMODE(script.stat().st_mode) & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)
    lines = script.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in lines[first:])  # Slurm reads no further
