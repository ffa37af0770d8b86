"""Publishing: from jobs to messages, and from answers to handles or errors."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any, Final, final

import attrs
import trio
from typing_extensions import TypeVar

from trepid.connection.handle import JobHandle
from trepid.connection.patience import Patience
from trepid.errors import QueueFullError, UniqueConflictError, UnknownQueueError, UnsupportedError
from trepid.ports.broker import Session
from trepid.ports.messages import Publication
from trepid.rules.publishing import Published, Publishing
from trepid.values.actor import Actor
from trepid.values.job import Job
from trepid.values.queue import Priority

T = TypeVar("T", default=Any)

_FIRST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 1.0
"""Seconds between looks whether a full queue has room."""


@final
@attrs.define(eq=False)
class Publisher:
    """Turns the jobs of one connection into messages.

    A publish is named by who publishes and a number; generated ids are the same pair as text, and sort well.
    """

    session: Session
    patience: Patience
    _name: str = attrs.field(init=False, factory=lambda: secrets.token_hex(8))
    _numbers: Any = attrs.field(init=False, factory=lambda: count(1))

    def publication(self, job: object) -> Publication:
        """Return the message of a job, which has an id from now on.

        Raises:
          TypeError: if it is none.
          UnsupportedError: if its actor has limits, and the engine keeps none.
        """
        if not isinstance(job, Job):
            hint = "; write actor.job(...)" if isinstance(job, Actor) else ""
            raise TypeError(f"only jobs can be enqueued, not {job!r}{hint}")
        if job.gate is not None and not self.session.capabilities.limits:
            raise UnsupportedError("limits of actors", self.session.capabilities.engine)
        number: int = next(self._numbers)
        return Publication(
            job.queue.name,
            job.id or f"{self._name}-{number:x}",
            (self._name, number),
            job.payload,
            int(Priority.MEDIUM if job.priority is None else job.priority),
            job.delay,
            None if job.deferred_until is None else job.deferred_until.timestamp(),
            job.ttl,
            job.unique,
            job.result_ttl,
            job.max_crashes,
            job.gate,
        )

    async def publish(self, items: Sequence[Publication], *, wait: bool) -> list[Published]:
        """Store messages, all or none; with *wait*, once their queues have room for them.

        Raises:
          UnknownQueueError, QueueFullError, UniqueConflictError: if they cannot be stored.
          BrokerLostError, BrokerBusyError: as :class:`Patience` says.

        Cancellation: as that of the port; while a queue is full, nothing is under way.
        """
        what = f"job {items[0].id}" if len(items) == 1 else f"a batch of {len(items)} jobs"
        pause = _FIRST_LOOK
        while True:
            replies = await self.patience.publish(what, self.session, partial(self.session.publish, items))
            try:
                refuse(items, replies)
            except QueueFullError:
                if not wait:
                    raise
            else:
                return replies
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)

    def handle(self, job: Job[T], item: Publication, published: Published) -> JobHandle[T]:
        """Return the handle of a message that was stored, or found."""
        return JobHandle(
            self.session,
            item.queue,
            published.id,
            published.outcome is Publishing.EXISTING,
            read_result=job.read_result,
            patience=self.patience,
        )


def refuse(items: Sequence[Publication], replies: Sequence[Published]) -> None:
    """Raise what the answers to a publish mean, if it was refused."""
    for item, reply in zip(items, replies, strict=True):
        match reply.outcome:
            case Publishing.NO_QUEUE:
                raise UnknownQueueError(item.queue)
            case Publishing.CONFLICT:
                raise UniqueConflictError(item.unique.key if item.unique else "", item.queue, reply.id)
            case _:
                pass
    for item, reply in zip(items, replies, strict=True):
        if reply.outcome is Publishing.FULL:
            raise QueueFullError(item.queue)
