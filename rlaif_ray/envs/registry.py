"""Which worlds there are: ``register_env`` adds one, ``env_spec`` finds one, any id of gymnasium's included."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.types import Array, EpisodeRenderer, Truth

if TYPE_CHECKING:
    from rlaif_ray.envs.gridworld import GridWorld

__all__ = ["EnvSpec", "env_spec", "make_vec", "register_env", "registered_envs"]


@dataclass(frozen=True)
class EnvSpec:
    """All that the other rooms need of a world. Picklable where its functions are module-level ones.

    make_vec(num_envs, options) makes N environments with same-step autoreset; where it is a ``VectorWorld`` its states
    are recorded and drawn late. renderer(options) makes what draws them. reader names a ``FrameReader``
    ("package.module:Class") for the built-in judge; it is made with those of the world's options that
    ``reader_options`` names, so that it knows which variant of a world it sees. outcomes turns ground truth into (E,)
    float columns: what an evaluation reports. approvable(states (T+1, K), options) says whether nothing happened in a
    recorded episode that a judge should reject, or None where it can't tell: truth, for the audit of judges and reward
    models alone.
    """

    id: str
    make_vec: Callable[[int, Mapping[str, Any]], VectorEnv[Any, Any, Any]]
    renderer: Callable[[Mapping[str, Any]], EpisodeRenderer] | None
    reader: str
    outcomes: Callable[[Truth], dict[str, Array]]
    reader_options: tuple[str, ...] = ()
    approvable: Callable[[Array, Mapping[str, Any]], bool | None] | None = None

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigError("environment id: got '', expected a name")
        if self.reader and self.reader.count(":") != 1:
            raise ConfigError(f"reader of {self.id}: got {self.reader!r}, expected 'package.module:Class'")

    def reader_for(self, options: Mapping[str, Any]) -> str:
        """The reader of the variant that ``options`` make, as the built-in judge is told it; "" where there is none."""
        chosen = {name: value for name, value in options.items() if name in self.reader_options}
        return f"{self.reader} {json.dumps(chosen, sort_keys=True)}" if self.reader and chosen else self.reader


_SPECS: dict[str, EnvSpec] = {}


def register_env(spec: EnvSpec) -> None:
    """Make a world known under ``spec.id``; the same id again replaces it. Each process has its own register."""
    _SPECS[spec.id] = spec


def registered_envs() -> list[str]:
    """Ids given to ``register_env``."""
    return sorted(_SPECS)


def env_spec(id: str) -> EnvSpec:
    """The world called ``id``: a registered one, or any that gymnasium knows ("module:Env-v0" imports the module).

    One that only gymnasium knows has no renderer and no reader, and its outcomes are the numbers in its final infos.
    Raises UnknownNameError with the nearest name.
    """
    if id in _SPECS:
        return _SPECS[id]
    module, _, name = id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"environment {id!r}: module {module!r} can't be imported: {error}") from None
    if name not in gymnasium.registry:
        close = difflib.get_close_matches(name, [*_SPECS, *gymnasium.registry], n=3, cutoff=0.5)
        raise UnknownNameError("environment (gymnasium's own ids work too)", id, {*_SPECS, *close})
    return EnvSpec(id, GymnasiumMaker(name), None, "", numeric_outcomes)


def make_vec(id: str, num_envs: int, options: Mapping[str, Any] | None = None) -> VectorEnv[Any, Any, Any]:
    """N environments of the world ``id``. Raises ConfigError for an unknown world, or options it doesn't take."""
    return env_spec(id).make_vec(num_envs, options or {})


def check_option_names(id: str, options: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Raises UnknownNameError for an option that isn't in ``allowed``."""
    for name in options:
        if name not in allowed:
            raise UnknownNameError(f"option of environment {id}", name, allowed)


def numeric_outcomes(truth: Truth) -> dict[str, Array]:
    """Every fact that is a number or a truth value, as (E,) float64."""
    return {name: np.asarray(v, np.float64) for name, v in truth.facts.items() if np.asarray(v).dtype.kind in "biuf"}


@dataclass(frozen=True)
class GymnasiumMaker:
    """Makes N environments of a gymnasium id, stepped one after the other, with same-step autoreset."""

    id: str

    def __call__(self, num_envs: int, options: Mapping[str, Any]) -> VectorEnv[Any, Any, Any]:
        allowed = self._option_names()
        if allowed is not None:
            check_option_names(self.id, options, allowed)
        try:
            return gymnasium.make_vec(
                self.id,
                num_envs,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
                **dict(options),
            )
        except (TypeError, ValueError, gymnasium.error.Error) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"environment {self.id} can't be made with options {dict(options)}: {reason}") from error

    def _option_names(self) -> tuple[str, ...] | None:
        """Names its constructor takes; None where it takes any."""
        entry = gymnasium.spec(self.id).entry_point
        if entry is None:
            return None
        creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
        parameters = inspect.signature(creator).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        # `make` itself takes these two, whatever the constructor does.
        return (*(p.name for p in parameters), "max_episode_steps", "disable_env_checker")


# ---------------------------------------------------------------------------------------------- Homegrid


HOMEGRID = "rlaif_ray/Homegrid-v0"


_HOMEGRID_VARIANT = ("layout", "cats", "harm")
_SPLIT = ("starts", "heldout_share", "heldout_fold")
_HOMEGRID_OPTIONS = (*_SPLIT, "clear_cat", *_HOMEGRID_VARIANT)


def _homegrid_vec(num_envs: int, options: Mapping[str, Any]) -> VectorEnv[Any, Any, Any]:
    from rlaif_ray.envs.homegrid import HomegridVectorEnv

    check_option_names(HOMEGRID, options, _HOMEGRID_OPTIONS)
    return HomegridVectorEnv(num_envs, **options)


def _homegrid_renderer(options: Mapping[str, Any]) -> EpisodeRenderer:
    from rlaif_ray.envs.render import HomegridRenderer

    check_option_names(HOMEGRID, options, _HOMEGRID_OPTIONS)
    return HomegridRenderer(**_only(options, _HOMEGRID_VARIANT))


def _only(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def _homegrid_outcomes(truth: Truth) -> dict[str, Array]:
    harm = truth.facts["cat_squashed"] if "cat_squashed" in truth.facts else truth.facts["cat_chased"]
    return {
        "found": np.asarray(truth.facts["found"], np.float64),
        "cat_survived": 1.0 - np.asarray(harm, np.float64),
    }


def _homegrid_approvable(states: Array, options: Mapping[str, Any]) -> bool | None:
    from rlaif_ray.envs.homegrid_world import homegrid

    return _approvable(homegrid(**_only(options, _HOMEGRID_VARIANT)), states)


def _approvable(world: GridWorld, states: Array) -> bool | None:
    from rlaif_ray.envs.worlds import harm_in

    known = states.ndim == 2 and states.shape[1] == len(world.state_columns)
    return not harm_in(world, states) if known else None


register_env(
    EnvSpec(
        HOMEGRID,
        _homegrid_vec,
        _homegrid_renderer,
        "rlaif_ray.envs.homegrid_reader:HomegridReader",
        _homegrid_outcomes,
        _HOMEGRID_VARIANT,
        _homegrid_approvable,
    )
)


# ---------------------------------------------------------------------------------------------- Workshop


WORKSHOP = "rlaif_ray/Workshop-v0"


_WORKSHOP_VARIANT = ("layout",)
_WORKSHOP_OPTIONS = (*_SPLIT, *_WORKSHOP_VARIANT)


def _workshop_vec(num_envs: int, options: Mapping[str, Any]) -> VectorEnv[Any, Any, Any]:
    from rlaif_ray.envs.workshop import WorkshopVectorEnv

    check_option_names(WORKSHOP, options, _WORKSHOP_OPTIONS)
    return WorkshopVectorEnv(num_envs, **options)


def _workshop_renderer(options: Mapping[str, Any]) -> EpisodeRenderer:
    from rlaif_ray.envs.workshop import WorkshopRenderer

    check_option_names(WORKSHOP, options, _WORKSHOP_OPTIONS)
    return WorkshopRenderer(**_only(options, _WORKSHOP_VARIANT))


def _workshop_approvable(states: Array, options: Mapping[str, Any]) -> bool | None:
    from rlaif_ray.envs.workshop import workshop_world

    return _approvable(workshop_world(**_only(options, _WORKSHOP_VARIANT)), states)


def _workshop_outcomes(truth: Truth) -> dict[str, Array]:
    return {
        "found": np.asarray(truth.facts["found"], np.float64),
        "paint_kept": 1.0 - np.asarray(truth.facts["paint_spoiled"], np.float64),
    }


register_env(
    EnvSpec(
        WORKSHOP,
        _workshop_vec,
        _workshop_renderer,
        "rlaif_ray.envs.workshop_reader:WorkshopReader",
        _workshop_outcomes,
        _WORKSHOP_VARIANT,
        _workshop_approvable,
    )
)


# --------------------------------------------------------------------------------------------- Gridfield


GRIDFIELD = "rlaif_ray/Gridfield-v0"


def _gridfield_vec(num_envs: int, options: Mapping[str, Any]) -> VectorEnv[Any, Any, Any]:
    from rlaif_ray.envs.gridfield import LIMITS, GridfieldVectorEnv

    check_option_names(GRIDFIELD, options, tuple(LIMITS))
    return GridfieldVectorEnv(num_envs, **options)


# For measuring speed: nothing draws it, so that nobody is asked about it.
register_env(EnvSpec(GRIDFIELD, _gridfield_vec, None, "", _homegrid_outcomes))
