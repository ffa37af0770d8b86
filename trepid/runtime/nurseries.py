"""The nursery plan of a worker run, and nothing else.

Helpers outermost (renewals, settlement), then the jobs, then the intake.  Stopping cancels the intake only, the
schedules, and the sweeps; the jobs end by themselves, or are stopped; the other helpers outlive them, so that leases
hold and verdicts arrive.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from math import inf
from typing import TYPE_CHECKING

import trio

from trepid.connection import Connection
from trepid.errors import BrokerLostError, UnsupportedError
from trepid.ports.broker import Session
from trepid.ports.events import WorkerStarted, WorkerStopped
from trepid.rules.gates import actor_limit, queue_limit
from trepid.runtime.asyncio_island import open_island
from trepid.runtime.calls import Calls
from trepid.runtime.intake import receive
from trepid.runtime.leases import heed, renew
from trepid.runtime.performing import Performer
from trepid.runtime.processes import open_processes
from trepid.runtime.report import Report
from trepid.runtime.running import RunningWorker
from trepid.runtime.scheduling import check_schedules, keep_schedules
from trepid.runtime.shift import Shift
from trepid.runtime.strangers import return_last_strangers
from trepid.runtime.telling import logger

if TYPE_CHECKING:
    from trepid.runtime.worker import Worker

DECLARE_WITHIN = 30.0
"""For at most so many seconds does a worker that starts wait for the broker to have its queues."""

SETTLE_WITHIN = 5.0
"""For at most so many seconds are the last verdicts sent while the worker is being cancelled."""


async def work(worker: Worker, connection: Connection, task_status: trio.TaskStatus[RunningWorker]) -> Report:
    """Run a worker; see :meth:`Worker.run`."""
    await trio.lowlevel.checkpoint()
    if not isinstance(connection, Connection):
        raise TypeError(
            f"a worker runs on a connection, not {connection!r}; "
            "write `async with trepid.open_connection(...) as connection` round it"
        )
    check_schedules(worker.router.schedules.values(), connection)
    # Not by the connection, which would wait for a broker that is away: who starts a worker wants to know.
    try:
        with trio.fail_after(DECLARE_WITHIN):
            await _declare(worker, connection.session)
    except trio.TooSlowError as exc:
        raise BrokerLostError(f"the broker did not answer within {DECLARE_WITHIN:g} s") from exc
    if not worker.router and not worker.router.schedules:
        logger.warning("this worker has no actors; it waits until it is stopped")
    shift = Shift(worker, connection)
    try:
        async with AsyncExitStack() as stack:
            if worker.resources is not None:
                shift.resources = await stack.enter_async_context(_manager(worker.resources()))
            calls = await _open_calls(worker, stack)
            if worker.handle_signals:
                # Opened here, so that what is wrong with them comes out bare.
                shift.signals = stack.enter_context(trio.open_signal_receiver(*worker.handle_signals))
            await _run_shift(shift, Performer(shift, calls, worker.middleware), task_status)
    finally:
        shift.stopped.set()
        shift.teller.tell(WorkerStopped(shift.owner, shift.tally.report().processed))
    return shift.tally.report()


async def _declare(worker: Worker, session: Session) -> None:
    """Declare the worker's queues, with what they limit, and say what its actors limit."""
    await trio.lowlevel.checkpoint()
    names = worker.queue_names()
    scheduled = [schedule.job.queue.name for schedule in worker.router.schedules.values()]
    if worker.auto_declare and (names or scheduled):
        await session.declare(list(dict.fromkeys([*names, *scheduled])))
    for name in sorted(set(scheduled) - set(names)):
        logger.warning("this worker fires schedules into queue %r, and takes no messages from it", name)
    limits = [queue_limit(queue) for queue in worker.declared() if worker.auto_declare and queue.settled]
    limits += [actor_limit(name, actor) for name in names for actor in worker.router.values()]
    limited = any(not limit.void for limit in limits)
    if session.capabilities.limits:
        # Also that an actor limits nothing any more; who declares nothing has only something to say if it limits.
        if limited or worker.auto_declare:
            await session.limit(limits)
    elif limited:
        raise UnsupportedError("limits of queues and actors", session.capabilities.engine)


def _manager(resources: object) -> AbstractAsyncContextManager[object]:
    if not isinstance(resources, AbstractAsyncContextManager):
        raise TypeError(f"resources must return an async context manager, not {resources!r}; see asynccontextmanager")
    return resources


async def _open_calls(worker: Worker, stack: AsyncExitStack) -> Calls:
    """Open the places outside of Trio that the worker's actors need, and no others."""
    places = {actor.run_in for actor in worker.router.values()}
    processes = island = None
    if "process" in places:
        processes = await stack.enter_async_context(open_processes(worker.processes_limit))
    if "asyncio" in places:
        island = await stack.enter_async_context(open_island())
    return Calls(trio.CapacityLimiter(worker.threads_limit), processes, island)


async def _run_shift(shift: Shift, performer: Performer, task_status: trio.TaskStatus[RunningWorker]) -> None:
    async with _helpers(shift), trio.open_nursery() as jobs:
        shift.ready = True
        shift.teller.tell(WorkerStarted(shift.owner, shift.worker.queue_names(), tuple(shift.worker.router)))
        task_status.started(RunningWorker(shift))
        try:
            with shift.intake_scope:
                await receive(shift, performer, jobs)
        except BaseException:
            # Cancelled from outside, or by what a job raised: the jobs' causes are recorded, and they may know it.
            shift.stop("cancelled", 0.0)
            raise
        if not shift.stopping:
            shift.stop("messages_limit reached", inf)


@asynccontextmanager
async def _helpers(shift: Shift) -> AsyncGenerator[None]:
    """Keep leases alive and send verdicts while the body runs, and until all is settled after it.

    The helpers do not see the caller's cancellation; they are bounded because the body is, and the last settlement.
    """
    scope = trio.CancelScope(shield=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_help, scope, shift)
        # No checkpoint here: whatever happens from now on, the helpers are told to end.
        try:
            yield
            # Stopped softly: a troubled broker has until the leases end, or the grace does, to take the verdicts.
            shift.patience.deadline = max((run.lease_ends for run in shift.held.values()), default=inf)
            with shift.patience:
                await shift.settler.drain()
        finally:
            with trio.move_on_after(SETTLE_WITHIN, shield=True) as last:
                await shift.settler.drain()
                if shift.unsure:
                    await return_last_strangers(shift)
            if last.cancelled_caught and shift.held:
                logger.error("%d verdict(s) could not be sent; their leases will expire", len(shift.held))
                for run in list(shift.held.values()):
                    shift.lost(run)
            scope.cancel(reason="all is settled")


async def _help(scope: trio.CancelScope, shift: Shift) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            if shift.signals is not None:
                nursery.start_soon(_obey, shift.signals, shift)
            nursery.start_soon(renew, shift)
            nursery.start_soon(heed, shift)
            nursery.start_soon(keep_schedules, shift)
            nursery.start_soon(shift.fences.guard)
            nursery.start_soon(shift.tethers.watch)
            nursery.start_soon(shift.sweeper.run)
            nursery.start_soon(shift.settler.run)
            nursery.start_soon(shift.scribe.run)
            nursery.start_soon(shift.hurry)


async def _obey(signals: AsyncIterator[int], shift: Shift) -> None:
    """The first signal stops softly, the second at once."""
    grace = shift.worker.graceful_shutdown_time
    async for number in signals:
        shift.stop(f"received {signal.Signals(number).name}", grace)
        grace = 0.0
