"""Publishing and settling as a guest: on the caller's own connection, inside the caller's own transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from trepid.brokers.sqlite import schema, statements
from trepid.brokers.sqlite.clock import HighWater
from trepid.brokers.sqlite.faults import typed_errors
from trepid.brokers.sqlite.publishing import publish
from trepid.brokers.sqlite.settling import settle
from trepid.brokers.sqlite.transaction import Transaction
from trepid.errors import UnsupportedError
from trepid.ports.messages import Publication, Settlement
from trepid.rules.life import Reply
from trepid.rules.publishing import Published

R = TypeVar("R")


def publish_in(path: str, clock: HighWater, connection: object, batch: Sequence[Publication]) -> list[Published]:
    """Store messages with the caller's own changes.

    Raises:
      UnsupportedError: if *connection* is no :class:`sqlite3.Connection` to the file at *path*.
      RuntimeError: if no transaction is open, and the connection would not open one by itself.
    """
    return _as_guest(path, clock, connection, lambda tx: publish(tx, batch))


def settle_in(path: str, clock: HighWater, connection: object, settlement: Settlement) -> Reply:
    """End a lease with the caller's own changes.

    Raises:
      UnsupportedError, RuntimeError: as :func:`publish_in` does.
    """
    return _as_guest(path, clock, connection, lambda tx: settle(tx, [settlement], ())[0])


def _as_guest(path: str, clock: HighWater, connection: object, work: Callable[[Transaction], R]) -> R:
    if not isinstance(connection, sqlite3.Connection):
        raise UnsupportedError(
            f"enqueuing or settling on a {type(connection).__name__}",
            "SQLite",
            "pass a sqlite3.Connection to the broker's file",
        )
    with typed_errors(path):
        # Rows as we know them, whatever the caller makes of his own.
        text_factory, connection.text_factory = connection.text_factory, str
        try:
            cursor = connection.cursor()
            cursor.row_factory = None
            _refuse_other_file(path, cursor)
            _require_transaction(connection)
            return _in_transaction(clock, connection, cursor, work)
        finally:
            connection.text_factory = text_factory


def _refuse_other_file(path: str, cursor: sqlite3.Cursor) -> None:
    opened: str = next((row[2] for row in cursor.execute("PRAGMA database_list").fetchall() if row[1] == "main"), "")
    if not opened or not Path(opened).samefile(path):
        raise UnsupportedError(
            f"a connection to {opened or 'a temporary database'!r}",
            "SQLite",
            f"the messages are in {path!r}, and one transaction cannot span two files",
        )
    schema.refuse_newer(path, cursor.execute("PRAGMA main.user_version").fetchone()[0])


def _require_transaction(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        return
    manual = connection.isolation_level is None
    # From Python 3.12 on there is `autocommit`: -1 is the old way, True leaves transactions to the caller.
    if getattr(connection, "autocommit", -1) != -1:
        manual = bool(getattr(connection, "autocommit", False))
    if manual:
        raise RuntimeError("no transaction is open on this connection; execute BEGIN IMMEDIATE first, and commit after")
    # What sqlite3 would do by itself at the first change; done before anything is read, so that what is read holds.
    connection.execute("BEGIN IMMEDIATE")


def _in_transaction(
    clock: HighWater, connection: sqlite3.Connection, cursor: sqlite3.Cursor, work: Callable[[Transaction], R]
) -> R:
    cursor.execute("SAVEPOINT trepid_guest")
    try:
        # A write comes first: it takes the write lock, without which the last place might be given once more.
        cursor.execute(statements.LOCK_HEAD)
        seq, stored = cursor.execute(statements.HEAD).fetchone()
        transaction = Transaction(connection, cursor, clock.read(stored), seq)
        result = work(transaction)
        transaction.close()
    except BaseException:
        # All or nothing, also for a caller who goes on and commits the rest.
        if connection.in_transaction:
            cursor.execute("ROLLBACK TO trepid_guest")
            cursor.execute("RELEASE trepid_guest")
        raise
    cursor.execute("RELEASE trepid_guest")
    return result
