"""Which numbers a run has given to versions of its policy and of its reward model: none is given twice.

Labels and scores outlive a run's going back to an earlier checkpoint, and name what acted and what judged by number. So
the numbers stand beside the checkpoints, and go on where they were, whatever state the run goes on from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlaif_ray.errors import CheckpointError
from rlaif_ray.files import write_whole

__all__ = ["FILE", "NumberAbove", "Numbering"]

FILE = "versions.json"


class Numbering:
    """The newest versions that a run has used; kept in a file of its folder. Raises CheckpointError: it is damaged."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.policy, self.reward_model = -1, 0  # -1: nothing has acted; 0: there was no reward model
        try:
            known = json.loads(self._path.read_text())
            self.policy, self.reward_model = int(known["policy"]), int(known["reward_model"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{str(self._path)!r} is damaged; expected the newest versions of a run") from None

    def note(self, *, policy: int = -1, reward_model: int = 0) -> None:
        """These are in use: on disk before anything that names them is, as far as the caller sees to that."""
        newest = max(self.policy, policy), max(self.reward_model, reward_model)
        if newest == (self.policy, self.reward_model):
            return
        self.policy, self.reward_model = newest
        write_whole(self._path, json.dumps({"policy": self.policy, "reward_model": self.reward_model}) + "\n")


class NumberAbove:
    """Gives a learner's weights a number above ``used``, where theirs isn't: they are another thing than what had it,
    or the same under a new name. Picklable: learners may be remote."""

    def __init__(self, used: int) -> None:
        self.used = used

    def __call__(self, learner: Any) -> None:
        if learner._weights_seq_no <= self.used:
            learner._weights_seq_no = self.used + 1
