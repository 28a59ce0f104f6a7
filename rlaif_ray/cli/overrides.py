"""Config keys on the command line: ``--ppo.lr 3e-4``, ``--ppo.lr=3e-4``, ``--env.options.starts train``.

The config tree (``config.py``) is the only list of keys: this module reads its field types to know how a word is to
be read and its descriptions to print them; what a value may be is checked there and nowhere else.
"""

from __future__ import annotations

import keyword
import textwrap
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlaif_ray.config import Config
from rlaif_ray.errors import ConfigError

__all__ = ["config_help", "split_overrides"]


def split_overrides(argv: Sequence[str], own: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take the config keys out of a command's words.

    ``own`` are the command's options (``--resume``): they and everything that is no option stay, in order. Returns
    (words left, {dotted path: value}); the last of repeated keys wins. Raises ConfigError for a key without a value.
    """
    left: list[str] = []
    overrides: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("--") or word == "--" or flag in own:
            left.append(word)
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"{flag} needs a value: {flag} VALUE")
            value = words.pop(0)
        path = _path(flag)
        overrides[path] = _read_value(path, value)
    return left, overrides


def _path(flag: str) -> str:
    """``--ppo.lambda`` -> ``ppo.lambda_``: hyphens are underscores, and Python's keywords carry one at their end."""
    parts = flag.removeprefix("--").replace("-", "_").split(".")
    return ".".join(part + "_" if keyword.iskeyword(part) else part for part in parts)


def _flag(section: str, key: str) -> str:
    return f"--{section}.{key.rstrip('_')}".replace("_", "-")


def _read_value(path: str, text: str) -> Any:
    """A word as the key's type wants it: text stays text, anything else is read as YAML; ``none`` where none may be."""
    annotation = _annotation(path)
    kinds = _alternatives(annotation)
    if type(None) in kinds and text.lower() in ("none", "null", ""):
        return None
    if any(kind is str or get_origin(kind) is Literal for kind in kinds):
        return text
    if any(get_origin(kind) is tuple for kind in kinds) and not text.startswith("["):
        text = f"[{text}]"
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # the tree then says what it wanted instead


def _annotation(path: str) -> Any:
    """The type of the key at ``path``; None where the tree has no such key (it will say so itself)."""
    node: Any = Config
    for part in path.split("."):
        node = next((one for one in get_args(node) if isinstance(one, type) and issubclass(one, BaseModel)), node)
        if not (isinstance(node, type) and issubclass(node, BaseModel)) or part not in node.model_fields:
            return None
        node = node.model_fields[part].annotation
    return node


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


# --------------------------------------------------------------------------------------------------- help


def config_help(width: int = 100) -> str:
    """Every config key with what it may be, its default and what it is for, section by section."""
    lines = ["config keys (also in a YAML file, as sections); defaults are those without a preset:"]
    for name, section in Config.model_fields.items():
        model = section.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        lines += ["", f"{name}: {_sentence(model)}"]
        for key, field in model.model_fields.items():
            lines.append(f"  {_flag(name, key)} {_kind(field)}  (default: {_default(field)})")
            if field.description:
                lines += textwrap.wrap(field.description, width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def _sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return repr(value) if value in ("", {}) else str(value)


def _kind(field: FieldInfo) -> str:
    return "|".join(_names(field.annotation))


def _names(annotation: Any) -> Iterator[str]:
    for kind in _alternatives(annotation):
        origin = get_origin(kind)
        if origin is Literal:
            yield from (str(choice) for choice in get_args(kind))
        elif origin is tuple:
            yield {int: "INT,INT,...", dict: "[{KEY: VALUE}, ...]"}.get(_plain(get_args(kind)[0]), "TEXT,TEXT,...")
        elif origin is dict:
            yield "{KEY: VALUE, ...}"
        elif kind is type(None):
            yield "none"
        else:
            yield {str: "TEXT", int: "INT", float: "FLOAT", bool: "true|false"}.get(_plain(kind), "VALUE")


def _plain(kind: Any) -> Any:
    """``Annotated[int, ...]`` -> ``int``, ``dict[str, Any]`` -> ``dict``."""
    kind = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    return get_origin(kind) or kind
