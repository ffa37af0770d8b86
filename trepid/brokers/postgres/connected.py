"""What both engines of a session have: its clock, and a connection that is renewed when it is lost."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, final

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from trepid.brokers.postgres import link, schema, statements
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.faults import is_loss, is_replica, is_transient, typed
from trepid.brokers.postgres.link import Link
from trepid.brokers.sql.database import Remedy
from trepid.errors import BrokerLostError

R = TypeVar("R")

PATIENCE: Final = 1.0
"""Seconds that a request waits for a server that is not there."""

_FIRST_PAUSE: Final = 0.05
_PIPELINES: Final = psycopg.Pipeline.is_supported()


@final
class Clock:
    """The broker's time as one session sees it: that of the server, kept from going back.

    Args:
      clock: replaces the server's clock; for tests.
    """

    __slots__ = ("_clock", "_high", "_lock")

    def __init__(self, clock: Callable[[], float] | None) -> None:
        self._clock = clock
        self._high = float("-inf")
        self._lock = threading.Lock()

    def now(self) -> tuple[str, float]:
        """Return the broker's time as SQL, and the value that this takes as ``$1``."""
        if self._clock is not None:
            return "$1::float8", self.read(0.0)
        with self._lock:
            return "greatest($1::float8, extract(epoch FROM clock_timestamp())::float8)", self._high

    def read(self, server: float) -> float:
        """Return the time, given what the server's clock has just shown."""
        now = server if self._clock is None else self._clock()
        with self._lock:
            self._high = max(self._high, now)
            return self._high


class Connected:
    """A connection that belongs to one thread."""

    begin_statement = statements.BEGIN.encode()

    def __init__(self, address: Address, clock: Clock) -> None:
        self._address = address
        self._clock = clock
        self._link: Link | None = None
        self._cursor: psycopg.Cursor[Any]
        self._plain: psycopg.Cursor[Any]
        self._texts: dict[str, bytes] = {}
        self._closing = threading.Event()
        self.reconnects = 0
        # When it was last tried in vain to connect, by the monotonic clock.
        self.failed_at = float("-inf")

    # ------------------------------------------------------------------------------------------------- connecting

    def open(self) -> None:
        """Connect for the first time."""
        self._connect()

    def _connect(self) -> None:
        self._link = link.connect(self._address)
        self._cursor = self._link.cursor(binary=True)
        self._plain = self._link.cursor()
        self._cursors: dict[tuple[str, int], psycopg.Cursor[Any]] = {}

    def _connected(self) -> None:
        """Have a connection, waiting for the server for a little while."""
        if self._link is not None and not self._link.closed:
            with contextlib.suppress(psycopg.Error):
                # Takes what has come, without waiting: a connection that the server has closed is known by that.
                self._link.pgconn.consume_input()
            if not self._link.closed:
                return
        until, pause = time.monotonic() + PATIENCE, _FIRST_PAUSE
        while True:
            try:
                self._disconnect()
                self._connect()
            except BrokerLostError:
                self.failed_at = time.monotonic()
                if self._closing.is_set() or time.monotonic() + pause > until:
                    raise
            except Exception:
                self.failed_at = time.monotonic()
                raise
            else:
                self.failed_at = float("-inf")
                self.reconnects += 1
                return
            self._closing.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - not for secrets
            pause = min(2 * pause, PATIENCE)

    def _disconnect(self) -> None:
        if self._link is not None:
            with contextlib.suppress(Exception):
                self._link.close()

    def close(self) -> None:
        """Disconnect."""
        self._disconnect()
        self._link = None

    def interrupt(self) -> None:
        """End whatever the thread is waiting for; called from another thread, when the session must end now."""
        self._closing.set()
        if self._link is not None:
            link.hang_up(self._link)

    # ----------------------------------------------------------------------------------------------- transactions

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        """Execute one of our statements."""
        return self._cursor.execute(self._text(statement), parameters or None)

    def _text(self, statement: str) -> bytes:
        text = self._texts.get(statement)
        if text is None:
            told = schema.told(statement, self._clock.now()[0])
            text = self._texts[statement] = schema.in_schema(told, self._address.schema).encode()
        return text

    def _send(self, steps: Sequence[tuple[str, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        """Carry out statements in one round trip, and return their rows; if one fails, so do those after it."""
        assert self._link is not None
        cursors: list[psycopg.Cursor[Any]] = []
        used: Counter[str] = Counter()
        with self._link.pipeline() if _PIPELINES else contextlib.nullcontext():
            for statement, parameters in steps:
                # One for each: the next statement of a cursor would take the place of this one's rows.
                place = (statement, used[statement])
                used[statement] += 1
                cursor = self._cursors.get(place)
                if cursor is None:
                    cursor = self._cursors[place] = self._link.cursor(binary=True)
                cursors.append(cursor.execute(self._text(statement), parameters or None))
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def _begin(self) -> float:
        """Begin a transaction and return the broker's time."""
        return self._clock.read(self._twice(self._ask_time))

    def _twice(self, begin: Callable[[], R]) -> R:
        """Begin a transaction; a connection that was found dead is renewed, once."""
        self._connected()
        try:
            return begin()
        except psycopg.Error as exc:
            if not is_loss(exc):
                raise
            # Nothing has been committed yet: that the connection died an hour ago, nobody needs to know.
            self._disconnect()
            self._connected()
            return begin()

    def _ask_time(self) -> float:
        # Two statements in one round trip; only the simple protocol takes them, and it knows no binary results.
        cursor = self._plain.execute(self.begin_statement, prepare=False)
        cursor.nextset()
        row = cursor.fetchone()
        assert row is not None
        return float(row[0])

    def rollback(self) -> None:
        """Undo the transaction, if it still stands."""
        if self._link is None or self._link.closed:
            return
        if self._link.pgconn.pipeline_status is not PipelineStatus.OFF:
            self._disconnect()  # there are answers left that belong to nobody
            return
        if self._link.info.transaction_status is TransactionStatus.IDLE:
            return
        try:
            self._cursor.execute("ROLLBACK")
        except psycopg.Error:
            self._disconnect()

    def stands(self) -> bool:
        """Whether a transaction is open, and nothing in it has failed."""
        return (
            self._link is not None
            and not self._link.closed
            and self._link.info.transaction_status is TransactionStatus.INTRANS
        )

    def remedy(self, exc: Exception) -> Remedy:
        """Return what to do about a group that failed.

        If the connection broke, the reply to a commit may be what was lost: then nobody may repeat it unasked.
        """
        if is_transient(exc):
            return Remedy.AGAIN
        if is_replica(exc):
            self._disconnect()  # perhaps the name leads elsewhere by now
            return Remedy.NONE
        return Remedy.NONE if is_loss(exc) or isinstance(exc, BrokerLostError) else Remedy.ALONE

    def typed(self, exc: Exception) -> Exception:
        """Return a new exception, of Trepid's, that says what *exc* says."""
        return typed(exc, self._address.shown)
