"""Opening a connection: one engine, or two."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from trepid.brokers.assisted import AssistedBroker
from trepid.connection.connection import Connection
from trepid.connection.patience import Patience
from trepid.connection.urls import broker_at
from trepid.ports.broker import Broker


def open_connection(
    url_or_broker: str | Broker, *, results: str | Broker | None = None, wait_for_broker: bool = True
) -> AbstractAsyncContextManager[Connection]:
    """Open a broker for the length of an ``async with`` block.

    Args:
      url_or_broker: ``memory:`` (a fresh private broker each time), ``sqlite:PATH`` (all after the colon is the
        path), or a broker such as ``MemoryBroker()``, which keeps its messages from one connection to the next.
      results: a second engine, a URL or a broker, for what the first one lacks: results, unique keys, cancellation.
      wait_for_broker: what operations do that can be repeated while the broker is away, once it was open: go on trying
        until it is back, or until the caller's scope ends (``trio.fail_after``); or, with False, raise BrokerLostError
        at once.

    Raises:
      BrokerURLError: if the URL cannot be used; at this call.
      UnsupportedError: if this version has no such engine; on entering, if the broker needs no second engine, or
        that cannot help.
      TypeError: if it is neither a URL nor a broker.
      BrokerFileError, BrokerRefusedError, BrokerBusyError, BrokerLostError: on entering, if it cannot be opened.

    The body's exception is never wrapped in a group.  Leaving the block closes the broker within seconds.
    """
    broker = url_or_broker if isinstance(url_or_broker, Broker) else broker_at(url_or_broker)
    if results is not None:
        broker = AssistedBroker(broker, results if isinstance(results, Broker) else broker_at(results))
    return _open(broker, Patience(wait_for_broker))


@asynccontextmanager
async def _open(broker: Broker, patience: Patience) -> AsyncGenerator[Connection]:
    async with broker.open() as session:
        yield Connection(broker, session, patience=patience)
