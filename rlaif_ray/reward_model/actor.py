"""The driver's handle on the reward model: labels go in and never block, published versions come out.

``RewardModelClient`` fits in a Ray actor of its own; ``LocalRewardModel`` is the same, in this process and at once, for
deterministic runs. Both wrap one ``RewardModelTrainer``.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Unpack

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import RlaifError
from rlaif_ray.priority import LAST, give_way
from rlaif_ray.reward_model.trainer import Options, Published, RewardModelTrainer
from rlaif_ray.types import Draw, Episode, Units

__all__ = ["LocalRewardModel", "RewardModelClient", "RewardModelHandle"]

MOST_RESTARTS = 3  # in a row: more deaths without a portion learned between have a cause that another start won't mend


class RewardModelHandle(Protocol):
    """What both handles offer."""

    def add(
        self, units: Sequence[Units], values: Sequence[float], draws: Sequence[Draw] = (), source: str = ""
    ) -> None:
        """Hand over verdicts' values in [0, 1] about whole episodes, or about two (1: the first is preferred); a fit
        follows by itself when one is due. ``draws`` say how each was chosen (empty: all audit) among the labels of
        ``source``: where some were preferred, only audit labels can be held out."""

    def poll(self) -> list[Published]:
        """Outcomes of fits since the last poll, oldest first. Raises RlaifError if fitting failed for good."""

    def wait(self, deadline_s: float) -> list[Published]:
        """As ``poll``, but first wait, at most so long, until every label added has been considered."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: versions and counters; no labels."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``. Labels added so far and outcomes not polled are forgotten: the caller adds the stored
        labels again. Raises CheckpointError for anything else."""

    def skip(self, version: int) -> None:
        """Versions up to this one have been published before: the next ones have numbers above it."""

    def close(self) -> None:
        """Stop; no fit is waited for."""


class LocalRewardModel:
    """Fits in this process, inside ``add``: the same labels in the same portions give the same versions."""

    def __init__(
        self, config: RewardModelConfig, *, obs_shape: Sequence[int], seed: int, **options: Unpack[Options]
    ) -> None:
        self._trainer = RewardModelTrainer(config, obs_shape, seed, **options)
        self._outcomes: list[Published] = []

    def add(
        self, units: Sequence[Units], values: Sequence[float], draws: Sequence[Draw] = (), source: str = ""
    ) -> None:
        self._outcomes += self._trainer.learn(units, values, draws, source)

    def poll(self) -> list[Published]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def wait(self, deadline_s: float) -> list[Published]:
        return self.poll()

    def state(self) -> dict[str, Any]:
        return self._trainer.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._trainer.restore(state)
        self._outcomes = []

    def skip(self, version: int) -> None:
        self._trainer.skip(version)

    def close(self) -> None:
        self._outcomes = []


@dataclass(frozen=True)
class _Portion:
    """Labels that were added together."""

    units: Sequence[Units]
    values: Sequence[float]
    draws: Sequence[Draw]
    source: str


class _Worker:
    """Lives in the Ray actor: a trainer, one thread, low priority."""

    def __init__(
        self, config: RewardModelConfig, obs_shape: tuple[int, ...], seed: int, **options: Unpack[Options]
    ) -> None:
        import torch

        give_way(LAST)
        if not torch.cuda.is_available():  # a fit takes a second on a CPU too
            options["device"] = "cpu"
        self._trainer = RewardModelTrainer(config, obs_shape, seed, **options)

    def restore(self, state: Mapping[str, Any], version: int) -> None:
        self._trainer.restore(state)
        self._trainer.skip(version)

    def skip(self, version: int) -> None:
        self._trainer.skip(version)

    def learn(self, packed: bytes) -> tuple[list[Published], dict[str, Any] | None]:
        """Some portions of labels (pickled), one fit where it is due -> its outcomes, and the state after it, so that
        the driver always holds the newest; None: it is as it was."""
        portions: list[_Portion] = pickle.loads(packed)
        for one in portions:
            self._trainer.add(one.units, one.values, draws=one.draws, source=one.source)
        outcomes = self._trainer.fit_if_due()
        return outcomes, self._trainer.state() if outcomes else None


class RewardModelClient:
    """Fits in a Ray actor that takes no CPU share of its own and gives way to the learner.

    One call is in flight at a time; labels that are added meanwhile go out together with the next one, so a backlog
    costs one fit and not many. A dead actor is replaced, given the last state known and all labels again.
    """

    def __init__(
        self, config: RewardModelConfig, *, obs_shape: Sequence[int], seed: int, **options: Unpack[Options]
    ) -> None:
        self._checks = RewardModelTrainer(config, obs_shape, seed)  # refuses here and now what the actor would refuse
        self._arguments, self._options = (config, tuple(obs_shape), seed), options
        self._portions: list[_Portion] = []
        self._sent = 0
        self._skipped = 0  # versions that have been published before
        self._in_flight: Any = None
        self._outcomes: list[Published] = []
        self._state = self._checks.state()
        self._restarts = 0
        self._actor: Any = self._start()

    def add(
        self, units: Sequence[Units], values: Sequence[float], draws: Sequence[Draw] = (), source: str = ""
    ) -> None:
        """Returns at once. Raises ShapeError for labels that don't fit, RlaifError if the actor can't be kept alive."""
        self._checks.check(units, values, draws)
        if units:
            self._portions.append(_Portion([_seen(one) for one in units], list(map(float, values)), [*draws], source))
        self._advance(0.0)

    def poll(self) -> list[Published]:
        self._advance(0.0)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def wait(self, deadline_s: float) -> list[Published]:
        end = time.monotonic() + deadline_s
        while self._busy() and time.monotonic() < end:
            self._advance(max(0.0, end - time.monotonic()))
        return self.poll()

    def state(self) -> dict[str, Any]:
        """As of the last portion of labels that came back; never waits."""
        self._advance(0.0)
        return self._state

    def restore(self, state: Mapping[str, Any]) -> None:
        self._checks.restore(state)
        self._state = self._checks.state()
        self._portions, self._outcomes = [], []
        self._replace_actor()

    def skip(self, version: int) -> None:
        self._skipped = max(self._skipped, version)
        self._actor.skip.remote(self._skipped)

    def close(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = self._in_flight = None
        self._portions, self._outcomes, self._sent = [], [], 0

    def _busy(self) -> bool:
        return self._actor is not None and (self._in_flight is not None or self._sent < len(self._portions))

    def _advance(self, timeout_s: float) -> None:
        """Take in what came back (waiting for it at most so long) and send what hasn't been sent."""
        if self._in_flight is not None:
            ready, _ = ray.wait([self._in_flight], timeout=max(0.0, timeout_s))
            if not ready:
                return
            self._take(self._in_flight)
        if self._in_flight is None and self._busy():
            unsent, self._sent = self._portions[self._sent :], len(self._portions)
            # Pickled here: Ray would pickle array by array, and the training step waits for that.
            self._in_flight = self._actor.learn.remote(pickle.dumps(unsent, protocol=pickle.HIGHEST_PROTOCOL))

    def _take(self, reference: Any) -> None:
        self._in_flight = None
        try:
            outcomes, state = ray.get(reference)
        except RayTaskError as error:
            raise RlaifError(f"the reward model's fit failed: {error.cause!r}") from error
        except RayError as error:  # died, unreachable or killed for memory
            self._restarts += 1
            if self._restarts > MOST_RESTARTS:
                raise RlaifError(f"the reward model's actor died {self._restarts} times in a row: {error}") from error
            self._replace_actor()
        else:
            self._restarts = 0  # what died before had nothing to do with these labels
            self._outcomes += outcomes
            self._state = state or self._state

    def _replace_actor(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
        self._sent, self._in_flight = 0, None
        self._actor = self._start()

    def _start(self) -> Any:
        """An actor on the driver's node, restored. It reserves no GPU: it shares the learner's for moments."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        keep_gpus_visible = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
        placed = {"num_cpus": 0, "scheduling_strategy": here}
        if self._options.get("device", "cpu") != "cpu":
            placed["runtime_env"] = keep_gpus_visible
        actor = ray.remote(_Worker).options(**placed).remote(*self._arguments, **self._options)
        actor.restore.remote(self._state, self._skipped)
        return actor


def _seen(unit: Units) -> Units:
    """The episode, or both of two, without what the reward model doesn't look at."""
    if isinstance(unit, Episode):
        return replace(unit, states=None)
    return replace(unit[0], states=None), replace(unit[1], states=None)
