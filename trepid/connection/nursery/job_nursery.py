"""The job nursery: what programs see of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final

import attrs
import trio
from msgspec.structs import replace
from typing_extensions import TypeVar

from trepid.connection.handle import JobHandle
from trepid.connection.nursery.brood import Brood
from trepid.connection.nursery.child import Child
from trepid.connection.nursery.closing import REASON
from trepid.connection.nursery.mapping import JobResults
from trepid.connection.nursery.outbox import Outbox
from trepid.connection.publishing import Publisher, refuse_chain
from trepid.errors import PayloadTooLargeError
from trepid.ports.messages import Ending
from trepid.rules.lifecycle import DAY
from trepid.values import codec
from trepid.values.actor import Actor
from trepid.values.job import Job

T = TypeVar("T", default=Any)

LEAST_KEPT = 60.0
"""For so many seconds at least is an ended child kept, so that the nursery can see how it ended."""

_TETHER = 100
"""No more bytes than this are added to an envelope when it is published."""


@attrs.frozen
class JobNurseryStatistics:
    """A job nursery, looked at.

    Attributes:
      unpublished: jobs that the broker does not have yet.
      live: jobs that it has, and of which no end is known.
      done, failed, cancelled: how many have ended how.
    """

    unpublished: int
    live: int
    done: int
    failed: int
    cancelled: int


@final
@attrs.define(eq=False)
class JobNursery:
    """Jobs that belong to a scope like tasks to a nursery.  Made by :func:`open_job_nursery`.

    Any task may start jobs in it, for as long as it is open.
    """

    _publisher: Publisher
    _outbox: Outbox
    _brood: Brood
    cancel_scope: trio.CancelScope
    """Round the whole block: cancelling it withdraws all jobs, and the block is left without an error."""
    _max_pending: int
    _kept_for_map: float
    _ended: bool = attrs.field(init=False, default=False)
    # Events of those who wait for a job of this nursery elsewhere than in its scope.
    _waiting: set[trio.Event] = attrs.field(init=False, factory=set)

    def start_soon(self, job: Job[T]) -> JobHandle[T]:
        """Start a job: its message will be published with the next batch, in the order of the calls.

        Never waits.  The handle is valid at once; ``handle.cancel()`` cancels this job alone, which is no failure.

        Raises:
          TypeError: if *job* is none, or a chain; await one step after the other instead.
          UnsupportedError: if its actor has limits, and the engine keeps none.
          PayloadTooLargeError: if its message would have more than 1 MiB.
          RuntimeError: if the nursery has ended.
        """
        child = self._child(job, None, DAY)
        publisher = self._publisher
        child.handle = handle = JobHandle(
            publisher.session,
            child.queue,
            child.id,
            read_result=job.read_result,
            patience=publisher.patience,
            birth=child,
        )
        self._start(child)
        return handle

    async def start(self, job: Job[T]) -> JobHandle[T]:
        """Start a job as :meth:`start_soon` does, once fewer than ``max_pending`` jobs wait to be published."""
        await trio.lowlevel.checkpoint()
        while self._outbox.size >= self._max_pending and not self._brood.closing:
            await self._outbox.room.wait()
        return self.start_soon(job)

    def map(
        self, actor: Actor[..., T], iterable: Iterable[object], *, limit: int = 100, as_completed: bool = False
    ) -> JobResults[T]:
        """Start a job of *actor* for each item, and return an async iterator of their results.

        Jobs are started as the iterator goes on: at most *limit* of them are waiting, running, or done and not yet
        asked for; so any number of items takes bounded memory.  Whoever leaves the loop early leaves those that were
        started to the nursery.  What is said nowhere of how long they are kept is a minute here, since each result is
        read once.

        Args:
          actor: what to call, with one item as its only argument.
          iterable: the items; what it raises comes out of the loop.
          limit: how many at once.
          as_completed: give results as they come, rather than in the order of the items.
        """
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise TypeError(f"limit must be a whole number, not {limit!r}")
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit!r}")
        if not isinstance(actor, Actor):
            raise TypeError(f"map() takes an actor, not {actor!r}")
        if not isinstance(iterable, Iterable):
            raise TypeError(f"map() takes an iterable of items, not {iterable!r}; use start() in an async for loop")
        jobs = (actor.job(_item(item)) for item in iterable)
        return JobResults(jobs, self._hear, self._await, limit, as_completed)

    def statistics(self) -> JobNurseryStatistics:
        """Return the nursery as it is now."""
        brood = self._brood
        return JobNurseryStatistics(self._outbox.size, brood.live, brood.done, brood.failed, brood.cancelled)

    # ---------------------------------------------------------------------------------- for map, and for who opened it

    def _hear(self, job: Job[Any], heard: Callable[[Ending], None]) -> str:
        """Start a job of a map; return its id."""
        child = self._child(job, heard, self._kept_for_map)
        self._start(child)
        return child.id

    async def _await(self, event: trio.Event) -> None:
        """Wait for an event that comes of the end of a job."""
        if self._brood.closing:
            raise trio.ClosedResourceError("this job nursery is being cancelled, or has ended")
        self._waiting.add(event)
        try:
            await event.wait()
        finally:
            self._waiting.discard(event)

    def closing(self) -> None:
        """The nursery is being cancelled, or has ended: nobody shall wait for its jobs in vain."""
        for event in self._waiting:
            event.set()

    def ended(self) -> None:
        """The nursery takes no more jobs."""
        self._ended = True

    def _child(self, job: Job[Any], heard: Callable[[Ending], None] | None, unsaid: float) -> Child:
        if self._ended:
            raise RuntimeError("this job nursery has ended")
        publication = self._publisher.publication(job)
        refuse_chain(job, "a job nursery")
        if len(publication.payload) + _TETHER > codec.LARGEST:
            raise PayloadTooLargeError(len(publication.payload), codec.LARGEST - _TETHER)
        said = publication.result_ttl
        kept = unsaid if said is None else max(said, LEAST_KEPT)
        publication = replace(publication, result_ttl=kept)
        return Child(publication.queue, publication.id, publication, named=bool(job.id), heard=heard)

    def _start(self, child: Child) -> None:
        if self._brood.closing:
            self._brood.lost(child, REASON)
            return
        unique = None if child.publication is None else child.publication.unique
        if unique is not None:
            child.claim = self._brood.claims.enter(child.queue, unique.key, child.id)
        self._outbox.add(child)


def _item(item: object) -> object:
    if isinstance(item, Job):
        raise TypeError(f"map() takes the arguments of jobs, and {item.name!r} is a job already; use start_soon()")
    return item
