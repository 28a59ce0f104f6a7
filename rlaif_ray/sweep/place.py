"""A sweep's folder: what was to be done, as it was given, and where each trial keeps its files.

::

    runs/NAME/
      sweep.yaml  base.yaml  plan.json     what was to be done; a sweep that is resumed goes by these
      labels.sqlite                        every question, answer and cent of all trials
      judges.json                          where the built-in judges answer while the sweep runs
      trials/ARM-sSEED/                    a run's folder each: config.yaml, result.json, summary.json ...
      tune/                                Ray Tune's own state and checkpoints
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlaif_ray.config import Config, dump_config, load_config
from rlaif_ray.config.sweeping import Study, dump_study, read_study
from rlaif_ray.errors import ConfigError
from rlaif_ray.files import write_whole
from rlaif_ray.sweep.plan import Cell, cells_of, config_of

__all__ = ["PLAN", "TUNE", "Place", "is_sweep"]

PLAN = "plan.json"
JUDGES = "judges.json"
TUNE = "tune"  # folder of Tune's own state


@dataclass(frozen=True)
class Place:
    """A sweep and its folder."""

    folder: Path  # absolute
    study: Study
    base: Config  # what every trial builds on, its keys resolved
    cells: tuple[Cell, ...]
    smoke: bool = False

    @staticmethod
    def new(study: Study, overrides: Mapping[str, Any], root: Path, *, smoke: bool = False) -> Place:
        """A sweep that is to begin; nothing is written yet. ``overrides``: dotted config keys over the study's own.

        Raises ConfigError: the base or an arm is wrong.
        """
        base = load_config(study.base, study.set)
        base = load_config(base.model_dump(mode="json"), overrides)
        folder = (root / (study.name + ("-smoke" if smoke else ""))).absolute()
        if smoke:  # what is tried out never mixes with what counts
            base = base.model_copy(update={"feedback": base.feedback.model_copy(update={"store": ""})})
        place = Place(folder, study, base, cells_of(study), smoke)
        for cell in place.cells:
            place.config_of(cell)
        return place

    @staticmethod
    def read(folder: Path) -> Place:
        """A sweep that was begun. Raises ConfigError: it is no sweep's folder, or what is in it can't be read."""
        folder = folder.absolute()
        try:
            plan = json.loads((folder / PLAN).read_text())
            cells = tuple(Cell(**cell) for cell in plan["cells"])
            smoke = bool(plan["smoke"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"sweep {str(folder)!r}: got a folder without a whole {PLAN}, expected a sweep's"
            ) from None
        base = load_config(folder / "base.yaml")
        return Place(folder, read_study(folder / "sweep.yaml"), base, cells, smoke)

    def write(self) -> None:
        """Put the plan down; the file that makes the folder a sweep's comes last."""
        (self.folder / "trials").mkdir(parents=True, exist_ok=True)
        (self.folder / "sweep.yaml").write_text(dump_study(self.study))
        (self.folder / "base.yaml").write_text(dump_config(self.base))
        plan = {"smoke": self.smoke, "cells": [asdict(cell) for cell in self.cells]}
        write_whole(self.folder / PLAN, json.dumps(plan, indent=1) + "\n")

    def config_of(self, cell: Cell) -> Config:
        """A trial's config. Raises ConfigError."""
        return config_of(self.base, self.study, cell, self.folder)

    def path_of(self, name: str) -> Path:
        """A trial's folder."""
        return self.folder / "trials" / name

    @property
    def store(self) -> Path:
        return Path(self.base.feedback.store or self.folder / "labels.sqlite").absolute()

    def tell_judges(self, urls: Mapping[str, str]) -> None:
        """Where the built-in judge of each profile answers now."""
        write_whole(self.folder / JUDGES, json.dumps(dict(urls)))

    def judged(self, config: Config) -> Config:
        """The config with the addresses of its judges, where the sweep runs them."""
        if not config.asks or not config.judge.as_if:
            return config
        urls = json.loads((self.folder / JUDGES).read_text())
        ready = [
            member.model_copy(update={"base_url": urls[member.profile]}) if member.kind == "builtin" else member
            for member in config.judge.members
        ]
        return config.model_copy(update={"judge": config.judge.served(ready)})


def is_sweep(folder: Path) -> bool:
    return (folder / PLAN).is_file()
