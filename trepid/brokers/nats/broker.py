"""The broker: a value that says where the servers are."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final, final

import trio

from trepid.brokers.nats.clock import Clock
from trepid.brokers.nats.jetstream import JetStream, JetStreamError
from trepid.brokers.nats.mending import remind
from trepid.brokers.nats.names import PREFIX, Names
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.session import NatsSession
from trepid.brokers.nats.topology import ACK_WAIT, WINDOW, Topology
from trepid.errors import BrokerLostError, BrokerRefusedError, BrokerURLError
from trepid.ports.broker import Broker, Session
from trepid.ports.capabilities import Capabilities
from trepid.wire.household import open_household
from trepid.wire.nats.address import Address, AddressError
from trepid.wire.nats.connection import NatsConnection, NoRespondersError
from trepid.wire.nats.dialling import Dialler
from trepid.wire.supervision import open_supervised

_OLDEST: Final = (2, 9)
_CLOSE_WITHIN: Final = 1.0
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")
_PREFIX: Final = "trepid"


def _masked(url: str) -> str:
    return re.sub(r"^([a-z]+:(?://)?).*@", r"\1***@", url, flags=re.DOTALL)


@final
class NatsBroker(Broker):
    """Messages in JetStream, the storage of NATS.

    Args:
      url: ``nats://host:port`` or ``tls://host:port``, with several hosts separated by commas, ``user:password@`` or
        ``token@`` in front, and parameters behind a question mark: ``prefix`` (of the names of streams and subjects,
        by default ``trepid``), ``replicas`` (how many servers of a cluster keep each stream, by default 1), ``nkey``
        (a file with a seed), ``creds`` (a credentials file), ``cafile``, ``certfile``, ``keyfile`` (for TLS), and
        ``tls_first=yes`` where the server begins with TLS.
      ack_wait: seconds after which the server takes messages back from a session that is not heard of; of queues that
        are declared from now on.  One that was declared with fewer is refused.
      clock: returns seconds since the epoch, for tests; by default the server's clock decides.  It says what is due and
        when leases end, while the server rings by its own clock.

    Raises:
      BrokerURLError: if the URL names no servers.
    """

    def __init__(self, url: str, *, ack_wait: float = ACK_WAIT, clock: Callable[[], float] | None = None) -> None:
        try:
            self._address = Address.parse(url)
            prefix = self._address.parameters.get("prefix", _PREFIX)
            replicas = self._address.parameters.get("replicas", "1")
        except AddressError as exc:
            raise BrokerURLError(_masked(url), str(exc)) from None
        if not PREFIX.fullmatch(prefix):
            raise BrokerURLError(_masked(url), "a prefix is up to 32 letters, digits and _")
        if replicas not in ("1", "3", "5"):
            raise BrokerURLError(_masked(url), "there are 1, 3 or 5 replicas")
        self._topology = Topology(Names(prefix), int(replicas), ack_wait)
        # One for all sessions: what each of them has learned of the server's time differs a little.
        self._clock = Clock(clock)

    def __str__(self) -> str:
        prefix = self._topology.names.prefix
        return str(self._address) + ("" if prefix == _PREFIX else f"?prefix={prefix}")

    def __repr__(self) -> str:
        return f"NatsBroker({str(self)!r})"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Session]:
        """Connect, and keep connected.

        Raises:
          BrokerRefusedError: if the server will not have us, has no JetStream, or is too old.
          BrokerLostError: if nobody is there.
          UnsupportedError: if a key signs us in, and nkeys is not installed.
        """
        dialler = Dialler(self._address)

        session: NatsSession | None = None

        @asynccontextmanager
        async def dial() -> AsyncGenerator[NatsConnection]:
            async with dialler.dial() as connection:
                await self._examine(connection)
                try:
                    yield connection
                finally:
                    with trio.move_on_after(_CLOSE_WITHIN, shield=True):
                        if session is not None and connection.link.error is None:
                            await session.part_from(connection)

        async with open_supervised(dial) as supervisor, open_household() as household:
            connection = await supervisor.connection()
            office = Office(JetStream(supervisor), self._topology, self._clock, household)
            session = NatsSession(office, self._capabilities(connection))
            try:
                yield session
            finally:
                # What comes from now on cannot start a task any more.
                session.closing()

    async def _examine(self, connection: NatsConnection) -> None:
        """Complain about a server that cannot do what is needed."""
        version = str(connection.info.get("version", "?"))
        found = _VERSION.match(version)
        if found is None or (int(found[1]), int(found[2])) < _OLDEST:
            raise BrokerRefusedError(connection.name, f"it is NATS {version}, and 2.9 is the oldest that will do")
        if not connection.info.get("jetstream"):
            raise BrokerRefusedError(connection.name, "it has no JetStream; start it with -js")
        try:
            await self._topology.ensure_clock(connection)
            await self._clock.ask(connection, self._topology.names)
            await remind(connection, self._topology.names)
        except (JetStreamError, NoRespondersError, BrokerLostError) as exc:
            if self._clock.known and connection.link.error is None:
                return  # a part of a cluster is away; what was learned of the time still holds
            if isinstance(exc, JetStreamError):
                raise BrokerRefusedError(connection.name, f"JetStream will not have us: {exc.text}") from None
            raise BrokerLostError(f"{connection.name}: JetStream does not answer") from None

    def _capabilities(self, connection: NatsConnection) -> Capabilities:
        replicas = self._topology.replicas
        return Capabilities(
            engine=f"NATS {connection.info['version']}",
            durability="process",
            durability_proof=(
                f"streams in files, replicas={replicas}; the server syncs them every sync_interval (2 minutes unless "
                "configured), which clients cannot read"
            ),
            fencing="strict",
            expiry="session",
            priorities="strict",
            delay="exact",
            delay_resolution=0.1,
            ttl=True,
            deduplication="window",
            deduplication_window=WINDOW,
            unique_ids=False,
            unique=False,
            results="before",
            limits=False,
            firing="deduplicated",
            holds=False,
            keeps_place=False,
            crash_counts="approximate",
            atomic_batches=False,
            atomic_settling=False,
            cancel_waiting=False,
            cancel_running=False,
            peek=False,
            exact_stats=False,
            owners=False,
            requeue=True,
            purge="waiting",
            pause=False,
            certain_cancellation=False,
            records=True,
        )
