"""The office: what all parts of a session share, and the catalogue of queues."""

from __future__ import annotations

import secrets
from typing import final

import attrs
import trio

from trepid.brokers.leasebook import LeaseBook
from trepid.brokers.nats.clock import Clock
from trepid.brokers.nats.jetstream import JetStream
from trepid.brokers.nats.moving import Mover
from trepid.brokers.nats.names import Names
from trepid.brokers.nats.parcel import PROGRESS, Parcel
from trepid.brokers.nats.topology import Topology, declared
from trepid.errors import UnknownQueueError
from trepid.ports.messages import Ref


@final
@attrs.define
class Held:
    """What is kept with a lease.

    Attributes:
      parcel: the message as it came.
      tried: whether a settlement was begun whose end nobody knows.
    """

    parcel: Parcel
    tried: bool = False


@final
class Office:
    """What all parts of a session share.

    Attributes:
      name: of this session, drawn at random.
      nursery: for tasks that live as long as the session.
    """

    def __init__(self, jetstream: JetStream, topology: Topology, clock: Clock, nursery: trio.Nursery) -> None:
        self.name = secrets.token_hex(6)
        self.jetstream = jetstream
        self.topology = topology
        self.names: Names = topology.names
        self.clock = clock
        self.nursery = nursery
        self.mover = Mover(jetstream, self.names)
        self.book: LeaseBook[Held] = LeaseBook()
        self._known: set[str] = set()

    def holds(self, parcel: Parcel) -> bool:
        """Whether this very copy of a message is leased to somebody in this session; then the server is told so again.

        A server that was killed forgets what it has handed out, or takes us for dead because it was away itself.
        """
        # Each copy is leased once, so this is the token of its first and only lease.
        if self.book.find(Ref(parcel.queue, parcel.letter.id, (parcel.stamp, 1))) is None:
            return False
        connection = self.jetstream.current
        if connection is not None and connection.link.error is None:
            connection.say(parcel.message.reply, PROGRESS)
        return True

    # ------------------------------------------------------------------------------------------------ queues

    async def queues(self) -> list[str]:
        """Return the declared queues, as the server knows them, sorted."""
        queues = await declared(await self.jetstream.connection(), self.names)
        self._known = set(queues)
        return queues

    async def unknown(self, queues: set[str]) -> set[str]:
        """Return those queues that were never declared; the server is asked only if there seem to be some."""
        missing = queues - self._known
        if missing:
            await self.queues()
            missing = queues - self._known
        else:
            await trio.lowlevel.checkpoint()
        return missing

    async def require(self, queue: str) -> None:
        """Complain if a queue was never declared.

        Raises:
          UnknownQueueError: then.
        """
        if await self.unknown({queue}):
            raise UnknownQueueError(queue)

    def learned(self, queue: str) -> None:
        """A queue is there."""
        self._known.add(queue)

    def forgotten(self, queue: str) -> None:
        """A queue may not be there any more."""
        self._known.discard(queue)
