"""Dead letters: they lie on subjects of their own in the stream of their queue, and nobody is handed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from msgspec.structs import replace

from trepid.brokers.nats import letter as letters
from trepid.brokers.nats import names as places
from trepid.brokers.nats.jetstream import (
    WRONG_LAST,
    JetStreamError,
    Letterbox,
    Stored,
    deleting,
    last_of,
    next_of,
)
from trepid.brokers.nats.letter import Letter
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.results import Results
from trepid.errors import BrokerLostError
from trepid.ports.messages import Cursor, MessageView, Page
from trepid.rules import lifecycle
from trepid.rules.life import State
from trepid.wire.nats.connection import NoRespondersError

_ALL: Final = 1 << 53


@final
class Graves:
    """Looks after dead letters."""

    def __init__(self, office: Office, results: Results) -> None:
        self._office = office
        self._results = results

    async def find(self, queue: str, ids: Sequence[str]) -> list[tuple[Letter, Letterbox]]:
        """Return the dead letters with these ids."""
        names = self._office.names
        questions = [
            last_of(names.stream(queue, places.DEAD), names.message(queue, places.DEAD, id))
            for id in dict.fromkeys(ids)
        ]
        return _read(await self._office.jetstream.look_all(questions))

    async def some(self, queue: str, limit: int, start: int = 0) -> list[tuple[Letter, Letterbox]]:
        """Return the oldest dead letters from a place in the stream on."""
        names, found = self._office.names, list[tuple[Letter, Letterbox]]()
        subjects = names.subjects(queue, places.DEAD)
        while len(found) < limit:
            (box,) = await self._office.jetstream.look_all([next_of(names.stream(queue, places.DEAD), subjects, start)])
            if box is None:
                break
            found += _read([box])
            start = box.seq + 1
        return found

    async def peek(self, queue: str, limit: int, after: Cursor | None) -> Page:
        """Return some dead letters, oldest first."""
        found = await self.some(queue, limit + 1, 0 if after is None else after + 1)
        views = tuple(view(queue, letter, box) for letter, box in found[:limit])
        return Page(views, found[limit - 1][1].seq if len(found) > limit else None)

    async def requeue(self, queue: str, ids: Sequence[str] | None, limit: int) -> int:
        """Bring dead letters back; see :meth:`Session.requeue`.

        A copy is stored where it can be leased, and then the dead letter is deleted; what was done only by half is
        finished when it is repeated.
        """
        office = self._office
        found = await (self.some(queue, limit) if ids is None else self.find(queue, ids))
        came = 0
        for letter, box in found[:limit]:
            now = office.clock.now()
            life = lifecycle.requeue(letter.life(box.stamp), box.stamp, now)
            # It is checked: nobody shall take it for a repetition of its own dead letter.
            copy = replace(
                letter.after(life, "requeue", now),
                ended=None,
                reason=None,
                requeues=life.requeues,
                checked=letter.remembered,
            )
            level = places.level(letter.priority)
            stream, subject = office.names.stream(queue, level), office.names.message(queue, level, letter.id)
            largest = (await office.jetstream.connection()).largest
            question = office.mover.copy(
                queue, level, copy, box.message.payload, largest, id=f"requeue:{box.stamp}", last=0
            )
            (outcome,) = await office.jetstream.store_all([question])
            if isinstance(outcome, NoRespondersError):
                raise BrokerLostError(f"queue {queue!r}: JetStream does not answer")
            if isinstance(outcome, JetStreamError):
                if outcome.number != WRONG_LAST:
                    raise outcome
                if not await self._is_copy(stream, subject, box.stamp):
                    continue  # a live message has this id
            grave = deleting(office.names.stream(queue, places.DEAD), box.seq)
            (deleted,) = await office.jetstream.delete_all([grave])
            came += deleted
            if not deleted and isinstance(outcome, Stored) and not outcome.duplicate:
                # Somebody else has brought it back, with this copy or with an earlier one.
                await office.mover.take_back(queue, copy, level, outcome)
        return came

    async def _is_copy(self, stream: str, subject: str, stamp: int) -> bool:
        (found,) = await self._office.jetstream.look_all([last_of(stream, subject)])
        there = None if found is None else letters.read(found.message)
        return there is not None and (there.of, there.how) == (stamp, "requeue")

    async def purge(self, queue: str, ids: Sequence[str] | None, limit: int) -> int:
        """Forget dead letters; return how many."""
        found = await (self.some(queue, limit) if ids is None else self.find(queue, ids))
        stream = self._office.names.stream(queue, places.DEAD)
        await self._results.trace(queue, [letter for letter, _ in found[:limit] if letter.remembered])
        return sum(await self._office.jetstream.delete_all([deleting(stream, box.seq) for _, box in found[:limit]]))


def _read(boxes: Sequence[Letterbox | None]) -> list[tuple[Letter, Letterbox]]:
    return [(letter, box) for box in boxes if box is not None and (letter := letters.read(box.message)) is not None]


def view(queue: str, letter: Letter, box: Letterbox) -> MessageView:
    """Return a dead letter as it is shown."""
    life = letter.life(box.stamp)
    assert life.state is State.DEAD
    return MessageView.of(
        life,
        queue=queue,
        id=letter.id,
        priority=letter.priority,
        enqueued=letter.born,
        payload=box.message.payload,
        errors=letter.errors,
        unique=None,
    )
