"""A sweep's file: which arms are compared with which seeds, or what is searched for, and what all of it may cost.

::

    base: homegrid                      # preset or YAML file that every trial builds on
    set: {run: {total_steps: 2_000_000}}
    arms:                               # a list is a choice: one arm for each of its values
      - {name: task, mix.source: none}
      - {name: hybrid, mix.source: hybrid, feedback.fraction: [0.02, 0.1]}
    seeds: [0, 1, 2, 3, 4]              # paired: every arm is run with each of them
    budget: {labels: 10_000}            # of the whole sweep
    smoke: {seeds: [0], set: {run: {total_steps: 8_192}}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from rlaif_ray.config.asking import BudgetConfig
from rlaif_ray.config.reading import deep_merge, one_line
from rlaif_ray.config.section import NonNegativeFloat, NonNegativeInt, PositiveInt, Section
from rlaif_ray.errors import ConfigError, nearest

__all__ = [
    "METRICS",
    "OF_APPROVALS",
    "Asha",
    "Pbt",
    "Search",
    "Study",
    "SweepBudget",
    "dump_study",
    "own_caps",
    "read_study",
    "study_from",
]

# What a search, an early stop and the choice of the best config may go by: the task's return and the judge's verdicts.
METRICS = (
    "audit/score",
    "audit/approval",
    "audit/task_return",
    "task/episode_return_mean",
    "feedback/approval_rate",
)
# Those that need approvals or ratings of single episodes: a comparison of two is none.
OF_APPROVALS = ("audit/score", "audit/approval", "feedback/approval_rate")
_TRUTH = ("truth", "eval", "evaluation")
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,59}"


class SweepBudget(Section):
    """Caps of the whole sweep, never exceeded; a trial's own share is what its config says of its budget."""

    usd: NonNegativeFloat | None = None
    """US dollars really spent: an answer that several trials use is paid for once."""
    labels: NonNegativeInt | None = None
    """Billed questions."""
    tokens: NonNegativeInt | None = None
    """Tokens, input and output together."""


class Search(Section):
    """Values drawn instead of listed."""

    space: dict[str, dict[str, Any]]
    """Config keys, each with {uniform: [low, high]}, {loguniform: [low, high]}, {randint: [low, high]} or
    {choice: [...]}."""
    samples: PositiveInt = 8
    """Points drawn; each is run with every seed."""
    algorithm: Literal["random", "optuna"] = "random"
    """`optuna`: tree-structured Parzen estimator, told the metric (extra `optuna`)."""

    @field_validator("space")
    @classmethod
    def _is_drawn_from(cls, space: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for key, domain in space.items():
            kind, values = next(iter(domain.items()), ("", []))
            if len(domain) != 1 or kind not in ("uniform", "loguniform", "randint", "choice"):
                raise ValueError(f"{key} must have one of uniform, loguniform, randint, choice")
            if not isinstance(values, list) or not values or (kind != "choice" and not _is_range(kind, values)):
                raise ValueError(
                    f"{key}: {kind} needs " + ("a list" if kind == "choice" else "[low, high], low < high")
                )
        return space


class Asha(Section):
    """Asynchronous successive halving (Li et al. 2020): trials that are behind at a rung are ended."""

    grace_steps: PositiveInt
    """Environment steps before the first rung."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """One trial of so many goes on past a rung; the next rung is so many times further."""


class Pbt(Section):
    """Population based training (Jaderberg et al. 2017): trials that are behind become changed copies of good ones."""

    every_steps: PositiveInt
    """Environment steps between two looks at the population."""
    quantile_fraction: Annotated[float, Field(gt=0.0, le=0.5)] = 0.25
    """Share of the population that is replaced, and that is copied from."""


class Study(Section):
    """One sweep."""

    name: str = ""
    """Folder of the sweep below `run.dir`; empty: the file's name."""
    about: str = ""
    """The question that it answers, in a sentence."""
    base: str = "homegrid"
    """Preset or path of a YAML file that every trial builds on."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Config keys over the base, for every trial."""
    arms: tuple[dict[str, Any], ...] = ()
    """What is compared: a name and config keys each; a list of values is a choice, one arm for each. A value that is a
    list itself stands in another one: `policy.hidden: [[512, 256]]`."""
    seeds: tuple[NonNegativeInt, ...] = (0,)
    """Every arm or drawn point is run with each; the judge's errors are drawn from the seed, too."""
    search: Search | None = None
    """Instead of arms: a space to draw from."""
    asha: Asha | None = None
    """End trials early that are behind."""
    pbt: Pbt | None = None
    """Let a population breed; the space is what is mutated."""
    metric: str = "audit/score"
    """What counts as better, higher being so: for ASHA, PBT, Optuna and the choice of the best config. Where a trial
    asks for preferences there are no approvals: `audit/task_return` or `task/episode_return_mean`."""
    budget: SweepBudget = SweepBudget()
    """Of the whole sweep."""
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Further places that each result goes to (extras of the same names)."""
    smoke: dict[str, Any] = Field(default_factory=dict)
    """What differs with --smoke: a minute's run of the same file, never part of a study."""

    @field_validator("name")
    @classmethod
    def _name_stays_in_its_folder(cls, name: str) -> str:
        if name and not re.fullmatch(_NAME, name):
            raise ValueError("must be up to 60 letters, digits, '.', '_' or '-', not starting with '.' or '-'")
        return name

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError("must be one or more seeds, each once")
        return seeds

    @field_validator("metric")
    @classmethod
    def _is_no_truth(cls, metric: str) -> str:
        if metric.split("/", maxsplit=1)[0] in _TRUTH:
            raise ValueError(
                "is ground truth, which is for the audit only: what a search or an early stop goes by must be known "
                f"where there is no simulator; allowed are {', '.join(METRICS)}"
            )
        if metric not in METRICS:
            guess = nearest(metric, METRICS)
            raise ValueError(f"allowed are {', '.join(METRICS)}" + (f"; did you mean {guess!r}?" if guess else ""))
        return metric

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Study:
        if bool(self.arms) == (self.search is not None):
            raise ValueError("arms, search: a sweep has one of the two, what is listed or what is drawn")
        if self.pbt is not None and (self.search is None or self.asha is not None or len(self.seeds) > 1):
            raise ValueError("pbt: goes with a search space, without asha and with one seed (each member has its own)")
        if self.pbt is not None and self.search is not None and self.search.algorithm != "random":
            raise ValueError(f"search.algorithm: got {self.search.algorithm!r}, allowed with pbt is 'random'")
        for arm in self.arms:
            if not re.fullmatch(_NAME, str(arm.get("name", ""))):
                raise ValueError(f"arms: got {arm}, expected a name of letters, digits, '.', '_' or '-' in each")
        return self


def _is_range(kind: str, values: list[Any]) -> bool:
    numbers = len(values) == 2 and all(isinstance(v, int | float) for v in values)
    return numbers and values[0] < values[1] and (kind != "loguniform" or values[0] > 0)


def read_study(path: Path, *, smoke: bool = False) -> Study:
    """A sweep's file. Raises ConfigError: not there, not YAML, not a sweep, or with a mistake in it."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"sweep {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"sweep {str(path)!r}: not a UTF-8 text file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"sweep {str(path)!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, Mapping):
        raise ConfigError(f"sweep {str(path)!r}: got a {type(raw).__name__}, expected a mapping")
    study = study_from({"name": path.stem, **raw}, smoke=smoke)
    beside = path.parent / study.base  # a file that it names may lie beside it
    found = study.base.endswith((".yaml", ".yml")) and not Path(study.base).is_file() and beside.is_file()
    return study.model_copy(update={"base": str(beside)}) if found else study


def study_from(raw: Mapping[str, Any], *, smoke: bool = False) -> Study:
    """A checked ``Study``; with ``smoke`` what its section of that name says goes over the rest. Raises ConfigError."""
    if smoke:
        if not raw.get("smoke"):
            raise ConfigError("--smoke: the sweep has no section `smoke` that says what differs")
        if not isinstance(raw["smoke"], Mapping):
            raise ConfigError(f"smoke: got {raw['smoke']!r}, expected a mapping")
        raw = deep_merge(raw, {**raw["smoke"], "smoke": {}})
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("sweep: " + one_line(error, Study)) from None


def dump_study(study: Study) -> str:
    """YAML that ``read_study`` reads back to an equal Study."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)


def own_caps(budget: BudgetConfig, of_sweep: SweepBudget) -> BudgetConfig:
    """A trial's budget: the sweep's caps over everything, and what was its run's whole as a share of its own."""
    run = {
        f"run_{name}": next((v for v in (getattr(budget, f"run_{name}"), getattr(budget, name)) if v is not None), None)
        for name in ("usd", "labels", "tokens")
    }
    return budget.model_copy(update={**run, **of_sweep.model_dump()})
