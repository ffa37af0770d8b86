"""PostgreSQL as an owner thread wants it: one engine for the writer, one for the reader."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, final

import psycopg
from psycopg.pq import TransactionStatus

from trepid.brokers.postgres import admission, keeping, statements
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.connected import Clock, Connected
from trepid.brokers.postgres.express import Express, Rows, Step
from trepid.brokers.postgres.looking import Reading
from trepid.brokers.postgres.transaction import Transaction
from trepid.brokers.sql.carrying import Done, Request
from trepid.errors import BrokerLostError

_SWEPT_AT_LEAST: Final = 500
_SWEEP_EVERY: Final = 1.0
"""Seconds between the sweeps of one session."""

_CLEAR_EVERY: Final = 10.0

_BEGIN: Final[Step] = ("BEGIN", ())
_CLOCK: Final[Step] = (statements.CLOCK, ())
_COMMIT: Final[Step] = ("COMMIT", ())


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
        self._express = Express(self)
        self._transaction: Transaction
        self._swept = 0.0
        self._gone = 0
        self._deleted = False
        self._cleared = float("-inf")
        self.proof = ""
        self.durable = False
        self.version = ""
        self.instance = ""

    def open(self) -> None:
        """Connect, and make or check the schema."""
        self._connect()
        assert self._link is not None
        try:
            admission.admit(self._link, self._address)
            self.durable, self.proof = admission.proof_of_durability(self._link)
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
            # Nothing was written, so nothing need reach the disk; psycopg would forget all statements at a ROLLBACK.
            self._cursor.execute("COMMIT")
            return 0
        self._gone += tx.gone
        now = time.monotonic()
        if now >= self._swept + _SWEEP_EVERY:
            # More than what has ended since the last time, so that the past never piles up.
            keeping.sweep(tx, _SWEPT_AT_LEAST + 2 * self._gone)
            self._swept, self._gone = now, 0
        self._cursor.execute("COMMIT")
        return tx.news

    # ----------------------------------------------------------------------------------- for the ordinary course

    def at_once(
        self, taken: Sequence[Request], more: Callable[[], Iterable[Request]]
    ) -> tuple[Done, int, list[Request]]:
        """Carry what is ordinary about some requests; see :class:`Express`."""
        if self._deleted:
            self._deleted = False
            self._clear_deleted()
        done, news, left = self._express.carry(taken, more)
        if done:
            self._gone += self._transaction.gone
        return done, news, left

    def floor(self) -> float:
        """Return a time that is surely over."""
        return self._clock.now()[1]

    def begin_with(self, *steps: Step) -> tuple[Transaction, list[Rows]]:
        """Begin a transaction with some statements, in one round trip."""
        return self._begun(self._twice(lambda: self._send((_BEGIN, _CLOCK, *steps))))

    def commit_with(self, *steps: Step) -> tuple[Transaction, list[Rows]]:
        """Carry out some statements and commit, in one round trip."""
        sweeping = self._sweeping(self._transaction.now)
        rows = self._send((*steps, *sweeping, _COMMIT))
        self._have_swept(sweeping, rows)
        return self._transaction, rows

    def all_with(self, *steps: Step) -> tuple[Transaction, list[Rows]]:
        """Begin, carry out some statements, and commit, all in one round trip."""
        self._connected()
        sweeping = self._sweeping(self.floor())
        tx, rows = self._begun(self._send((_BEGIN, _CLOCK, *steps, *sweeping, _COMMIT)))
        self._have_swept(sweeping, rows)
        return tx, rows

    def _begun(self, rows: list[Rows]) -> tuple[Transaction, list[Rows]]:
        _, ((server,),), *others = rows
        self._transaction = Transaction(self.run, self._clock.read(server))
        return self._transaction, others

    def _sweeping(self, now: float) -> Sequence[Step]:
        due = time.monotonic() >= self._swept + _SWEEP_EVERY
        return keeping.sweeping(now, _SWEPT_AT_LEAST + 2 * self._gone) if due else ()

    def _have_swept(self, steps: Sequence[Step], rows: list[Rows]) -> None:
        if steps:
            self._swept, self._gone = time.monotonic(), 0
            self._deleted = bool(rows[-2]) and self._swept >= self._cleared + _CLEAR_EVERY

    def _clear_deleted(self) -> None:
        """Remove something of queues that were deleted; whatever stands against it, there will be another time."""
        self._cleared = time.monotonic()
        with contextlib.suppress(psycopg.Error, BrokerLostError):
            keeping.sweep(self.begin(), _SWEPT_AT_LEAST)
            self._cursor.execute("COMMIT")
        self.rollback()

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
