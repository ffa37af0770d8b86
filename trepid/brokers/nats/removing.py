"""Removing what waits: it is taken as a worker takes it, and so never from under one."""

from __future__ import annotations

from typing import Final, final

from trepid.brokers.nats import letter as letters
from trepid.brokers.nats.jetstream import deleting, next_of
from trepid.brokers.nats.names import LATER, LEVELS
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.parcel import Parcel, not_before
from trepid.brokers.nats.pulling import Pull
from trepid.brokers.nats.sorting import crashed
from trepid.rules.life import State

_BATCH: Final = 256


@final
class Remover:
    """Deletes messages that wait."""

    def __init__(self, office: Office) -> None:
        self._office = office

    async def purge(self, queue: str, states: frozenset[State], limit: int) -> int:
        """Delete up to so many messages in these states, ready or scheduled, and return how many there were."""
        purged = 0
        for place in LEVELS:
            purged += await self._taken(queue, place, states, limit - purged)
        for place in (LATER, *LEVELS):
            purged += await self._found(queue, place, states, limit - purged)
        return purged

    async def _taken(self, queue: str, place: str, states: frozenset[State], limit: int) -> int:
        """Take what can be leased from one level, and delete it."""
        office, purged = self._office, 0
        stream = office.names.stream(queue, place)
        while purged < limit and State.READY in states:
            asked = min(_BATCH, limit - purged)
            connection = await office.jetstream.connection()
            pull = Pull(connection, stream, queue, place, asked, now=office.clock.now)
            parcels = await pull.wait()
            now = office.clock.now()
            doomed: list[Parcel] = []
            lost: list[Parcel] = []
            for parcel in parcels:
                if office.holds(parcel):
                    continue
                if parcel.letter.waits:
                    # Whether it is purged, too, is decided by those who look at what is not due.
                    connection.say(parcel.message.reply, not_before(parcel.letter.due - now))
                elif parcel.deliveries > 1:
                    lost.append(parcel)  # its holder is gone
                else:
                    doomed.append(parcel)
            purged += sum(await office.jetstream.delete_all([deleting(stream, parcel.seq) for parcel in doomed]))
            await office.mover.carry_out([crashed(parcel, now) for parcel in lost])
            if not (doomed or lost):
                break
        return purged

    async def _found(self, queue: str, place: str, states: frozenset[State], limit: int) -> int:
        """Look for what is not leased from where it is, and delete it."""
        office = self._office
        stream, subjects = office.names.stream(queue, place), office.names.subjects(queue, place)
        purged = start = 0
        while purged < limit:
            (found,) = await office.jetstream.look_all([next_of(stream, subjects, start)])
            if found is None:
                break
            start = found.seq + 1
            letter = letters.read(found.message)
            if letter is None or not letter.waits:
                continue
            state = State.SCHEDULED if letter.due > office.clock.now() else State.READY
            if state in states:
                purged += sum(await office.jetstream.delete_all([deleting(stream, found.seq)]))
        return purged
