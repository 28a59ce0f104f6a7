"""``rlaif-ray doctor``: what this machine has and lacks for a run. It changes nothing and prints no secret."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rlaif_ray.cli.options import Doctor as DoctorOptions
from rlaif_ray.cli.output import only_json, print_json
from rlaif_ray.config.running import available_cores

__all__ = ["Finding", "doctor", "findings"]

MEMORY_GB, DISK_GB, SHARED_GB = 6.0, 2.0, 0.6  # a Homegrid run's peak, its folder, Ray's object store
KEYS = ("OPENAI_API_KEY", "WANDB_API_KEY")
TESTED = "CPython 3.11 on Linux x86-64"
Level = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``bad``: a run will fail; ``note``: worth knowing."""

    name: str
    level: Level
    value: str
    advice: str = ""


def doctor(command: DoctorOptions) -> int:
    """Print the findings; exit code 1 where one is bad."""
    with only_json(command.json):
        found = findings()
    bad = [f for f in found if f.level == "bad"]
    if command.json:
        print_json({"ok": not bad, "findings": [asdict(f) for f in found]})
        return 1 if bad else 0
    marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
    for f in found:
        print(f"{marks[f.level]}  {f.name:16} {f.value}" + (f"  ({f.advice})" if f.advice else ""))
    print(f"\n{len(bad)} problem{'s' * (len(bad) != 1)} found" if bad else "\nReady to run.")
    return 1 if bad else 0


def findings() -> list[Finding]:
    """Look at everything; a check that breaks is itself a finding."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _python, _packages, _ray, _machine, _shared_memory, _gpu, _keys, _loopback, _writable,
    )  # fmt: skip
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except (OSError, RuntimeError, ImportError, ValueError) as error:
            found.append(Finding(check.__name__.strip("_"), "bad", f"{type(error).__name__}: {error}"))
    return found


def _python() -> list[Finding]:
    version = platform.python_version()
    system = f"{platform.python_implementation()} {version} on {platform.system()} {platform.machine()}"
    tested = system.startswith("CPython 3.11") and "Linux x86_64" in system
    return [Finding("python", "ok" if tested else "note", system, "" if tested else f"tested is {TESTED}")]


def _packages() -> list[Finding]:
    """Installed versions against what the package requires."""
    found = []
    for requirement in importlib.metadata.requires("rlaif_ray") or ():
        if "extra ==" in requirement:
            continue
        name, wanted = _parted(requirement)
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, "bad", "not installed", f"pip install '{requirement}'"))
            continue
        fits = _fits(have, wanted)
        found.append(Finding(name, "ok" if fits else "bad", have, "" if fits else f"needs {wanted}"))
    return found


def _parted(requirement: str) -> tuple[str, str]:
    """``ray[rllib,tune]==2.60.0`` -> ``("ray", "==2.60.0")``."""
    match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*\(?([^;)]*)", requirement)
    return (match[1], match[2].strip()) if match else (requirement, "")


def _fits(have: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(have, prereleases=True)


def _ray() -> list[Finding]:
    import ray

    return [Finding("ray imports", "ok", f"from {Path(ray.__file__).parent}")]


def _machine() -> list[Finding]:
    import psutil

    cores = available_cores()
    memory = psutil.virtual_memory().available / 2**30
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        Finding("cores", "ok" if cores >= 2 else "note", str(cores), "" if cores >= 2 else "two or more are faster"),
        _enough("memory", memory, MEMORY_GB),
        _enough("disk", disk, DISK_GB),
    ]


def _enough(name: str, have_gb: float, want_gb: float) -> Finding:
    short = have_gb < want_gb
    return Finding(name, "note" if short else "ok", f"{have_gb:.1f} GB free", f"{want_gb:g} GB is safe" * short)


def _shared_memory() -> list[Finding]:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return [Finding("/dev/shm", "note", "not there", "Ray then keeps its objects in /tmp, which is slower")]
    return [_enough("/dev/shm", shutil.disk_usage(shm).free / 2**30, SHARED_GB)]


def _gpu() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        return [Finding("gpu", "ok", f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")]
    return [Finding("gpu", "note", f"none, torch {torch.__version__}", "not needed for Homegrid")]


def _keys() -> list[Finding]:
    """Whether each variable is set; never what it holds."""
    return [
        Finding(name, "note", "set" if os.environ.get(name) else "not set", "only hosted services need one")
        for name in KEYS
    ]


def _loopback() -> list[Finding]:
    """A server on a free port of 127.0.0.1 can be reached: the built-in judge needs it."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 2.0):
        return [Finding("loopback", "ok", "a local server can be reached")]


def _writable() -> list[Finding]:
    """Runs are written below the working directory."""
    target = Path("runs") if Path("runs").is_dir() else Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=target):
            return [Finding("run folder", "ok", f"{target.resolve()} can be written")]
    except OSError as error:
        return [Finding("run folder", "bad", f"{target.resolve()}: {error.strerror}", "choose another with --run.dir")]
