"""The SQLite file under the label store: its schema, how it is opened, and one place where its errors are translated.

WAL mode: readers never wait for the writer. ``synchronous=NORMAL``: an answer survives the death of any process; a
power cut may cost the last few commits.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import psutil

from rlaif_ray.errors import StoreError

__all__ = ["SCHEMA_VERSION", "Database", "owner_alive", "owner_id"]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x524C_4159  # tells our files from other programs' SQLite files

_SCHEMA = """
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, opened_at REAL NOT NULL, cap_usd REAL, cap_labels INTEGER, cap_tokens INTEGER);
CREATE TABLE episodes (
    key TEXT PRIMARY KEY, blob BLOB NOT NULL);
CREATE TABLE questions (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, prompt_name TEXT NOT NULL, prompt_hash TEXT NOT NULL,
    polarity TEXT NOT NULL, system_text TEXT NOT NULL, user_text TEXT NOT NULL, judge TEXT NOT NULL,
    judge_settings TEXT NOT NULL, principle TEXT NOT NULL, unit_order TEXT NOT NULL, replicate INTEGER NOT NULL,
    unit_keys TEXT NOT NULL);
CREATE TABLE claims (
    question_key TEXT PRIMARY KEY, owner TEXT NOT NULL, lease_until REAL NOT NULL);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, question_key TEXT NOT NULL, run_id TEXT NOT NULL, owner TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'written_off')),
    worst_usd REAL NOT NULL, worst_labels INTEGER NOT NULL, worst_tokens INTEGER NOT NULL,
    used_usd REAL NOT NULL DEFAULT 0, used_labels INTEGER NOT NULL DEFAULT 0, used_tokens INTEGER NOT NULL DEFAULT 0,
    reserved_at REAL NOT NULL, lease_until REAL NOT NULL, closed_at REAL, detail TEXT NOT NULL DEFAULT '');
CREATE INDEX attempts_open ON attempts (owner) WHERE state = 'open';
CREATE INDEX attempts_run ON attempts (run_id);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, question_key TEXT NOT NULL, attempt_id INTEGER UNIQUE, answered_at REAL NOT NULL,
    kind TEXT, value REAL, approved INTEGER, rating INTEGER, preference TEXT, probability REAL,
    description TEXT NOT NULL, reasoning TEXT NOT NULL, reason TEXT, detail TEXT NOT NULL, text TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, latency_s REAL NOT NULL,
    attempts INTEGER NOT NULL);
CREATE INDEX answers_question ON answers (question_key, id);
CREATE TABLE labels (
    label_id INTEGER PRIMARY KEY, answer_id INTEGER NOT NULL, question_key TEXT NOT NULL, episode_key TEXT NOT NULL,
    episode_id INTEGER NOT NULL, run_id TEXT NOT NULL, policy_version INTEGER NOT NULL, step INTEGER NOT NULL,
    inclusion_probability REAL NOT NULL, replayed INTEGER NOT NULL);
CREATE INDEX labels_run ON labels (run_id, label_id);
CREATE TABLE account (
    id INTEGER PRIMARY KEY CHECK (id = 1), spent_usd REAL NOT NULL, spent_labels INTEGER NOT NULL,
    spent_tokens INTEGER NOT NULL);
INSERT INTO account VALUES (1, 0, 0, 0);
"""


@lru_cache(maxsize=1)
def _this_process(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.2f}"


def owner_id() -> str:
    """Who holds a claim or a reservation: host, process and when that process began (numbers are used again)."""
    return _this_process(os.getpid())


def owner_alive(owner: str) -> bool | None:
    """Whether that process still runs; None where it is on another host and can't be looked at."""
    host, pid, created = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return None
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(created)) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


class Database:
    """One connection to the file. Raises StoreError, with the path, for whatever goes wrong in it."""

    def __init__(self, path: str | Path, *, readonly: bool, busy_timeout_s: float) -> None:
        self.path = Path(path)
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.RLock()
        with self.translated():
            self._connection = self._open(readonly)
        try:
            with self.translated():
                self._prepare(readonly)
        except StoreError:
            self._connection.close()
            raise

    def close(self) -> None:
        with self._lock, self.translated():
            self._connection.close()

    def fold(self, patience_s: float = 1.0) -> None:
        """Take the write-ahead log into the file, so that a copy of the file alone is whole. Others may go on using it:
        one that reads for longer than ``patience_s`` leaves part of the log where it is."""
        with self._lock, self.translated():
            self._connection.execute(f"PRAGMA busy_timeout={int(1000 * patience_s)}")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._connection.execute(f"PRAGMA busy_timeout={int(1000 * self._busy_timeout_s)}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that holds the write lock from its start: what it reads is still true when it writes."""
        with self._lock, self.translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self.translated():
            yield self._connection

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise StoreError(
                    f"label store {self.path}: another process kept it locked for {self._busy_timeout_s:g} s"
                ) from None
            raise StoreError(f"label store {self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise StoreError(f"label store {self.path} is damaged or no label store: {error}") from None
        except OSError as error:
            raise StoreError(f"label store {self.path}: {error.strerror or error}") from None

    def _open(self, readonly: bool) -> sqlite3.Connection:
        if readonly and not self.path.is_file():
            raise StoreError(f"label store {self.path}: no such file")
        if not readonly:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        mode = "ro" if readonly else "rwc"
        connection = sqlite3.connect(
            f"file:{quote(str(self.path.resolve()))}?mode={mode}",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _prepare(self, readonly: bool) -> None:
        if not readonly:
            self._in_wal_mode()
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._create_once()
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StoreError(f"label store {self.path}: this SQLite file was made by another program")
        if version != SCHEMA_VERSION:
            raise StoreError(f"label store {self.path}: got schema version {version}, expected {SCHEMA_VERSION}")

    def _in_wal_mode(self) -> None:
        # SQLite doesn't wait for its busy timeout here when two processes open a new file at once.
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _create_once(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            if tables == 0 and application == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()
