"""Moving: a message is replaced by a copy that says what became of it, and by nobody else.

A copy on the same subject, stored only if the message is still the last one there, replaces it in one step: the server
keeps one message per subject.  So each copy is leased at most once, its place in the stream proves the lease, and who
comes late finds another message there.

Where a copy lies in another place of the queue (a dead letter, what is far from due), it is stored first, and then the
message is deleted, if it is still there.  If not, somebody else was quicker: with the same move, to which the copy
belongs as well; or with another one, and then the copy is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

from msgspec.structs import replace

from trepid.brokers.nats import letter as letters
from trepid.brokers.nats import names as places
from trepid.brokers.nats.jetstream import (
    WRONG_LAST,
    JetStream,
    JetStreamError,
    Outcome,
    Stored,
    deleting,
    last_of,
    storing,
)
from trepid.brokers.nats.letter import HEADER, Letter, written
from trepid.brokers.nats.names import Names
from trepid.brokers.nats.parcel import Parcel
from trepid.errors import BrokerFullError, BrokerLostError
from trepid.wire.nats.connection import NoRespondersError, Question


class Move(NamedTuple):
    """What is to become of a parcel.

    Attributes:
      parcel: which.
      letter: of the copy; None if there shall be none.
      place: where the copy is to lie.
      id: by which the server recognises a repetition of this very move.
    """

    parcel: Parcel
    letter: Letter | None
    place: str = ""
    id: str | None = None

    @property
    def in_place(self) -> bool:
        """Whether the copy replaces the message in one step."""
        return self.letter is not None and self.place == self.parcel.place


@final
class Mover:
    """Carries out moves, many at once."""

    def __init__(self, jetstream: JetStream, names: Names) -> None:
        self._jetstream = jetstream
        self._names = names

    def question(self, move: Move, largest: int) -> Question:
        """Return what stores the copy of a move; see :meth:`copy`."""
        parcel, letter = move.parcel, move.letter
        assert letter is not None
        last = parcel.seq if move.in_place else None if move.place == places.DEAD else 0
        return self.copy(parcel.queue, move.place, letter, parcel.message.payload, largest, id=move.id, last=last)

    def copy(
        self, queue: str, place: str, letter: Letter, payload: bytes, largest: int, *, id: str | None, last: int | None
    ) -> Question:
        """Return what stores a copy, in *largest* bytes: the server hangs up on who sends more.

        Raises:
          BrokerFullError: if there is no room for it even without its history.
        """
        subject = self._names.message(queue, place, letter.id)
        said = written(letter)
        question = storing(subject, payload, {HEADER: said}, id=id, last=last)
        if question.size > largest:
            room = len(said.encode()) - (question.size - largest)
            question = storing(subject, payload, {HEADER: written(letter, room)}, id=id, last=last)
        if question.size > largest:
            text = f"message {letter.id!r} of queue {queue!r} needs {question.size:,} bytes"
            raise BrokerFullError(f"{text}, and the server has a max_payload of {largest:,}")
        return question

    async def carry_out(self, moves: Sequence[Move]) -> list[bool]:
        """Carry out moves, and return for each whether the message was still there to be moved.

        Raises:
          BrokerFullError, BrokerLostError: if some may have been carried out, and some not; repeating them is safe.
        """
        copies = [move for move in moves if move.letter is not None]
        largest = (await self._jetstream.connection()).largest
        questions = [self.question(move, largest) for move in copies]
        outcomes = dict(zip(map(id, copies), await self._jetstream.store_all(questions), strict=True))
        moved: list[bool] = []
        deletions: list[tuple[int, Move]] = []
        for number, move in enumerate(moves):
            outcome = outcomes.get(id(move))
            moved.append(await self._stored(move, outcome) if outcome is not None else True)
            if moved[-1] and not move.in_place:
                deletions.append((number, move))
        if deletions:
            questions = [
                deleting(self._names.stream(move.parcel.queue, move.parcel.place), move.parcel.seq)
                for _, move in deletions
            ]
            for (number, move), there in zip(deletions, await self._jetstream.delete_all(questions), strict=True):
                moved[number] = there
                outcome = outcomes.get(id(move))
                if not there and move.letter is not None and isinstance(outcome, Stored) and not outcome.duplicate:
                    await self.take_back(move.parcel.queue, move.letter, move.place, outcome)
        return moved

    async def _stored(self, move: Move, outcome: Outcome) -> bool:
        """Whether the copy of a move is there, now or since an earlier attempt."""
        if isinstance(outcome, Stored):
            return True
        if isinstance(outcome, NoRespondersError):
            raise BrokerLostError(f"the stream of queue {move.parcel.queue!r} does not answer")
        if not isinstance(outcome, JetStreamError) or outcome.number != WRONG_LAST:
            raise outcome
        return await self.is_there(move)

    async def is_there(self, move: Move) -> bool:
        """Whether the last message on a move's subject is the copy that this very move has made, or does without it.

        A publish that was delayed at first, and due when it was repeated, is there by itself.
        """
        assert move.letter is not None
        subject = self._names.message(move.parcel.queue, move.place, move.letter.id)
        (found,) = await self._jetstream.look_all([last_of(self._names.stream(move.parcel.queue, move.place), subject)])
        if found is None:
            return False
        there = letters.read(found.message)
        if there is None:
            return False
        first = None if move.in_place else move.parcel.letter.published
        return (there.of, there.how) == (move.letter.of, move.letter.how) or (
            first is not None and first == there.published
        )

    async def take_back(self, queue: str, letter: Letter, place: str, copy: Stored) -> None:
        """Delete the copy of a message that was gone when it was to be deleted, if the message lives on elsewhere.

        If not, whoever deleted it has found this copy, and relies on it.  (Or it was purged at this very moment; then
        it comes back.)
        """
        names = self._names
        questions = [
            last_of(names.stream(queue, each), names.message(queue, each, letter.id)) for each in places.PLACES
        ]
        for each, box in zip(places.PLACES, await self._jetstream.look_all(questions), strict=True):
            other = None if box is None or (each, box.seq) == (place, copy.seq) else letters.read(box.message)
            # What may be a repetition is deleted itself, if it is one, perhaps on account of this very copy.
            if other is not None and other.token == letter.token and not other.doubtful:
                await self._jetstream.delete_all([deleting(names.stream(queue, place), copy.seq)])
                return


def due_now(parcel: Parcel) -> Move:
    """A message that is due is replaced by one that can be leased.

    That of a publish itself is recognised by what it would have had there: a repetition, due by then, may be there.
    """
    letter = replace(parcel.letter, waits=False, of=parcel.stamp, how="due")
    return Move(parcel, letter, parcel.level, parcel.letter.published or f"due:{parcel.stamp}")


def parked(parcel: Parcel) -> Move:
    """A message that is far from due goes where it is in nobody's way."""
    letter = replace(parcel.letter, of=parcel.stamp, how="parked")
    return Move(parcel, letter, places.LATER, f"parked:{parcel.stamp}")


def given_back(parcel: Parcel) -> Move:
    """A message that was handed out and came to nobody waits again; it counts for nothing."""
    letter = replace(parcel.letter, of=parcel.stamp, how="given back")
    return Move(parcel, letter, parcel.place)
