"""The broker: a value that says where the messages are."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import final

import attrs
import trio

from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.session import PostgreSQLSession
from trepid.errors import UnsupportedError
from trepid.ports.broker import Broker


@final
@attrs.frozen
class PostgreSQLBroker(Broker):
    """Messages in a PostgreSQL database, version 12 or newer, whose encoding is UTF8.

    The tables live in a schema of their own, ``trepid``, which is made when a broker is first opened.  What is accepted
    survives the loss of power, unless the server was told otherwise (``fsync``, ``synchronous_commit``).

    Args:
      url: as libpq takes it, ``postgresql://user:password@host:port/database?sslmode=verify-full``; in addition
        ``schema=NAME`` for another schema, and ``prepare_threshold=none`` behind a pooler that knows no prepared
        statements.
      clock: returns seconds since the epoch, instead of the server's clock; for tests.

    Raises:
      BrokerURLError: if the URL cannot be used.
    """

    url: str = attrs.field(repr=False)
    clock: Callable[[], float] | None = attrs.field(default=None, kw_only=True, repr=False)
    address: Address = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise TypeError(f"url must be a string, not {type(self.url).__name__}")
        object.__setattr__(self, "address", Address.of(self.url))

    def __str__(self) -> str:
        return self.address.shown

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[PostgreSQLSession]:
        """Connect, with one thread that writes, one that reads, and one that listens for news of other sessions.

        The session belongs to this process and this event loop.  If the server goes away, operations raise
        BrokerLostError until it is back.  Leaving the block, also by cancellation, ends the threads, which takes a few
        seconds at the worst.

        Raises:
          BrokerLostError: if there is no server.
          BrokerRefusedError: if it will not have us, or it or the database is not what we need.
          UnsupportedError: under a Trio clock that jumps by itself.
        """
        if getattr(trio.lowlevel.current_clock(), "autojump_threshold", math.inf) != math.inf:
            raise UnsupportedError(
                "a clock that jumps by itself", "PostgreSQL", "its threads take real time; test with the memory broker"
            )
        session = PostgreSQLSession(self.address, self.clock)
        try:
            await session.start()
            yield session
        finally:
            await session.close()
