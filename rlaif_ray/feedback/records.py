"""What the store keeps, as rows: questions, episodes and answers, and back."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from rlaif_ray.errors import StoreError
from rlaif_ray.feedback.question import Asked
from rlaif_ray.types import Abstention, Draw, Episode, Label, Usage, Verdict, episode_key

__all__ = [
    "REPLAYED_REASONS",
    "JudgedSample",
    "LabelStats",
    "Pruned",
    "Record",
    "label_from_row",
    "outcome_row",
    "pack_episode",
    "record_of",
    "unpack_episode",
]

# Abstentions that are the judge's own answer, paid for: asking the same thing again would get the same. The others (no
# answer came) may be asked again.
REPLAYED_REASONS = ("refusal", "unparsable", "truncated", "empty")
# A few kilobytes from a stranger's data set can unpack to anything.
_MOST_UNPACKED = 2**30


@dataclass(frozen=True)
class Second:
    """The second unit of a question about two."""

    key: str
    episode_id: int
    policy_version: int
    blob: bytes  # packed episode; empty once the store has it


@dataclass(frozen=True)
class Record:
    """A question as the store writes it down, without its pictures: they are redrawn from the episode."""

    question_key: str
    kind: str
    prompt_name: str
    prompt_hash: str
    polarity: str
    system_text: str
    user_text: str
    judge: str
    judge_settings: str  # JSON
    principle: str
    order: str
    replicate: int
    unit_keys: str  # JSON list of content keys, with the number of pictures sent of each
    episode_key: str
    episode_id: int
    episode_blob: bytes  # packed episode; empty once the store has it
    run_id: str
    policy_version: int
    step: int
    inclusion_probability: float
    frame_hashes: str = "[]"  # JSON list of what was sent, in order
    frames: tuple[bytes, ...] = ()  # the pictures themselves where the store is to keep them; empty once it has them
    reward_model_version: int = 0  # published when it was asked; 0: none
    # A number for this asking, and of its attempt: a call repeated because its reply was lost does nothing twice.
    request: str | None = None
    attempt: int = 0
    second: Second | None = None  # of two units
    part: bool = False  # one judge's or one order's share in an answer that is put together of several
    hold: int | None = None  # reservation of the whole that this is part of
    whole: bool = False  # nothing is sent for it: its parts are attempts of their own
    made_of: str = "[]"  # JSON list of the labels (label_id) an answer was put together of
    inconsistent: bool = False  # of a preference: it turned with the order
    draw: Draw = "audit"  # how the episode was chosen

    def without_episode(self) -> Record:
        second = None if self.second is None else replace(self.second, blob=b"")
        return replace(self, episode_blob=b"", frames=(), second=second)


@dataclass(frozen=True)
class LabelStats:
    """Where a store (or one run in it) stands; its fields are the keys of ``labels stats --json``."""

    labels: int  # billed questions: verdicts, abstentions and what was written off
    abstained: int
    replayed: int  # answered from the store, for nothing
    spend_usd: float
    reserved_usd: float  # worst cases of what is in flight
    cap_usd: float | None  # of the store, or the run's own where that is less
    both_orders: int = 0  # preferences that were put in both orders
    inconsistent: int = 0  # of those, that turned with the order


@dataclass(frozen=True)
class Pruned:
    """What ``labels prune`` dropped; its fields are the keys of its ``--json``."""

    frames: int
    questions: int  # put aside unasked
    episodes: int  # of those
    frames_mb: float  # left


@dataclass(frozen=True)
class JudgedSample:
    """One judged episode for a reader: what was asked, what was answered, about what."""

    label: Label
    prompt_name: str
    system_text: str
    question_text: str
    episode: Episode
    second: Episode | None = None  # of a preference


def record_of(asked: Asked, *, keep_frames: bool = False, reward_model_version: int = 0) -> Record:
    """Write a question down. Packs the episode (about a millisecond), or both of them."""
    question, episode, other = asked.question, asked.episode, asked.second
    second = None if other is None else Second(
        episode_key(other), other.episode_id, other.policy_version, pack_episode(other)
    )  # fmt: skip
    hashes = [hashlib.sha256(frame).hexdigest()[:32] for frame in question.frames]
    return Record(
        question_key=question.key,
        kind=question.kind,
        prompt_name=question.prompt.name,
        prompt_hash=question.prompt.hash,
        polarity=question.prompt.polarity,
        system_text=question.prompt.system,
        user_text=question.user_text,
        judge=str(question.judge),
        judge_settings=json.dumps(dict(question.judge.settings), sort_keys=True),
        principle=question.principle,
        order=question.order,
        replicate=question.replicate,
        unit_keys=json.dumps([[unit.key, len(unit.frames)] for unit in question.units]),
        episode_key=episode_key(episode),
        episode_id=episode.episode_id,
        episode_blob=pack_episode(episode),
        run_id=asked.run_id,
        policy_version=episode.policy_version,
        step=asked.step,
        inclusion_probability=asked.inclusion_probability,
        frame_hashes=json.dumps(hashes),
        frames=question.frames if keep_frames else (),
        reward_model_version=reward_model_version,
        request=uuid.uuid4().hex,
        second=second,
        draw=asked.draw,
    )


def pack_episode(episode: Episode) -> bytes:
    """Compressed columns and numbers of an episode."""
    arrays: dict[str, Any] = {"obs": episode.obs, "actions": episode.actions}
    if episode.states is not None:
        arrays["states"] = episode.states
    numbers = (episode.episode_id, episode.policy_version, episode.terminated)
    arrays["numbers"] = np.array(numbers, np.int64)
    arrays["task_return"] = np.array(episode.task_return, np.float64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def unpack_episode(blob: bytes) -> Episode:
    """The episode again. Raises StoreError: the bytes are no packed episode."""
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MOST_UNPACKED:
            raise StoreError(f"a stored episode unpacks to {size:,} bytes, allowed are {_MOST_UNPACKED:,}")
        with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
            episode_id, policy_version, terminated = arrays["numbers"].tolist()
            return Episode(
                episode_id=episode_id,
                obs=arrays["obs"],
                states=arrays.get("states"),
                actions=arrays["actions"],
                task_return=float(arrays["task_return"]),
                terminated=bool(terminated),
                policy_version=policy_version,
            )
    except (ValueError, KeyError, OSError, EOFError, MemoryError, OverflowError, zipfile.BadZipFile) as error:
        raise StoreError(f"a stored episode can't be read back: {error}") from None


def outcome_row(outcome: Verdict | Abstention) -> dict[str, Any]:
    """An answer as columns of the table ``answers``."""
    usage = outcome.usage
    row: dict[str, Any] = {
        "kind": None, "value": None, "approved": None, "rating": None, "preference": None, "probability": None,
        "description": "", "reasoning": "", "reason": None, "detail": "", "text": outcome.text,
        "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "cost_usd": usage.cost_usd,
        "latency_s": usage.latency_s, "attempts": usage.attempts,
    }  # fmt: skip
    if isinstance(outcome, Abstention):
        row |= {"reason": outcome.reason, "detail": outcome.detail}
        return row
    for name in ("kind", "value", "rating", "preference", "probability", "description", "reasoning"):
        row[name] = getattr(outcome, name)
    row["approved"] = None if outcome.approved is None else int(outcome.approved)
    return row


def label_from_row(row: Mapping[str, Any] | sqlite3.Row) -> Label:
    """A label from a row of labels joined with its answer and question."""
    return Label(
        label_id=row["label_id"],
        question_key=row["question_key"],
        episode_id=row["episode_id"],
        outcome=_outcome(row),
        judge=row["judge"],
        prompt_hash=row["prompt_hash"],
        policy_version=row["policy_version"],
        asked_at_step=row["step"],
        replayed=bool(row["replayed"]),
        inclusion_probability=row["inclusion_probability"],
        second_episode_id=row["second_id"],
        draw=row["draw"],
    )


def _outcome(row: Mapping[str, Any] | sqlite3.Row) -> Verdict | Abstention:
    usage = Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost_usd=row["cost_usd"],
        latency_s=row["latency_s"],
        attempts=row["attempts"],
    )
    if row["reason"] is not None:
        return Abstention(reason=row["reason"], detail=row["detail"], usage=usage, text=row["text"])
    return Verdict(
        kind=row["kind"],
        value=row["value"],
        text=row["text"],
        usage=usage,
        approved=None if row["approved"] is None else bool(row["approved"]),
        rating=row["rating"],
        preference=cast("Any", row["preference"]),
        probability=row["probability"],
        description=row["description"],
        reasoning=row["reasoning"],
    )
