"""Keeping leases: the server is told that their holders live, and those that have run out are ended."""

from __future__ import annotations

from typing import Final, final

import trio

from trepid.brokers.leasebook import Lease
from trepid.brokers.nats.jetstream import at_place
from trepid.brokers.nats.moving import Move
from trepid.brokers.nats.names import DEAD
from trepid.brokers.nats.office import Held, Office
from trepid.brokers.nats.parcel import PROGRESS
from trepid.errors import TrepidError
from trepid.rules import lifecycle
from trepid.rules.life import DEAD as DEAD_STATE
from trepid.rules.life import Life

_BEATS: Final = 3
"""In the time after which the server takes a message back."""
_AGAIN: Final = 0.2


@final
class Keeper:
    """Keeps the leases of a session."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._beaten = 0.0
        self._earlier = trio.Event()
        self._freed = trio.Event()

    # -------------------------------------------------------------------------------------------- heartbeats

    async def beat(self) -> None:
        """Tell the server every few seconds which messages are worked on, and at once on a new connection."""
        office = self._office
        pause = office.topology.ack_wait / _BEATS
        seen: object = None
        self._beaten = trio.current_time()
        while True:
            connection = office.jetstream.current
            if connection is None:
                await office.jetstream.changed()
                continue
            if trio.current_time() > self._beaten + office.topology.ack_wait - pause:
                seen = None
            try:
                for lease in office.book.leases():
                    connection.say(lease.message.parcel.message.reply, PROGRESS)
                await connection.link.room()
                self._beaten = trio.current_time()
                if connection is not seen:
                    # The server may have taken messages back meanwhile, and somebody else may have them.  A stream
                    # that does not answer is asked again after the next beat: other leases depend on that.
                    with trio.move_on_after(pause):
                        await self._check()
                        seen = connection
            except TrepidError:
                if connection.link.error is not None:
                    await trio.lowlevel.checkpoint()
                    continue
            with trio.move_on_after(pause):
                await office.jetstream.changed()

    async def _check(self) -> None:
        """Give up the leases whose messages somebody else has replaced."""
        office = self._office
        # Who has begun to settle may have replaced the message itself; repeating that will tell.
        leases = [lease for lease in office.book.leases() if not lease.busy and not lease.message.tried]
        if not leases:
            return
        questions = [
            at_place(office.names.stream(lease.queue, lease.message.parcel.place), lease.message.parcel.seq)
            for lease in leases
        ]
        found = await office.jetstream.look_all(questions)
        for lease, there in zip(leases, found, strict=True):
            if there is None and not lease.busy:
                office.book.lose(lease)

    # ------------------------------------------------------------------------------------------------ expiry

    def noted(self) -> None:
        """A lease was opened, and may be the first to end."""
        self._earlier.set()

    async def expire(self) -> None:
        """End leases when they have run out, until cancelled."""
        office = self._office
        while True:
            self._earlier = trio.Event()
            end = office.book.next_end()
            if end is None:
                await self._earlier.wait()
                continue
            rest = end - office.clock.now()
            if rest > 0:
                with trio.move_on_after(rest):
                    await self._earlier.wait()
                continue
            try:
                await self.crash()
            except TrepidError:
                await trio.sleep(_AGAIN)

    async def crash(self) -> int:
        """Carry out the crashes of all leases that have run out; return how many there were.

        Raises:
          BrokerLostError: if the server cannot be reached; they are tried again.
        """
        office, now = self._office, self._office.clock.now()
        leases = office.book.expired(now)
        moves: list[Move] = []
        lives = [lifecycle.elapse(lease.life, now) for lease in leases]
        for lease, life in zip(leases, lives, strict=True):
            parcel = lease.message.parcel
            letter = parcel.letter.after(life, "crash", now)
            dead = life.state is DEAD_STATE
            moves.append(Move(parcel, letter, DEAD if dead else parcel.place, f"{office.name}:{parcel.stamp}:crash"))
        try:
            moved = await office.mover.carry_out(moves) if moves else []
        except BaseException:
            for lease in leases:
                lease.message.tried = True
                office.book.free(lease)
            self.release()
            raise
        for lease, life, there in zip(leases, lives, moved, strict=True):
            self._ended(lease, life, there=there or lease.message.tried)
        self.release()
        await trio.lowlevel.checkpoint()
        return len(leases)

    def _ended(self, lease: Lease[Held], life: Life, *, there: bool) -> None:
        if there:
            self._office.book.close(lease, life)
        else:
            self._office.book.lose(lease)
        connection = self._office.jetstream.current
        if connection is not None and life.state is DEAD_STATE and connection.link.error is None:
            connection.say(self._office.names.over(lease.queue, lease.id))

    # ------------------------------------------------------------------------------------------ busy leases

    def release(self) -> None:
        """Leases that were busy are so no more."""
        freed, self._freed = self._freed, trio.Event()
        freed.set()

    async def freed(self) -> None:
        """Wait until some lease that was busy is so no more."""
        await self._freed.wait()
