"""A Ray cluster of two nodes on this machine: two `ray start` processes with ports and a token of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from rlaif_ray.surroundings import NICENESS

WAIT = Path(__file__).parents[2] / "cluster" / "wait_for_nodes.py"
PROBE = Path(__file__).with_name("two_nodes_probe.py")
AGENT_PORTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class TwoNodes:
    """The head with 2 CPUs; a worker with 2 CPUs and what stands for a GPU: Ray's resource, nothing that computes."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.write_text("0123456789abcdef" * 4)
        token.chmod(0o600)
        self.address = f"127.0.0.1:{free_port()}"
        # Other Ray clusters may run on this machine: it is the address that says which one is meant.
        self.env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.env.setdefault(NICENESS, "0")  # a busy machine would hardly let workers start that give way to all others
        self.env["PYTHONPATH"] = str(Path(__file__).parents[2])  # as nodes have it where the package isn't installed
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"]
        worker = [f"--address={self.address}", "--num-gpus=1", '--resources={"stands_for_gpu": 1}']
        self.nodes = [self._start(head), self._start(worker)]  # side by side: the worker waits for the head
        env = self.env | {"RAY_ADDRESS": self.address}
        try:
            subprocess.run(
                [sys.executable, str(WAIT), "2", "400"], env=env, check=True, capture_output=True, timeout=450
            )
        except subprocess.SubprocessError:
            self.stop()
            raise

    def _start(self, words: list[str]) -> subprocess.Popen[str]:
        common = [
            "--disable-usage-stats",
            "--num-cpus=2",
            "--object-store-memory=80000000",
            "--min-worker-port=0",
            "--max-worker-port=0",
        ]
        ports = [f"--{name}-port={free_port()}" for name in AGENT_PORTS]
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), "start", "--block", *common, *ports, *words],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def join(self, **env: str) -> str:
        """What is said to a command that can't join."""
        code = (
            "from rlaif_ray.config import load_config; from rlaif_ray.surroundings import ray_running\n"
            "with ray_running(load_config({}, {'resources.address': 'auto'})): pass"
        )
        env = self.env | {"RAY_ADDRESS": self.address} | env
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 1
        return done.stderr.splitlines()[-1]

    def probe(self, *words: str, timeout_s: float = 300.0, **env: str) -> dict:
        """What a command of ``two_nodes_probe.py`` found out, in a driver that joins by `auto`."""
        done = subprocess.run(
            [sys.executable, str(PROBE), *words],
            env=self.env | {"RAY_ADDRESS": self.address} | env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.send_signal(signal.SIGTERM)
        for node in self.nodes:
            try:
                node.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                node.kill()
                node.communicate()
