"""What the reward model said of episodes that the judge was asked about, by which version: ``scores.csv`` in a run's
folder. Joined with the labels by ``Score.key`` it pairs the two sources."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from rlaif_ray.types import Array, EpisodeBatch

__all__ = ["FILE", "Score", "append_scores", "read_scores", "scores_of"]

FILE = "scores.csv"


@dataclass(frozen=True)
class Score:
    """One complete episode's belief at its end, by the version that it is paid by for as long as it lasts."""

    steps: int  # environment steps of the run by then
    episode_id: int
    policy_version: int  # that acted first
    reward_model_version: int
    belief: float

    @property
    def key(self) -> tuple[int, int]:
        """What names an episode of a run: one that was killed goes on from a checkpoint and gives some ids again, but
        no version of its policy."""
        return self.episode_id, self.policy_version


def scores_of(
    episodes: EpisodeBatch, version: Array, final: Array, asked: Sequence[Collection[int]], steps: int
) -> list[Score]:
    """Of the episodes in any of ``asked``; (E,) ``version`` (0: none, and no score) and belief at the end."""
    return [
        Score(steps, episode_id, int(episodes.policy_version[e]), int(version[e]), float(final[e]))
        for e, episode_id in enumerate(episodes.episode_id.tolist())
        if version[e] > 0 and any(episode_id in known for known in asked)
    ]


def append_scores(folder: Path, scores: Sequence[Score]) -> None:
    """Add lines to the run's file, begun with a line of names."""
    if not scores:
        return
    path = folder / FILE
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(one.name for one in fields(Score))
        writer.writerows(astuple(one) for one in scores)


def read_scores(folder: Path) -> Iterator[Score]:
    """What was written there, the last line of an episode where it has several. A line torn by a kill is left out."""
    path = folder / FILE
    if not path.is_file():
        return
    found: dict[tuple[int, int], Score] = {}
    with open(path, newline="", errors="replace") as file:
        for row in csv.reader(file):
            try:
                steps, episode_id, policy, version, belief = row
                score = Score(int(steps), int(episode_id), int(policy), int(version), float(belief))
            except ValueError:
                continue
            found[score.key] = score
    yield from found.values()
