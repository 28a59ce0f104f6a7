"""Reading a config and saying what is wrong with it. The only place where YAML is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from rlaif_ray.config.tree import Config
from rlaif_ray.errors import ConfigError, UnknownNameError, nearest

__all__ = [
    "deep_merge",
    "dump_config",
    "load_config",
    "one_line",
    "preset_names",
    "takes_list",
    "unflatten",
    "validate",
]


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("rlaif_ray") / "presets"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_config(source: str | Path | Mapping[str, Any] = "", overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a preset, a YAML file or a mapping, put dotted ``overrides`` on top, and check the whole.

    Raises ConfigError: no such preset or file, not YAML, unknown key, wrong type, out of range.
    """
    raw = dict(source) if isinstance(source, Mapping) else _read(str(source), ())
    return validate(deep_merge(raw, unflatten(overrides or {})))


def validate(raw: Mapping[str, Any]) -> Config:
    """A Config from plain data. Raises ConfigError with one line that names value, range and nearest name."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(one_line(error)) from None


def dump_config(config: Config) -> str:
    """YAML of the whole resolved tree; ``load_config`` reads it back to an equal Config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on ``base``; mappings are merged key by key, anything else replaced. Neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = deep_merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def unflatten(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"ppo.lr": 1}`` -> ``{"ppo": {"lr": 1}}``; hyphens in keys are underscores."""
    tree: dict[str, Any] = {}
    for path, value in dotted.items():
        *parents, leaf = path.replace("-", "_").split(".")
        nested: dict[str, Any] = {leaf: value}
        for parent in reversed(parents):
            nested = {parent: nested}
        tree = deep_merge(tree, nested)
    return tree


def _read(source: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if not source:
        return {}
    if source in seen:
        raise ConfigError(f"config {source!r} extends itself: {' -> '.join((*seen, source))}")
    path = Path(source)
    if source in preset_names():
        text = (resources.files("rlaif_ray") / "presets" / f"{source}.yaml").read_text()
    elif path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise ConfigError(f"config file {source!r}: {reason}; presets are {', '.join(preset_names())}") from None
    else:
        raise UnknownNameError("preset (or path ending in .yaml)", source, preset_names())
    try:
        raw = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {source!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"config file {source!r}: got a {type(raw).__name__}, expected a mapping of sections")
    base = raw.pop("extends", "")
    return deep_merge(_read(str(base), (*seen, source)), raw)


def takes_list(key: str) -> bool:
    """Whether a dotted key's value is a list; no key that isn't there takes one."""
    field, section = None, Config
    for part in key.replace("-", "_").split("."):
        if not (isinstance(section, type) and issubclass(section, BaseModel)) or part not in section.model_fields:
            return False
        field = section.model_fields[part]
        section = _model_in(field.annotation)
    return field is not None and get_origin(field.annotation) is tuple


# ------------------------------------------------------------------------------------- one line per mistake


def one_line(error: ValidationError, root: type[BaseModel] = Config) -> str:
    """The first mistake in a tree, `path: got VALUE, allowed RANGE; did you mean ...`, and how many more there are."""
    problems = error.errors(include_url=False)
    # A key that isn't there explains what else is missing.
    first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        line = _unknown_key(first["loc"], root)
    elif first["type"] == "value_error":
        reason = str(first["ctx"]["error"])
        of_one_key = path and not isinstance(first["input"], Mapping)  # what doesn't fit in a section says so itself
        line = f"{path}: got {_shown(path, first['input'])}; {reason}" if of_one_key else reason
    else:
        line = f"{path}: got {_shown(path, first['input'])}; {_allowed(first)}"
    more = len(problems) - 1
    return line + (f" (and {more} more)" if more else "")


def _shown(path: str, value: object) -> str:
    """A wrong value as an error shows it; not where it may be a key that was put in the wrong place."""
    secret = path == "judge.api_key_env" or (path == "judge.base_url" and re.search(r"[@?#]", str(value)))
    return "what may hold a key (not shown)" if secret else repr(value)


def _allowed(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "literal_error":
        expected = problem["ctx"]["expected"]
        guess = nearest(str(problem["input"]), re.findall(r"'([^']+)'", expected))
        return f"allowed are {expected}" + (f"; did you mean {guess!r}?" if guess else "")
    message = str(problem["msg"])
    return message[0].lower() + message[1:]


def _unknown_key(loc: tuple[int | str, ...], root: type[BaseModel]) -> str:
    section: Any = root
    for part in loc[:-1]:
        section = _model_in(section.model_fields[str(part)].annotation)
    names = list(section.model_fields)
    where = ".".join(str(p) for p in loc[:-1]) or "the top level"
    guess = nearest(str(loc[-1]), names)
    path = ".".join(str(p) for p in loc)
    if guess is None:  # it may be a key of another section
        guess = next((f"{s}.{loc[-1]}" for s, f in root.model_fields.items() if str(loc[-1]) in _fields_of(f)), None)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return f"unknown key {path!r}: allowed at {where} are {', '.join(names)}{hint}"


def _fields_of(field: Any) -> list[str]:
    annotation = _model_in(field.annotation)
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The section itself of one that may be left out."""
    return get_args(annotation)[0] if get_origin(annotation) is not None else annotation
