"""Who chooses values and who ends trials early: Ray Tune's own schedulers and searchers, from a study."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune

from rlaif_ray.config.sweeping import Search, Study
from rlaif_ray.errors import ConfigError
from rlaif_ray.sweep.place import Place

__all__ = ["check_extras", "loggers_of", "param_space", "scheduler_of", "searcher_of"]


def check_extras(study: Study) -> None:
    """Raises ConfigError: something that the study names is not installed; which extra brings it."""
    wanted: list[str] = list(study.loggers)
    if study.search is not None and study.search.algorithm == "optuna":
        wanted.append("optuna")
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            key = "search.algorithm" if name == "optuna" else "loggers"
            raise ConfigError(f"{key}: got {name!r}, which is not installed; pip install 'rlaif_ray[{name}]'")


def param_space(place: Place) -> dict[str, Any]:
    """Tune's space: one value of ``cell`` for each planned trial, in their order, or a space to be searched."""
    search = place.study.search
    space: dict[str, Any] = {"folder": str(place.folder)}
    if search is not None and search.algorithm != "random":
        return space | {"set": _domains(search)}
    if place.study.pbt is not None:  # what is mutated must be in Tune's config
        return space | {"set": tune.grid_search([dict(cell.set) for cell in place.cells])}
    return space | {"cell": tune.grid_search(list(range(len(place.cells))))}


def scheduler_of(study: Study) -> Any:
    """None: every trial goes to its end."""
    if study.asha is not None:
        from ray.tune.schedulers import AsyncHyperBandScheduler

        return AsyncHyperBandScheduler(
            time_attr="steps",
            metric=study.metric,
            mode="max",
            grace_period=study.asha.grace_steps,
            reduction_factor=study.asha.reduction_factor,
            max_t=2**53,  # a trial ends itself
        )
    if study.pbt is not None and study.search is not None:
        from ray.tune.schedulers import PopulationBasedTraining

        return PopulationBasedTraining(
            time_attr="steps",
            metric=study.metric,
            mode="max",
            perturbation_interval=study.pbt.every_steps,
            hyperparam_mutations={"set": _domains(study.search)},
            quantile_fraction=study.pbt.quantile_fraction,
            custom_explore_fn=_Within(study.search.space),
            log_config=False,
            synch=True,  # members that run in turn are compared at the same step
        )
    return None


def searcher_of(study: Study) -> tuple[Any, int]:
    """Tune's search algorithm (None: the plan is known) and how many trials it is asked for."""
    search = study.search
    if search is None or search.algorithm == "random":
        return None, 1
    from ray.tune.search import Repeater
    from ray.tune.search.optuna import OptunaSearch

    searcher = OptunaSearch(metric=study.metric, mode="max", seed=0)
    return Repeater(searcher, repeat=len(study.seeds)), search.samples * len(study.seeds)


def loggers_of(place: Place) -> list[Any]:
    """Tune's callbacks for Weights & Biases and MLflow, where the study names them."""
    made: list[Any] = []
    if "wandb" in place.study.loggers:
        from ray.tune.logger.wandb import WandbLoggerCallback

        made.append(WandbLoggerCallback(project=place.folder.name))
    if "mlflow" in place.study.loggers:
        from ray.tune.logger.mlflow import MLflowLoggerCallback

        made.append(MLflowLoggerCallback(experiment_name=place.folder.name))
    return made


def _domains(search: Search) -> dict[str, Any]:
    return {key: _domain(domain) for key, domain in search.space.items()}


def _domain(domain: Mapping[str, Any]) -> Any:
    kind, values = next(iter(domain.items()))
    if kind == "choice":
        return tune.choice(values)
    low, high = values
    if kind == "randint":
        return tune.randint(low, high + 1)
    return tune.uniform(low, high) if kind == "uniform" else tune.loguniform(low, high)


@dataclass(frozen=True)
class _Within:
    """Keeps what a population mutates inside its space: a step of 1.2 or 0.8 may leave it."""

    space: Mapping[str, Mapping[str, Any]]

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        for key, domain in self.space.items():
            kind, values = next(iter(domain.items()))
            if kind != "choice":
                value = min(max(config["set"][key], values[0]), values[1])
                config["set"][key] = round(value) if kind == "randint" else value
        return config
