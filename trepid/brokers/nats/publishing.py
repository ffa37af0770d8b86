"""Publishing: each message on a subject of its own, stored only if no other live one is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from trepid.brokers.nats import letter as letters
from trepid.brokers.nats import names as places
from trepid.brokers.nats.jetstream import WRONG_LAST, Outcome, Stored, deleting, last_of, storing
from trepid.brokers.nats.letter import HEADER, Letter, written
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.results import Results
from trepid.errors import BrokerLostError, PayloadTooLargeError, UnsupportedError
from trepid.ports.messages import Publication
from trepid.rules.publishing import Published, Publishing
from trepid.wire.nats.connection import NoRespondersError, Question

_ROOM: Final = 1024
"""Bytes that are left for what a message's copies have to say besides."""


def too_large(question: Question, largest: int) -> PayloadTooLargeError | None:
    """Return the error for a message that the server would not take, now or when it comes back, or None."""
    if question.size + _ROOM <= largest:
        return None
    return PayloadTooLargeError(len(question.payload), max(0, largest - len(question.raw) - _ROOM))


@final
class Publisher:
    """Stores new messages."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._results = Results(office)

    async def publish(self, batch: Sequence[Publication], engine: str) -> list[Published]:
        """Store messages; see :meth:`Session.publish`.

        Raises:
          UnsupportedError: if one has a unique key.
          PayloadTooLargeError: if one is larger than the server takes; nothing is stored then.
        """
        office = self._office
        if any(publication.unique is not None for publication in batch):
            raise UnsupportedError("unique keys", engine, "borrow them from another engine: open_connection(results=…)")
        unknown = await office.unknown({publication.queue for publication in batch})
        if unknown:
            return [_refused(publication, unknown) for publication in batch]
        if not batch:
            return []
        connection = await office.jetstream.connection()
        now = office.clock.now()
        questions = [self._question(publication, now) for publication in batch]
        for question in questions:
            if (error := too_large(question, connection.largest)) is not None:
                raise error
        outcomes = await office.jetstream.store_all(questions)
        return [
            await self._published(publication, question, outcome)
            for publication, question, outcome in zip(batch, questions, outcomes, strict=True)
        ]

    def _question(self, publication: Publication, now: float) -> Question:
        letter = Letter.of_publication(publication, now)
        place = places.LATER if letter.waits else places.level(publication.priority)
        return storing(
            self._office.names.message(publication.queue, place, publication.id),
            publication.payload,
            {HEADER: written(letter)},
            id=letter.published,
            last=0,
        )

    async def _published(self, publication: Publication, question: Question, outcome: Outcome) -> Published:
        if (answer := await self._answered(publication, outcome)) is not None:
            return answer
        office, id = self._office, publication.id
        place = question.subject.split(".")[1]
        stream = office.names.stream(publication.queue, place)
        (found,) = await office.jetstream.look_all([last_of(stream, question.subject)])
        if found is not None and (await self._results.ended([(publication.queue, id, found.stamp)]))[0]:
            await office.jetstream.delete_all([deleting(stream, found.seq)])
            found = None
        if found is None:
            # It has gone meanwhile, or was only left over.
            (again,) = await office.jetstream.store_all([question])
            if (answer := await self._answered(publication, again)) is not None:
                return answer
        there = None if found is None else letters.read(found.message)
        same = there is not None and tuple(there.token) == tuple(publication.token)
        return Published(Publishing.DUPLICATE if same else Publishing.EXISTING, id)

    async def _answered(self, publication: Publication, outcome: Outcome) -> Published | None:
        """Return the answer to a publish, or None if a message with its id was there."""
        office, queue = self._office, publication.queue
        if isinstance(outcome, Stored):
            return Published(Publishing.DUPLICATE if outcome.duplicate else Publishing.ACCEPTED, publication.id)
        if isinstance(outcome, NoRespondersError):
            office.forgotten(queue)
            if await office.unknown({queue}):
                return Published(Publishing.NO_QUEUE, publication.id)
            raise BrokerLostError(f"queue {queue!r}: JetStream does not answer")
        if outcome.number != WRONG_LAST:
            raise outcome
        return None


def _refused(publication: Publication, unknown: set[str]) -> Published:
    missing = publication.queue in unknown
    return Published(Publishing.NO_QUEUE if missing else Publishing.NOT_STORED, publication.id)
