"""The pool's questioners: hired, given work in turn, replaced when they die."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from rlaif_ray.errors import JudgeError
from rlaif_ray.feedback.actors import StoreHandle
from rlaif_ray.feedback.database import owner_alive
from rlaif_ray.feedback.pool_stats import last_line

__all__ = ["Questioner", "Staff"]

DEATH_S = 5.0


@dataclass
class Questioner:
    """An actor that asks, as the pool knows it."""

    actor: Any
    identity: Any  # reference to its owner id
    in_flight: int = 0


class Staff:
    """So many questioners; ``hire`` starts one."""

    def __init__(self, hire: Callable[[], Questioner], size: int, store: StoreHandle) -> None:
        self._hire, self._store = hire, store
        self.members = [hire() for _ in range(size)]

    def idlest(self) -> Questioner:
        return min(self.members, key=lambda one: one.in_flight)

    def hush(self) -> None:
        """Have them begin nothing further."""
        for one in self.members:
            one.actor.hush.remote()

    def replace(self, dead: Questioner) -> Questioner:
        """One that died; what it had in flight is written off. Raises JudgeError where it never got as far as asking:
        another one would fare no better, and none is hired."""
        place = self.members.index(dead)
        trouble = self.dismiss(dead)
        if trouble is not None:
            self.members.remove(dead)
            raise trouble
        self.members[place] = self._hire()
        return self.members[place]

    def dismiss(self, one: Questioner, patience_s: float = DEATH_S) -> JudgeError | None:
        """End it and write off what it had in flight; why, where it never got as far as asking."""
        try:
            owner = ray.get(one.identity, timeout=patience_s)
        except RayError as error:
            ray.kill(one.actor)
            if isinstance(error, RayActorError) and not error.actor_init_failed:
                self._store.call("recover")  # killed before it said who it was: the store looks for the dead itself
                return None
            return JudgeError(f"a feedback process could not start: {last_line(error)}")
        ray.kill(one.actor)
        deadline = time.monotonic() + DEATH_S
        while owner_alive(owner) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._store.call("write_off_owner", owner)
        return None
