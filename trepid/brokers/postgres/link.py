"""Connections to the server that are never waited for without an end."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any, Final, TypeVar, final

import psycopg
from psycopg import adapt, conninfo, rows
from psycopg.abc import PQGen
from psycopg.types.numeric import FloatBinaryDumper, Int8BinaryDumper, Int8Dumper
from psycopg.types.string import BytesBinaryDumper, StrDumper

from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.arrays import ArrayDumper, without_zeros
from trepid.brokers.postgres.faults import said_by
from trepid.errors import BrokerLostError, BrokerRefusedError

T = TypeVar("T")

PATIENCE: Final = 12.0
"""Seconds after which a server that says nothing counts as lost; well below a lease."""

_TCP: Final = {
    "connect_timeout": "3",
    # The other end is gone without a word: 5 s of silence, then three questions, 2 s apart.  What was sent and is not
    # confirmed for 10 s will not be.
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "application_name": "trepid",
}

SETTINGS: Final = (
    # A transaction of ours lasts milliseconds.  Who waits for a lock longer than this waits for somebody's mistake.
    "lock_timeout = '3s'",
    "statement_timeout = '10s'",
    "idle_in_transaction_session_timeout = '30s'",
    # Each statement of a transaction sees what others have committed by then, whatever the database prefers.
    "default_transaction_isolation = 'read committed'",
    # Every statement has one good plan, by an index, whatever the statistics of an hour ago say of the tables' sizes.
    "plan_cache_mode = force_generic_plan",
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "enable_hashjoin = off",
    "enable_mergejoin = off",
    "enable_sort = off",
    "jit = off",
)


class _TextDumper(StrDumper):
    """PostgreSQL's text has no zero character; everybody else's has."""

    def dump(self, obj: str) -> Any:
        """Write a text."""
        return super().dump(without_zeros(obj))


def adapt_to(adapters: adapt.AdaptersMap) -> None:
    """Let a number always be of one type, so that a statement is prepared once and not once for each size of number.

    What is registered last is taken where both formats would do.
    """
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(int, Int8BinaryDumper)
    adapters.register_dumper(str, _TextDumper)
    adapters.register_dumper(float, FloatBinaryDumper)
    adapters.register_dumper(bytes, BytesBinaryDumper)
    adapters.register_dumper(list, ArrayDumper)


@final
class Link(psycopg.Connection[Any]):
    """A connection of ours: a server that is silent for too long counts as gone.

    Attributes:
      patient: whether it is not; then only TCP finds out that a server is gone.
    """

    patient = False

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server, for a bounded time unless it is patient."""
        if self.patient:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(_bounded(gen, time.monotonic() + PATIENCE), interval, timeout)
        except _SilenceError:
            self.close()
            raise


class _SilenceError(psycopg.OperationalError):
    """The server is there, as far as TCP knows, and says nothing."""


def _bounded(gen: PQGen[T], deadline: float) -> PQGen[T]:
    """Pass on what *gen* waits for, until its time is over."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise _SilenceError(f"the server has not answered for {PATIENCE:g} s")
            wanted = gen.send(ready)
    except StopIteration as stop:
        result: T = stop.value
        return result


def connect(address: Address, *, settings: tuple[str, ...] = SETTINGS) -> Link:
    """Connect, without looking at what is there.

    Raises:
      BrokerRefusedError: if the server will not have us, or there is a mistake in the URL.
      BrokerLostError: if there is no server.
    """
    try:
        given = conninfo.conninfo_to_dict(address.conninfo)
        parameters: dict[str, Any] = {name: value for name, value in _TCP.items() if name not in given}
        if "PGCONNECT_TIMEOUT" in os.environ:
            parameters.pop("connect_timeout", None)
        link = Link.connect(
            address.conninfo,
            autocommit=True,
            prepare_threshold=address.prepare_threshold,
            row_factory=rows.tuple_row,
            cursor_factory=psycopg.RawCursor,
            client_encoding="UTF8",
            **parameters,
        )
    except psycopg.Error as exc:
        raise _why_not(exc, address) from None  # the cause may quote the URL
    try:
        adapt_to(link.adapters)
        link.prepared_max = 500
        link.execute("; ".join(f"SET {setting}" for setting in settings).encode())
    except BaseException:
        link.close()
        raise
    return link


_REFUSALS: Final = (
    "authentication failed",
    "authentication method",
    "no password supplied",
    "pg_hba.conf",
    "does not exist",
    "permission denied",
    "not permitted to log in",
    "does not match host name",
    "certificate verify failed",
    "certificate file",
    "private key",
    "certificate is required",
    "does not support SSL",
    "server does not support",
    "cannot connect now; read-only",
    "session is read-only",
    "server is in hot standby mode",
    "sslmode",
    "invalid",
    "unsupported frontend protocol",
)
"""What is said of mistakes that waiting does not mend; anything else may pass.  There is no code before the log-in."""


def _why_not(exc: psycopg.Error, address: Address) -> Exception:
    said = _without_secrets(said_by(exc), address)
    if isinstance(exc, psycopg.ProgrammingError):
        return BrokerRefusedError(address.shown, f"a mistake in the URL: {said}")
    absent = "No such file or directory" in said and "Is the server running" in said  # a socket
    if any(words in said for words in _REFUSALS) and not absent:
        return BrokerRefusedError(address.shown, said)
    return BrokerLostError(f"{address.shown}: {said}")


def _without_secrets(text: str, address: Address) -> str:
    with contextlib.suppress(psycopg.Error):
        for name, value in conninfo.conninfo_to_dict(address.conninfo).items():
            if name in ("password", "sslpassword") and value:
                text = text.replace(str(value), "***")
    return text


def hang_up(link: psycopg.Connection[Any]) -> None:
    """Break a connection from another thread: whoever waits for its server is told at once."""
    with contextlib.suppress(Exception):
        descriptor = os.dup(link.pgconn.socket)
        with socket.socket(fileno=descriptor) as raw:
            raw.shutdown(socket.SHUT_RDWR)
