"""The clerk of a queue: brings what has become due to where it is leased from.

The server keeps what is not due, and hands it out again when it is; there is a clerk in every session that leases from
the queue, and each message comes to one of them.
"""

from __future__ import annotations

from typing import Final, final

import trio

from trepid.brokers.nats.mending import mend_all
from trepid.brokers.nats.names import LATER
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.parcel import Parcel, not_before
from trepid.brokers.nats.pulling import Pull
from trepid.brokers.nats.sorting import Sorter
from trepid.errors import TrepidError

_BATCH: Final = 256
_LONGEST_PULL: Final = 10.0
_IDLE: Final = 30.0
"""Seconds without a lease after which there is nothing to do for a clerk."""


@final
class Clerk:
    """Looks after what is delayed in one queue, as long as somebody leases from it.

    Attributes:
      gone: whether it has ended; then somebody else is wanted.
    """

    def __init__(self, office: Office, sorter: Sorter, queue: str) -> None:
        self._office = office
        self._sorter = sorter
        self._queue = queue
        self._caught_up = trio.Event()
        self._wanted = 0.0
        self.gone = False

    def touch(self) -> None:
        """Somebody leases."""
        self._wanted = trio.current_time()

    async def caught_up(self) -> None:
        """Wait until everything that was due when the clerk began is where it can be leased."""
        await self._caught_up.wait()

    async def run(self) -> None:
        """Work until nobody leases any more, or something goes wrong: whoever leases next will say what."""
        try:
            await mend_all(await self._office.jetstream.connection(), self._office.names, self._queue)
            while await self._batch(None):
                pass
            self._caught_up.set()
            while trio.current_time() < self._wanted + _IDLE:
                await self._batch(_LONGEST_PULL)
        except TrepidError:
            return
        finally:
            self.gone = True
            self._caught_up.set()

    async def _batch(self, wait: float | None) -> bool:
        """Look after some messages; return whether there may be more."""
        office = self._office
        connection = await office.jetstream.connection()
        pull = Pull(
            connection,
            office.names.stream(self._queue, LATER),
            self._queue,
            LATER,
            _BATCH,
            now=office.clock.now,
            # Those that are due already come at once, and the request is answered when they have.
            wait=wait,
            at_once=True,
        )
        try:
            parcels = await pull.wait()
        except BaseException:
            pull.abandon(self._declined)
            raise
        if pull.unwell:
            self.gone = True
            self._wanted = -_IDLE
            return False
        await self._sorter.sort_all(parcels)
        return len(parcels) == _BATCH

    def _declined(self, parcel: Parcel) -> bool:
        """Leave a message to another clerk."""
        connection = self._office.jetstream.current
        if connection is not None and connection.link.error is None:
            connection.say(parcel.message.reply, not_before(parcel.letter.due - self._office.clock.now()))
        return True
