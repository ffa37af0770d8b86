"""The desk: a connection in a test, with the worker at hand that runs what is enqueued on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Generic

import attrs
import outcome
import trio
from typing_extensions import TypeVar

from trepid.brokers.memory import MemoryBroker
from trepid.connection import Connection, JobHandle
from trepid.errors import JobGoneError
from trepid.ports.broker import Session
from trepid.rules.life import SCHEDULED
from trepid.runtime.report import Report
from trepid.runtime.worker import Worker
from trepid.testing.faults import Faults, FaultySession
from trepid.testing.inlining import inline
from trepid.testing.mishaps import Error, InjectedError, Mishaps
from trepid.testing.recorder import History, Recorder
from trepid.testing.staff import Staff
from trepid.values.actor import Actor
from trepid.values.durations import Duration, seconds
from trepid.values.job import Job
from trepid.values.router import Router

T = TypeVar("T", default=Any)

_A_LOOK = 1.0
"""Every so many seconds it is looked whether time alone has changed something; it costs nothing in virtual time."""


@attrs.frozen
class Ran(History, Generic[T]):
    """One job, run to its end: its history, and its outcome.

    Attributes:
      returned: what it returned, or why there is nothing to return, as an ``outcome.Outcome``.
    """

    returned: outcome.Outcome[T] = attrs.field(kw_only=True)

    @property
    def result(self) -> T:
        """What the job returned.

        Raises:
          JobFailedError, JobCancelledError, JobGoneError, ResultError: as ``handle.result()`` does.
        """
        # Not unwrap(): that may be called once only, and assertions read as often as they like.
        if isinstance(self.returned, outcome.Error):
            raise self.returned.error
        assert isinstance(self.returned, outcome.Value)
        value: T = self.returned.value
        return value

    @property
    def exception(self) -> BaseException | None:
        """What :attr:`result` raises, or None."""
        return self.returned.error if isinstance(self.returned, outcome.Error) else None


# Final for everybody else: code under test may take the desk for the connection that it is.
@attrs.define(eq=False)
class Desk(Connection):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    """A connection that runs what is enqueued on it when a test says so.  Made by :func:`open_test_connection`.

    Until :meth:`run` or :meth:`run_until_idle` is called nothing runs, so a test can look at what its code has
    enqueued.

    Attributes:
      worker: what runs the jobs.
      recorder: what became of them.
      faults: what goes wrong with the broker, for this connection and for the worker.
    """

    worker: Worker = attrs.field(kw_only=True)
    recorder: Recorder = attrs.field(kw_only=True, repr=False)
    faults: Faults = attrs.field(kw_only=True, repr=False)
    # What the desk itself looks with: no fault is meant for the test.
    _sight: Session = attrs.field(kw_only=True, repr=False, alias="sight")
    _mishaps: Mishaps = attrs.field(init=False, repr=False, factory=Mishaps)

    # ---------------------------------------------------------------------------------------------------- running

    async def run(self, job: Job[T]) -> Ran[T]:
        """Enqueue a job, and run the worker until this job has ended; retries and delays are waited through.

        Other messages in the worker's queues are run as well, meanwhile.  What still runs at the end is stopped as
        by ``running.stop()``: it may finish within the worker's ``graceful_shutdown_time``.

        Returns:
          What became of it.  A failed job raises nothing; its ``ran.result`` does.

        Raises:
          ValueError: if the worker does not look at its queue (of a chain, those of all steps), or that is paused: it
            would never run.
          UniqueConflictError: as ``enqueue`` does.
          BrokerLostError, BrokerFullError: if a fault says so, out of the enqueue.
          ExceptionGroup: whatever has ended the worker, such as a BaseException out of a job.
        """
        for queue in dict.fromkeys(step.queue.name for step in (job, *job.follow_ups)):
            if queue not in self.worker.queue_names():
                looked_at = ", ".join(self.worker.queue_names()) or "no queue"
                raise ValueError(f"the worker of this desk looks at {looked_at}, and the job goes to {queue!r}")
            if (await self._sight.stats(queue)).paused:
                raise ValueError(f"queue {queue!r} is paused, so the job would never run")
        handle = await self.enqueue(job)
        # The same handle, but without the faults.
        seen = attrs.evolve(handle, session=self._sight)
        async with self._working():
            returned = await _outcome(seen)
        history = self.recorder.of(handle)
        return Ran(history.queue, history.id, history.attempts, returned=returned)

    async def run_until_idle(self, *, scheduled_within: Duration = 0) -> Report:
        """Run the worker until there is nothing left to do.

        It returns at the first moment at which, in the queues of the worker, no message is leased, none is ready
        (those of paused queues do not count), and none will become due within *scheduled_within* seconds of the call.
        Retries, snoozes and the messages of crashed workers wait for their time like any delayed message; so by
        default they are left for the next call.

        Args:
          scheduled_within: how far ahead delayed messages are waited for, in seconds from now; ``math.inf`` runs
            until nothing is left, and for ever where a job always comes back.

        Returns:
          What the worker did.

        Raises:
          ExceptionGroup: whatever has ended the worker, such as a BaseException out of a job.
        """
        within = inf if scheduled_within == inf else seconds(scheduled_within, "scheduled_within")
        horizon = trio.current_time() + within
        async with self._working() as staff:
            while (look_again := await self._next_look(horizon)) is not None:
                with trio.move_on_at(look_again):
                    await staff.wait_ended()
        return staff.report

    @asynccontextmanager
    async def _working(self) -> AsyncGenerator[Staff, None]:
        async with trio.open_nursery() as nursery:
            staff = Staff(self._broker, self.session, self.worker, self._mishaps, self.recorder)
            nursery.start_soon(staff.work, name="the worker of the desk")
            yield staff
            staff.stop()

    async def _next_look(self, horizon: float) -> float | None:
        """Return when to look again (unless a job ends before), or None if there is nothing left to do."""
        offset = trio.current_time() - await self._sight.now()
        first = inf
        for queue in self.worker.queue_names():
            stats = await self._sight.stats(queue)
            if stats.leased or (stats.ready and not stats.paused):
                return trio.current_time() + _A_LOOK
            if stats.scheduled and not stats.paused:
                async for view in Connection(self._broker, self._sight).messages(queue, SCHEDULED):
                    first = min(first, view.due + offset)
        # A little after it is due, so that rounding cannot make this look too early, again and again.
        return None if first > horizon or first == inf else first + 1e-6

    # --------------------------------------------------------------------------------------------------- mishaps

    def fail_next(self, actor: Actor[..., Any] | str, times: float = 1, *, error: Error = InjectedError) -> None:
        """Let the next attempts of an actor raise, without calling its function.

        What is planned for one actor happens in the order of planning.  Middleware sees the error.

        Args:
          actor: which one, or its name.
          times: how many attempts; ``math.inf`` all of them.
          error: what they raise: an exception (also a verb, such as ``trepid.Snooze(10)``), or a function that makes
            a fresh one each time.

        Raises:
          UnknownActorError: if the worker has no such actor.
        """
        self._mishaps.plan(self._name_of(actor), error, times)

    def crash_next(self, actor: Actor[..., Any] | str, times: float = 1) -> None:
        """Let the worker die over the next attempts of an actor, as after SIGKILL; another one starts at once.

        The dead worker's leases are not released: they expire, which counts as a crash, and the messages come back.
        That concerns everything it was running.  As far as that is possible inside one program, nothing of the dead
        worker reaches the broker or an observer; ``finally`` blocks of its jobs do run.

        Args:
          actor: which one, or its name.
          times: over how many attempts; ``math.inf`` over all of them.

        Raises:
          UnknownActorError: if the worker has no such actor.
        """
        self._mishaps.plan(self._name_of(actor), None, times)

    def _name_of(self, actor: Actor[..., Any] | str) -> str:
        name: str = actor.name if isinstance(actor, Actor) else actor
        return self.worker.router[name].name


async def _outcome(handle: JobHandle[T]) -> outcome.Outcome[T]:
    try:
        return await handle.outcome()
    except JobGoneError as exc:
        return outcome.Error(exc)  # noqa: ASYNC910 - looking was a checkpoint


@asynccontextmanager
async def open_test_connection(
    *routers_or_actors: Router | Actor[..., Any] | Worker,
    broker: MemoryBroker | None = None,
    recorder: Recorder | None = None,
) -> AsyncGenerator[Desk, None]:
    """Open a connection on a fresh memory broker, with a worker that runs when it is told to.

    Write ``async with open_test_connection(SEND_DIGEST) as desk``.  The queues of the actors are declared.  Thread
    and process actors are called in the Trio thread; see :func:`inline`, which also says what that means.  Under
    ``MockClock`` no waiting takes real time.

    Args:
      routers_or_actors: what the desk can run; later ones win over earlier ones of the same name.  A worker
        contributes its settings, too (the last worker's count), except for ``messages_limit`` and ``handle_signals``.
      broker: the memory broker to use; by default a fresh one.
      recorder: the recorder to use; by default a fresh one.

    Raises:
      UnsupportedError: if an actor runs in asyncio, and trio-asyncio is not installed.

    The body's exception is never wrapped in a group.
    """
    worker = Worker()
    for item in routers_or_actors:
        if isinstance(item, Worker):
            worker = item.options(router=worker.router | item.router)
        else:
            worker |= item
    worker = inline(worker).options(messages_limit=None, handle_signals=None, auto_declare=False)
    broker = MemoryBroker() if broker is None else broker
    faults = Faults()
    async with broker.open() as session:
        await session.declare(worker.queue_names())
        yield Desk(
            broker,
            FaultySession(session, faults),
            worker=worker,
            recorder=Recorder() if recorder is None else recorder,
            faults=faults,
            sight=session,
        )
