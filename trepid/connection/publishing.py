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

from trepid.connection.following import Step
from trepid.connection.handle import JobHandle
from trepid.connection.patience import Patience
from trepid.errors import (
    PayloadTooLargeError,
    QueueFullError,
    UniqueConflictError,
    UnknownQueueError,
    UnsupportedError,
)
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import Publication
from trepid.rules.publishing import Published, Publishing
from trepid.values import codec, envelope
from trepid.values.actor import Actor
from trepid.values.chains import follow_up_id
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
          TypeError: if it is none, or waits for the result of another one.
          UnsupportedError: if its actor has limits, and the engine keeps none; if it is a chain, and the engine knows
            no repeated publish again; or if a follow-up wants what it lacks.
          PayloadTooLargeError: if it is a chain that has no room left for what it is called.
        """
        if not isinstance(job, Job):
            hint = "; write trepid.Actor(fn).job(...)" if callable(job) else ""
            hint = "; write actor.job(...)" if isinstance(job, Actor) else hint
            raise TypeError(f"only jobs can be enqueued, not {job!r}{hint}")
        if job.awaits_previous:
            raise TypeError(f"job {job.name!r} wants a previous result, and comes first; write first_job.then(...)")
        if job.gate is not None and not self.session.capabilities.limits:
            raise UnsupportedError("limits of actors", self.session.capabilities.engine)
        number: int = next(self._numbers)
        id = job.id or f"{self._name}-{number:x}"
        return Publication(
            job.queue.name,
            id,
            (self._name, number),
            job.payload if not job.follow_ups else self._chained(job, id),
            int(Priority.MEDIUM if job.priority is None else job.priority),
            job.delay,
            None if job.deferred_until is None else job.deferred_until.timestamp(),
            job.ttl,
            job.unique,
            job.result_ttl,
            job.max_crashes,
            job.gate,
        )

    def _chained(self, job: Job[Any], id: str) -> bytes:
        """Return the payload of a chain: with its name, and with a publish token for each follow-up."""
        if self.session.capabilities.deduplication == "none":
            # A worker that dies between publishing a follow-up and settling its step would leave the follow-up twice.
            hint = 'name a second engine, which knows them again: open_connection(..., results="redis://...")'
            raise UnsupportedError("chains", self.session.capabilities.engine, hint)
        refuse_unsupported(self.session.capabilities, job.follow_ups)
        first, *_ = [next(self._numbers) for _ in job.follow_ups]
        place = envelope.Chain(id, 1, 1 + len(job.follow_ups), (self._name, first))
        payload = envelope.chained(job.payload, place)
        if len(payload) > codec.LARGEST:
            raise PayloadTooLargeError(len(payload), codec.LARGEST)
        return payload

    async def check_queues(self, jobs: Sequence[Job[Any]]) -> None:
        """Look whether the queues of all follow-ups are there, so that no chain breaks for want of one.

        Raises:
          UnknownQueueError: if one is not.
          BrokerLostError, BrokerBusyError: as :class:`Patience` says.
        """
        declared = await self.patience.repeat("queues", self.session.queues)
        for step in (step for job in jobs for step in job.follow_ups):
            if step.queue.name not in declared:
                raise UnknownQueueError(step.queue.name)

    async def publish(self, items: Sequence[Publication], *, wait: bool) -> list[Published]:
        """Store messages, all or none; with *wait*, once their queues have room for them.

        Raises:
          UnknownQueueError, UniqueConflictError: if they cannot be stored.
          QueueFullError: if there is no room, and nobody waits; or if there never will be for so many at once.
          BrokerLostError, BrokerBusyError: as :class:`Patience` says.

        Cancellation: as that of the port; while a queue is full, nothing is under way.
        """
        what = f"job {items[0].id}" if len(items) == 1 else f"a batch of {len(items)} jobs"
        pause = _FIRST_LOOK
        was_empty: str | None = None
        while True:
            replies = await self.patience.publish(what, self.session, partial(self.session.publish, items))
            try:
                refuse(items, replies)
            except QueueFullError as exc:
                if not wait:
                    raise
                full = exc
            else:
                return replies
            # A queue has room for one, sooner or later; others may just be quicker.
            if sum(item.queue == full.queue for item in items) > 1:
                live = (await self.patience.repeat("stats", partial(self.session.stats, full.queue))).live
                if not live and was_empty == full.queue:
                    raise full  # so many have no room even where nothing is
                was_empty = None if live else full.queue
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)

    def handle(self, job: Job[T], item: Publication, published: Published) -> JobHandle[T]:
        """Return the handle of a message that was stored, or found; of a chain, that of its last message.

        A chain that was found is taken to be the same one.
        """
        steps = _steps(job, item.queue, published.id) if job.follow_ups else ()
        return JobHandle(
            self.session,
            steps[-1].queue if steps else item.queue,
            steps[-1].id if steps else published.id,
            published.outcome is Publishing.EXISTING,
            read_result=job.read_result,
            patience=self.patience,
            steps=steps,
        )


def _steps(job: Job[Any], queue: str, id: str) -> tuple[Step, ...]:
    of = 1 + len(job.follow_ups)
    first = Step(queue, id, 1, of, job.name)
    later = enumerate(job.follow_ups, 1)
    return (first, *(Step(each.queue.name, follow_up_id(id, n), n + 1, of, each.name) for n, each in later))


def refuse_chain(job: Job[Any], where: str) -> None:
    """Raise TypeError if *job* is a chain, and only single jobs may be enqueued *where*."""
    if job.follow_ups:
        raise TypeError(
            f"{where} takes single jobs, and {job.name!r} has {len(job.follow_ups)} follow-up(s); "
            "await one after the other instead"
        )


def refuse_unsupported(capabilities: Capabilities, jobs: Sequence[Job[Any]]) -> None:
    """Raise UnsupportedError if the engine could not store one of these jobs when its time has come."""
    for job in jobs:
        wanted = {
            "unique keys": job.unique is None or capabilities.unique,
            "unique keys that outlive their job": job.unique is None or not job.unique.for_ or capabilities.holds,
            "ttl": job.ttl is None or capabilities.ttl,
            "limits of actors": job.gate is None or capabilities.limits,
            "delays": (job.delay is None and job.deferred_until is None) or capabilities.delay != "none",
        }
        for feature, there in wanted.items():
            if not there:
                raise UnsupportedError(f"{feature}, as job {job.name!r} wants", capabilities.engine)


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
