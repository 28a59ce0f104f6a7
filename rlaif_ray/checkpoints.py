"""Checkpoint folders: written whole or not at all, and known for what they are before anything is restored."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from rlaif_ray.config import Config, dump_config, load_config
from rlaif_ray.errors import CheckpointError, ConfigError

__all__ = [
    "around",
    "check_checkpoint",
    "checkpoint_config",
    "drop_after",
    "newest_up_to",
    "prune",
    "seal",
    "write_checkpoint",
]

MANIFEST = "manifest.json"
KIND = "rlaif_ray checkpoint"
LAST = "last"


def write_checkpoint(
    folder: Path, name: str, config: Config, save: Callable[[str], None], facts: dict[str, Any]
) -> Path:
    """Write ``folder/name`` by ``save(path)`` and point ``folder/last`` at it.

    It is written beside its place and renamed when complete: whoever is killed half-way leaves the last one whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in (*folder.glob(".writing-*"), *folder.glob(".old-*")):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    final, writing, old = folder / name, folder / f".writing-{name}", folder / f".old-{name}"
    writing.mkdir()
    save(str(writing))
    (writing / "config.yaml").write_text(dump_config(config))
    seal(writing, facts)
    if final.exists():  # moved aside, not removed first: `last` may point at it
        final.rename(old)
    writing.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    link = folder / f".{LAST}-new"
    link.unlink(missing_ok=True)
    link.symlink_to(name, target_is_directory=True)
    os.replace(link, folder / LAST)
    return final


def seal(checkpoint: Path, facts: dict[str, Any]) -> None:
    """Write down what is in the folder, and ``facts`` about it: ``check_checkpoint`` knows it again."""
    files = {str(p.relative_to(checkpoint)): _fingerprint(p) for p in sorted(checkpoint.rglob("*")) if p.is_file()}
    manifest = {"kind": KIND, "facts": facts, "files": files}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest | {"sha256": _digest(manifest)}))


def check_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint's folder (``path`` itself, or the newest of a run's folder) and the facts written with it.

    Raises CheckpointError: not there, not a checkpoint, or a file is missing, truncated or changed.
    """
    for candidate in (path, path / "checkpoints" / LAST, path / LAST):
        if (candidate / MANIFEST).is_file():
            break
    else:
        what = "does not exist" if not path.exists() else "is not a checkpoint (it has no manifest.json)"
        raise CheckpointError(f"checkpoint {str(path)!r} {what}; expected a folder runs/NAME/checkpoints/NAME")
    manifest = _manifest(candidate)
    for name, want in manifest["files"].items():
        file = candidate / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {str(candidate)!r} is incomplete: {name} is missing")
        size = file.stat().st_size
        if size != want["bytes"]:
            raise CheckpointError(f"checkpoint {str(candidate)!r}: {name} has {size} bytes, expected {want['bytes']}")
        if _fingerprint(file) != want:
            raise CheckpointError(f"checkpoint {str(candidate)!r}: {name} is not what was written")
    return candidate.resolve(), manifest["facts"]


def newest_up_to(folder: Path, steps: int) -> Path | None:
    """The checkpoint in ``folder`` with the most environment steps, of those with no more than so many."""
    found = [(at, path.name, path) for at, path in _by_steps(folder) if at <= steps]
    return max(found)[-1] if found else None


def drop_after(folder: Path, steps: int) -> None:
    """Remove the checkpoints in ``folder`` with more environment steps than so many: the run has gone another way."""
    for at, path in _by_steps(folder):
        if at > steps:
            shutil.rmtree(path)


def _by_steps(folder: Path) -> list[tuple[int, Path]]:
    paths = (p for p in folder.glob("[!.]*") if not p.is_symlink() and (p / MANIFEST).is_file())
    return [(int(_manifest(path)["facts"]["steps"]), path) for path in paths]


def _manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        digest = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"checkpoint {str(checkpoint)!r}: manifest.json is damaged") from None
    if manifest.get("kind") != KIND or digest != _digest(manifest):
        raise CheckpointError(f"checkpoint {str(checkpoint)!r}: manifest.json is damaged or of another kind")
    return dict(manifest)


def checkpoint_config(path: Path) -> Config:
    """The config a checkpoint was written under. Raises CheckpointError."""
    try:
        return load_config(str(path / "config.yaml"))
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {str(path)!r}: {error}") from None


def prune(folder: Path, prefix: str, keep: int, onset: int | None = None) -> None:
    """Remove all but the newest ``keep`` checkpoints called ``prefix...``; never the one ``last`` points at, nor, with
    ``onset``, the two ``around`` it."""
    last = (folder / LAST).resolve()
    others = (p for p in folder.glob(f"{prefix}*") if p.is_dir() and not p.is_symlink() and p.resolve() != last)
    found = sorted(others, key=lambda p: (len(p.name), p.name))  # by their number, however many digits it has
    beside = keep - 1 if last.name.startswith(prefix) else keep
    steps = {} if onset is None else {path: at for at, path in _by_steps(folder)}
    wanted = set() if onset is None else around(steps.values(), onset)
    for path in found[: max(0, len(found) - beside)]:
        if steps.get(path) not in wanted:
            shutil.rmtree(path)


def around(steps: Collection[int], onset: int) -> set[int]:
    """Of checkpoints by their environment steps: the newest up to ``onset``, to go back to, and the first after it.
    Steps that only grow come to pass that one, which then takes the other's place: were none but the newest kept beside
    it, all that come between would have been removed before they count as good."""
    good = [at for at in steps if at <= onset]
    later = [at for at in steps if at > onset]
    return {*([max(good)] if good else []), *([min(later)] if later else [])}


def _digest(manifest: dict[str, Any]) -> str:
    # Through JSON and back: what is read has lists where tuples were written.
    return hashlib.sha256(json.dumps(json.loads(json.dumps(manifest)), sort_keys=True).encode()).hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
