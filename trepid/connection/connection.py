"""The connection: how a program talks to a broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, final

import attrs
from typing_extensions import TypeVar

from trepid.connection.handle import JobHandle
from trepid.connection.pages import Messages
from trepid.connection.patience import Patience
from trepid.connection.publishing import Publisher, refuse
from trepid.connection.schedules import Schedules
from trepid.errors import UnsupportedError
from trepid.ports.broker import Broker, Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import QueueStats
from trepid.rules.gates import queue_limit
from trepid.rules.life import ENDED, READY, SCHEDULED, State
from trepid.values import codec
from trepid.values.actor import Actor
from trepid.values.job import Job
from trepid.values.names import checked_id
from trepid.values.queue import Queue, as_queue

T = TypeVar("T", default=Any)

_AT_ONCE: Final = 1000


@final
@attrs.define(eq=False)
class Connection(Schedules):
    """An open broker.  Made by :func:`open_connection`.

    Several tasks may use one connection at once, and any number of workers may run on it.  Every async method is a
    checkpoint.  Cancelled, it was not applied, if the capability ``certain_cancellation`` says so (memory, SQLite);
    elsewhere it may have been, and may be repeated.

    What the engine lacks raises UnsupportedError, which names it; :attr:`capabilities` says what that is.

    While the broker is away, what may be repeated waits for it: enqueuing, declaring, pausing and resuming, and all
    that only looks; ``trio.fail_after`` bounds it.  ``flush``, ``delete``, ``requeue``, ``purge`` and ``unschedule``
    raise BrokerLostError.
    """

    _broker: Broker
    session: Session = attrs.field(repr=False)
    """The broker port, for workers and for tools; programs hardly need it."""
    _patience: Patience = attrs.field(alias="patience", kw_only=True, repr=False, default=Patience(waits=False))
    publisher: Publisher = attrs.field(init=False, repr=False)
    """Who turns jobs into messages, for job nurseries and for tools."""

    def __attrs_post_init__(self) -> None:
        self.publisher = Publisher(self.session, self._patience)

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do, read from it when it was opened."""
        return self.session.capabilities

    # ---------------------------------------------------------------------------------------------------- queues

    async def declare(self, *queues: Queue | str) -> None:
        """Make queues exist, and give those their limits that come with any.

        Declaring again by name alone changes nothing.  A queue with settings has these from now on, and no others.

        Raises:
          UnsupportedError: if one has settings, and the engine keeps no limits; nothing was declared.
        """
        declared = [as_queue(queue) for queue in queues]
        limits = [queue_limit(queue) for queue in declared if queue.settled]
        if limits and not self.capabilities.limits:
            raise UnsupportedError("limits of queues", self.capabilities.engine)
        await self._patience.repeat("declare", partial(self.session.declare, [queue.name for queue in declared]))
        if limits:
            await self._patience.repeat("limit", partial(self.session.limit, limits))

    async def queues(self) -> list[str]:
        """Return the names of the declared queues, sorted."""
        return await self._patience.repeat("queues", self.session.queues)

    async def flush(self, queue: Queue | str) -> int:
        """Forget all messages that wait in a queue, and return how many.  Leased and ended ones stay.

        Raises:
          UnknownQueueError: if it was never declared.
        """
        return await self._purge(queue, (READY, SCHEDULED), None)

    async def delete(self, queue: Queue | str) -> None:
        """Remove a queue with everything in it.  Deleting one that is not there changes nothing.

        Raises:
          QueueBusyError: if a message of it is leased.
        """
        await self.session.delete(as_queue(queue).name)

    async def pause(self, queue: Queue | str) -> None:
        """Let no worker start anything from a queue until :meth:`resume`.  What runs goes on.

        Raises:
          UnknownQueueError: if it was never declared.
        """
        await self._patience.repeat("pause", partial(self.session.pause, as_queue(queue).name))

    async def resume(self, queue: Queue | str) -> None:
        """Undo :meth:`pause`.

        Raises:
          UnknownQueueError: if it was never declared.
        """
        await self._patience.repeat("resume", partial(self.session.resume, as_queue(queue).name))

    async def stats(self, queue: Queue | str = "default") -> QueueStats:
        """Count the messages of a queue by state.

        Raises:
          UnknownQueueError: if it was never declared.
        """
        return await self._patience.repeat("stats", partial(self.session.stats, as_queue(queue).name))

    # ------------------------------------------------------------------------------------------------- enqueuing

    async def enqueue(self, job: Job[T], *, wait: bool = True) -> JobHandle[T]:
        """Store a job's message; once this returns it is as safe as the engine promises.

        Of a chain, the first message is stored, and the handle is that of the last one.

        Cancelled where ``certain_cancellation`` is lacking, it may have been stored.  A job with an id of its own can
        be enqueued again where the engine has ``unique_ids``: if the first one is there, and has not ended, its handle
        comes back.

        Args:
          job: what to enqueue.
          wait: whether to wait for room where the queue has a ``max_size`` and is full.

        Raises:
          UnknownQueueError: if its queue, or that of a follow-up, was never declared; nothing was stored.
          QueueFullError: if its queue is full, and *wait* is false.
          UnsupportedError: if its actor has limits, and the engine keeps none.
          UniqueConflictError: if its unique key is held, and it said ``on_conflict="raise"``.
          BrokerLostError: if nobody waits for the broker, or if it was lost meanwhile and would not recognise the
            same message again; it says which.
        """
        item = self.publisher.publication(job)
        if job.follow_ups:
            await self.publisher.check_queues([job])
        [published] = await self.publisher.publish([item], wait=wait)
        return self.publisher.handle(job, item, published)

    async def enqueue_many(self, jobs: Iterable[Job[T]], *, wait: bool = True) -> list[JobHandle[T]]:
        """Store the messages of several jobs in one step: all of them, or none.

        Engines without the capability ``atomic_batches`` store them one by one: there, a loss may leave some of them.

        Args:
          jobs: what to enqueue.
          wait: whether to wait until every queue has room for all of them, where one has a ``max_size``.

        Raises:
          UnknownQueueError: if one of their queues was never declared.
          QueueFullError: if one of their queues has no room for all of them, and *wait* is false; or never will have,
            for there are more of them than its ``max_size``.
          UniqueConflictError: if a unique key is held, and its job said ``on_conflict="raise"``.
          BrokerLostError: as :meth:`enqueue` does.
        """
        listed = list(jobs)
        items = [self.publisher.publication(job) for job in listed]
        if any(job.follow_ups for job in listed):
            await self.publisher.check_queues(listed)
        replies = await self.publisher.publish(items, wait=wait)
        return [self.publisher.handle(*each) for each in zip(listed, items, replies, strict=True)]

    def enqueue_in(self, connection: Any, job: Job[T]) -> JobHandle[T]:
        """Store a job's message in your own database transaction: it is committed, or gone, with your rows.

        Synchronous, on the caller's thread and database connection.  Of a chain, the queues of the follow-ups are only
        looked for when their turn has come: without its queue, the step before it fails.

        Args:
          connection: for the SQLite broker, a ``sqlite3.Connection`` to the same file; for PostgreSQL, a
            ``psycopg.Connection`` to the same database, or SQLAlchemy's Connection or Session around one.
          job: what to enqueue.

        Raises:
          UnsupportedError: if the broker is no database.
          UnknownQueueError, QueueFullError, UniqueConflictError: as :meth:`enqueue` does.
        """
        item = self.publisher.publication(job)
        published = self.session.publish_in(connection, [item])
        refuse([item], published)
        return self.publisher.handle(job, item, published[0])

    # --------------------------------------------------------------------------------------------------- looking

    def handle(self, id: str, *, queue: Queue | str = "default", actor: Actor[..., T] | None = None) -> JobHandle[T]:
        """Return a handle of a message that somebody enqueued.

        Args:
          id: its id; what cannot be one raises ValueError, or TypeError if it is no string.
          queue: its queue.
          actor: converts the result; without it, results come as plain JSON values.
        """
        if actor is not None and not isinstance(actor, Actor):
            raise TypeError(f"actor must be a trepid.Actor, not {actor!r}")
        read = codec.decode if actor is None else actor.parameters.read_result
        name = as_queue(queue).name
        return JobHandle(self.session, name, checked_id(id), read_result=read, patience=self._patience)

    def messages(self, queue: Queue | str, state: State) -> Messages:
        """Return an async iterator of views of a queue's messages in a state, in the order of publishing.

        What comes and goes meanwhile may or may not be seen.

        Raises:
          ValueError: if *state* is none; at this call.
          UnknownQueueError: out of the iteration, if the queue was never declared.
          UnsupportedError: likewise, if the engine does not show its messages (the capability ``peek``).
        """
        return Messages(self.session, as_queue(queue).name, State(state), self._patience)

    # ---------------------------------------------------------------------------------------------- ended messages

    async def requeue(self, queue: Queue | str, ids: Sequence[str] | None = None) -> int:
        """Bring dead letters back, all or those named, with fresh budgets; return how many came.

        Those whose unique key another live message holds stay where they are.

        Raises:
          UnknownQueueError: if the queue was never declared.
          TypeError: if *ids* is a string.
        """
        return await _all(partial(self.session.requeue, as_queue(queue).name), ids)

    async def purge(self, queue: Queue | str, state: State = State.DEAD, ids: Sequence[str] | None = None) -> int:
        """Forget messages in a state (by default the dead letters), all or those named; return how many.

        Raises:
          UnknownQueueError: if the queue was never declared.
          ValueError: if *state* is not one of an ended message; waiting ones are flushed or cancelled.
          TypeError: if *ids* is a string.
        """
        if State(state) not in ENDED:
            raise ValueError(f"only ended messages can be purged, not {state}; see flush() and handle.cancel()")
        return await self._purge(queue, (State(state),), ids)

    async def _purge(self, queue: Queue | str, states: tuple[State, ...], ids: Sequence[str] | None) -> int:
        return await _all(partial(self.session.purge, as_queue(queue).name, states), ids)


async def _all(operation: Callable[..., Awaitable[int]], ids: Sequence[str] | None) -> int:
    """Carry out an operation on the named messages, or on all of them, some at a time."""
    if isinstance(ids, str):
        raise TypeError(f"ids must be a list of ids, not {ids!r}; write ids=[{ids!r}]")
    if ids is not None:
        return await operation(ids, limit=max(1, len(ids)))
    total = done = await operation(None, limit=_AT_ONCE)
    while done == _AT_ONCE:
        total += (done := await operation(None, limit=_AT_ONCE))
    return total
