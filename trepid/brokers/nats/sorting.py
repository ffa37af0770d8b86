"""Sorting: what is to become of a message that was just handed out, as the rules have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, final

from msgspec.structs import replace

from trepid.brokers.nats import names as places
from trepid.brokers.nats.letter import Letter
from trepid.brokers.nats.moving import Move, due_now, given_back, parked
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.parcel import Parcel, not_before
from trepid.brokers.nats.results import Results
from trepid.rules import lifecycle
from trepid.rules.life import DEAD, READY, Life

_NEAR: Final = 5.0
"""Seconds.  What is due sooner waits where it is; the rest is parked out of the way."""
_AGAIN: Final = 1.0
"""Seconds after which a due message is tried again whose id another live message holds."""


class Sorted(NamedTuple):
    """What to do with a parcel; exactly one of these is there.

    Attributes:
      life: of a message that can be leased now.
      move: what it is to be replaced by.
      wait: seconds for which the server shall keep it.
    """

    life: Life | None = None
    move: Move | None = None
    wait: float | None = None


def sort(parcel: Parcel, now: float) -> Sorted:
    """Decide about a parcel."""
    letter = parcel.letter
    if not parcel.ours:
        return Sorted(move=buried(parcel, replace(letter, ended=now, reason="undecodable", how="undecodable")))
    if letter.waits:
        if now >= letter.due:
            return Sorted(move=due_now(parcel))
        if letter.due - now > _NEAR and parcel.place != places.LATER:
            return Sorted(move=parked(parcel))
        return Sorted(wait=letter.due - now)
    life = letter.life(parcel.stamp)
    if parcel.deliveries > 1:
        # Each copy is leased once at most, so whoever was given it before is gone.
        return Sorted(move=crashed(parcel, now))
    life = lifecycle.elapse(life, now)
    if life.state is DEAD:
        return Sorted(move=buried(parcel, letter.after(life, "expired", now)))
    assert life.state is READY
    return Sorted(life=life)


def crashed(parcel: Parcel, now: float) -> Move:
    """A message whose lease ended without a word comes back later, or never."""
    leased = lifecycle.take(parcel.letter.life(parcel.stamp), "?", now)
    life = lifecycle.elapse(leased, now)
    letter = parcel.letter.after(life, f"crash {parcel.deliveries}", now)
    return buried(parcel, letter) if life.state is DEAD else Move(parcel, letter, parcel.place)


def buried(parcel: Parcel, letter: Letter) -> Move:
    """A message that time has ended goes to the dead letters."""
    return Move(parcel, replace(letter, of=parcel.stamp), places.DEAD, f"dead:{parcel.stamp}")


def put_down(parcel: Parcel, now: float) -> Move:
    """A message that came to nobody goes back, uncounted, unless whoever had it before has crashed."""
    lost = parcel.deliveries > 1 and parcel.ours and not parcel.letter.waits
    return crashed(parcel, now) if lost else given_back(parcel)


@final
class Sorter:
    """Carries out what :func:`sort` decides."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._results = Results(office)

    async def sort_all(self, parcels: Sequence[Parcel]) -> tuple[list[tuple[Parcel, Life]], bool]:
        """Return what can be leased now, and whether anything was moved that may be leased in its new place.

        Raises:
          BrokerLostError: if the connection was lost; what was not moved comes again.
        """
        office, now = self._office, self._office.clock.now()
        ready: list[tuple[Parcel, Life]] = []
        moves: list[Move] = []
        connection = await office.jetstream.connection()
        # In the order in which they became due: the copies stand in the order in which they are stored.
        for parcel in sorted(parcels, key=lambda parcel: (parcel.letter.due, parcel.stamp)):
            if parcel.server != connection.server or office.holds(parcel):
                continue
            life, move, wait = sort(parcel, now)
            if life is not None:
                ready.append((parcel, life))
            elif move is not None:
                moves.append(move)
            elif wait is not None:
                connection.say(parcel.message.reply, not_before(wait))
        await self._end_again(moves)
        ready = await self._first(ready, moves)
        if moves:
            moved = await office.mover.carry_out(moves)
            for move, done in zip(moves, moved, strict=True):
                if not done and move.parcel.place == places.LATER:
                    connection.say(move.parcel.message.reply, not_before(_AGAIN))
                if done and (move.letter is None or move.place == places.DEAD):
                    connection.say(office.names.over(move.parcel.queue, move.parcel.letter.id))
        return ready, bool(moves)

    async def _end_again(self, moves: list[Move]) -> None:
        """Let those moves only delete whose messages had ended before somebody seemed to crash."""
        again = [
            number for number, move in enumerate(moves) if move.parcel.deliveries > 1 and not move.parcel.letter.waits
        ]
        if not again:
            return
        parcels = [moves[number].parcel for number in again]
        ended = await self._results.ended([(parcel.queue, parcel.letter.id, parcel.stamp) for parcel in parcels])
        for number, parcel, over in zip(again, parcels, ended, strict=True):
            if over:
                moves[number] = Move(parcel, None)

    async def _first(self, ready: list[tuple[Parcel, Life]], moves: list[Move]) -> list[tuple[Parcel, Life]]:
        """Return what is ready without follow-ups that were published before; those are only deleted, as *moves*.

        So are those that would become dead letters.  It is looked at here, not where they are published: a worker that
        was cut off may publish at any time, and the server does not know it again for ever.
        """
        doubtful = [parcel for parcel, _ in ready if parcel.letter.doubtful]
        buried = [
            number for number, move in enumerate(moves) if move.place == places.DEAD and move.parcel.letter.doubtful
        ]
        if not doubtful and not buried:
            return ready
        asked = [*doubtful, *(moves[number].parcel for number in buried)]
        repeated = await self._results.repeated([(parcel.queue, parcel.letter) for parcel in asked])
        gone = {id(parcel) for parcel, again in zip(asked, repeated, strict=True) if again}
        for number in buried:
            if id(moves[number].parcel) in gone:
                moves[number] = Move(moves[number].parcel, None)
        moves += [Move(parcel, None) for parcel in doubtful if id(parcel) in gone]
        return [each for each in ready if id(each[0]) not in gone]
