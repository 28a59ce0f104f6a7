"""Labels as a data set others can load, and back: one Parquet file, a row a label; or JSON, a line a label.

Hugging Face ``datasets`` reads it offline, pictures decoded::

    datasets.load_dataset("parquet", data_files="labels.parquet", split="train")[0]["image"]

``image`` is one picture of everything that was sent, ``frames`` the pictures themselves; ``episode`` is the packed
episode (columns of NumPy, no code), which makes the way back lossless. Nothing in a file is trusted: what doesn't fit
is an error. A JSON line has the same columns but the pictures, which are drawn again from the episode (in base64).
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif_ray.errors import RlaifError, StoreError
from rlaif_ray.feedback.records import label_from_row, unpack_episode
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.files import written_whole
from rlaif_ray.types import EpisodeRenderer, Label, episode_key

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Imported", "export_jsonl", "export_parquet", "frames_for", "import_jsonl", "import_parquet"]

Sheet = Callable[[Sequence[bytes]], bytes]
Ids = Mapping[int, int]
_HASH = re.compile(r"[0-9a-f]{32}")

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
    "second_key": "string", "second_id": "int64", "second_version": "int64", "part": "bool", "made_of": "string",
    "inconsistent": "bool", "draw": "string",
}  # fmt: skip
_BLOBS = ("episode", "second_episode")
# What files of earlier versions lack, and what it is there.
_SINCE = {
    "second_key": None, "second_id": None, "second_version": None, "part": False, "made_of": "[]",
    "inconsistent": False, "second_episode": None, "draw": "audit",
}  # fmt: skip
_SELECT = """
    SELECT l.*, a.*, q.judge, q.judge_settings, q.prompt_name, q.prompt_hash, q.polarity, q.system_text, q.user_text,
           q.kind AS question_kind, q.principle, q.unit_order, q.replicate, q.unit_keys, q.frame_hashes,
           a.kind AS kind, a.id AS answer_id, e.blob AS episode, s.blob AS second_episode
    FROM labels l JOIN answers a ON a.id = l.answer_id JOIN questions q ON q.key = l.question_key
    JOIN episodes e ON e.key = l.episode_key LEFT JOIN episodes s ON s.key = l.second_key
    WHERE (?1 IS NULL OR l.run_id = ?1) ORDER BY l.label_id
"""
_QUESTION = (
    "question_key", "question_kind", "prompt_name", "prompt_hash", "polarity", "system_text", "user_text", "judge",
    "judge_settings", "principle", "unit_order", "replicate", "unit_keys", "frame_hashes",
)  # fmt: skip
_ANSWER = (
    "question_key", "answered_at", "kind", "value", "approved", "rating", "preference", "probability", "description",
    "reasoning", "reason", "detail", "text", "input_tokens", "output_tokens", "cost_usd", "latency_s", "attempts",
    "inconsistent",
)  # fmt: skip
_LABEL = (
    "question_key", "episode_key", "episode_id", "run_id", "policy_version", "step", "inclusion_probability",
    "reward_model_version", "part", "second_key", "second_id", "second_version", "draw",
)  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """What ``import_parquet`` or ``import_jsonl`` brought in; its fields are the keys of ``labels import --json``."""

    labels: int
    answers: int
    known: int  # labels that were there already


def frames_for(store: LabelStore, label: Label, renderer: EpisodeRenderer | None) -> tuple[bytes, ...]:
    """The pictures of a label as PNG: those kept, or drawn again from the episode (of a preference from both, the first
    unit's before the second's); none without a renderer."""
    kept = store.frames_of(label)
    if kept is not None or renderer is None:
        return kept or ()
    drawn: list[bytes] = []
    for episode in (store.episode_of(label), store.second_of(label)):
        if episode is not None and episode.states is not None:
            drawn += renderer.png(episode.states)
    return tuple(drawn)


def export_parquet(
    store: LabelStore, path: Path, *, renderer: EpisodeRenderer | None, sheet: Sheet, run: str | None = None
) -> int:
    """Write the labels of one run, or of all, to ``path``; how many. The file is there whole or not at all.

    ``sheet`` makes one picture of many. Raises StoreError: ``path`` can't be written.
    """
    import pyarrow
    import pyarrow.parquet

    schema, written = _schema(), 0
    with _new(path) as new, pyarrow.parquet.ParquetWriter(new, schema, compression="zstd") as writer:
        for rows in _batches(store, run):
            filled = [_row(store, row, renderer, sheet) for row in rows]
            writer.write_table(pyarrow.Table.from_pylist(filled, schema=schema))
            written += len(filled)
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
        there = [name for name in (*_COLUMNS, "episode", "second_episode") if name in file.schema_arrow.names]
        missing = sorted({*_COLUMNS, "episode"} - _SINCE.keys() - set(there))
        if missing:
            raise StoreError(f"{path}: not labels exported from here, it lacks {', '.join(missing[:5])}")
        batches = file.iter_batches(_ROWS_AT_ONCE, columns=there)
        return _take_all(store, path, (row for batch in batches for row in batch.to_pylist()))
    except (OSError, pyarrow.ArrowException) as error:
        raise StoreError(f"{path}: can't be read as Parquet: {str(error).splitlines()[0]}") from None


def export_jsonl(store: LabelStore, path: Path, *, run: str | None = None) -> int:
    """Write the labels of one run, or of all, as JSON lines to ``path``; how many. Whole or not at all.

    Raises StoreError: ``path`` can't be written.
    """
    written = 0
    with _new(path) as new, open(new, "w", encoding="utf-8") as file:
        for rows in _batches(store, run):
            for row in rows:
                packed = {name: row[name] and base64.b64encode(row[name]).decode() for name in _BLOBS}
                file.write(json.dumps(_plain(row) | packed, allow_nan=False) + "\n")
                written += 1
    return written


def import_jsonl(store: LabelStore, path: Path) -> Imported:
    """Bring what ``export_jsonl`` wrote into a store, as ``import_parquet`` does. Raises StoreError likewise."""
    try:
        with open(path, encoding="utf-8") as file:
            return _take_all(store, path, (_line(text, f"{path}: line {n}") for n, text in enumerate(file, 1)))
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: can't be read as JSON lines: {error}") from None


def _line(text: str, where: str) -> dict[str, Any]:
    """One row. Raises StoreError: no object with a label's columns, each of its type."""
    try:
        row = json.loads(text, parse_constant=_no_json)
        lacks = sorted({*_COLUMNS, "episode"} - _SINCE.keys() - row.keys())
        if lacks:
            raise StoreError(f"{where}: not labels exported from here, it lacks {', '.join(lacks[:5])}")
        for name, kind in _COLUMNS.items():
            if not _fits(row.get(name), kind):
                raise StoreError(f"{where}: {name}: got {str(row[name])[:60]!r}, expected {kind}")
        packed = {name: base64.b64decode(row[name], validate=True) for name in _BLOBS if row.get(name) is not None}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise StoreError(f"{where}: {error}") from None
    return {name: row[name] for name in _COLUMNS if name in row} | packed


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _fits(value: object, kind: str) -> bool:
    """Whether a column of that kind can hold it. Raises ValueError: text that is none in Unicode."""
    if value is None:
        return True
    if kind == "string":
        return isinstance(value, str) and value.encode() is not None
    if kind == "bool":
        return isinstance(value, bool)
    number = isinstance(value, int) and -(2**63) <= value < 2**63
    return number or (kind == "float64" and isinstance(value, float))


def _take_all(store: LabelStore, path: Path, rows: Iterable[dict[str, Any]]) -> Imported:
    """All of them, or none."""
    counts = {"labels": 0, "answers": 0, "known": 0}
    ids: dict[int, int] = {}  # label_id in the file -> in the store
    with store.writing() as db:
        for row in rows:
            ids[row["label_id"]] = _take_in(db, _SINCE | row, counts, path, ids)
    return Imported(**counts)


def _schema() -> pyarrow.Schema:
    """Arrow's schema with what ``datasets`` reads from its metadata: which columns are pictures."""
    import pyarrow

    kinds = {"int64": pyarrow.int64(), "float64": pyarrow.float64(), "bool": pyarrow.bool_()}
    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = [(name, kinds.get(kind, pyarrow.string())) for name, kind in _COLUMNS.items()]
    fields += [("image", picture), ("frames", pyarrow.list_(picture))]
    fields += [("episode", pyarrow.binary()), ("second_episode", pyarrow.binary())]
    features: dict[str, Any] = {name: {"dtype": kind, "_type": "Value"} for name, kind in _COLUMNS.items()}
    features["image"] = {"_type": "Image"}
    features["frames"] = {"feature": {"_type": "Image"}, "_type": "List"}
    features["episode"] = features["second_episode"] = {"dtype": "binary", "_type": "Value"}
    return pyarrow.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


@contextlib.contextmanager
def _new(path: Path) -> Iterator[Path]:
    """Where to write what becomes ``path``, whose folder is made. Raises StoreError: it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as new:
            yield new
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None


def _batches(store: LabelStore, run: str | None) -> Iterator[list[sqlite3.Row]]:
    with store.reading() as db:
        cursor = db.execute(_SELECT, (run,))
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            yield rows


def _plain(row: sqlite3.Row) -> dict[str, Any]:
    """The columns of a label, without pictures and episodes."""
    filled = {name: row[name] for name in _COLUMNS}
    filled |= {name: bool(row[name]) for name in ("replayed", "part", "inconsistent")}
    filled["approved"] = None if row["approved"] is None else bool(row["approved"])
    return filled


def _row(store: LabelStore, row: sqlite3.Row, renderer: EpisodeRenderer | None, sheet: Sheet) -> dict[str, Any]:
    filled = _plain(row)
    frames = frames_for(store, label_from_row(row), renderer)
    pictures = [{"bytes": frame, "path": f"{i}.png"} for i, frame in enumerate(frames)]
    image = {"bytes": sheet(frames), "path": f"{row['label_id']}.png"} if frames else None
    episodes = {"episode": row["episode"], "second_episode": row["second_episode"]}
    return filled | {"image": image, "frames": pictures} | episodes


def _take_in(db: sqlite3.Connection, row: dict[str, Any], counts: dict[str, int], path: Path, ids: Ids) -> int:
    """One row; its label_id in the store."""
    _check(row, f"{path}: label {row['label_id']}")
    for key, blob in (("episode_key", "episode"), ("second_key", "second_episode")):
        if row[key] is not None:
            db.execute("INSERT OR IGNORE INTO episodes VALUES (?, ?)", (row[key], row[blob]))
    marks = ", ".join("?" * len(_QUESTION))
    db.execute(f"INSERT OR IGNORE INTO questions VALUES ({marks})", [row[name] for name in _QUESTION])
    known = db.execute(
        "SELECT id FROM answers WHERE question_key = ? AND answered_at = ? AND text = ?",
        (row["question_key"], row["answered_at"], row["text"]),
    ).fetchone()
    made_of = json.dumps([ids[part] for part in json.loads(row["made_of"]) if part in ids])
    said = {name: row[name] for name in _ANSWER} | {"made_of": made_of}
    answer = int(known["id"]) if known is not None else _insert(db, "answers", said)
    counts["answers"] += known is None
    there = db.execute(
        "SELECT label_id FROM labels WHERE answer_id = ? AND run_id = ? AND episode_id = ? AND step = ?"
        " AND replayed = ? AND part = ?",
        (answer, row["run_id"], row["episode_id"], row["step"], int(row["replayed"]), int(row["part"])),
    ).fetchone()
    if there is not None:
        counts["known"] += 1
        return int(there["label_id"])
    columns = {name: row[name] for name in _LABEL}
    counts["labels"] += 1
    return _insert(db, "labels", columns | {"answer_id": answer, "replayed": int(row["replayed"])})


def _check(row: dict[str, Any], where: str) -> None:
    """Raises StoreError: a row that can't be what it says."""
    try:
        label_from_row(row)  # the checks at birth
        for key, blob in (("episode_key", "episode"), ("second_key", "second_episode")):
            if row[key] is not None and episode_key(unpack_episode(row[blob] or b"")) != row[key]:
                raise StoreError(f"its {blob.replace('_', ' ')} is another than it says")
        if len({row[name] is None for name in ("second_key", "second_id", "second_version")}) > 1:
            raise StoreError("it says who its second episode is in part only")
        if not _all(json.loads(row["frame_hashes"]), lambda name: isinstance(name, str) and _HASH.fullmatch(name)):
            raise StoreError(f"frame_hashes: got {row['frame_hashes'][:60]!r}, expected a list of 32 hex digits each")
        if not _all(json.loads(row["made_of"]), lambda part: type(part) is int):
            raise StoreError(f"made_of: got {row['made_of'][:60]!r}, expected a list of labels")
    except (RlaifError, ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{where}: {error}") from None


def _all(listed: object, holds: Callable[[Any], object]) -> bool:
    return isinstance(listed, list) and all(holds(one) for one in listed)


def _insert(db: sqlite3.Connection, table: str, columns: dict[str, Any]) -> int:
    marks = ", ".join("?" * len(columns))
    cursor = db.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", list(columns.values()))
    return int(cursor.lastrowid or 0)
