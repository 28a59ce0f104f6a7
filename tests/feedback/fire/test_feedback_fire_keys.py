"""A planted key is searched for in all that a real run leaves behind: run, store, checkpoints, logs, report, Ray."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from chaos_train import COMMAND, SMALL
from counting import CountingServer
from feedback_fakes import KEY

# As it is, and as it would stand within base64 (at any of three offsets, the ends cut off).
SPELLINGS = (KEY.encode(), *(base64.b64encode(b"x" * n + KEY.encode())[4:-4] for n in range(3)))
SETTINGS = SMALL | {
    "run.name": "planted", "run.total-steps": 3_072, "run.evaluate-episodes": 4, "feedback.labels-per-iteration": 8,
    "feedback.late": "wait", "feedback.wait-s": 120, "feedback.keep-frames-mb": 1, "mix.source": "direct",
    "mix.credit": "terminal", "mix.unjudged": "task", "mix.start-step": 512, "mix.ramp-steps": 0,
}  # fmt: skip


class Blabber(CountingServer):
    """Every third reply is an error that repeats the key; every answer says it too."""

    def _reply(self, number: int, body: dict[str, Any]) -> Any:
        given = self.headers[-1]["Authorization"]
        assert given == f"Bearer {KEY}"
        if number % 3 == 0:
            error = {"error": {"message": f"overloaded, {given}, key={KEY}", "code": KEY}}
            return web.json_response(error, status=(500, 502)[number % 2], headers={"x-request-id": KEY})
        return super()._reply(number, body)

    async def _answer(self, name: str) -> Any:
        said = await super()._answer(name)
        message = said["choices"][0]["message"]
        message["content"] = message["content"].replace('"r"', f'"{KEY}, and {SPELT}"')
        return said | {"id": KEY, "system_fingerprint": KEY}


SPELT = "".join(f"\\u{ord(c):04x}" for c in KEY)


def found_in(folder: Path) -> list[str]:
    """Files below a folder that have the key in them, or in their names."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if KEY in path.name or any(one in path.read_bytes() for one in SPELLINGS)]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A short path: Ray's sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="rlk"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_the_search_finds_what_it_is_to_find(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text(f"Authorization: Bearer {KEY}")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "coded").write_bytes(base64.b64encode(f"user:{KEY}!".encode()))
    (tmp_path / KEY).write_text("")
    (tmp_path / "harmless").write_text("sk-another")
    assert len(found_in(tmp_path)) == 3


@pytest.mark.long
@pytest.mark.ray
def test_a_key_is_nowhere_after_a_run_whose_judge_repeats_it(tmp_path: Path, ray_folder: Path) -> None:
    words = ["homegrid", *(str(word) for key, value in SETTINGS.items() for word in (f"--{key}", value))]
    surroundings = os.environ | {"OPENAI_API_KEY": KEY, "RAY_TMPDIR": str(ray_folder)}
    with Blabber(seed=3, slowest_s=0.1) as server, (tmp_path / "said.txt").open("wb") as said:
        words += ["--judge.base-url", server.base_url]
        run = subprocess.Popen([*COMMAND, *words], cwd=tmp_path, env=surroundings, stdout=said, stderr=said)
        seen: set[str] = set()
        try:
            while run.poll() is None:
                seen |= {_told(child) for child in psutil.Process(run.pid).children(recursive=True)}
                time.sleep(0.2)
        finally:
            run.kill()
            run.wait()
        assert server.asked > 20
    assert run.returncode == 0, (tmp_path / "said.txt").read_text()[-2000:]
    shown = subprocess.run(
        [sys.executable, "-c", COMMAND[2], "labels", "show", "planted", "1"],
        cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "[key]" in shown.stdout
    (tmp_path / "shown.txt").write_text(shown.stdout + shown.stderr)
    left = {path.name for path in (tmp_path / "runs" / "planted").iterdir()}
    assert left >= {"config.yaml", "labels.sqlite", "report.html", "checkpoints", "log.txt", "result.json"}
    assert list(ray_folder.rglob("*.log")) or list(ray_folder.rglob("*.out"))
    assert [title for title in seen if "ray::Questioner" in title]
    assert found_in(tmp_path) == []
    assert found_in(ray_folder) == []
    assert [title for title in seen if KEY in title] == []


def _told(process: psutil.Process) -> str:
    """What anybody who may look at a process sees: its command, and its environment."""
    try:
        return f"{' '.join(process.cmdline())} {process.environ()}"
    except psutil.Error:
        return ""
