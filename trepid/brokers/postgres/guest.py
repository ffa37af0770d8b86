"""Publishing and settling as a guest: on the caller's own connection, inside the caller's own transaction."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import rows
from psycopg.pq import TransactionStatus

from trepid.brokers.postgres import admission, link, schema, statements
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.connected import Clock
from trepid.brokers.postgres.doorbell import channel
from trepid.brokers.postgres.faults import typed
from trepid.brokers.postgres.publishing import publish
from trepid.brokers.postgres.settling import settle
from trepid.brokers.postgres.transaction import Transaction
from trepid.errors import UnsupportedError
from trepid.ports.messages import Publication, Settlement
from trepid.rules.life import Reply
from trepid.rules.publishing import Published

R = TypeVar("R")

_HINT = "pass a psycopg.Connection, or a SQLAlchemy Connection or Session of postgresql+psycopg"


def publish_in(guest: Guest, connection: object, batch: Sequence[Publication]) -> list[Published]:
    """Store messages with the caller's own changes."""
    return guest.run(connection, lambda tx: publish(tx, batch))


def settle_in(guest: Guest, connection: object, settlement: Settlement) -> Reply:
    """End a lease with the caller's own changes."""
    return guest.run(connection, lambda tx: settle(tx, [settlement])[0])


class Guest:
    """What is to be known of the broker by whoever comes with a connection of his own.

    Args:
      address: where the broker is.
      instance: by what a connection to the same database is recognised.
      clock: the session's clock.
    """

    def __init__(self, address: Address, instance: str, clock: Clock) -> None:
        self._address = address
        self._instance = instance
        self._clock = clock

    def run(self, connection: object, work: Callable[[Transaction], R]) -> R:
        """Do something in the caller's transaction, all of it or nothing.

        Raises:
          UnsupportedError: if *connection* is none to the broker's database, or of another kind.
          RuntimeError: if no transaction is open, and the connection would not open one by itself.
        """
        theirs = _unwrapped(connection)
        _require_transaction(theirs)
        if theirs.info.encoding != "utf-8":
            raise UnsupportedError(
                f"a connection in {theirs.info.encoding}", "PostgreSQL", "connect with client_encoding=utf8"
            )
        with _typed(self._address):
            # Types, rows and formats as we know them, whatever the caller makes of his own.
            cursor: psycopg.RawCursor[Any] = psycopg.RawCursor(theirs, row_factory=rows.tuple_row)
            cursor.format = psycopg.pq.Format.BINARY
            link.adapt_to(cursor.adapters)

            def run(statement: str, parameters: Sequence[Any] = ()) -> psycopg.RawCursor[Any]:
                told = schema.told(statement, self._clock.now()[0])
                text = schema.in_schema(told, self._address.schema).encode()
                return cursor.execute(text, parameters or None)

            self._refuse_other_database(run)
            run("SAVEPOINT trepid_guest")
            try:
                (server,) = run(statements.CLOCK).fetchone() or (0.0,)
                tx = Transaction(run, self._clock.read(server))
                result = work(tx)
                if tx.news:
                    # In the caller's transaction, where it belongs: it is heard when the caller has committed.
                    run(statements.NOTIFY, (channel(self._address.schema), str(tx.news)))
            except BaseException:
                # All or nothing, also for a caller who goes on and commits the rest.
                if not theirs.closed and theirs.info.transaction_status is not TransactionStatus.UNKNOWN:
                    run("ROLLBACK TO trepid_guest")
                    run("RELEASE trepid_guest")
                raise
            run("RELEASE trepid_guest")
            return result

    def _refuse_other_database(self, run: Callable[..., psycopg.RawCursor[Any]]) -> None:
        there = run("SELECT to_regclass($1) IS NOT NULL", (f"{schema.quoted(self._address.schema)}.meta",)).fetchone()
        row = run(statements.INSTANCE).fetchone() if there is not None and there[0] else None
        if row is None or row[0] != self._instance:
            raise UnsupportedError(
                "a connection to another database",
                "PostgreSQL",
                f"the messages are in {self._address.shown}, and one transaction cannot span two databases",
            )
        admission.refuse_other(self._address, row[1])


def _unwrapped(connection: object) -> psycopg.Connection[Any]:
    """Return psycopg's connection inside of what the caller has."""
    given = type(connection)
    if given.__module__.partition(".")[0] == "sqlalchemy":
        connection = _of_sqlalchemy(connection)
    if isinstance(connection, psycopg.AsyncConnection):
        raise UnsupportedError("an asyncio connection", "PostgreSQL", _HINT)
    if not isinstance(connection, psycopg.Connection):
        raise UnsupportedError(f"a {given.__module__}.{given.__qualname__}", "PostgreSQL", _HINT)
    return connection


def _of_sqlalchemy(connection: Any) -> object:
    # Known by what they have, so that SQLAlchemy is not imported by us: a Session, a scoped one, or a Connection.
    if hasattr(connection, "sync_session") or hasattr(connection, "sync_connection"):
        raise UnsupportedError("SQLAlchemy's asyncio extension", "PostgreSQL", _HINT)
    if not hasattr(connection, "exec_driver_sql"):
        if not callable(getattr(connection, "connection", None)):
            raise UnsupportedError(f"a {type(connection).__qualname__} of SQLAlchemy", "PostgreSQL", _HINT)
        connection = connection.connection()
    if not connection.in_transaction():
        # It begins by itself with the first statement that it knows of; without one, it would roll ours back.
        connection.exec_driver_sql("SELECT 1")
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        module = type(driver).__module__.partition(".")[0]
        raise UnsupportedError(f"SQLAlchemy on {module}", "PostgreSQL", _HINT)
    return driver


def _require_transaction(connection: psycopg.Connection[Any]) -> None:
    if connection.closed:
        raise RuntimeError("the connection is closed")
    status = connection.info.transaction_status
    if status is TransactionStatus.INERROR:
        raise RuntimeError("the transaction has failed; roll it back first")
    if connection.autocommit and status is TransactionStatus.IDLE:
        raise RuntimeError("no transaction is open on this connection; write `with connection.transaction():`")


@contextmanager
def _typed(address: Address) -> Generator[None]:
    try:
        yield
    except psycopg.Error as exc:
        raise typed(exc, address.shown) from exc
