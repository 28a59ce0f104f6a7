"""A single run's figures in Tune's own files: ``result.json``, ``progress.csv`` and TensorBoard events.

They are written by Tune's own loggers, so that whatever reads a sweep's trials reads a single run as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback

from rlaif_ray.config import Config

__all__ = ["RunLog", "plain", "without_nan"]


@dataclass(eq=False)
class _Trial:
    """What Tune's loggers ask of a trial."""

    local_path: str
    config: dict[str, Any]
    evaluated_params: dict[str, Any]
    trial_id: str
    checkpoint: None = None

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)


class RunLog:
    """Appends one row an iteration; a resumed run's rows follow the earlier ones."""

    def __init__(self, path: Path, config: Config) -> None:
        self._trial = _Trial(str(path), config.model_dump(mode="json"), {}, config.run.name)
        self._loggers = [JsonLoggerCallback(), CSVLoggerCallback(), TBXLoggerCallback()]

    def write(self, row: dict[str, Any]) -> None:
        json_lines, *others = self._loggers
        json_lines.log_trial_result(row["training_iteration"], self._trial, without_nan(row))
        for logger in others:
            logger.log_trial_result(row["training_iteration"], self._trial, row)

    def close(self) -> None:
        for logger in self._loggers:
            logger.log_trial_end(self._trial)


def plain(value: Any) -> Any:
    """The same with plain Python numbers, so that any reader of JSON takes it."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "size", 2) == 1:
        return item()
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def without_nan(value: Any) -> Any:
    """What has no value is null: JSON knows no nan."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
