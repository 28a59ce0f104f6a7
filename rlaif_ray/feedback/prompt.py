"""Prompts: text files with a head, two parts and named fields.

::

    name: homegrid-align
    kind: approval
    polarity: align            # align: "yes" is good; violate: "yes" is bad
    === system
    ...
    === user
    ... {num_frames} ...

Fields are ``{num_frames}``, ``{caption}`` and ``{principle}``; nothing else is replaced, and what is filled in is
quoted as data where it is text from a world.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.types import QuestionKind

__all__ = ["Polarity", "Prompt", "answer_schema", "load_prompt", "parse_prompt", "prompt_names"]

Polarity = Literal["align", "violate"]
FIELDS = ("num_frames", "caption", "principle")
_FIELD = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Prompt:
    """What is put to a judge around the pictures."""

    name: str
    kind: QuestionKind
    polarity: Polarity
    system: str
    user: str

    @property
    def hash(self) -> str:
        """Content address (32 hex digits) of everything that a judge gets to see, and of how its answer is read."""
        return hashlib.sha256(
            json.dumps([self.kind, self.polarity, self.system, self.user], ensure_ascii=False).encode()
        ).hexdigest()[:32]

    def filled(self, *, num_frames: int, caption: str = "", principle: str = "") -> str:
        """The user part with its fields filled in. A caption comes from a world: it is quoted as data."""
        values = {
            "num_frames": str(num_frames),
            "caption": json.dumps(caption, ensure_ascii=False),
            "principle": principle,
        }
        return _FIELD.sub(lambda field: values[field.group(1)], self.user)


def answer_schema(kind: QuestionKind) -> dict[str, Any]:
    """The strict JSON schema of an answer to a question of this kind. Raises ConfigError for a kind without one."""
    if kind != "approval":
        raise ConfigError(f"question kind: got {kind!r}, allowed is 'approval'")
    text = {"type": "string"}
    return {
        "type": "object",
        "properties": {"description": text, "reasoning": text, "answer": {"type": "string", "enum": ["yes", "no"]}},
        "required": ["description", "reasoning", "answer"],
        "additionalProperties": False,
    }


def prompt_names() -> list[str]:
    """Names of the shipped prompts."""
    folder = resources.files("rlaif_ray.feedback") / "prompts"
    return sorted(p.name.removesuffix(".txt") for p in folder.iterdir() if p.name.endswith(".txt"))


def load_prompt(name_or_path: str) -> Prompt:
    """A shipped prompt by name, or a prompt file by its path (ending in ``.txt``).

    Raises UnknownNameError: no such prompt. ConfigError: the file can't be read or is no prompt.
    """
    if name_or_path in prompt_names():
        return parse_prompt(
            (resources.files("rlaif_ray.feedback") / "prompts" / f"{name_or_path}.txt").read_text("utf-8")
        )
    path = Path(name_or_path)
    if path.suffix != ".txt":
        raise UnknownNameError("prompt (or path ending in .txt)", name_or_path, prompt_names())
    try:
        return parse_prompt(path.read_text("utf-8"), where=f"prompt file {name_or_path!r}")
    except OSError as error:
        raise ConfigError(
            f"prompt file {name_or_path!r}: {error.strerror}; shipped are {', '.join(prompt_names())}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"prompt file {name_or_path!r}: not a UTF-8 text file") from None


def parse_prompt(text: str, where: str = "prompt") -> Prompt:
    """Read a prompt's text. Raises ConfigError with what is wrong and what is allowed."""
    parts = re.split(r"^=== *(\w+) *$", text, flags=re.MULTILINE)
    bodies = {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    if sorted(bodies) != ["system", "user"] or len(parts) != 5:
        raise ConfigError(f"{where}: got parts {parts[1::2]}, expected '=== system' and '=== user', each once")
    head = dict(_head_lines(parts[0], where))
    if sorted(head) != ["kind", "name", "polarity"]:
        raise ConfigError(f"{where}: head has {sorted(head)}, expected kind, name and polarity")
    _allowed(where, "kind", head["kind"], get_args(QuestionKind))
    _allowed(where, "polarity", head["polarity"], get_args(Polarity))
    if not bodies["user"]:
        raise ConfigError(f"{where}: the user part is empty, expected a question")
    for part, body in bodies.items():
        allowed = FIELDS if part == "user" else ()
        for field in _FIELD.findall(body):
            if field not in allowed:
                raise ConfigError(f"{where}: unknown field {{{field}}} in its {part} part; allowed in the user part: "
                                  + ", ".join(f"{{{name}}}" for name in FIELDS))  # fmt: skip
    return Prompt(
        name=head["name"],
        kind=cast("QuestionKind", head["kind"]),
        polarity=cast("Polarity", head["polarity"]),
        system=bodies["system"],
        user=bodies["user"],
    )


def _head_lines(head: str, where: str) -> list[tuple[str, str]]:
    lines = []
    for line in filter(None, (raw.strip() for raw in head.splitlines())):
        key, colon, value = line.partition(":")
        if not colon:
            raise ConfigError(f"{where}: head line {line!r}, expected 'key: value'")
        lines.append((key.strip(), value.strip()))
    return lines


def _allowed(where: str, key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UnknownNameError(f"{key} in {where}", value, allowed)
