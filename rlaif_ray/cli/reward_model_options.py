"""Options of the commands on reward models: ``reward-model fit | evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

__all__ = ["Fit", "Grade"]

LabelSources = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN|STORE.sqlite|LABELS.parquet|.jsonl ...")
]


@dataclass(frozen=True)
class Fit:
    """Fit a reward model to stored labels, grade it on those held out, and write it to a file; no Ray, no training."""

    labels: LabelSources
    """Labels, pooled: folders of runs (or names below runs/), label stores, files of labels export."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")] = "reward-model.npz"
    """File to write; nothing is written where the gate stays shut."""
    net: Annotated[str, tyro.conf.arg(metavar="event-max|cnn-lstm")] = ""
    """Network; empty, as for the options below: as in the first run's config, else the default."""
    ensemble: int = 0
    """Members, each on its own bootstrap sample."""
    noise: Annotated[str, tyro.conf.arg(metavar="none|estimated")] = ""
    """What is thought of the judge's mistakes."""
    calibrate: Annotated[str, tyro.conf.arg(metavar="temperature|platt")] = ""
    """How beliefs are fitted to the labels held out."""
    early_stop: Annotated[str, tyro.conf.arg(metavar="training|validation")] = ""
    """What ends a fit early."""
    epochs: int = 0
    """Passes over the labels; said here, whatever gradient steps they take."""
    holdout: float = 0.0
    """Share of labels never trained on."""
    seed: int = 0
    """Seed of weights, minibatches and bootstrap samples."""
    env: Annotated[str, tyro.conf.arg(metavar="ID")] = ""
    """World of labels that are no run's: what is known of it is only for the audit against the truth."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""


@dataclass(frozen=True)
class Grade:
    """Grade a reward model on stored labels that it did not learn from: agreement, calibration, policy versions."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """File of reward-model fit; a checkpoint, or a run (its newest checkpoint then): the version in service there."""
    labels: LabelSources
    """Labels, pooled: folders of runs (or names below runs/), label stores, files of labels export."""
    env: Annotated[str, tyro.conf.arg(metavar="ID")] = ""
    """World of labels that are no run's: what is known of it is only for the audit against the truth."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""
