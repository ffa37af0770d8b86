"""Looking: counts, and how messages ended."""

from __future__ import annotations

from typing import Any, Final, final

import trio

from trepid.brokers.nats import letter as letters
from trepid.brokers.nats import names as places
from trepid.brokers.nats.jetstream import NO_CONSUMER, NO_STREAM, JetStreamError, last_of, next_of
from trepid.brokers.nats.names import LEVELS
from trepid.brokers.nats.office import Office
from trepid.brokers.nats.results import Results, last_end
from trepid.errors import UnknownQueueError
from trepid.ports.messages import Absent, Ending, QueueStats
from trepid.rules.life import State

_LOOK_AGAIN: Final = 2.0
"""Seconds after which who waits for a result looks, although nobody has called it out."""


@final
class Looker:
    """Looks at queues."""

    def __init__(self, office: Office, results: Results) -> None:
        self._office = office
        self._results = results

    async def consumers(self, queue: str) -> dict[str, dict[str, Any]]:
        """Return what the server knows of the consumers of a queue.

        Raises:
          UnknownQueueError: if it was never declared.
        """
        names, infos = self._office.names, dict[str, dict[str, Any]]()
        for place in places.PLACES:
            stream = names.stream(queue, place)
            operation = f"STREAM.INFO.{stream}" if place == places.DEAD else f"CONSUMER.INFO.{stream}.{place}"
            try:
                infos[place] = await self._office.jetstream.api(operation)
            except JetStreamError as exc:
                if exc.number not in (NO_STREAM, NO_CONSUMER):
                    raise
                self._office.forgotten(queue)
                raise UnknownQueueError(queue) from None
        return infos

    async def stats(self, queue: str) -> QueueStats:
        """Count the messages of a queue, about: what waits for a near retry is counted as leased."""
        infos = await self.consumers(queue)
        later = infos[places.LATER]
        return QueueStats(
            queue,
            ready=sum(infos[place]["num_pending"] for place in LEVELS),
            scheduled=later["num_pending"] + later["num_ack_pending"],
            leased=sum(infos[place]["num_ack_pending"] for place in LEVELS),
            dead=infos[places.DEAD]["state"]["messages"],
            oldest_ready=await self._oldest(queue, infos),
        )

    async def _oldest(self, queue: str, infos: dict[str, dict[str, Any]]) -> float | None:
        """Return for how long the oldest message that nobody was handed has been due."""
        names = self._office.names
        questions = [
            next_of(
                names.stream(queue, place), names.subjects(queue, place), infos[place]["delivered"]["stream_seq"] + 1
            )
            for place in LEVELS
        ]
        now = self._office.clock.now()
        found = [
            letter
            for box in await self._office.jetstream.look_all(questions)
            if box is not None and (letter := letters.read(box.message)) is not None
        ]
        ages = [now - letter.due for letter in found if letter.due <= now]
        return max(ages, default=None)

    async def result(self, queue: str, id: str, wait: float) -> Ending | Absent:
        """Return how a message ended; see :meth:`Session.result`.

        The end is called out where who waits listens; a look now and then is the safety net.
        """
        deadline = trio.current_time() + wait
        connection = await self._office.jetstream.connection()
        over = trio.Event()

        def heard(_: object) -> None:
            over.set()

        sid = connection.subscribe(self._office.names.over(queue, id), heard) if wait > 0 else None
        try:
            while True:
                over = trio.Event()
                found = await self._look(queue, id)
                rest = deadline - trio.current_time()
                if found is not Absent.PENDING or rest <= 0:
                    return found
                with trio.move_on_after(min(rest, _LOOK_AGAIN)):
                    await over.wait()
                if connection.link.error is not None:
                    raise connection.link.gone()
        finally:
            if sid is not None:
                connection.unsubscribe(sid)

    async def _look(self, queue: str, id: str) -> Ending | Absent:
        names = self._office.names
        questions = [
            last_of(names.stream(queue, place), names.message(queue, place, id))
            for place in (places.LATER, *LEVELS, places.DEAD)
        ]
        # Twice, for a message may be between two places.
        for _ in range(2):
            found = await self._office.jetstream.look_all([*questions, *self._results.questions(queue, id)])
            *live, dead = found[: len(questions)]
            # A copy that has ended, and is there again because the server was killed, has ended all the same.
            if max((box.stamp for box in live if box is not None), default=0) > last_end(found[len(live) :]):
                return Absent.PENDING
            latest = self._results.latest(found[len(questions) :])
            letter = None if dead is None else letters.read(dead.message)
            if letter is not None and (latest is None or letter.of > latest[0].stamp):
                error = letter.errors[-1] if letter.errors else None
                return Ending(State.DEAD, error=error, reason=letter.reason)
            if latest is not None:
                return latest[1]
        return Absent.GONE
