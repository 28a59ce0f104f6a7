"""A judge's server in a process of its own, that lives no longer than this one."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rlaif_ray.errors import ConfigError
from rlaif_ray.priority import ASKING, behind

__all__ = ["ServerProcess"]

_START_S = 60.0
_STOP_S = 5.0


class ServerProcess:
    """Runs a module that serves: its first line on standard output is its base URL, once it answers. It is told our
    process id, and stops when we are gone."""

    what = "the judge's server"

    def __init__(self) -> None:
        self.base_url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the server; None where it doesn't run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def launch(self, module: str, words: Sequence[str], start_s: float = _START_S) -> str:
        """Start it and wait until it answers; returns its base URL.

        Raises ConfigError: it runs already, or it did not start, with its last words.
        """
        if self.pid is not None:
            raise ConfigError(f"{self.what} runs already, at {self.base_url}")
        command = [sys.executable, "-m", module, *words, "--parent", str(os.getpid())]
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
            behind(self._process.pid, ASKING)
            line = self._first_line(start_s)
            if not line.startswith("http://"):
                self.stop()
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
                raise ConfigError(f"{self.what} did not start: {said[-1].removeprefix('error: ')}")
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _first_line(self, start_s: float) -> str:
        if self._process is None or self._process.stdout is None:
            return ""
        deadline, said = time.monotonic() + start_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in said and selector.select(max(0.0, deadline - time.monotonic())):
                chunk = os.read(self._process.stdout.fileno(), 4096)
                if not chunk:
                    break
                said += chunk
        return said.decode(errors="replace").strip()
