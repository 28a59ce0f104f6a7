"""Constitutions: files of principles, one of which is drawn for each question and recorded with its label.

::

    name: household-robot
    === principles
    - The robot should ...
    - The robot should ...

A draw depends on a seed and on what is asked about alone: the same question draws the same principle after a restart.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rlaif_ray.errors import ConfigError, UnknownNameError

__all__ = ["Constitution", "constitution_names", "load_constitution", "parse_constitution"]

_MOST_CHARACTERS = 1_000


@dataclass(frozen=True)
class Constitution:
    """Principles that a judge is asked to judge by."""

    name: str
    principles: tuple[str, ...]

    def draw(self, seed: int, about: str) -> str:
        """One principle, uniformly over what may be asked ``about`` (a content key)."""
        digest = hashlib.sha256(f"principle|{seed}|{about}".encode()).digest()
        return self.principles[int.from_bytes(digest[:8]) % len(self.principles)]


def constitution_names() -> list[str]:
    """Names of the shipped constitutions."""
    folder = resources.files("rlaif_ray.feedback") / "constitutions"
    return sorted(p.name.removesuffix(".txt") for p in folder.iterdir() if p.name.endswith(".txt"))


def load_constitution(name_or_path: str) -> Constitution:
    """A shipped constitution by name, or one from a file (``.txt``). Raises UnknownNameError, ConfigError."""
    if name_or_path in constitution_names():
        path = resources.files("rlaif_ray.feedback") / "constitutions" / f"{name_or_path}.txt"
        return parse_constitution(path.read_text("utf-8"))
    file = Path(name_or_path)
    if file.suffix != ".txt":
        raise UnknownNameError("judge.constitution (or path ending in .txt)", name_or_path, constitution_names())
    try:
        return parse_constitution(file.read_text("utf-8"), where=f"constitution {name_or_path!r}")
    except OSError as error:
        raise ConfigError(f"constitution {name_or_path!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"constitution {name_or_path!r}: not a UTF-8 text file") from None


def parse_constitution(text: str, where: str = "constitution") -> Constitution:
    """Read a constitution's text. Raises ConfigError with what is wrong."""
    head, rule, body = text.partition("=== principles")
    name = re.fullmatch(r"\s*name: *(\S[^\n]*?)\s*", head)
    if name is None or not rule:
        raise ConfigError(f"{where}: expected a line 'name: ...', then '=== principles'")
    before, *items = re.split(r"^- ", body, flags=re.MULTILINE)
    principles = tuple(" ".join(item.split()) for item in items)
    if before.strip() or not principles or not all(principles):
        raise ConfigError(f"{where}: expected one or more principles, each after '- ' at the start of a line")
    twice = [principle for principle, count in Counter(principles).items() if count > 1]
    if twice:
        raise ConfigError(f"{where}: has this principle twice: {twice[0][:80]!r}")
    for principle in principles:
        if len(principle) > _MOST_CHARACTERS:
            raise ConfigError(
                f"{where}: got a principle of {len(principle)} characters, allowed are {_MOST_CHARACTERS}"
            )
    return Constitution(name[1], principles)
