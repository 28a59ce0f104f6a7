"""Start and stop the built-in judge in a process of its own."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import time
from types import TracebackType

from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.builtin.profile import load_profile

__all__ = ["BuiltinJudge"]

_START_S = 60.0
_STOP_S = 5.0


class BuiltinJudge:
    """A built-in judge that lives as long as this object, and no longer than this process.

    ::

        with BuiltinJudge() as judge:
            base_url = judge.start("perfect", "rlaif_ray.envs.homegrid_reader:HomegridReader")
    """

    def __init__(self) -> None:
        self.base_url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the server; None where it doesn't run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self, profile: str, reader: str, port: int = 0, seed: int = 0) -> str:
        """Start it and wait until it answers; returns its base URL.

        Prefer ``judge.seed``, which is part of a question's address, over ``seed`` for other errors of the judge.

        Raises ConfigError: no such profile or reader, a port in use, or it runs already.
        """
        if self.pid is not None:
            raise ConfigError(f"the built-in judge runs already, at {self.base_url}")
        load_profile(profile)  # its mistakes are told before a process is started
        command = [sys.executable, "-m", "rlaif_ray.feedback.builtin", "--profile", profile, "--reader", reader]
        command += ["--port", str(port), "--seed", str(seed), "--parent", str(os.getpid())]
        # It asks nobody, so it gets no keys; Ctrl-C is for the parent, which stops it in its own time.
        environment = {name: value for name, value in os.environ.items() if not name.endswith(("_KEY", "_TOKEN"))}
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=environment,
                start_new_session=True,
            )
            line = self._first_line()
            if not line.startswith("http://"):
                self.stop()
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
                raise ConfigError(f"the built-in judge did not start: {said[-1].removeprefix('error: ')}")
        self.base_url = line
        return line

    def stop(self) -> None:
        """Stop it, gently first. Does nothing where it doesn't run."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdout is not None:
            process.stdout.close()
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> BuiltinJudge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _first_line(self) -> str:
        if self._process is None or self._process.stdout is None:
            return ""
        deadline, said = time.monotonic() + _START_S, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in said and selector.select(max(0.0, deadline - time.monotonic())):
                chunk = os.read(self._process.stdout.fileno(), 4096)
                if not chunk:
                    break
                said += chunk
        return said.decode(errors="replace").strip()
