"""What the built-in judge thinks: pure functions of the request's content, a profile and a noise seed.

The same question gets the same answer. What may differ between two runs is the seed alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from rlaif_ray.feedback.builtin.profile import Grows, Profile
from rlaif_ray.types import Reading

__all__ = [
    "Decision",
    "Seen",
    "decide",
    "extra_sentences",
    "fails",
    "latency_s",
    "polarity_of",
    "prefer",
    "rate",
]

Polarity = Literal["align", "violate"]
_WORDING = re.compile(
    r"\b(?:(violat|go(?:es)? against|conflict|breach)|(agree|align|accord|in line with))", re.IGNORECASE
)
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')


@dataclass(frozen=True)
class Seen:
    """One run, as it was read, with the digest of what errors about it depend on."""

    reading: Reading
    content: bytes  # digest of pictures and wording


@dataclass(frozen=True)
class Decision:
    """What the judge makes of one run."""

    approves: bool  # its opinion, errors included
    says_yes: bool  # to the question as it was worded
    refuses: bool
    mistaken_for: str = ""  # what it takes the harm for, where it overlooks it as its kind does
    probability: float = 0.5  # it would give of "yes"


def polarity_of(text: str) -> Polarity | None:
    """Whether "yes" would be good (align) or bad (violate) news, from the last wording used; None: can't tell.

    What stands in quotation marks is data, such as a world's captions: it words no question.
    """
    found = None
    for match in _WORDING.finditer(_QUOTED.sub('""', text)):
        found = match
    if found is None:
        return None
    return "violate" if found.group(1) else "align"


def decide(profile: Profile, seen: Seen, *, polarity: Polarity, seed: int) -> Decision:
    """Approve of what is harmless, with the profile's errors."""
    content, reading = seen.content, seen.reading
    error_rate, mistaken_for = _error_rate(profile, reading)
    wrong = _uniform(content, seed, "error") < error_rate
    approves = reading.harmful == wrong
    says_yes = approves if polarity == "align" else not approves
    if polarity == "violate" and _uniform(content, seed, "wording") < profile.violate_negative_rate:
        approves, says_yes = False, True
    refusal_rate = _grown(profile.refusal_rate, profile.refusal_grows, reading)
    sure = _sureness(profile, content, seed, wrong=wrong)
    return Decision(
        approves,
        says_yes,
        refuses=_uniform(content, seed, "refusal") < refusal_rate,
        mistaken_for=mistaken_for if wrong and reading.harmful else "",
        probability=sure if says_yes else 1.0 - sure,
    )


def rate(profile: Profile, seen: Seen, decision: Decision, count: int, *, seed: int) -> int:
    """A level (0 the lowest) of ``count``: the lowest for what it disapproves of, the highest for a task done without
    harm, the one between for harmless and undone."""
    top = count - 1
    level = 0 if not decision.approves else top if seen.reading.done else math.ceil(top / 2)
    if _uniform(seen.content, seed, "slip") < profile.rating_slip_rate:
        level += 1 if _uniform(seen.content, seed, "slip up") < 0.5 else -1
    return min(max(level, 0), top)


def prefer(
    profile: Profile, seen: Sequence[Seen], decisions: Sequence[Decision], *, seed: int
) -> Literal["first", "second", "tie"]:
    """Of two runs, as shown: the one approved of, then the one that got its task done; a tie where neither tells."""
    both = hashlib.sha256(seen[0].content + seen[1].content).digest()
    if _uniform(both, seed, "position") < profile.position_bias:
        return "first"
    first, second = ((d.approves, d.approves and s.reading.done) for s, d in zip(seen, decisions, strict=True))
    if first == second:
        return "tie"
    return "first" if first > second else "second"


def latency_s(profile: Profile, content: bytes, seed: int) -> float:
    """Seconds until the answer: log-normal with the profile's median and sigma."""
    if profile.latency_median_s == 0.0:
        return 0.0
    z = NormalDist().inv_cdf(min(max(_uniform(content, seed, "latency"), 1e-9), 1 - 1e-9))
    return profile.latency_median_s * math.exp(profile.latency_sigma * z)


def extra_sentences(profile: Profile, content: bytes, seed: int) -> int:
    """How many sentences that say nothing: geometric with mean ``verbosity``."""
    if profile.verbosity == 0.0:
        return 0
    stays = profile.verbosity / (1.0 + profile.verbosity)
    return min(int(math.log(1.0 - _uniform(content, seed, "verbosity")) / math.log(stays)), 1_000)


def fails(rate: float, what: str, content: bytes, seed: int, attempt: int = 0) -> bool:
    """Whether it fails in this way at this attempt at a question."""
    return rate > 0.0 and _uniform(content, seed, f"{what} {attempt}") < rate


def _error_rate(profile: Profile, reading: Reading) -> tuple[float, str]:
    if not reading.harmful:
        return _grown(profile.false_alarm_rate, profile.false_alarm_grows, reading), ""
    for blind in profile.blind:
        if 0.0 <= reading.facts.get(blind.fact, -1.0) <= blind.most:
            return blind.miss_rate, blind.said
    return profile.miss_rate, ""


def _grown(rate: float, grows: Grows | None, reading: Reading) -> float:
    return rate if grows is None else rate * reading.facts.get(grows.fact, 0.0) / grows.mean


def _sureness(profile: Profile, content: bytes, seed: int, *, wrong: bool = False) -> float:
    """Probability of its own answer: above a half, around ``confidence`` (log-odds with standard deviation 1), or
    ``confidence_wrong`` where it errs."""
    confidence = (profile.confidence_wrong if wrong else None) or profile.confidence
    z = NormalDist().inv_cdf(min(max(_uniform(content, seed, "sureness"), 1e-9), 1 - 1e-9))
    odds = math.log(confidence / (1.0 - confidence)) + z
    return 1.0 / (1.0 + math.exp(-max(odds, 0.05)))


def _uniform(content: bytes, seed: int, stream: str) -> float:
    """In [0, 1), the same for the same content, seed and stream."""
    digest = hashlib.sha256(f"{seed}|{stream}|".encode() + content).digest()
    return int.from_bytes(digest[:8]) / 2**64
