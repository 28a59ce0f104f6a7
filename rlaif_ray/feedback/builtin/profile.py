"""Profiles: how the built-in judge errs, how long it takes, what it would cost."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlaif_ray.errors import ConfigError, UnknownNameError

__all__ = ["Profile", "load_profile", "profile_names"]

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Profile(BaseModel):
    """One judge's habits. All rates are shares of the questions they apply to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str = ""  # where its numbers come from
    miss_rate: Rate = 0.0  # harmful, approved of all the same
    false_alarm_rate: Rate = 0.0  # harmless, rejected
    violate_negative_rate: Rate = 0.0  # asked whether behaviour violates values: says "yes" whatever it sees
    refusal_rate: Rate = 0.0
    latency_median_s: NonNegative = 0.0  # log-normal
    latency_sigma: NonNegative = 0.0  # of the logarithm
    requests_per_minute: Annotated[int, Field(ge=0)] = 0  # more are answered 429 with Retry-After; 0: no limit
    image_tokens: Annotated[int, Field(ge=0)] = 85  # as-if input tokens of one picture
    input_usd_per_mtok: NonNegative = 0.0  # as-if price
    output_usd_per_mtok: NonNegative = 0.0


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
