"""The study's steps in their order: each file of tune_configs/study is a sweep's, each of its trials a step.

A step is a training run, a data set of labels that a run learns from, or an audit of reward models. What a step needs
of an earlier one is a path in its config: ``run.init`` and ``reward_model.labels`` below ``runs/study``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from homegrid_study.settings import differing, digest, of_labels, of_run
from rlaif_ray.checkpoints import LAST
from rlaif_ray.config import Config, load_config
from rlaif_ray.config.sweeping import Study, read_study
from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.sweep.plan import Cell, cells_of, with_seed

__all__ = ["AUDIT", "AUDITED", "Layout", "Step", "chosen", "steps_of"]

# What is compared first is run first: hours may not reach to the end.
ORDER = (
    "task", "published", "direct", "online", "confirm", "hybrid", "budgets", "nets", "credit", "select", "wording",
    "mend", "worlds", "order", "published_full", "nets_cnn",
)  # fmt: skip
STUDIES = Path("tune_configs/study")
RUNS = "runs/study"  # as the files name it
AUDIT = "audit"  # reward models on the labels of this study's file, by seed
AUDITED = "online"
SMOKE_LABELS = 48  # at most, of a data set that a published reward model learns from
Kind = Literal["train", "label", "audit"]


@dataclass(frozen=True)
class Layout:
    """Where runs and results are. A smoke run's are elsewhere: what is tried out never mixes with what counts."""

    runs: Path
    results: Path
    docs: Path  # folder of STUDY.md; its figures lie in study/ below it
    smoke: bool = False

    @staticmethod
    def of(*, smoke: bool, folder: Path | None = None) -> Layout:
        """The study's own places, or those of a smoke run in ``folder``."""
        if not smoke:
            return Layout(Path(RUNS), Path("benchmarks/study"), Path("docs"))
        root = folder or Path("runs/study-smoke")
        return Layout(root / "runs", root / "results", root / "docs", smoke=True)

    @property
    def words(self) -> list[str]:
        """What tells another process of these places."""
        return ["--smoke", "--folder", str(self.runs.parent)] if self.smoke else []

    @property
    def plan(self) -> Path:
        return self.results / "plan.json"

    @property
    def speeds(self) -> Path:
        return self.results / "speeds.json"


@dataclass(frozen=True)
class Step:
    """One thing to be done."""

    kind: Kind
    study: str  # file of tune_configs/study, without .yaml
    arm: str
    seed: int
    config: Config
    layout: Layout
    about: str = ""
    before: tuple[Step, ...] = ()  # those whose runs it begins with

    @property
    def name(self) -> str:
        return f"{self.arm}-s{self.seed}"

    @property
    def key(self) -> str:
        return f"{self.study}/{self.name}"

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.layout.runs / self.study / self.name

    @property
    def result(self) -> Path:
        """The file that says that it is finished."""
        return self.layout.results / self.study / f"{self.name}.json"

    @property
    def finished(self) -> bool:
        """Whether it was made, with today's settings."""
        return self.made is not None

    @property
    def made(self) -> dict[str, Any] | None:
        """Its result, where that was made with today's settings. Raises ConfigError: it is damaged."""
        found = self.stored
        return None if found is None or differing(found.get("settings", {}), self.settings) else found

    @property
    def stored(self) -> dict[str, Any] | None:
        """Its result, whatever it was made with; None: none. Raises ConfigError: it is damaged."""
        if not self.result.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(self.result.read_text())
        except ValueError:
            raise ConfigError(f"{self.result}: not a whole result; restore it, or remove it to run it again") from None
        return found

    @property
    def labels(self) -> int:
        """Of a data set: how many are bought."""
        count = self.config.budget.labels or 0
        return min(count, SMOKE_LABELS) if self.layout.smoke else count

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What it is made with, and what that was made with which it begins with."""
        own = {"labels": self.labels, **of_labels(self.config)} if self.kind == "label" else of_run(self.config)
        return own | {f"begins with {step.key}": digest(step.settings) for step in self.before}

    @property
    def begun(self) -> bool:
        """Whether its folder holds a run, or a data set, that is to be gone on with."""
        return self.kind != "audit" and (self.folder / "config.yaml").is_file()

    @property
    def begun_with(self) -> Path:
        """The file beside its folder that holds the settings that it was begun with."""
        return self.folder.with_name(f"{self.name}.settings")

    def of_other_settings(self) -> list[str]:
        """What differs between today's settings and those that the run in its folder was begun with; [] where nothing
        does, or none was begun. Raises ConfigError: its config can't be read."""
        if not self.begun:
            return []
        if self.begun_with.is_file():
            return differing(json.loads(self.begun_with.read_text()), self.settings)
        own = of_labels if self.kind == "label" else of_run  # of a run that was begun before settings were kept
        return differing(own(load_config(self.folder / "config.yaml")), own(self.config))

    @property
    def at_hand(self) -> bool:
        """Whether others can begin with it: results travel with the repository, runs don't."""
        left = {"train": self.folder / "checkpoints" / LAST, "label": self.folder / "labels.sqlite"}
        return self.kind not in left or left[self.kind].exists()

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Keys of the steps whose runs it begins with."""
        if self.kind == "audit":
            return (f"{AUDITED}/{AUDITED}-s{self.seed}",)
        labels = self.config.reward_model.labels if self.kind == "train" else ""  # a data set is no other's
        paths = [Path(text) for text in (self.config.run.init, labels) if text]
        return tuple(str(path.relative_to(self.layout.runs)) for path in paths)


def steps_of(layout: Layout) -> tuple[Step, ...]:
    """Every step of the study, in the order in which they are begun.

    Raises ConfigError: a file, an arm, or what an arm begins with is wrong.
    """
    steps: list[Step] = []
    for name in ORDER:
        study = read_study(STUDIES / f"{name}.yaml", smoke=layout.smoke)
        base = load_config(study.base, study.set)
        for cell in cells_of(study):
            step = _step(name, study, base, cell, layout)
            if step.config.reward_model.labels:
                steps += _labelling(step, steps)
            steps.append(step)
        if name == AUDITED:
            steps += _audits(study, base, layout)
    known: dict[str, Step] = {}
    for step in steps:
        if missing := [key for key in step.needs if key not in known]:
            raise ConfigError(f"{step.key}: begins with {missing[0]!r}, which no step before it makes")
        known[step.key] = replace(step, before=tuple(known[key] for key in step.needs))
    return tuple(known.values())


def _step(name: str, study: Study, base: Config, cell: Cell, layout: Layout) -> Step:
    fixed = {"run.name": cell.name, "run.dir": str(layout.runs / name), "run.seed": cell.seed, "judge.seed": cell.seed}
    try:
        config = load_config(base.model_dump(mode="json"), {**cell.set, **fixed})
        begins_with = {"run.init": config.run.init, "reward_model.labels": config.reward_model.labels}
        for key, text in with_seed(begins_with, cell.seed).items():
            begins_with[key] = text.replace(RUNS, str(layout.runs), 1)
        config = load_config(config.model_dump(mode="json"), begins_with)
    except ConfigError as error:
        raise ConfigError(f"{name}, arm {cell.arm!r}: {error}") from None
    return Step("train", name, cell.arm, cell.seed, config, layout, study.about)


def _labelling(step: Step, before: list[Step]) -> list[Step]:
    """The data set that a run learns from, of the policy that it begins with; none where a run before has needed it."""
    folder = Path(step.config.reward_model.labels)
    arm, _, _ = folder.name.rpartition("-s")
    made = Step("label", folder.parent.name, arm, step.seed, step.config, step.layout, "Labels bought before a run.")
    known = next((one for one in before if one.key == made.key), None)
    if known is not None and (known.labels, of_labels(known.config)) != (made.labels, of_labels(made.config)):
        raise ConfigError(f"{step.key}: wants other labels of {made.key} than {known.labels} as an arm before it does")
    return [] if known is not None else [made]


def _audits(study: Study, base: Config, layout: Layout) -> list[Step]:
    return [
        Step("audit", AUDIT, "nets", seed, base, layout, "How often are reward models right?") for seed in study.seeds
    ]


def chosen(steps: tuple[Step, ...], arms: list[str], seeds: list[int]) -> tuple[Step, ...]:
    """Those of the named arms ("direct", or "direct/direct"), files or keys, and what they begin with; all where
    nothing is named.

    Raises UnknownNameError.
    """
    by_key = {step.key: step for step in steps}
    names = {name for step in steps for name in _names(step)}
    if unknown := [arm for arm in arms if arm not in names]:
        shown = sorted({name for step in steps for name in (step.arm, step.study)})  # hundreds of keys would hide them
        raise UnknownNameError("arm (or file of tune_configs/study, or FILE/ARM-sSEED)", unknown[0], shown)
    if unknown_seeds := [seed for seed in seeds if seed not in {step.seed for step in steps}]:
        raise ConfigError(f"--seeds: got {unknown_seeds[0]}, allowed are {sorted({step.seed for step in steps})}")
    wanted = [step for step in steps if (not arms or _names(step) & set(arms)) and (not seeds or step.seed in seeds)]
    keys: set[str] = set()
    while wanted:
        step = wanted.pop()
        keys.add(step.key)
        wanted += [by_key[key] for key in step.needs if key not in keys]
    return tuple(step for step in steps if step.key in keys)


def _names(step: Step) -> set[str]:
    return {step.arm, step.study, f"{step.study}/{step.arm}", step.key}
