"""The broker: a value that says where the messages are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import final

import attrs

from trepid.brokers.redis.bells import Bells
from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.keys import Keys
from trepid.brokers.redis.powers import capabilities
from trepid.brokers.redis.session import RedisSession
from trepid.ports.broker import Broker
from trepid.wire.household import open_household
from trepid.wire.redis.address import RedisAddress, parse
from trepid.wire.redis.cluster import open_cluster
from trepid.wire.redis.servers import open_single


def _address(broker: RedisBroker) -> RedisAddress:
    return parse(broker.url)


@final
@attrs.frozen
class RedisBroker(Broker):
    """Messages in a Redis or Valkey, 7.0 or newer: one server, one that sentinels find, or a cluster.

    What an accepted message survives is decided by the server's settings, and read from it: see
    ``capabilities.durability``.

    Args:
      url: where it is, and who we are there: the guide to Redis lists the forms.
      clock: returns seconds since the epoch, for tests; by default the server's clock decides.

    Raises:
      BrokerURLError: if the URL says too little, or what cannot be.
    """

    url: str = attrs.field(repr=False)
    clock: Callable[[], float] | None = attrs.field(default=None, kw_only=True, repr=False)
    address: RedisAddress = attrs.field(init=False, default=attrs.Factory(_address, takes_self=True))

    def __str__(self) -> str:
        return str(self.address)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RedisSession]:
        """Connect.

        A connection that is lost is made again for as long as the block lasts; leaving it closes it at once.

        Raises:
          BrokerLostError: if nobody answers.
          BrokerRefusedError: if the server will not have us, or cannot keep jobs: a replica, too old, one that throws
            keys away when its memory is full.
        """
        bells = Bells()
        dial = open_cluster if self.address.kind == "cluster" else open_single
        async with dial(self.address, bells) as servers:
            engine = Engine(servers, Keys(self.address.prefix, servers.clustered), self.clock)
            able = await capabilities(servers, str(self), allow_eviction=self.address.allow_eviction)
            session = RedisSession(engine, bells, able)
            async with open_household() as household:
                household.start_soon(session.run, name=f"publish to {self}")
                yield session
