"""What SQLite complains of, in the words of the port: mapped here and nowhere else."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from trepid.errors import BrokerBusyError, BrokerFileError, BrokerFullError, BrokerLostError

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT})
# A write that is refused is a disk without room for us: over a quota or a size limit the error is no plain SQLITE_FULL.
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})


def is_busy(exc: sqlite3.Error) -> bool:
    """Whether somebody else holds a lock, so that trying again later makes sense."""
    return _primary(exc) in _BUSY


def is_damage(exc: sqlite3.Error) -> bool:
    """Whether the file is no database, or none any more."""
    return _primary(exc) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def typed(exc: Exception, path: str) -> Exception:
    """Return the error of Trepid that *exc* means, each time a new one; others than SQLite's come back as they are.

    A traceback belongs to one raising: the same exception must not be handed to several waiting tasks.
    """
    if not isinstance(exc, sqlite3.Error):
        return exc
    error = _typed(exc, path)
    error.__cause__ = exc
    return error


@contextmanager
def typed_errors(path: str) -> Generator[None]:
    """Raise the errors of SQLite inside this block as those of Trepid."""
    try:
        yield
    except sqlite3.Error as exc:
        raise typed(exc, path) from exc


def _typed(exc: sqlite3.Error, path: str) -> Exception:
    extended = getattr(exc, "sqlite_errorcode", None)
    if _primary(exc) in _BUSY:
        return BrokerBusyError(f"{path}: another process keeps the file locked ({exc})")
    if extended in _FULL or _primary(exc) in _FULL:
        return BrokerFullError(f"{path}: no space left ({exc}); nothing was stored")
    if _primary(exc) == sqlite3.SQLITE_IOERR:
        # A failed fsync, above all: nobody can tell what is on the disk now.
        return BrokerLostError(f"{path}: the disk failed ({exc})")
    if isinstance(exc, (sqlite3.DataError, sqlite3.InterfaceError)):
        return exc
    return BrokerFileError(path, f"SQLite: {exc}")


def _primary(exc: sqlite3.Error) -> int | None:
    code: int | None = getattr(exc, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
