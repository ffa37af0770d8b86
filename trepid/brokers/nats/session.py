"""The session: the port's operations, each handed to the part that knows how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import trio
from typing_extensions import override

from trepid.brokers import marks
from trepid.brokers.nats import names as places
from trepid.brokers.nats.graves import Graves
from trepid.brokers.nats.intake import Intake
from trepid.brokers.nats.jetstream import NO_STREAM, JetStreamError
from trepid.brokers.nats.keeping import Keeper
from trepid.brokers.nats.looking import Looker
from trepid.brokers.nats.names import LEVELS
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.publishing import Publisher
from trepid.brokers.nats.records import NatsRecords
from trepid.brokers.nats.removing import Remover
from trepid.brokers.nats.results import Results
from trepid.brokers.nats.settling import Settler
from trepid.errors import QueueBusyError, UnknownQueueError, UnsupportedError
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import (
    Absent,
    Cursor,
    Delivery,
    Ending,
    Extension,
    Firing,
    MessageView,
    Page,
    Publication,
    QueueStats,
    Ref,
    Settlement,
)
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published
from trepid.wire.nats.connection import NatsConnection


@final
class NatsSession(Session):
    """An open NATS broker.  Made by :meth:`NatsBroker.open`."""

    def __init__(self, office: Office, capabilities: Capabilities) -> None:
        self._office = office
        self._capabilities = capabilities
        self._keeper = Keeper(office)
        self._results = Results(office)
        self._publisher = Publisher(office)
        self._settler = Settler(office, self._keeper, self._results, self._publisher)
        self._intake = Intake(office, self._keeper)
        self._graves = Graves(office, self._results)
        self._looker = Looker(office, self._results)
        self._remover = Remover(office)
        self._records = NatsRecords(office)
        office.nursery.start_soon(self._keeper.beat, name="tell NATS what is worked on")
        office.nursery.start_soon(self._keeper.expire, name="end leases on NATS")

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    @override
    def connected(self) -> bool:
        return self._office.jetstream.current is not None

    @property
    @override
    def records(self) -> NatsRecords:
        return self._records

    @override
    async def now(self) -> float:
        await trio.lowlevel.checkpoint()
        return self._office.clock.now()

    # ---------------------------------------------------------------------------------------------------- queues

    @override
    async def declare(self, queues: Sequence[str]) -> None:
        connection = await self._office.jetstream.connection()
        for queue in queues:
            await self._office.topology.ensure_queue(connection, queue)
            self._office.learned(queue)
        await trio.lowlevel.checkpoint()

    @override
    async def queues(self) -> list[str]:
        return await self._office.queues()

    @override
    async def delete(self, queue: str) -> None:
        try:
            infos = await self._looker.consumers(queue)
        except UnknownQueueError:
            leased = 0  # what an earlier attempt has left of it still goes
        else:
            leased = sum(infos[place]["num_ack_pending"] for place in LEVELS)
        if leased:
            raise QueueBusyError(queue, leased)
        for place in reversed(places.PLACES):
            try:
                await self._office.jetstream.api(f"STREAM.DELETE.{self._office.names.stream(queue, place)}")
            except JetStreamError as exc:
                if exc.number != NO_STREAM:
                    raise
        self._office.forgotten(queue)
        await self._results.forget(queue)
        await marks.forget_marks(self._records, queue)

    @override
    async def pause(self, queue: str) -> None:
        raise self._unsupported("pausing queues")

    @override
    async def resume(self, queue: str) -> None:
        raise self._unsupported("pausing queues")

    @override
    async def stats(self, queue: str) -> QueueStats:
        return await self._looker.stats(queue)

    # ------------------------------------------------------------------------------------------- a message's life

    @override
    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        return await self._publisher.publish(batch, self._capabilities.engine)

    @override
    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        return await self._intake.lease(queues, limit, lease_for, owner=owner, wait=wait)

    @override
    async def extend(self, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
        asked = trio.current_time()
        # An extension is worth something only if the server can be told that we live.
        await self._office.jetstream.connection()
        await trio.lowlevel.checkpoint()
        now = self._office.clock.now()
        replies = [self._office.book.extend(ref, now + lease_for, now) for ref in refs]
        return [Extension(reply, None, asked + lease_for if reply is Reply.APPLIED else 0.0) for reply in replies]

    @override
    async def settle(self, batch: Sequence[Settlement], *, then: Sequence[Publication] = ()) -> list[Reply]:
        await self._office.jetstream.connection()
        await trio.lowlevel.checkpoint()
        return await self._settler.settle(batch, then, self._capabilities.engine)

    @override
    async def cancel(self, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
        if not ids:
            await trio.lowlevel.checkpoint()
            return []
        raise self._unsupported("cancelling messages")

    @override
    async def requeue(self, queue: str, ids: Sequence[str] | None = None, *, limit: int = 1000) -> int:
        await self._office.require(queue)
        return await self._graves.requeue(queue, ids, limit)

    @override
    async def purge(
        self, queue: str, states: Sequence[State], ids: Sequence[str] | None = None, *, limit: int = 1000
    ) -> int:
        await self._office.require(queue)
        purged = 0
        if State.DEAD in states:
            purged += await self._graves.purge(queue, ids, limit)
        waiting = frozenset(states) & {State.READY, State.SCHEDULED}
        if waiting and ids is None:
            purged += await self._remover.purge(queue, waiting, limit - purged)
        elif waiting and ids:
            raise UnsupportedError("purging by id what waits", self._capabilities.engine)
        return purged

    @override
    async def fire(self, firings: Sequence[Firing]) -> list[Published]:
        return await marks.fire(self, self._records, firings)

    @override
    async def marks(self, queue: str) -> dict[str, float]:
        await self._office.jetstream.connection()
        return await marks.marks(self._records, queue)

    # --------------------------------------------------------------------------------------------------- looking

    @override
    async def get(self, queue: str, id: str) -> MessageView | None:
        raise self._unsupported("looking at messages")

    @override
    async def peek(self, queue: str, state: State, *, limit: int = 100, after: Cursor | None = None) -> Page:
        await self._office.require(queue)
        if state is not State.DEAD:
            raise self._unsupported("looking at messages that are not dead")
        return await self._graves.peek(queue, limit, after)

    @override
    async def result(self, queue: str, id: str, *, wait: float = 0.0) -> Ending | Absent:
        return await self._looker.result(queue, id, wait)

    # ---------------------------------------------------------------------------------------------------- owners

    @override
    async def held(self, owner: str) -> list[Ref]:
        await trio.lowlevel.checkpoint()
        return [lease.ref for lease in self._office.book.held(owner, self._office.clock.now())]

    @override
    async def expire_owner(self, owner: str) -> int:
        await trio.lowlevel.checkpoint()
        now = self._office.clock.now()
        leases = [lease for lease in self._office.book.held(owner, now) if not lease.busy]
        for lease in leases:
            self._office.book.crash(lease, now)
        await self._keeper.crash()
        return len(leases)

    @override
    async def reap(self, *, limit: int = 1000) -> int:
        done = await self._keeper.crash()
        return done + await self._records.sweep(min(limit, 100))

    # --------------------------------------------------------------------------------------------------- closing

    def closing(self) -> None:
        """Begin nothing more; what comes to nobody from now on waits for :meth:`part_from`."""
        self._intake.closing()

    async def part_from(self, connection: NatsConnection) -> None:
        """Give back over a connection that is to be closed what nobody has leased.

        Leases that are still held are left to the server, which counts them as crashes when it takes them back.
        """
        await self._intake.part_from(connection)
