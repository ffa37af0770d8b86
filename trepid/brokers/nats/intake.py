"""Intake: messages are pulled for who leases, and what comes to nobody is given back at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, final

import attrs
import trio

from trepid.brokers.nats.clerk import Clerk
from trepid.brokers.nats.keeping import Keeper
from trepid.brokers.nats.names import LEVELS
from trepid.brokers.nats.office import Held, Office
from trepid.brokers.nats.parcel import Parcel
from trepid.brokers.nats.pulling import Pull
from trepid.brokers.nats.returning import Returns
from trepid.brokers.nats.sorting import Sorter
from trepid.errors import BrokerLostError
from trepid.ports.messages import Delivery
from trepid.rules import lifecycle
from trepid.rules.life import Life
from trepid.wire.nats.connection import NatsConnection

_LONGEST_PULL: Final = 10.0
"""Seconds for which the server is asked to wait for a message; then it is asked again.

Whoever waits also looks again so often: for what nobody has told, for queues that are new, and after the clerks.
"""
_MOST: Final = 256
"""Messages that one request asks for."""
_UNWELL_PAUSE: Final = 0.1
_MOMENT: Final = 0.01


@final
@attrs.define(eq=False)
class _Caller:
    """Somebody who leases.

    Attributes:
      queues: from which.
      room: for how many more messages there is room.
      parcels: what has come for this caller.
      news: set when something came, or a pull ended badly.
    """

    queues: frozenset[str]
    room: int
    parcels: list[Parcel] = attrs.Factory(list)
    waiting: bool = False
    news: trio.Event = attrs.Factory(trio.Event)


@final
class Intake:
    """Hands out leases."""

    def __init__(self, office: Office, keeper: Keeper) -> None:
        self._office = office
        self._keeper = keeper
        self._sorter = Sorter(office)
        self._callers: list[_Caller] = []
        self._pulls: dict[tuple[str, str], Pull] = {}
        self._clerks: dict[str, Clerk] = {}
        self._turn = 0
        self._closing = False
        self._returns = Returns(office)

    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float
    ) -> list[Delivery]:
        """Lease messages; see :meth:`Session.lease`.

        Cancellation: nothing is leased; what had come is given back.
        """
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit}")
        asked = trio.current_time()
        self._turn += 1
        caller = _Caller(frozenset(queues), limit)
        known = await self._attended(queues)
        self._callers.append(caller)
        ready: list[tuple[Parcel, Life]] = []
        try:
            while True:
                # Who was woken by a message gets that at once; whatever else there may be is for the next call.
                ready = await self._gathered(caller, () if caller.parcels else known)
                rest = asked + wait - trio.current_time()
                if not ready and wait <= 0:
                    # A server may say that there is nothing just after it has confirmed a message.
                    ready = await self._gathered(caller, known, patience=_MOMENT)
                if ready or rest <= 0:
                    break
                await self._wait(caller, known, min(rest, _LONGEST_PULL))
                if not caller.parcels:
                    # What comes meanwhile is nobody's lease yet, so it does not wait for a new clerk for long.
                    with trio.move_on_after(self._office.topology.ack_wait / 3):
                        known = await self._attended(queues)
        except BaseException:
            self._leave(caller)
            raise
        self._leave(caller)
        return self._granted(ready, owner, lease_for, asked)

    async def _attended(self, queues: Sequence[str]) -> list[str]:
        """Return those queues that are there, beginning with whose turn it is, once what is due in them can be seen."""
        unknown = await self._office.unknown(set(queues))
        known = [queue for queue in dict.fromkeys(queues) if queue not in unknown]
        for queue in known:
            await self._clerk(queue).caught_up()
        turn = self._turn % len(known) if known else 0
        return known[turn:] + known[:turn]

    def _granted(
        self, ready: Sequence[tuple[Parcel, Life]], owner: str, lease_for: float, asked: float
    ) -> list[Delivery]:
        office, now = self._office, self._office.clock.now()
        deliveries: list[Delivery] = []
        for parcel, life in ready:
            leased = lifecycle.take(life, owner, now + lease_for)
            office.book.open(parcel.queue, parcel.letter.id, leased, Held(parcel.checked()))
            deliveries.append(
                parcel.letter.delivery(parcel.queue, parcel.message.payload, leased, now, asked + lease_for)
            )
        if deliveries:
            self._keeper.noted()
        return deliveries

    # --------------------------------------------------------------------------------------- what is there

    async def _gathered(
        self, caller: _Caller, queues: Sequence[str], patience: float | None = None
    ) -> list[tuple[Parcel, Life]]:
        """Return what can be leased now: the most urgent first, queue by queue."""
        ready: list[tuple[Parcel, Life]] = []
        taken: list[Parcel] = []
        try:
            give_up = trio.current_time() + self._office.topology.ack_wait / 3
            for queue, place in itertools.product(queues, LEVELS):
                await self._drain(caller, queue, place, ready, patience)
                # The server takes back what is nobody's lease, so that does not wait for the rest for long.
                if (ready or caller.parcels) and trio.current_time() > give_up:
                    break
            while caller.parcels:
                taken, caller.parcels = caller.parcels, []
                leasable, _ = await self._sorter.sort_all(taken)
                ready += leasable
                caller.room += len(taken) - len(leasable)
            fresh = await self._fresh(ready) if ready else []
        except BaseException:
            for parcel in {*taken, *(parcel for parcel, _ in ready)}:
                self._arrived(parcel)
            raise
        caller.room += len(ready) - len(fresh)
        return fresh

    async def _fresh(self, ready: Sequence[tuple[Parcel, Life]]) -> list[tuple[Parcel, Life]]:
        """Return what the server itself has handed out, and not one that was killed while more was asked for."""
        server = (await self._office.jetstream.connection()).server
        return [each for each in ready if each[0].server == server]

    async def _drain(
        self, caller: _Caller, queue: str, place: str, ready: list[tuple[Parcel, Life]], patience: float | None
    ) -> None:
        """Take what is there of one level, as long as there is room."""
        while caller.room > 0:
            pull = await self._pull(queue, place, min(caller.room, _MOST), None if ready else patience)
            asked = min(caller.room, _MOST)
            caller.room -= asked
            try:
                parcels = await pull.wait()
            except BaseException:
                pull.abandon(self._arrived)
                raise
            finally:
                caller.room += asked
            if pull.unwell:
                for parcel in parcels:
                    self._arrived(parcel)
                self._office.forgotten(queue)
                if not await self._office.unknown({queue}):
                    raise BrokerLostError(f"queue {queue!r}: JetStream does not answer")
                return
            try:
                leasable, moved = await self._sorter.sort_all(parcels)
            except BaseException:
                for parcel in parcels:
                    self._arrived(parcel)
                raise
            ready += leasable
            caller.room -= len(leasable)
            if len(parcels) < asked and not moved:
                return

    async def _pull(self, queue: str, place: str, batch: int, patience: float | None) -> Pull:
        office = self._office
        connection, stream = await office.jetstream.connection(), office.names.stream(queue, place)
        return Pull(connection, stream, queue, place, batch, now=office.clock.now, wait=patience, at_once=True)

    # ------------------------------------------------------------------------------------------ what comes

    async def _wait(self, caller: _Caller, queues: Sequence[str], rest: float) -> None:
        """Wait until something has come for a caller, or the time is over."""
        connection = await self._office.jetstream.connection()
        caller.news = trio.Event()
        caller.waiting = True
        try:
            with trio.move_on_after(rest):
                if not queues:
                    await trio.sleep_forever()
                for queue in queues:
                    for place in LEVELS:
                        self._expect(queue, place, rest)
                if not caller.parcels:
                    await caller.news.wait()
        finally:
            caller.waiting = False
        if connection.link.error is not None:
            raise connection.link.gone()
        if not caller.parcels and any(self._ailing(queue) for queue in queues):
            await trio.sleep(min(_UNWELL_PAUSE, rest))
            for queue in queues:
                self._office.forgotten(queue)
            if await self._office.unknown(set(queues)) == set(queues):
                # All were deleted: there is nothing to wait for.
                await trio.sleep(max(0.0, rest - _UNWELL_PAUSE))

    def _expect(self, queue: str, place: str, rest: float) -> None:
        """See to it that the server is asked for what comes to a queue, as long as somebody waits for it."""
        pull = self._pulls.get((queue, place))
        connection = self._office.jetstream.current
        if connection is None or (pull is not None and not pull.over and not pull.overdue):
            return
        if pull is not None and not pull.over:
            self._office.nursery.start_soon(pull.withdraw, name=f"withdraw a request for {place} of {queue}")
        self._pulls[queue, place] = Pull(
            connection,
            self._office.names.stream(queue, place),
            queue,
            place,
            max(1, min(_MOST, sum(1 for each in self._callers if each.waiting and queue in each.queues))),
            now=self._office.clock.now,
            wait=min(rest, _LONGEST_PULL),
            arrived=self._arrived,
            ended=self._ended,
        )

    def _ended(self, pull: Pull) -> None:
        """A pull that waited has ended: another one follows while somebody waits."""
        waiting = [each for each in self._callers if each.waiting and pull.queue in each.queues]
        if not waiting or self._closing:
            return
        if pull.unwell or pull.lost:
            for each in waiting:
                each.news.set()
            return
        self._expect(pull.queue, pull.place, _LONGEST_PULL)

    def _ailing(self, queue: str) -> bool:
        return any((pull := self._pulls.get((queue, place))) is not None and pull.unwell for place in LEVELS)

    def _arrived(self, parcel: Parcel) -> bool:
        """A parcel has come: it goes to who has waited longest, or back."""
        for caller in self._callers:
            if caller.room > 0 and parcel.queue in caller.queues:
                caller.parcels.append(parcel)
                caller.room -= 1
                caller.news.set()
                return True
        self._returns.add(parcel)
        return True

    def _leave(self, caller: _Caller) -> None:
        self._callers.remove(caller)
        parcels, caller.parcels = caller.parcels, []
        for parcel in parcels:
            self._arrived(parcel)

    # ------------------------------------------------------------------------------------------- the clerks

    def _clerk(self, queue: str) -> Clerk:
        clerk = self._clerks.get(queue)
        if clerk is None or clerk.gone:
            clerk = self._clerks[queue] = Clerk(self._office, self._sorter, queue)
            self._office.nursery.start_soon(clerk.run, name=f"clerk of {queue}")
        clerk.touch()
        return clerk

    def closing(self) -> None:
        """Ask for nothing more; what comes all the same is given back with the rest."""
        self._closing = True
        self._returns.closing()

    async def part_from(self, connection: NatsConnection) -> None:
        """Let nothing more come over a connection, and give back what has come to nobody; no questions asked."""
        for pull in self._pulls.values():
            pull.abandon(self._arrived)
        await self._returns.part_from(connection)
