"""Labels from wherever they are kept, pooled: runs, label stores, exported files. What the simulator can tell of their
episodes is kept apart, for the audit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rlaif_ray.config import EnvConfig, RewardModelConfig, load_config
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.exchange import import_jsonl, import_parquet
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.report.judged import store_path, who_knows
from rlaif_ray.report.run import RunRecord, find_run
from rlaif_ray.reward_model.labelled import observation_key
from rlaif_ray.types import Draw, Judged, Units, episodes_of

__all__ = ["PooledLabels", "pooled"]

EXPORTED = {".parquet": import_parquet, ".jsonl": import_jsonl}


class Learner(Protocol):
    """What holds labels: a trainer, or its labels alone."""

    def add(self, units: Sequence[Units], values: Sequence[float], *, draws: Sequence[Draw], source: str) -> None: ...


@dataclass
class PooledLabels:
    """Verdicts of all sources, and beside them what is the case (never handed to a reward model)."""

    judged: dict[str, list[Judged]] = field(default_factory=dict)  # by source, where one design asked for them
    abstained: int = 0
    config: RewardModelConfig | None = None  # of the first run among the sources
    truth: dict[str, bool] = field(default_factory=dict)  # observation_key -> nothing bad happened

    def __len__(self) -> int:
        """Verdicts."""
        return sum(map(len, self.judged.values()))

    @property
    def obs_shape(self) -> tuple[int, ...]:
        first = next(one for labels in self.judged.values() for one in labels)
        return episodes_of(first.units)[0].obs.shape[1:]

    def teach(self, learner: Learner) -> None:
        """Add all to what holds labels."""
        for source, labels in self.judged.items():
            units, values, draws = zip(*((one.units, one.value, one.draw) for one in labels), strict=True)
            learner.add(units, values, draws=draws, source=source)


@dataclass(frozen=True)
class _Source:
    store: Path
    env: EnvConfig | None  # None: nobody says which world it is
    config: RewardModelConfig | None


def pooled(sources: Sequence[str], env_id: str = "") -> PooledLabels:
    """All verdicts of all sources. ``env_id``: the world of those that are no run's.

    Raises ConfigError: no such source, no verdict in any, or episodes of different shapes; StoreError.
    """
    if not sources:
        raise ConfigError("LABELS: got none, expected runs, label stores or files of labels export")
    pool = PooledLabels()
    with tempfile.TemporaryDirectory() as scratch:
        for number, text in enumerate(sources):
            source = _found(text, env_id, Path(scratch) / f"{number}.sqlite")
            pool.config = pool.config or source.config
            _read(text, source, pool)
    if not len(pool):
        raise ConfigError(
            f"labels: got {', '.join(map(repr, sources))} without one verdict ({pool.abstained} abstained)"
        )
    return pool


def _found(text: str, env_id: str, scratch: Path) -> _Source:
    path = Path(text)
    if path.is_file() and path.suffix in EXPORTED:
        with LabelStore(scratch) as store:
            EXPORTED[path.suffix](store, path)
        return _Source(scratch, _named(env_id), None)
    if path.is_file():
        beside = path.parent / "config.yaml"
        if beside.is_file() and not env_id:
            config = load_config(str(beside))
            return _Source(path, config.env, config.reward_model)
        return _Source(path, _named(env_id), None)
    record = RunRecord.read(find_run(text))
    store_at = store_path(record)
    if not store_at.is_file():
        raise ConfigError(f"labels {text!r}: this run asked no judge, there is no label store {str(store_at)!r}")
    if record.config is None:
        return _Source(store_at, _named(env_id), None)
    return _Source(store_at, record.config.env, record.config.reward_model)


def _named(env_id: str) -> EnvConfig | None:
    return EnvConfig(id=env_id, options={}) if env_id else None


def _read(text: str, source: _Source, pool: PooledLabels) -> None:
    knows = who_knows(source.env)
    with LabelStore(source.store, readonly=True) as store:
        for label in store.labels():
            if label.value is None:
                pool.abstained += 1
                continue
            unit = store.units_of(label)
            for episode in episodes_of(unit):
                if len(pool) and episode.obs.shape[1:] != pool.obs_shape:
                    raise ConfigError(
                        f"labels {text!r}: got observations {episode.obs.shape[1:]}, those before have "
                        f"{pool.obs_shape}; labels of one world can be pooled"
                    )
                told = None if episode.states is None else knows(episode.states)
                if told is not None:
                    pool.truth[observation_key(episode.obs)] = told
            pool.judged.setdefault(text, []).append(Judged(unit, label.value, label.draw))
