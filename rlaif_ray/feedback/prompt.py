"""Prompts: text files with a head, two parts and named fields.

::

    name: homegrid-align
    kind: approval             # or rating, preference
    polarity: align            # align: "yes" (a high level, the one preferred) is good; violate: it is bad
    === system
    ...
    === user
    ... {num_frames} ...

A rating's head also names its levels, from the lowest: ``levels: poor, fair, good``. An approval's may name its two
answers where they aren't yes and no: ``answers: good, bad``. Fields are ``{num_frames}``, ``{caption}`` and
``{principle}``; in an approval ``{answers}``; in a rating ``{levels}``; in a preference ``{frames_first}``,
``{frames_second}``, ``{caption_first}`` and ``{caption_second}``. Nothing else is replaced, and what is filled in is
quoted as data where it is text from a world (``quoting.quoted``): the prompt's own words say what the
quotation is.

A third part, ``=== answer``, is how the answer begins: a ``logodds`` judge's server goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.feedback.quoting import quoted
from rlaif_ray.types import QuestionKind

__all__ = ["Polarity", "Prompt", "answer_schema", "load_prompt", "parse_prompt", "prompt_names"]

Polarity = Literal["align", "violate"]
FIELDS: dict[QuestionKind, tuple[str, ...]] = {
    "approval": ("num_frames", "caption", "principle", "answers"),
    "rating": ("num_frames", "caption", "principle", "levels"),
    "preference": (
        "num_frames", "frames_first", "frames_second", "caption_first", "caption_second", "principle",
    ),
}  # fmt: skip
_FIELD = re.compile(r"\{([a-z_]+)\}")
_LEVEL = re.compile(r"[a-z0-9][a-z0-9 _-]{0,39}", re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    """What is put to a judge around the pictures."""

    name: str
    kind: QuestionKind
    polarity: Polarity
    system: str
    user: str
    levels: tuple[str, ...] = ()  # of a rating, from the lowest
    words: tuple[str, ...] = ()  # of an approval, the two answers where they aren't yes and no
    begins: str = ""  # how the answer begins, where a server is to go on from there

    @property
    def hash(self) -> str:
        """Content address (32 hex digits) of everything that a judge gets to see, and of how its answer is read."""
        seen: list[Any] = [self.kind, self.polarity, self.system, self.user]
        if self.kind != "approval":
            seen.append(answer_schema(self.kind, self.levels))
        if self.words or self.begins:
            seen += [self.words, self.begins]
        return hashlib.sha256(json.dumps(seen, ensure_ascii=False).encode()).hexdigest()[:32]

    @property
    def answers(self) -> tuple[str, ...]:
        """What may be answered."""
        return _answers(self.kind, self.levels or self.words)

    @property
    def needs_principle(self) -> bool:
        return "{principle}" in self.user

    @property
    def needs_caption(self) -> bool:
        return "{caption" in self.user

    def filled(
        self,
        *,
        num_frames: int | Sequence[int],
        caption: str | Sequence[str] = "",
        principle: str = "",
        swapped: bool = False,
    ) -> str:
        """The user part with its fields filled in; two numbers and captions for a preference, in the order shown.

        A caption comes from a world: it is quoted as data. ``swapped``: the answers are named the other way round.
        """
        counts = [num_frames] if isinstance(num_frames, int) else list(num_frames)
        captions = [caption] if isinstance(caption, str) else list(caption)
        values = {
            "num_frames": str(sum(counts)),
            "caption": quoted("\n".join(captions)),
            "principle": principle,
            "levels": ", ".join(f'"{level}"' for level in self.levels),
            "answers": " or ".join(self.answers[::-1] if swapped else self.answers),
            "frames_first": str(counts[0]),
            "frames_second": str(counts[-1]),
            "caption_first": quoted(captions[0]),
            "caption_second": quoted(captions[-1]),
        }
        return _FIELD.sub(lambda field: values[field.group(1)], self.user)


def _answers(kind: QuestionKind, named: Sequence[str]) -> tuple[str, ...]:
    if kind == "preference":
        return ("first", "second", "tie")
    return tuple(named) if named or kind == "rating" else ("yes", "no")


def answer_schema(kind: QuestionKind, named: Sequence[str] = ()) -> dict[str, Any]:
    """The strict JSON schema of an answer to a question of this kind. ``named``: the answers where a prompt names them,
    a rating's levels from the lowest."""
    text = {"type": "string"}
    answer = {"type": "string", "enum": list(_answers(kind, named))}
    return {
        "type": "object",
        "properties": {"description": text, "reasoning": text, "answer": answer},
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
    if parts[1::2] not in (["system", "user"], ["system", "user", "answer"]):
        raise ConfigError(
            f"{where}: got parts {parts[1::2]}, expected '=== system' and '=== user', each once, in this order, and "
            "'=== answer' after them where the answer's beginning is given"
        )
    head = dict(_head_lines(parts[0], where))
    wanted = ["kind", "name", "polarity"]
    if sorted(head) not in (wanted, sorted([*wanted, "levels"]), sorted([*wanted, "answers"])):
        raise ConfigError(
            f"{where}: head has {sorted(head)}, expected kind, name and polarity (and a rating's levels, or an "
            "approval's answers)"
        )
    _allowed(where, "kind", head["kind"], get_args(QuestionKind))
    _allowed(where, "polarity", head["polarity"], get_args(Polarity))
    kind = cast("QuestionKind", head["kind"])
    levels, words = _levels(where, kind, head.get("levels")), _words(where, kind, head.get("answers"))
    if not bodies["user"]:
        raise ConfigError(f"{where}: the user part is empty, expected a question")
    for part, body in bodies.items():
        allowed = FIELDS[kind] if part == "user" else ()
        for field in _FIELD.findall(body):
            if field not in allowed:
                raise ConfigError(f"{where}: unknown field {{{field}}} in its {part} part; allowed in the user part: "
                                  + ", ".join(f"{{{name}}}" for name in FIELDS[kind]))  # fmt: skip
    return Prompt(
        name=head["name"],
        kind=kind,
        polarity=cast("Polarity", head["polarity"]),
        system=bodies["system"],
        user=bodies["user"],
        levels=levels,
        words=words,
        begins=bodies.get("answer", ""),
    )


def _words(where: str, kind: QuestionKind, text: str | None) -> tuple[str, ...]:
    """An approval's two answers, the one that means yes first: "good, bad"."""
    if text is None:
        return ()
    words = tuple(word.strip() for word in text.split(","))
    if kind != "approval" or len(words) != 2 or words[0].lower() == words[1].lower():
        raise ConfigError(
            f"{where}: got answers {text!r} for kind {kind!r}, allowed are two different words for kind 'approval'"
        )
    for word in words:
        if not word.isalpha():
            raise ConfigError(f"{where}: got answer {word!r}, allowed are letters")
    return words


def _levels(where: str, kind: QuestionKind, text: str | None) -> tuple[str, ...]:
    """A rating's levels, from the lowest: "poor, fair, good"."""
    if kind != "rating":
        if text is not None:
            raise ConfigError(f"{where}: got levels for kind {kind!r}, allowed with kind 'rating'")
        return ()
    levels = tuple(level.strip() for level in (text or "").split(","))
    if len(levels) < 2 or len({level.lower() for level in levels}) != len(levels):
        raise ConfigError(f"{where}: got levels {text!r}, expected at least two different ones, lowest first")
    for level in levels:
        if not _LEVEL.fullmatch(level):
            raise ConfigError(
                f"{where}: got level {level!r}, allowed are up to 40 letters, digits, spaces, '_' and '-'"
            )
    return levels


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
