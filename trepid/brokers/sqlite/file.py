"""The file: admitted before SQLite touches it, opened, and found to be as safe as we promise."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trepid.brokers.sqlite import schema
from trepid.brokers.sqlite.faults import is_busy, is_damage
from trepid.errors import BrokerFileError

T = TypeVar("T")

OLDEST_SQLITE = (3, 38, 0)
"""STRICT tables came with 3.37, JSON that is always there with 3.38."""

PATIENCE = 5.0
"""Seconds to wait for a lock that another process holds."""

_ADMITTING = threading.Lock()
"""Held while a file is made, for its maker closes it once: before anybody else in this process has a lock on it."""

_CHECKED_UP_TO = 16 * 1024 * 1024
_JOURNAL_LIMIT = 64 * 1024 * 1024


def admit(path: str) -> None:
    """Make sure that *path* is a file of ours, or make an empty one, without anything being written to it.

    SQLite may write to whatever it opens (recovery, a journal beside it); a file that is not ours stays as it is.

    Raises:
      BrokerFileError: if it cannot be used, and why.
      sqlite3.Error: if SQLite complains otherwise.
    """
    try:
        with _ADMITTING:
            try:
                # Mode 0600: the arguments of jobs are nobody else's business.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                _admit_existing(path)
    except OSError as exc:
        raise BrokerFileError(path, _complaint(exc, path)) from exc


def _complaint(exc: OSError, path: str) -> str:
    if exc.errno == errno.ENOENT and not Path(path).parent.is_dir():
        return f"the directory {str(Path(path).parent)!r} does not exist; create it first"
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to read and write this file"
    if exc.errno == errno.ENOTDIR:
        return "a part of the path is not a directory"
    return f"cannot be opened: {exc.strerror}"


def _admit_existing(path: str) -> None:
    status = Path(path).stat()
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise BrokerFileError(path, "this is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise BrokerFileError(path, "this is not an ordinary file")
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not status.st_size:
        return  # somebody is about to fill it, or died before that; to SQLite, it is an empty database
    try:
        application, version = _header(path)
    except sqlite3.DatabaseError as exc:
        if is_damage(exc):
            raise BrokerFileError(path, "this is not an SQLite database, or its header is damaged") from exc
        raise
    if application != schema.APPLICATION_ID:
        raise BrokerFileError(path, "this is an SQLite database of another application")
    schema.refuse_newer(path, version)


def _header(path: str) -> tuple[int, int]:
    """Return which application a file belongs to, and its version, without a lock or a change.

    Read by SQLite, which alone can close a file here: whoever closes a descriptor of it lets go of all the locks that
    this process has on it, also those of other sessions and of the user's own connections.  The next process to leave
    would then take itself for the last one, and throw away the log that they still write to.
    """
    connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        # Else it would be held against a file that part of it is still in the log.
        connection.execute("PRAGMA writable_schema = ON")
        application: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    finally:
        connection.close()
    return application, version


def connect(path: str) -> sqlite3.Connection:
    """Open an admitted file, make or migrate its schema, and set it to survive the loss of power.

    Raises:
      BrokerFileError: if the file is damaged, is newer than this version, or cannot be made safe.
      sqlite3.Error: if SQLite complains otherwise.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise BrokerFileError(
            path, f"SQLite {needed} or newer is needed, and Python is linked with {sqlite3.sqlite_version}"
        )
    # No waiting inside SQLite: its waits are long and unfair; who needs a lock tries again by himself (`patiently`).
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=256)
    try:
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            _refuse_damaged(connection, path)
            patiently(lambda: schema.prepare(connection, path))
            _harden(connection, path)
        except sqlite3.DatabaseError as exc:
            if is_damage(exc):
                raise BrokerFileError(path, f"the file is damaged: {exc}") from exc
            raise
    except BaseException:
        connection.close()
        raise
    return connection


def patiently(action: Callable[[], T], *, on_retry: Callable[[], object] | None = None) -> T:
    """Do something that needs a lock, trying again for up to ``PATIENCE`` seconds while somebody else holds it.

    The waits are short and random: SQLite's own back off to 100 ms, and then a lively neighbour always wins.
    """
    start = time.monotonic()
    while True:
        try:
            return action()
        except sqlite3.OperationalError as exc:
            waited = time.monotonic() - start
            if not is_busy(exc) or waited > PATIENCE:
                raise
        if on_retry is not None:
            on_retry()
        time.sleep(random.uniform(0.0001, 0.001 + waited / 50))  # noqa: S311 - not for secrets


def _refuse_damaged(connection: sqlite3.Connection, path: str) -> None:
    if Path(path).stat().st_size > _CHECKED_UP_TO:
        return  # it would take too long; what is damaged shows when it is met
    verdict = patiently(lambda: connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    if verdict != "ok":
        raise BrokerFileError(path, f"the file is damaged: {verdict}")


def _harden(connection: sqlite3.Connection, path: str) -> None:
    mode = patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
    if mode != "wal":
        raise BrokerFileError(path, f"its file system does not let SQLite use a write-ahead log (it says {mode!r})")
    settings = {
        "synchronous": "FULL",
        "wal_autocheckpoint": 1000,  # pages; a short log is soon written over, which is cheaper than growing
        "journal_size_limit": _JOURNAL_LIMIT,
        "temp_store": "MEMORY",
        "cache_size": -64 * 1024,  # KiB
        "secure_delete": "OFF",  # some builds have it on, which doubles what a removal writes
    }
    if sys.platform == "darwin":
        # There, a plain fsync leaves the data in the drive's cache.
        settings |= {"fullfsync": "ON", "checkpoint_fullfsync": "ON"}
    for name, value in settings.items():
        connection.execute(f"PRAGMA {name} = {value}")
    if connection.execute("PRAGMA synchronous").fetchone()[0] < 2:
        raise BrokerFileError(path, "SQLite does not let synchronous=FULL be set")


def proof_of_durability(connection: sqlite3.Connection) -> str:
    """Return the settings that are really in force, as SQLite reads them back."""
    names = ["journal_mode", "synchronous"] + (["fullfsync"] if sys.platform == "darwin" else [])
    return ", ".join(f"{name}={connection.execute(f'PRAGMA {name}').fetchone()[0]}" for name in names)
