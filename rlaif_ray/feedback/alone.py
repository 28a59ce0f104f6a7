"""The feedback room by itself: questions about pictures or texts of your own, judged, paid for and stored. No Ray."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np

from rlaif_ray.config import Config
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.ask import Asker, LocalStore
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.judge import ChatJudge, Judge, judge_from, key_for
from rlaif_ray.feedback.question import Asked, JudgeIdentity, Question, words_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Episode, Label, Unit

__all__ = ["ask_about"]

_RUN = "alone"


def ask_about(
    units: Sequence[Unit], config: Config, store: LabelStore, *, judge: Judge | None = None
) -> list[Label | None]:
    """One label for each unit, in their order; None where the budget has no room for it. What the store has costs
    nothing. A label's ``episode_id`` is the unit's place in ``units``.

    ``config`` gives prompt, budget, retries, rate limits, how many questions are in flight (``feedback.concurrency``)
    and, unless ``judge`` is one of your own, who is asked. Pictures are sent as they are given, and kept in the store
    up to ``feedback.keep_frames_mb``: nobody can draw them again. A text stands where the prompt has ``{caption}``.

    Raises ConfigError, MissingKeyError: the judge can't be asked as configured, its prompt compares two units, or it
    has no place for a unit's text. JudgeError: it can't be used at all (what was answered until then is stored).
    StoreError. RuntimeError: called where an event loop is running.
    """
    prompt, constitution = words_of(config.judge, one_episode=True, own_texts=True)
    asks = judge or judge_from(config.judge, key_for(config.judge))

    def question(unit: Unit, identity: JudgeIdentity) -> Question:
        if unit.caption and "{caption}" not in prompt.user:
            raise ConfigError(
                f"judge.prompt: got {prompt.name!r} for unit {unit.key!r}, whose text has no place in it: its user "
                "part lacks {caption}"
            )
        principle = constitution.draw(config.run.seed, unit.key) if constitution is not None else ""
        return Question(prompt.kind, (unit,), prompt, identity, principle)

    asked = [
        Asked(question(unit, asks.identity), _stand_in(place, unit), run_id=_RUN) for place, unit in enumerate(units)
    ]
    return asyncio.run(_all(asks, asked, config, store, ours=judge is None))


async def _all(
    judge: Judge, asked: Sequence[Asked], config: Config, store: LabelStore, *, ours: bool
) -> list[Label | None]:
    feedback = config.feedback
    asker = Asker(
        judge, LocalStore(store), Caps.of(config.budget), config.judge, concurrency=feedback.concurrency,
        keep_frames_mb=feedback.keep_frames_mb,
    )  # fmt: skip
    try:
        return await asker.ask_all(asked, feedback.concurrency)
    finally:
        if ours and isinstance(judge, ChatJudge):
            await judge.close()


def _stand_in(place: int, unit: Unit) -> Episode:
    """What the store keeps in place of an episode: the digest of each picture, or of the caption."""
    digests = [
        hashlib.sha256(part).digest() for part in unit.frames or (unit.caption.encode("utf-8", "surrogatepass"),)
    ]
    obs = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    actions = np.zeros(len(obs) - 1, np.int64)
    return Episode(place, obs, None, actions, task_return=0.0, terminated=True, policy_version=0)
