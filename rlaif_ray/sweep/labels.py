"""A trial's labels in the store that all trials of a sweep share.

The store is one file on one node, and a trial of Tune may run on any: its actor is asked, as questioners do, and the
file is opened by nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rlaif_ray.types import Judged, Label

if TYPE_CHECKING:
    from rlaif_ray.feedback.actors import StoreHandle
    from rlaif_ray.feedback.budget import Amount

__all__ = ["TrialLabels"]


class TrialLabels:
    """What the store has of one run. Every method raises StoreError: nobody answers."""

    def __init__(self, store: StoreHandle, run: str) -> None:
        self._store, self._run, self._last = store, run, 0

    def last(self) -> int:
        """``label_id`` of its newest label; 0 before the first."""
        newer: list[Label] = self._store.call("labels", self._run, self._last)
        self._last = newer[-1].label_id if newer else self._last
        return self._last

    def of_others(self, inherited: Mapping[str, int]) -> list[Judged]:
        """Verdicts of runs it was cloned from, up to the label that each had then, with what they are about."""
        from rlaif_ray.feedback.earlier import judged_in

        found: list[Judged] = []
        for run, last in inherited.items():
            labels: list[Label] = self._store.call("labels", run)
            found += judged_in(self._store.calls, (one for one in labels if one.label_id <= last))
        return found

    def stand_alone(self, inherited: Mapping[str, int]) -> Amount:
        """What the run used, whoever paid for it (``LabelStore.stand_alone``)."""
        used: Amount = self._store.call("stand_alone", self._run, dict(inherited))
        return used
