"""Returning: what was handed to a session and came to nobody goes back at once.

But not what a server handed out before it was killed: it may have forgotten that, and handed the same to somebody who
works on it now.  If it has not, it takes the message back by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, final

import trio

from trepid.brokers.nats.office import Office
from trepid.brokers.nats.parcel import Parcel
from trepid.brokers.nats.sorting import put_down
from trepid.errors import BrokerFullError, BrokerLostError, TrepidError
from trepid.wire.nats.connection import NatsConnection

_AGAIN: Final = 0.1


@final
class Returns:
    """Gives back what came to nobody."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._parcels: list[Parcel] = []
        self._closing = False

    def add(self, parcel: Parcel) -> None:
        """A parcel has come to nobody; but if somebody here holds it already, it stays there."""
        if self._office.holds(parcel):
            return
        self._parcels.append(parcel)
        if not self._closing and len(self._parcels) == 1:
            self._office.nursery.start_soon(self._give_back, name="give back messages of nobody")

    async def _give_back(self) -> None:
        """Let them wait again, uncounted.  What cannot be given back, the server takes back."""
        # Whoever is cancelled puts down one parcel after the other, all before the next checkpoint.
        await trio.lowlevel.checkpoint()
        parcels, self._parcels = self._parcels, []
        try:
            # After that the server has surely taken them back.
            with trio.move_on_after(2 * self._office.topology.ack_wait):
                await self._put_down(parcels)
        except BaseException:
            # The session closes: that is done once more on its way out, which harms nobody.
            self._parcels += parcels
            raise

    async def _put_down(self, parcels: Sequence[Parcel]) -> None:
        now = self._office.clock.now()
        while True:
            try:
                server = (await self._office.jetstream.connection()).server
                known = [parcel for parcel in parcels if parcel.server == server]
                await self._office.mover.carry_out([put_down(parcel, now) for parcel in known])
            except BrokerLostError:
                await trio.sleep(_AGAIN)
            except TrepidError:
                return
            else:
                return

    def closing(self) -> None:
        """Start no more tasks."""
        self._closing = True

    async def part_from(self, connection: NatsConnection) -> None:
        """Let nothing more come over a connection that is to be closed, and give back what has; no questions asked."""
        try:
            await connection.deafen()
            for parcel in self._parcels:
                if parcel.ours and parcel.server == connection.server:
                    with suppress(BrokerFullError):  # the server takes this one back, and the rest goes back at once
                        copy = self._office.mover.question(
                            put_down(parcel, self._office.clock.now()), connection.largest
                        )
                        connection.say(copy.subject, copy.payload, raw=copy.raw)
            await connection.round_trip()
        except BrokerLostError:
            return
