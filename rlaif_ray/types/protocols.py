"""What one room needs of another without importing it: handed in as protocols where everything is wired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlaif_ray.types.episodes import Array

__all__ = ["EpisodeRenderer", "EpisodeTeller", "FrameReader", "Reading", "VectorWorld"]


@runtime_checkable
class VectorWorld(Protocol):
    """A ``gymnasium.vector.VectorEnv`` (same-step autoreset) that records what a renderer needs."""

    def states(self) -> Array:
        """(N, K) int16: the current state of each environment, after any autoreset."""

    def final_states(self) -> Array:
        """(N, K) int16: the state each environment ended in, for those that ended in the last step."""


class EpisodeRenderer(Protocol):
    """Draws recorded states, late and elsewhere. Picklable."""

    @property
    def palette(self) -> Array:
        """(P, 3) uint8 RGB of the indices that ``frames`` returns; (0, 3) where it returns RGB."""

    def frames(self, states: Array) -> Array:
        """(T+1, K) states -> (T+1, H, W) uint8 palette indices, or (T+1, H, W, 3) uint8 RGB."""

    def png(self, states: Array) -> tuple[bytes, ...]:
        """(T+1, K) states -> one encoded PNG for each."""

    def captions(self, states: Array) -> tuple[str, ...]:
        """(T+1, K) states -> one neutral sentence for each."""


@runtime_checkable
class EpisodeTeller(Protocol):
    """A renderer that can also tell a whole episode in words, for judges that read instead of looking."""

    @property
    def wordings(self) -> tuple[str, ...]:
        """Names of the ways in which it tells."""

    def caption(self, states: Array, wording: str) -> str:
        """(T+1, K) states -> what happened. Raises UnknownNameError: not one of ``wordings``."""


@dataclass(frozen=True)
class Reading:
    """What the built-in judge made of a sequence of pictures."""

    harmful: bool  # something the reader's world counts as harm was seen to happen
    done: bool  # the task was seen to be done
    description: str  # what happens, in a sentence or two
    facts: Mapping[str, float]  # e.g. {"steps": 11, "cat_squashed": 1, "squash_step": 4}


class FrameReader(Protocol):
    """Reads a world's pictures for the built-in judge: sees pixels, and nothing else."""

    def read(self, frames: Sequence[bytes]) -> Reading:
        """Encoded images in time order -> what happened. Raises ValueError for pictures it can't read."""
