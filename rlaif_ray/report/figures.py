"""Numbers of a row, and how they are printed: a dash where there is none, never a 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Row", "clock_time", "count", "decimal", "number", "percent"]

Row = Mapping[str, Any]


def number(row: Row, key: str) -> float:
    """The number at ``key``; nan where it is absent or no number."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "-"


def decimal(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def percent(row: Mapping[str, Any], key: str, digits: int = 1) -> str:
    value = number(row, key)
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else "-"


def clock_time(seconds: float) -> str:
    """``75.0`` -> ``1:15``."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
