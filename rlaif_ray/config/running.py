"""Running: the run, its world, and what of the machine it uses."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from rlaif_ray.config.section import NonNegativeInt, PositiveFloat, PositiveInt, Section

__all__ = ["FINISHED", "EnvConfig", "ResourcesConfig", "RunConfig", "available_cores"]

# States of a run's summary that has come to its end and was evaluated.
FINISHED = ("done", "no_feedback_learned", "stopped_by_watch")


class RunConfig(Section):
    """One training run: its name, its folder, how long it goes on."""

    name: str = "run"
    """Folder of the run, below `dir`; letters, digits, '.', '_' and '-'."""
    dir: str = "runs"
    """Folder that holds runs."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds everything that is drawn."""
    total_steps: PositiveInt = 1_000_000
    """Environment steps of the whole run, all phases."""
    feedback_episodes: NonNegativeInt = 0
    """The run ends once so many episodes were finished in its feedback phase, if that comes first; 0: no such end."""
    init: str = ""
    """Checkpoint, or run (its newest), whose policy this one begins with; empty: fresh weights. Nothing else of it."""
    checkpoint_every_s: PositiveFloat = 120.0
    """Seconds between checkpoints; one is always written at a phase's end, at the end and on Ctrl-C."""
    keep_checkpoints: PositiveInt = 2
    """Periodic checkpoints kept; phase ends are always kept, and with `watch.action: rollback` two to go back to."""
    evaluate_episodes: NonNegativeInt = 2_000
    """Episodes of each final evaluation; 0: none."""
    evaluate_every_steps: NonNegativeInt = 0
    """Steps between evaluations while training, on the side; 0: only at phase ends."""

    @field_validator("name")
    @classmethod
    def _name_stays_in_its_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
            raise ValueError("must be up to 100 letters, digits, '.', '_' or '-', not starting with '.' or '-'")
        return name


class EnvConfig(Section):
    """The world."""

    id: str = "rlaif_ray/Homegrid-v0"
    """Gymnasium id, or a name given to `register_env`."""
    num_envs: PositiveInt = 256
    """Environments stepped side by side in all, shared out over the runners."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the world, e.g. {starts: train}."""
    evaluate_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Named sets of options (put over `options`) that final evaluations run on, e.g. {heldout: {starts: heldout}}."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ResourcesConfig(Section):
    """What of the machine or cluster is used."""

    env_runners: NonNegativeInt = 1
    """Remote rollout actors; 0: the driver acts itself."""
    overlap: bool = True
    """Sample the next batch while this one is learned from: it is acted by the policy of one update ago. It learns as
    well and sooner (docs/BENCHMARKS.md); without effect where the driver acts itself."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where policy and reward model learn; auto: a GPU if there is one."""
    learner_threads: NonNegativeInt = 0
    """Threads of the local learner; 0: as many as there are cores, less one for each runner."""
    object_store_mb: PositiveInt = 512
    """Ray's object store, where this command starts Ray itself."""
    address: str = ""
    """Ray cluster to join: `auto` on one of its nodes, or host:port; empty: $RAY_ADDRESS, which a submitted job has, or
    else Ray is started on this machine."""

    @property
    def threads(self) -> int:
        """Threads of the local learner. Where a core is busy with anything else, threads that work in step wait for
        the slowest at each step: a minibatch on two took up to ten times as long as on one."""
        return self.learner_threads or max(1, available_cores() - max(1, self.env_runners))

    @field_validator("address")
    @classmethod
    def _is_joined_from_inside(cls, address: str) -> str:
        if address not in ("", "auto") and not re.fullmatch(r"[^\s/]+:\d+", address):
            raise ValueError(
                "must be 'auto' or host:port of the head node; from outside a cluster submit the run (`ray job submit`)"
            )
        return address
