"""The layers of the design, read off the source: who may import whom, and who may import what from outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlaif_ray
import rlaif_ray.config

PACKAGE = Path(rlaif_ray.__file__).parent

# A room is a package, or modules that make one thing together. Rooms of one level do not import each other.
LOOP = "loop tally lateness deferral partners pairing paying scoring scorebook watch asking"
LEVELS: list[dict[str, set[str]]] = [
    {"errors": {"errors"}},
    {"types": {"types"}, "files": {"files"}, "priority": {"priority"}, "processor": {"processor"}},
    {"config": {"config"}, "intervals": {"intervals"}, "packed": {"packed"}, "products": {"products"}},
    {
        "envs": {"envs"},
        "acting": {"columns", "trunks", "patches", "planning", "networks", "policy", "rollout"},
        "feedback": {"feedback"},
        "reward_model": {"reward_model"},
    },
    {"mixing": {"mixing"}},
    {"loop": set(LOOP.split())},
    {"ppo": {"ppo", "ppo_config", "fleet", "learner", "numbering", "placement", "warm_start"}},
    {"experiment": {"experiment", "course", "evaluation", "checkpoints", "machine", "runlog", "surroundings"}},
    {"sweep": {"sweep"}},
    {"report": {"report"}},
    {"cli": {"cli"}},
]
# Pure functions of columns that the mathematics of rewards needs as well.
RLLIB_IN = {"rollout", "policy", "learner", "ppo", "ppo_config", "experiment"}
HTTP_CLIENTS = {"openai", "aiohttp", "httpx", "httpx2", "requests", "urllib3", "http.client", "urllib.request"}


def place_of(module: str) -> tuple[int, str]:
    for level, rooms in enumerate(LEVELS):
        for room, members in rooms.items():
            if module in members:
                return level, room
    raise AssertionError(f"rlaif_ray.{module} has no place among the layers: give it one here and in the design")


def allowed(importer: str, imported: str) -> bool:
    """Whether top-level module ``importer`` may import top-level module ``imported``."""
    level, room = place_of(importer)
    other_level, other_room = place_of(imported)
    return room == other_room or other_level < level


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(names: Iterator[str]) -> set[str]:
    """Top-level modules of this package among dotted names."""
    parts = [name.split(".") for name in names if name.startswith("rlaif_ray.")]
    modules = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    return {part[1] for part in parts} & modules


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_layers_below_it(path: Path) -> None:
    for imported in own_modules(imports(ast.parse(path.read_text()))):
        assert allowed(top(path), imported), f"{top(path)} must not import {imported}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_comes_from_outside_has_its_place(path: Path) -> None:
    names = set(imports(ast.parse(path.read_text())))
    if any(name == "ray.rllib" or name.startswith("ray.rllib.") for name in names):
        assert top(path) in RLLIB_IN, f"{top(path)} must not know RLlib"
    clients = {c for c in HTTP_CLIENTS for name in names if name == c or name.startswith(f"{c}.")}
    assert not clients or top(path) == "feedback", f"{top(path)} must not import {clients}: HTTP is feedback's"


def test_the_rule_forbids_what_the_design_forbids() -> None:
    assert not allowed("envs", "feedback")
    assert not allowed("feedback", "envs")
    assert not allowed("reward_model", "rollout")
    assert not allowed("mixing", "ppo")
    assert not allowed("types", "config")
    assert allowed("rollout", "columns")
    assert allowed("cli", "errors")
    assert set(own_modules(iter(["rlaif_ray.envs.registry", "numpy", "rlaif_ray.config.Config"]))) == {"envs", "config"}


def test_the_public_names_are_these() -> None:
    sections = {name for name in dir(rlaif_ray.config) if name.endswith("Config")}
    assert set(rlaif_ray.__all__) == sections | {
        "FeedbackPPO",
        "FeedbackPPOConfig",
        "Judge",
        "LabelStore",
        "RewardModel",
        "Unit",
        "Verdict",
        "ask_about",
        "load_config",
        "load_policy",
        "register_env",
    }
    for name in rlaif_ray.__all__:
        assert getattr(rlaif_ray, name).__name__ == name


def test_commands_answer_without_ray_and_torch() -> None:
    """`--help` has to answer within a second: the words of a command are read before anything heavy is imported."""
    code = "import sys, rlaif_ray.cli; print(sorted({'ray', 'torch', 'openai', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", [PACKAGE, Path(__file__).parent], ids=["package", "tests"])
def test_files_stay_short(folder: Path) -> None:
    long = {str(p.relative_to(folder)): n for p in folder.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
