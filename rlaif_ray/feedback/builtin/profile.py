"""Profiles: how the built-in judge errs, how long it takes, what it would cost."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlaif_ray.errors import ConfigError, UnknownNameError

__all__ = ["BatchHabits", "Failures", "Profile", "load_profile", "profile_names"]

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Blind(_Part):
    """A kind of harmful episode that is missed at a rate of its own, by a fact that the reader finds."""

    fact: str  # e.g. squash_step
    most: float  # ... is at least 0 and at most this
    miss_rate: Rate
    said: str = ""  # what it takes the harm for


class Grows(_Part):
    """A rate that grows with a fact: ``rate`` at ``mean``, in proportion elsewhere."""

    fact: str  # e.g. steps
    mean: Annotated[float, Field(gt=0.0)]


class Failures(_Part):
    """How often it fails instead of answering: shares of requests. Those of a status or connection are drawn again for
    the next attempt at the same question, those of an answer are not."""

    status_500: Rate = 0.0
    status_503: Rate = 0.0
    hang_up: Rate = 0.0  # the connection closes without an answer
    cut_body: Rate = 0.0  # and in the middle of one
    hang: Rate = 0.0  # no answer within `hang_s`, then a 503
    hang_s: NonNegative = 120.0
    invalid_json: Rate = 0.0
    wrong_shape: Rate = 0.0  # JSON without the keys that were asked for
    empty: Rate = 0.0
    truncated: Rate = 0.0


class BatchHabits(_Part):
    """How it treats a file of questions sent at once (the Batch API)."""

    discount: Rate = 0.5  # off the as-if price
    latency_s: NonNegative = 0.0  # from a batch's beginning to its end; its answers come evenly over it
    expires_s: Annotated[float, Field(gt=0.0)] = 86_400.0  # a batch that isn't done by then ends, half done as it is


Lack = Literal[
    "json_schema", "json_object", "temperature", "seed", "reasoning_effort", "max_tokens", "max_completion_tokens",
    "batches",
]  # fmt: skip


class Profile(_Part):
    """One judge's habits. All rates are shares of the questions they apply to."""

    name: str
    source: str = ""  # where its numbers come from
    miss_rate: Rate = 0.0  # harmful, approved of all the same
    false_alarm_rate: Rate = 0.0  # harmless, rejected
    violate_negative_rate: Rate = 0.0  # asked whether behaviour violates values: says "yes" whatever it sees
    refusal_rate: Rate = 0.0
    blind: tuple[Blind, ...] = ()  # the first that fits is taken instead of miss_rate
    false_alarm_grows: Grows | None = None
    refusal_grows: Grows | None = None
    rating_slip_rate: Rate = 0.0  # a rating one level up or down
    position_bias: Rate = 0.0  # a preference for the first shown, whatever is shown
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.97  # most probable answer's probability, typically
    confidence_wrong: Annotated[float, Field(gt=0.5, lt=1.0)] | None = None  # likewise where it errs; none: the same
    endpoint: Literal["chat", "decisions"] = "chat"  # decisions: answers typed questions, with probabilities
    verbosity: NonNegative = 0.0  # sentences it adds that say nothing, on average
    failures: Failures = Failures()
    batch: BatchHabits = BatchHabits()
    lacks: tuple[Lack, ...] = ()  # what of a request it refuses with status 400
    latency_median_s: NonNegative = 0.0  # log-normal
    latency_sigma: NonNegative = 0.0  # of the logarithm
    requests_per_minute: Annotated[int, Field(ge=0)] = 0  # more are answered 429 with Retry-After; 0: no limit
    tokens_per_minute: Annotated[int, Field(ge=0)] = 0  # likewise, by the tokens of answered requests
    image_tokens: Annotated[int, Field(ge=0)] = 85  # as-if input tokens of one picture
    input_usd_per_mtok: NonNegative = 0.0  # as-if price
    output_usd_per_mtok: NonNegative = 0.0

    @property
    def digest(self) -> str:
        """Of all that may change an answer (how it treats batches doesn't): part of a question's address. What came
        later isn't in it where it says nothing, so that older answers are found."""
        later = {name for name in ("confidence_wrong",) if getattr(self, name) is None}
        return hashlib.sha256(self.model_dump_json(exclude={"batch", "endpoint", *later}).encode()).hexdigest()[:16]


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    folder = resources.files("rlaif_ray.feedback") / "profiles"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


@lru_cache(maxsize=16)
def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or one from a YAML file. Raises UnknownNameError, ConfigError."""
    if name_or_path in profile_names():
        text = (resources.files("rlaif_ray.feedback") / "profiles" / f"{name_or_path}.yaml").read_text("utf-8")
    elif name_or_path.endswith((".yaml", ".yml")):
        try:
            text = Path(name_or_path).read_text("utf-8")
        except OSError as error:
            raise ConfigError(f"judge.profile {name_or_path!r}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"judge.profile {name_or_path!r}: not a UTF-8 text file") from None
    else:
        raise UnknownNameError("judge.profile (or path ending in .yaml)", name_or_path, profile_names())
    try:
        return Profile.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"judge.profile {name_or_path!r} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the whole"
        raise ConfigError(
            f"judge.profile {name_or_path!r}: {where}: got {problem['input']!r}; {problem['msg'].lower()}; "
            f"keys are {', '.join(Profile.model_fields)}"
        ) from None
