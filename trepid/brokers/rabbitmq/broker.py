"""The broker: a value that says where the messages are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import final

import attrs

from trepid.brokers.rabbitmq.address import Address, address_of
from trepid.brokers.rabbitmq.session import RabbitMQSession
from trepid.ports.broker import Broker
from trepid.wire.household import open_household
from trepid.wire.supervision import open_supervised


def _address(broker: RabbitMQBroker) -> Address:
    return address_of(broker.url)


@final
@attrs.frozen
class RabbitMQBroker(Broker):
    """Messages in quorum queues of a RabbitMQ server.

    Args:
      url: ``amqp://user:password@host:port/vhost``, or ``amqps://`` for TLS.  Options: ``?prefix=`` is what the names
        of all queues and exchanges begin with, by default ``trepid``; ``heartbeat=`` the seconds after which a silent
        peer is given up, by default 8; ``cafile=`` the certificates to trust.

    Raises:
      BrokerURLError: if the URL cannot be used.
    """

    url: str = attrs.field(repr=False)
    _address: Address = attrs.field(init=False, eq=False, default=attrs.Factory(_address, takes_self=True))

    def __str__(self) -> str:
        return self._address.endpoint.name

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RabbitMQSession]:
        """Connect, and stay connected.

        Leaving the block gives back what was not started, and closes the connections in good order, which takes a few
        seconds at the worst.

        Raises:
          BrokerLostError: if nobody answers there.
          BrokerRefusedError: if the server does not want us: password, virtual host, permissions, certificate.
        """
        session = RabbitMQSession(self._address)
        async with open_supervised(session.dial) as supervisor, open_household() as household:
            session.attach(supervisor)
            household.start_soon(session.run, name=f"depot of {self}")
            yield session
