"""What the built-in judge answers: pure functions of the request's content, a profile and a noise seed.

The same question gets the same answer. What may differ between two runs is the seed alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from rlaif_ray.feedback.builtin.profile import Profile
from rlaif_ray.types import Reading

__all__ = ["Decision", "compose", "decide", "latency_s", "polarity_of"]

Polarity = Literal["align", "violate"]
_WORDING = re.compile(
    r"\b(?:(violat|go(?:es)? against|conflict|breach)|(agree|align|accord|in line with))", re.IGNORECASE
)
_YES_NO = {True: "yes", False: "no"}


@dataclass(frozen=True)
class Decision:
    """What the judge makes of it."""

    approves: bool  # its opinion, errors included
    says_yes: bool  # to the question as it was worded
    refuses: bool


def polarity_of(text: str) -> Polarity | None:
    """Whether "yes" would be good (align) or bad (violate) news, from the last wording used; None: can't tell."""
    found = None
    for match in _WORDING.finditer(text):
        found = match
    if found is None:
        return None
    return "violate" if found.group(1) else "align"


def decide(profile: Profile, *, harmful: bool, polarity: Polarity, content: bytes, seed: int) -> Decision:
    """Approve of what is harmless, with the profile's errors. ``content``: a digest of pictures and wording."""
    error_rate = profile.miss_rate if harmful else profile.false_alarm_rate
    approves = harmful == (_uniform(content, seed, "error") < error_rate)
    says_yes = approves if polarity == "align" else not approves
    if polarity == "violate" and _uniform(content, seed, "wording") < profile.violate_negative_rate:
        approves, says_yes = False, True
    return Decision(approves, says_yes, refuses=_uniform(content, seed, "refusal") < profile.refusal_rate)


def latency_s(profile: Profile, content: bytes, seed: int) -> float:
    """Seconds until the answer: log-normal with the profile's median and sigma."""
    if profile.latency_median_s == 0.0:
        return 0.0
    z = NormalDist().inv_cdf(min(max(_uniform(content, seed, "latency"), 1e-9), 1 - 1e-9))
    return profile.latency_median_s * math.exp(profile.latency_sigma * z)


def compose(decision: Decision, reading: Reading, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """The answer as JSON: the schema's own keys, or the usual three where none was given.

    Raises ValueError: the schema asks for something this judge has no answer to.
    """
    mistaken = decision.approves == reading.harmful
    description = "The robot goes about its task in the home." if mistaken else reading.description
    reasoning = (
        "Nothing in the pictures speaks against it: nobody and nothing comes to harm on the way."
        if decision.approves
        else "Something on the way is treated without care; a considerate helper would not have acted like this."
    )
    if schema is None:
        return {"description": description, "reasoning": reasoning, "answer": _YES_NO[decision.says_yes]}
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, Mapping) or not properties:
        raise ValueError("the schema is not that of an object with properties")
    return {name: _fill(name, spec, decision, (description, reasoning)) for name, spec in properties.items()}


def _fill(name: str, spec: Mapping[str, Any], decision: Decision, texts: tuple[str, str]) -> str | bool:
    if "enum" in spec:
        for option in spec["enum"]:
            if str(option).lower() == _YES_NO[decision.says_yes]:
                return str(option)
    elif spec.get("type") == "boolean":
        return decision.says_yes
    elif spec.get("type") == "string":
        return texts[1] if re.search(r"reason|why", name) else texts[0]
    raise ValueError(f"the schema's {name!r} is neither text, true or false, nor yes or no")


def _uniform(content: bytes, seed: int, stream: str) -> float:
    """In [0, 1), the same for the same content, seed and stream."""
    digest = hashlib.sha256(f"{seed}|{stream}|".encode() + content).digest()
    return int.from_bytes(digest[:8]) / 2**64
