"""One tree of errors: what can go wrong, and whose fault it is.

::

    RlaifError                    everything raised on purpose by this package
    ├── ConfigError               a value the user chose can't be used        (exit code 2)
    │   ├── UnknownNameError      a name that isn't there; offers the nearest
    │   └── MissingKeyError       a remote judge without its API key
    ├── EnvError                  a world asked for something illegal
    │   └── PlacementError        a hand-placed reset that breaks the rules
    ├── ShapeError                an array of the wrong shape or dtype
    ├── CheckpointError           not a checkpoint, truncated, or of another kind
    ├── StoreError                the label store can't be read or written
    │   └── ReplayMissError       ``replay: only`` met a question that isn't stored
    ├── AttemptFailed             one attempt at a judge failed; another may succeed
    ├── BudgetExhausted           no money, labels or tokens left (a normal end of asking)
    └── JudgeError                the judge could not be used at all           (stops asking)
        ├── JudgeUnreachable      nothing answers at ``base_url``
        ├── JudgeRejectsKey       401 / 403
        ├── JudgeRejectsModel     404 for the model
        └── JudgeRejectsRequest   400: the server does not take what is sent

An answer that arrived but can't be used is no error: it is an ``Abstention`` (``types.py``), with its
reason and its price.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "AttemptFailed",
    "BudgetExhausted",
    "CheckpointError",
    "ConfigError",
    "EnvError",
    "HttpReply",
    "JudgeError",
    "JudgeRejectsKey",
    "JudgeRejectsModel",
    "JudgeRejectsRequest",
    "JudgeUnreachable",
    "MissingKeyError",
    "PlacementError",
    "ReplayMissError",
    "RlaifError",
    "ShapeError",
    "StoreError",
    "UnknownNameError",
    "nearest",
]


class RlaifError(Exception):
    """Base of every error this package raises on purpose; ``str()`` is fit for a user."""


class ConfigError(RlaifError):
    """A value the user chose can't be used; the message names it, what is allowed and the fix."""


class UnknownNameError(ConfigError):
    """A name that isn't there. ``kind`` says what it should have named."""

    def __init__(self, kind: str, name: str, allowed: Iterable[str]) -> None:
        names = sorted(allowed)
        guess = nearest(name, names)
        hint = f"; did you mean {guess!r}?" if guess else ""
        super().__init__(f"unknown {kind} {name!r}: allowed are {', '.join(names)}{hint}")
        self.kind, self.name, self.allowed = kind, name, tuple(names)

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.allowed)


class MissingKeyError(ConfigError):
    """A remote judge needs an API key and its environment variable is empty."""


class EnvError(RlaifError):
    """A world was asked for something it can't do."""


class PlacementError(EnvError):
    """``reset(options=...)`` placed something where the rules forbid it."""


class ShapeError(RlaifError, ValueError):
    """An array has the wrong shape or dtype; the message prints both."""


class CheckpointError(RlaifError):
    """Not a checkpoint, truncated, or one of another kind of run."""


class StoreError(RlaifError):
    """The label store can't be read or written."""


class ReplayMissError(StoreError):
    """``judge.replay: only`` met a question whose answer isn't stored."""


@dataclass(frozen=True)
class HttpReply:
    """A server's reply that is no answer."""

    status: int
    headers: Mapping[str, str]  # names in lower case


class AttemptFailed(RlaifError):
    """One attempt at a judge failed in a way that another may not.

    ``reason`` is what an abstention would give; ``billed`` False: known not to be billed, None: nobody knows;
    ``after_s``: how long the server asked to wait; ``reached`` False: nothing answered at all; ``reply``: what
    came instead of an answer.
    """

    def __init__(
        self,
        detail: str,
        *,
        reason: Literal["http", "timeout"] = "http",
        billed: Literal[False] | None = None,
        after_s: float | None = None,
        reached: bool = True,
        reply: HttpReply | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason, self.billed, self.after_s, self.reached = reason, billed, after_s, reached
        self.reply = reply


class BudgetExhausted(RlaifError):
    """Nothing left to spend; the normal end of asking, not a failure."""


class JudgeError(RlaifError):
    """The judge could not be used at all; asking stops."""


class JudgeUnreachable(JudgeError):
    """Nothing answers at the judge's ``base_url``."""


class JudgeRejectsKey(JudgeError):
    """The judge refused the key (401, 403)."""


class JudgeRejectsModel(JudgeError):
    """The judge doesn't know the model (404)."""


class JudgeRejectsRequest(JudgeError):
    """The judge doesn't take what is sent (400, 413, 422)."""


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest to ``name``, or None where none is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return close[0] if close else None
