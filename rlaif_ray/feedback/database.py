"""The SQLite file under the label store: how it is opened and brought up to date; its errors are translated here.

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
from rlaif_ray.feedback.schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION

__all__ = ["BATCH_OWNER", "Database", "batch_owner", "owner_alive", "owner_gone", "owner_id"]

APPLICATION_ID = 0x524C_4159  # tells our files from other programs' SQLite files


# What a batch has in flight is the batch's own: it outlives the process that sent it.
BATCH_OWNER = "batch/"


def batch_owner(batch_id: int) -> str:
    """Who holds the claims and reservations of a batch."""
    return f"{BATCH_OWNER}{batch_id}"


@lru_cache(maxsize=1)
def _this_process(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.2f}"


def owner_id() -> str:
    """Who holds a claim or a reservation: host, process and when that process began (numbers are used again)."""
    return _this_process(os.getpid())


def owner_alive(owner: str) -> bool | None:
    """Whether that process still runs; None where it is on another host and can't be looked at.

    A batch counts as alive until it is closed: only who takes it in knows what became of its questions.
    """
    if owner.startswith(BATCH_OWNER):
        return True
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


def owner_gone(owner: str, lease_until: float, now: float) -> bool:
    """Whether that process has ended; one that can't be looked at has when its lease is over."""
    alive = owner_alive(owner)
    return now > lease_until if alive is None else not alive


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
            self._bring_up_to_date()
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StoreError(f"label store {self.path}: this SQLite file was made by another program")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"label store {self.path}: got schema version {version}, expected at most {SCHEMA_VERSION}; a newer "
                "rlaif_ray made it"
            )
        if version < SCHEMA_VERSION:  # only where it is opened to read
            self._read_a_copy()

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

    def _bring_up_to_date(self) -> None:
        """Make the tables of a new file, or migrate an older one: all of it or nothing, by one process."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            if tables == 0 and application == 0:
                _run(self._connection, SCHEMA)
                self._connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                self._connection.execute("PRAGMA user_version=1")
                application = APPLICATION_ID
            if application == APPLICATION_ID:
                _migrate(self._connection)
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    def _read_a_copy(self) -> None:
        """An older file that must not be changed is migrated in memory."""
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        copy.row_factory = sqlite3.Row
        self._connection.backup(copy)
        self._connection.close()
        _migrate(copy)
        copy.execute("PRAGMA query_only=1")
        self._connection = copy


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for step in range(version, SCHEMA_VERSION):
        _run(connection, MIGRATIONS[step])
        connection.execute(f"PRAGMA user_version={step + 1}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Statement by statement: ``executescript`` would end the transaction."""
    for statement in filter(str.strip, script.split(";")):
        connection.execute(statement)
