"""Labels as a data set others can load, and back: one Parquet file, a row a label.

Hugging Face ``datasets`` reads it offline, pictures decoded::

    datasets.load_dataset("parquet", data_files="labels.parquet", split="train")[0]["image"]

``image`` is one picture of everything that was sent, ``frames`` the pictures themselves; ``episode`` is the packed
episode (columns of NumPy, no code), which makes the way back lossless. Nothing in a file is trusted: what doesn't fit
is an error.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif_ray.errors import RlaifError, StoreError
from rlaif_ray.feedback.records import label_from_row, unpack_episode
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import EpisodeRenderer, Label, episode_key

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Imported", "export_parquet", "frames_for", "import_parquet"]

Sheet = Callable[[Sequence[bytes]], bytes]

_ROWS_AT_ONCE = 100
# Arrow type of each column as Hugging Face names it. Those of the store come first, by the name they have there.
_COLUMNS = {
    "label_id": "int64", "run_id": "string", "question_key": "string", "episode_key": "string", "episode_id": "int64",
    "policy_version": "int64", "reward_model_version": "int64", "step": "int64", "inclusion_probability": "float64",
    "replayed": "bool", "kind": "string", "value": "float64", "approved": "bool", "rating": "int64",
    "preference": "string", "probability": "float64", "description": "string", "reasoning": "string",
    "reason": "string", "detail": "string", "text": "string", "input_tokens": "int64", "output_tokens": "int64",
    "cost_usd": "float64", "latency_s": "float64", "attempts": "int64", "answered_at": "float64", "judge": "string",
    "judge_settings": "string", "prompt_name": "string", "prompt_hash": "string", "polarity": "string",
    "system_text": "string", "user_text": "string", "question_kind": "string", "principle": "string",
    "unit_order": "string", "replicate": "int64", "unit_keys": "string", "frame_hashes": "string",
}  # fmt: skip
_SELECT = """
    SELECT l.*, a.*, q.judge, q.judge_settings, q.prompt_name, q.prompt_hash, q.polarity, q.system_text, q.user_text,
           q.kind AS question_kind, q.principle, q.unit_order, q.replicate, q.unit_keys, q.frame_hashes,
           a.kind AS kind, a.id AS answer_id, e.blob AS episode
    FROM labels l JOIN answers a ON a.id = l.answer_id JOIN questions q ON q.key = l.question_key
    JOIN episodes e ON e.key = l.episode_key
    WHERE (?1 IS NULL OR l.run_id = ?1) ORDER BY l.label_id
"""
_QUESTION = (
    "question_key", "question_kind", "prompt_name", "prompt_hash", "polarity", "system_text", "user_text", "judge",
    "judge_settings", "principle", "unit_order", "replicate", "unit_keys", "frame_hashes",
)  # fmt: skip
_ANSWER = (
    "question_key", "answered_at", "kind", "value", "approved", "rating", "preference", "probability", "description",
    "reasoning", "reason", "detail", "text", "input_tokens", "output_tokens", "cost_usd", "latency_s", "attempts",
)  # fmt: skip
_LABEL = (
    "question_key", "episode_key", "episode_id", "run_id", "policy_version", "step", "inclusion_probability",
    "reward_model_version",
)  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """What ``import_parquet`` brought in; its fields are the keys of ``labels import --json``."""

    labels: int
    answers: int
    known: int  # labels that were there already


def frames_for(store: LabelStore, label: Label, renderer: EpisodeRenderer | None) -> tuple[bytes, ...]:
    """The pictures of a label as PNG: those kept, or drawn again from the episode; none without a renderer."""
    kept = store.frames_of(label)
    if kept is not None or renderer is None:
        return kept or ()
    states = store.episode_of(label).states
    return () if states is None else renderer.png(states)


def export_parquet(
    store: LabelStore, path: Path, *, renderer: EpisodeRenderer | None, sheet: Sheet, run: str | None = None
) -> int:
    """Write the labels of one run, or of all, to ``path``; how many. The file is there whole or not at all.

    ``sheet`` makes one picture of many. Raises StoreError: ``path`` can't be written.
    """
    import pyarrow
    import pyarrow.parquet

    schema, written = _schema(), 0
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None
    try:
        with pyarrow.parquet.ParquetWriter(beside, schema, compression="zstd") as writer:
            for rows in _batches(store, run):
                filled = [_row(store, row, renderer, sheet) for row in rows]
                writer.write_table(pyarrow.Table.from_pylist(filled, schema=schema))
                written += len(filled)
        beside.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)
    return written


def import_parquet(store: LabelStore, path: Path) -> Imported:
    """Bring a data set that ``export_parquet`` wrote into a store: its answers are replayed from there for nothing.

    What is there already is left alone. All of it or, where something is wrong with the file, nothing.

    Raises StoreError: not such a file, or one of its rows can't be what it says.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        missing = sorted({*_COLUMNS, "episode"} - set(file.schema_arrow.names))
        if missing:
            raise StoreError(f"{path}: not labels exported from here, it lacks {', '.join(missing[:5])}")
        batches = file.iter_batches(_ROWS_AT_ONCE, columns=[*_COLUMNS, "episode"])
        counts = {"labels": 0, "answers": 0, "known": 0}
        with store.writing() as db:
            for batch in batches:
                for row in batch.to_pylist():
                    _take_in(db, row, counts, path)
    except (OSError, pyarrow.ArrowException) as error:
        raise StoreError(f"{path}: can't be read as Parquet: {str(error).splitlines()[0]}") from None
    return Imported(**counts)


def _schema() -> pyarrow.Schema:
    """Arrow's schema with what ``datasets`` reads from its metadata: which columns are pictures."""
    import pyarrow

    kinds = {"int64": pyarrow.int64(), "float64": pyarrow.float64(), "bool": pyarrow.bool_()}
    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = [(name, kinds.get(kind, pyarrow.string())) for name, kind in _COLUMNS.items()]
    fields += [("image", picture), ("frames", pyarrow.list_(picture)), ("episode", pyarrow.binary())]
    features: dict[str, Any] = {name: {"dtype": kind, "_type": "Value"} for name, kind in _COLUMNS.items()}
    features["image"] = {"_type": "Image"}
    features["frames"] = {"feature": {"_type": "Image"}, "_type": "List"}
    features["episode"] = {"dtype": "binary", "_type": "Value"}
    return pyarrow.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _batches(store: LabelStore, run: str | None) -> Iterator[list[sqlite3.Row]]:
    with store.reading() as db:
        cursor = db.execute(_SELECT, (run,))
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            yield rows


def _row(store: LabelStore, row: sqlite3.Row, renderer: EpisodeRenderer | None, sheet: Sheet) -> dict[str, Any]:
    filled = {name: row[name] for name in _COLUMNS}
    filled["replayed"] = bool(row["replayed"])
    filled["approved"] = None if row["approved"] is None else bool(row["approved"])
    frames = frames_for(store, label_from_row(row), renderer)
    pictures = [{"bytes": frame, "path": f"{i}.png"} for i, frame in enumerate(frames)]
    image = {"bytes": sheet(frames), "path": f"{row['label_id']}.png"} if frames else None
    return filled | {"image": image, "frames": pictures, "episode": row["episode"]}


def _take_in(db: sqlite3.Connection, row: dict[str, Any], counts: dict[str, int], path: Path) -> None:
    where = f"{path}: label {row['label_id']}"
    try:
        label_from_row(row)  # the checks at birth
        if episode_key(unpack_episode(row["episode"])) != row["episode_key"]:
            raise StoreError("its episode is another than it says")
    except (RlaifError, ValueError, TypeError) as error:
        raise StoreError(f"{where}: {error}") from None
    db.execute("INSERT OR IGNORE INTO episodes VALUES (?, ?)", (row["episode_key"], row["episode"]))
    marks = ", ".join("?" * len(_QUESTION))
    db.execute(f"INSERT OR IGNORE INTO questions VALUES ({marks})", [row[name] for name in _QUESTION])
    known = db.execute(
        "SELECT id FROM answers WHERE question_key = ? AND answered_at = ? AND text = ?",
        (row["question_key"], row["answered_at"], row["text"]),
    ).fetchone()
    answer = int(known["id"]) if known is not None else _insert(db, "answers", {name: row[name] for name in _ANSWER})
    counts["answers"] += known is None
    there = db.execute(
        "SELECT 1 FROM labels WHERE answer_id = ? AND run_id = ? AND episode_id = ? AND step = ? AND replayed = ?",
        (answer, row["run_id"], row["episode_id"], row["step"], int(row["replayed"])),
    ).fetchone()
    if there is not None:
        counts["known"] += 1
        return
    columns = {name: row[name] for name in _LABEL}
    _insert(db, "labels", columns | {"answer_id": answer, "replayed": int(row["replayed"])})
    counts["labels"] += 1


def _insert(db: sqlite3.Connection, table: str, columns: dict[str, Any]) -> int:
    marks = ", ".join("?" * len(columns))
    cursor = db.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", list(columns.values()))
    return int(cursor.lastrowid or 0)
