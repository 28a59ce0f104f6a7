"""Whom the feedback loop works with, as it sees them: who asks, who learns to judge, what scores, what chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from rlaif_ray.config import FeedbackConfig
from rlaif_ray.types import Candidates, Draw, Drawn, EpisodeBatch, Label, RewardModelReport, Scale, Scores, Units

__all__ = ["Chooser", "Judges", "LearnsToJudge", "Published", "Scorer"]


class Judges(Protocol):
    """The pool, as the loop sees it."""

    def submit(
        self,
        units: Sequence[Units],
        *,
        inclusion_probability: Sequence[float],
        step: int,
        reward_model_version: int = 0,
        doubts: Sequence[float] = (),
        draws: Sequence[Draw] = (),
    ) -> list[int]: ...
    def hush(self) -> None: ...
    def notices(self) -> list[str]: ...
    @property
    def manners(self) -> tuple[str, ...]: ...
    def poll(self) -> list[Label]: ...
    def wait(self, deadline_s: float) -> list[Label]: ...
    def look(self) -> None: ...
    def stats(self) -> Any: ...
    def close(self) -> None: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def room(self) -> int: ...
    @property
    def turned_away(self) -> int: ...


class Published(Protocol):
    """A version of the reward model as its trainer publishes it; ``state`` is None where nothing new is to be used."""

    @property
    def state(self) -> dict[str, Any] | None: ...
    @property
    def report(self) -> RewardModelReport: ...


class LearnsToJudge(Protocol):
    """The reward model's trainer, as the loop sees it."""

    def add(
        self, units: Sequence[Units], values: Sequence[float], draws: Sequence[Draw] = (), source: str = ""
    ) -> None: ...
    def poll(self) -> Sequence[Published]: ...
    def wait(self, deadline_s: float) -> Sequence[Published]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...
    def skip(self, version: int) -> None: ...
    def close(self) -> None: ...


class Scorer(Protocol):
    """One version of the reward model, ready to score."""

    @property
    def scale(self) -> Scale: ...
    def score(self, batch: EpisodeBatch) -> Scores: ...


# (generator, finished episodes, how many are expected, `feedback`) -> those that are asked about
Chooser = Callable[[np.random.Generator, Candidates, float, FeedbackConfig], Drawn]
