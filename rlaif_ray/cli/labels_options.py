"""Options of the commands on stored labels: ``labels export | import | show | prune``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

__all__ = ["Export", "Import", "Prune", "Show"]

Where = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|STORE.sqlite")]


@dataclass(frozen=True)
class Export:
    """Write labels as one Parquet file with pictures, which Hugging Face datasets loads offline, or as JSON lines."""

    where: Where
    """Folder of a run, its name below runs/, or a label store."""
    format: Annotated[str, tyro.conf.arg(metavar="parquet|jsonl")] = "parquet"
    """Format of the file."""
    out: str = ""
    """File to write; empty: labels.parquet (or .jsonl) beside the store."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""


@dataclass(frozen=True)
class Import:
    """Bring exported labels into a store: their questions are then answered from there for nothing."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LABELS.parquet|.jsonl")]
    """File that labels export wrote."""
    store: str = "labels.sqlite"
    """Label store to add to; made where there is none."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""


@dataclass(frozen=True)
class Show:
    """Print one label, and write its pictures as a contact sheet."""

    where: Where
    """Folder of a run, its name below runs/, or a label store."""
    label: Annotated[tyro.conf.Positional[int], tyro.conf.arg(metavar="LABEL")]
    """Number of the label (label_id)."""
    out: str = ""
    """PNG file to write; empty: label-LABEL.png beside the store."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""


@dataclass(frozen=True)
class Prune:
    """Drop kept pictures, the oldest first, and what nobody asked about; labels and episodes of labels stay."""

    where: Where
    """Folder of a run, its name below runs/, or a label store."""
    frames_mb: float = 0.0
    """Megabytes of pictures to keep."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""
