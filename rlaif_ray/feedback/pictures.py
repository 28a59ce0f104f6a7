"""Pictures in the store, once each by content hash, and never more of them than a cap: the oldest go first."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

__all__ = ["keep_frames", "megabytes_of_frames", "shrink_frames", "stored_frames"]

MEGABYTE = 1_000_000


def keep_frames(db: sqlite3.Connection, hashes: str, frames: Sequence[bytes], most_mb: float) -> None:
    """Add pictures that aren't there yet; ``hashes`` is the JSON list of theirs, in order."""
    if not frames:
        return
    (last,) = db.execute("SELECT coalesce(max(added), 0) FROM frames").fetchone()
    more = 0
    for name, png in zip(json.loads(hashes), frames, strict=True):
        new = db.execute("INSERT OR IGNORE INTO frames VALUES (?, ?, ?)", (name, png, last + 1)).rowcount
        more += len(png) * new
    db.execute("UPDATE kept SET bytes = bytes + ?", (more,))
    shrink_frames(db, most_mb)


def stored_frames(db: sqlite3.Connection, question_key: str) -> tuple[bytes, ...] | None:
    """The pictures that were sent with a question, in order; None where one of them isn't kept."""
    row = db.execute("SELECT frame_hashes FROM questions WHERE key = ?", (question_key,)).fetchone()
    hashes = json.loads(row["frame_hashes"]) if row is not None else []
    found = []
    for name in hashes:
        frame = db.execute("SELECT png FROM frames WHERE hash = ?", (name,)).fetchone()
        if frame is None:
            return None
        found.append(bytes(frame["png"]))
    return tuple(found) or None


def megabytes_of_frames(db: sqlite3.Connection) -> float:
    """Size of the pictures themselves."""
    return float(db.execute("SELECT bytes FROM kept").fetchone()["bytes"]) / MEGABYTE


def shrink_frames(db: sqlite3.Connection, most_mb: float) -> int:
    """Drop the oldest pictures until the rest fit; how many went."""
    over = (megabytes_of_frames(db) - most_mb) * MEGABYTE
    gone, freed = [], 0
    for row in db.execute("SELECT hash, length(png) AS size FROM frames ORDER BY added, rowid") if over > 0.0 else ():
        if freed >= over:
            break
        gone.append((row["hash"],))
        freed += row["size"]
    db.executemany("DELETE FROM frames WHERE hash = ?", gone)
    db.execute("UPDATE kept SET bytes = bytes - ?", (freed,))
    return len(gone)
