"""What the built-in judge writes: its decision in the words that were asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Asked", "Opinion", "asked_for", "fill"]

_LEVELS = re.compile(r"from the lowest to the highest: *((?:\"[^\"]+\"(?:, *)?)+)", re.IGNORECASE)
_FILLER = (
    "The pictures were looked at one after the other, with care.",
    "It should be said that pictures show only a part of what happens.",
    "All of this was weighed as a whole.",
)
Kind = Literal["approval", "rating", "preference"]


@dataclass(frozen=True)
class Asked:
    """What kind of answer is wanted, and which ones there are, as they are to be written."""

    kind: Kind
    answers: tuple[str, ...]  # yes, no; levels from the lowest; first, second, tie


@dataclass(frozen=True)
class Opinion:
    """What is to be written."""

    answer: str  # one of those asked for
    says_yes: bool
    description: str
    reasoning: str

    def lengthened(self, sentences: int) -> Opinion:
        more = " ".join(_FILLER[i % len(_FILLER)] for i in range(sentences))
        return Opinion(self.answer, self.says_yes, self.description, f"{self.reasoning} {more}".strip())


def asked_for(text: str, schema: Mapping[str, Any] | None, groups: int) -> Asked:
    """The kind of question, from how many runs are shown, the schema's options and, without one, the wording."""
    if groups == 2:
        return Asked("preference", ("first", "second", "tie"))
    options = _options(schema)
    if options is None and (named := _LEVELS.search(text)):
        options = tuple(re.findall(r"\"([^\"]+)\"", named[1]))
    if options is None or {option.lower() for option in options} == {"yes", "no"}:
        return Asked("approval", ("yes", "no"))
    return Asked("rating", options)


def fill(opinion: Opinion, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """The answer as JSON: the schema's own keys, or the usual three where none was given.

    Raises ValueError: the schema asks for something this judge has no answer to.
    """
    if schema is None:
        return {"description": opinion.description, "reasoning": opinion.reasoning, "answer": opinion.answer}
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, Mapping) or not properties:
        raise ValueError("the schema is not that of an object with properties")
    return {name: _value(name, spec, opinion) for name, spec in properties.items()}


def _options(schema: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    properties = (schema or {}).get("properties")
    if not isinstance(properties, Mapping):
        return None
    found: list[Sequence[Any]] = [
        spec["enum"] for spec in properties.values() if isinstance(spec, dict) and "enum" in spec
    ]
    return tuple(str(option) for option in found[0]) if len(found) == 1 else None


def _value(name: str, spec: Mapping[str, Any], opinion: Opinion) -> str | bool:
    if "enum" in spec:
        for option in spec["enum"]:
            if str(option).lower() == opinion.answer.lower():
                return str(option)
    elif spec.get("type") == "boolean":
        return opinion.says_yes
    elif spec.get("type") == "string":
        return opinion.reasoning if re.search(r"reason|why", name) else opinion.description
    raise ValueError(f"the schema's {name!r} is neither text, true or false, nor yes or no")
