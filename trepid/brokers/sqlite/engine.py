"""SQLite as an owner thread wants it: one engine for the writer, one for the reader."""

from __future__ import annotations

import sqlite3
from typing import final

from trepid.brokers.sql.database import Remedy
from trepid.brokers.sqlite import file, keeping, statements
from trepid.brokers.sqlite.clock import HighWater
from trepid.brokers.sqlite.doorbell import Ringer
from trepid.brokers.sqlite.faults import typed
from trepid.brokers.sqlite.looking import Reading
from trepid.brokers.sqlite.transaction import Transaction

_SWEPT_AT_LEAST = 16


class Connected:
    """What both engines have: a connection that belongs to one thread of one process."""

    def __init__(self, path: str, clock: HighWater) -> None:
        self._path = path
        self._clock = clock
        self._connection: sqlite3.Connection
        self._cursor: sqlite3.Cursor
        self._open = False
        self.busy_retries = 0
        self.proof = ""

    def open(self) -> None:
        """Connect."""
        self._connection = file.connect(self._path)
        self._cursor = self._connection.cursor()
        self._open = True
        self.proof = file.proof_of_durability(self._connection)

    def _begin(self, statement: str) -> tuple[int, float]:
        """Begin a transaction and return the last place given, and the mark of the clock."""
        return file.patiently(lambda: self._begin_once(statement), on_retry=self._count_retry)

    def _begin_once(self, statement: str) -> tuple[int, float]:
        self.rollback()  # an earlier attempt: who reads meets the locks of others at his first look, after BEGIN
        self._cursor.execute(statement)
        head: tuple[int, float] = self._cursor.execute(statements.HEAD).fetchone()
        return head

    def _count_retry(self) -> None:
        self.busy_retries += 1

    def rollback(self) -> None:
        """Undo the transaction, if it still stands."""
        if self._connection.in_transaction:
            self._connection.rollback()

    def remedy(self, exc: Exception) -> Remedy:  # noqa: ARG002
        """Nobody else is ever in the way of a transaction that has begun."""
        return Remedy.ALONE

    def interrupt(self) -> None:
        """Whatever the thread waits for, it waits for a few seconds at most."""

    def typed(self, exc: Exception) -> Exception:
        """Return a new exception, of Trepid's, that says what *exc* says."""
        return typed(exc, self._path)

    def close(self) -> None:
        """Disconnect; the last connection to the file also empties its write-ahead log."""
        if self._open:
            self._open = False
            # First, for it may hold a statement, and as long as one is left SQLite only seems to close the file.
            self._cursor.close()
            self._connection.close()


@final
class Writer(Connected):
    """The engine of the thread that writes."""

    def __init__(self, path: str, clock: HighWater, ringer: Ringer) -> None:
        super().__init__(path, clock)
        self._ringer = ringer
        self._transaction: Transaction
        self._before = 0

    def open(self) -> None:
        """Admit the file, and connect."""
        file.admit(self._path)
        super().open()
        self._ringer.quiet_this_thread()

    def begin(self) -> Transaction:
        """Begin a transaction as the only writer."""
        seq, stored = self._begin("BEGIN IMMEDIATE")
        self._before = self._connection.total_changes
        self._transaction = Transaction(self._connection, self._cursor, self._clock.read(stored), seq)
        return self._transaction

    def commit(self) -> int:
        """Commit, and return the news."""
        tx = self._transaction
        if self._connection.total_changes == self._before:
            self._connection.rollback()  # nothing was written, so nothing need reach the disk
            return 0
        # A little more than what has just ended, so that the past never piles up.
        keeping.sweep(tx, _SWEPT_AT_LEAST + 2 * tx.gone)
        tx.close()
        self._cursor.execute("COMMIT")
        return tx.news

    def announce(self, news: object) -> None:
        """Wake who waits in other sessions."""
        assert isinstance(news, int)
        self._ringer.ring(news)

    def close(self) -> None:
        """Disconnect, and let go of the bells."""
        self._ringer.close()
        super().close()

    def mark(self) -> int:
        """Return how many rows have been changed so far."""
        return self._connection.total_changes

    def untouched(self, mark: object) -> bool:
        """Whether the transaction stands, and nothing has changed since the mark."""
        return self._connection.in_transaction and self._connection.total_changes == mark

    def save(self) -> None:
        """Set a savepoint."""
        self._cursor.execute("SAVEPOINT request")

    def undo(self) -> bool:
        """Return to the savepoint; false if the whole transaction is lost."""
        if not self._connection.in_transaction:
            return False
        self._cursor.execute("ROLLBACK TO request")
        self._cursor.execute("RELEASE request")
        self._transaction.forget_queues()
        return True

    def keep(self) -> None:
        """Drop the savepoint."""
        self._cursor.execute("RELEASE request")


@final
class Reader(Connected):
    """The engine of the thread that looks."""

    def open(self) -> None:
        """Connect."""
        super().open()
        self._connection.execute("PRAGMA query_only = ON")

    def begin(self) -> Reading:
        """Begin a read transaction."""
        _, stored = self._begin("BEGIN")
        return Reading(self._cursor, self._clock.read(stored))

    def commit(self) -> None:
        """End the transaction."""
        self._cursor.execute("COMMIT")

    def announce(self, news: object) -> None:
        """There never are news."""

    def mark(self) -> None:
        """Nothing is ever changed."""

    def untouched(self, mark: object) -> bool:  # noqa: ARG002
        """Whether the transaction stands."""
        return self._connection.in_transaction

    def save(self) -> None:
        """Nothing is to be saved."""

    def undo(self) -> bool:
        """Nothing is to be undone."""
        return self._connection.in_transaction

    def keep(self) -> None:
        """Nothing is to be kept."""
