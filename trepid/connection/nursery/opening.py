"""Opening a job nursery, and the tasks that live in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final

import trio

from trepid.connection.connection import Connection
from trepid.connection.nursery.brood import Brood
from trepid.connection.nursery.closing import REASON, Closing
from trepid.connection.nursery.job_nursery import LEAST_KEPT, JobNursery
from trepid.connection.nursery.life import Life
from trepid.connection.nursery.outbox import Outbox
from trepid.connection.nursery.vigil import Vigil
from trepid.errors import JobNurseryTimeoutError, UnsupportedError
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import Absent, Ending
from trepid.rules import scopes
from trepid.values.durations import Duration, seconds

_CONFIRM_WITHIN: Final = 10.0
"""For at most so many seconds is the end of withdrawn jobs waited for."""

_PUBLISH_WITHIN: Final = 5.0
"""For so many of them, a publish that is under way."""


def open_job_nursery(
    connection: Connection, *, lease: Duration = scopes.LEASE, max_pending: int = 1000
) -> AbstractAsyncContextManager[JobNursery]:
    """Open a job nursery for the length of an ``async with`` block: its jobs belong to the block.

    Leaving the block waits for all of them.  A job that is not done fails the block, unless its own handle cancelled
    it, or another job of the block has replaced it (``Unique(key, "replace")``): the body is cancelled, the other
    jobs are withdrawn, or stopped where they run, and once that is confirmed an ExceptionGroup is raised with one
    error for each failed job, and with what the body raised, as from Trio's nursery.
    Jobs inherit the deadline that is in effect for the block when they are published.  If this process dies, workers
    cancel its jobs once *lease* is over.

    Args:
      connection: where the jobs are.
      lease: for how many seconds the nursery is believed to be alive since its last sign, at least 3; it gives one
        every third of that.
      max_pending: how many jobs may wait to be published before ``await jobs.start(...)`` waits.

    Raises:
      UnsupportedError: at this call, if the engine keeps no results or records, or cannot cancel.
      TypeError, ValueError: likewise, if an argument breaks its rule.
      ExceptionGroup: on leaving.  Of JobFailedError, one for each job that failed, JobCancelledError for one that
        somebody else cancelled; of JobGoneError, if nothing is known of a job's end; of what the broker raised when
        jobs were published, such as UnknownQueueError; of JobNurseryTimeoutError.

    Cancellation: all jobs are withdrawn, and those that run are cancelled.  That is waited for, shielded, for at most
    10 seconds; after those, JobNurseryTimeoutError lists the jobs whose end nobody has confirmed.
    """
    if not isinstance(connection, Connection):
        raise TypeError(
            f"a job nursery is opened on a connection, not {connection!r}; "
            "write `async with trepid.open_connection(...) as connection` round it"
        )
    held_for = seconds(lease, "lease", positive=True)
    if held_for < 3:
        raise ValueError(f"lease must be at least 3 seconds, not {lease!r}")
    if not isinstance(max_pending, int) or isinstance(max_pending, bool):
        raise TypeError(f"max_pending must be a whole number, not {max_pending!r}")
    if max_pending < 1:
        raise ValueError(f"max_pending must be 1 or more, not {max_pending!r}")
    _refuse_less(connection.capabilities)
    return _open(connection, held_for, max_pending)


def _refuse_less(can: Capabilities) -> None:
    needed = {
        "results": can.results != "none",
        "cancelling": can.cancel_waiting and can.cancel_running,
        "records": can.records,
    }
    missing = [what for what, there in needed.items() if not there]
    if missing:
        raise UnsupportedError("job nurseries", can.engine, f"they need {', '.join(missing)}")


@asynccontextmanager
async def _open(connection: Connection, lease: float, max_pending: int) -> AsyncGenerator[JobNursery]:
    life = Life(connection.session, lease)
    await life.begin(connection.publisher.patience)
    # One nursery for all: what fails in it cancels the rest, and Trio makes the one group of it.
    async with trio.open_nursery() as tasks:
        house = _House(connection, life, tasks, lease, max_pending)
        tasks.start_soon(house.oversee, name="job nursery: overseer")
        try:
            yield house.jobs
        finally:
            house.left()


async def _raise(error: Exception) -> None:  # noqa: ASYNC910, ASYNC124 - it raises
    raise error


class _House:
    """The tasks of one job nursery, and the order in which they end."""

    def __init__(self, connection: Connection, life: Life, tasks: trio.Nursery, lease: float, max_pending: int) -> None:
        self._connection = connection
        self._life = life
        self._tasks = tasks
        self._brood = Brood(self._fail, self._fail_at, self._watch)
        publisher = connection.publisher
        self._outbox = Outbox(publisher, life.scope, lambda: life.offset, self._brood.add, self._brood.lost)
        kept = max(LEAST_KEPT, 2 * lease)
        self.jobs = JobNursery(publisher, self._outbox, self._brood, tasks.cancel_scope, max_pending, kept)
        self._scopes: list[trio.CancelScope] = []
        self._body_left = False
        tasks.start_soon(life.keep, name="job nursery: signs of life")
        self._serve("publishing", self._outbox.run)

    def left(self) -> None:
        """The body has ended; well or badly, Trio's nursery knows."""
        self._body_left = True
        self._brood.changed.set()
        if self._brood.closing:
            self.jobs.ended()

    async def oversee(self) -> None:
        """Wait for the end of the body and of all jobs; cancelled before that, withdraw what is left."""
        try:
            while not self._body_left or self._outbox.size or self._brood.live or self._brood.early:
                self._brood.changed = trio.Event()
                await self._brood.changed.wait()
        finally:
            try:
                # In here, so that nothing, not even a KeyboardInterrupt, keeps the other tasks from being ended.
                self._brood.closing = True
                if self._body_left:
                    self.jobs.ended()
                self.jobs.closing()
                with trio.move_on_after(_CONFIRM_WITHIN, shield=True):
                    await self._outbox.close(_PUBLISH_WITHIN, REASON)
                    await Closing(self._connection.session, self._brood).withdraw()
            finally:
                await self._end()  # noqa: ASYNC102 - bounds and shields itself

    async def _end(self) -> None:
        """End the other tasks of the nursery, whatever has happened."""
        left = [child for vigil in self._brood.vigils.values() for child in vigil.children.values()]
        left += self._outbox.abandon()
        if left:
            # Two children of one id are one message, in the same queue.
            messages = dict.fromkeys((child.queue, child.id) for child in left)
            self._fail(JobNurseryTimeoutError(tuple(id for _, id in messages)))
        for scope in self._scopes:
            scope.cancel(reason="the job nursery ends")
        await self._life.end()

    def _fail(self, error: Exception) -> None:
        self._tasks.start_soon(_raise, error)

    def _fail_at(self, when: float, size: int, error: Exception) -> None:
        self._tasks.start_soon(self._raise_at, when, size, error)

    async def _raise_at(self, when: float, size: int, error: Exception) -> None:
        await trio.sleep_until(when)
        self._brood.overdue(size)
        raise error

    def _watch(self, vigil: Vigil) -> None:
        self._serve("ends", partial(vigil.keep, self._look))

    async def _look(self, queue: str, ids: list[str], wait: float) -> dict[str, Ending | Absent]:
        endings = partial(self._connection.session.endings, queue, ids, wait=wait)
        return await self._connection.publisher.patience.repeat("results of a job nursery", endings)

    def _serve(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Start a task that goes on until the nursery ends."""
        scope = trio.CancelScope()
        self._scopes.append(scope)
        self._tasks.start_soon(self._working, scope, work, name=f"job nursery: {what}")

    @staticmethod
    async def _working(scope: trio.CancelScope, work: Callable[[], Awaitable[None]]) -> None:
        with scope:
            await work()
