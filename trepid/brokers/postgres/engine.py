"""PostgreSQL as an owner thread wants it: one engine for the writer, one for the reader."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, final

from psycopg.pq import TransactionStatus

from trepid.brokers.postgres import keeping, link, statements
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.connected import Clock, Connected
from trepid.brokers.postgres.looking import Reading
from trepid.brokers.postgres.transaction import Transaction

_SWEPT_AT_LEAST: Final = 500
_SWEEP_EVERY: Final = 1.0
"""Seconds between the sweeps of one session."""


@final
class Writer(Connected):
    """The engine of the thread that writes.

    Args:
      address: where.
      clock: the session's clock.
      ring: tells other sessions of news.
    """

    def __init__(self, address: Address, clock: Clock, ring: Callable[[int], object]) -> None:
        super().__init__(address, clock)
        self._ring = ring
        self._transaction: Transaction
        self._swept = 0.0
        self._gone = 0
        self.proof = ""
        self.durable = False
        self.version = ""
        self.instance = ""

    def open(self) -> None:
        """Connect, and make or check the schema."""
        self._connect()
        assert self._link is not None
        try:
            link.admit(self._link, self._address)
            self.durable, self.proof = link.proof_of_durability(self._link)
            self.version = self._link.info.parameter_status("server_version") or "?"
            row = self.run(statements.INSTANCE).fetchone()
            assert row is not None
            self.instance = row[0]
        except BaseException:
            self._disconnect()
            raise

    def begin(self) -> Transaction:
        """Begin a transaction."""
        self._transaction = Transaction(self.run, self._begin())
        return self._transaction

    def commit(self) -> int:
        """Commit, and return the news."""
        tx = self._transaction
        if not tx.changes:
            self._cursor.execute("ROLLBACK")  # nothing was written, so nothing need reach the disk
            return 0
        self._gone += tx.gone
        now = time.monotonic()
        if now >= self._swept + _SWEEP_EVERY:
            # More than what has ended since the last time, so that the past never piles up.
            keeping.sweep(tx, _SWEPT_AT_LEAST + 2 * self._gone)
            self._swept, self._gone = now, 0
        self._cursor.execute("COMMIT")
        return tx.news

    def announce(self, news: object) -> None:
        """Wake who waits in other sessions."""
        assert isinstance(news, int)
        self._ring(news)

    def mark(self) -> int:
        """Return how much has been changed so far."""
        return self._transaction.changes

    def untouched(self, mark: object) -> bool:
        """Whether the transaction stands, and nothing has changed since the mark."""
        return self.stands() and self._transaction.changes == mark

    def save(self) -> None:
        """Set a savepoint."""
        self._cursor.execute("SAVEPOINT request")

    def undo(self) -> bool:
        """Return to the savepoint; false if the whole transaction is lost."""
        if self._link is None or self._link.closed:
            return False
        if self._link.info.transaction_status not in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            return False
        self._cursor.execute("ROLLBACK TO request")
        self._cursor.execute("RELEASE request")
        return True

    def keep(self) -> None:
        """Drop the savepoint."""
        self._cursor.execute("RELEASE request")


@final
class Reader(Connected):
    """The engine of the thread that looks."""

    begin_statement = statements.BEGIN_READING.encode()

    def begin(self) -> Reading:
        """Begin a read transaction."""
        return Reading(self.run, self._begin())

    def commit(self) -> None:
        """End the transaction."""
        self._cursor.execute("COMMIT")

    def announce(self, news: object) -> None:
        """There never are news."""

    def mark(self) -> None:
        """Nothing is ever changed."""

    def untouched(self, mark: object) -> bool:  # noqa: ARG002
        """Whether the transaction stands."""
        return self.stands()

    def save(self) -> None:
        """Set a savepoint: in PostgreSQL, whatever fails ends the transaction up to there."""
        self._cursor.execute("SAVEPOINT request")

    def undo(self) -> bool:
        """Return to the savepoint; false if the whole transaction is lost."""
        if self._link is None or self._link.closed:
            return False
        self._cursor.execute("ROLLBACK TO request")
        return True

    def keep(self) -> None:
        """Drop the savepoint."""
        self._cursor.execute("RELEASE request")
