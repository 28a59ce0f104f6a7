"""McNemar's test, apart from what fits reward models: a page needs no deep learning."""

from __future__ import annotations

from scipy.stats import binomtest

__all__ = ["mcnemar"]


def mcnemar(only_one: int, only_other: int) -> float:
    """Two-sided exact p of pairs in which just one of the two was right."""
    differing = only_one + only_other
    return float(binomtest(only_one, differing, 0.5).pvalue) if differing else 1.0
