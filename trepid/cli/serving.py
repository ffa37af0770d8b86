"""A worker that owns its process: run, stopped by signals step by step, and judged by how it ended."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from signal import SIGINT, SIGTERM, Signals
from typing import Final

import attrs
import trio

from trepid.cli.burst import stop_when_idle
from trepid.cli.failures import Exit, meant
from trepid.cli.signals import counted
from trepid.cli.tables import plural, setting, span
from trepid.connection import Connection, open_connection
from trepid.ports.events import Event, JobEnded
from trepid.runtime.report import Report
from trepid.runtime.running import RunningWorker
from trepid.runtime.worker import Worker

logger = logging.getLogger("trepid.cli")

_STUBBORN: Final = 2.0
"""Seconds after which a job that was cancelled, and still runs, is worth a word."""

if sys.platform == "win32":
    from signal import SIGBREAK

    TERMINATION: Final[tuple[Signals, ...]] = (SIGINT, SIGBREAK)
else:
    TERMINATION: Final[tuple[Signals, ...]] = (SIGINT, SIGTERM)


@attrs.define(eq=False)
class Served:
    """One worker, from its start to its end.

    Attributes:
      worker: what runs.
      url: the broker.
      burst: whether it ends when nothing is left to do.
      results: a second engine, if one was named.
      handed_back: how many running jobs were cancelled and given back because the worker stopped.
    """

    worker: Worker
    url: str
    burst: bool
    results: str | None = None
    handed_back: int = attrs.field(init=False, default=0)
    _running: RunningWorker | None = attrs.field(init=False, default=None)
    _announced: trio.Event = attrs.field(init=False, factory=trio.Event)
    _scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    _draining: trio.Event = attrs.field(init=False, factory=trio.Event)
    _hurried: trio.Event = attrs.field(init=False, factory=trio.Event)
    _ended: int = attrs.field(init=False, default=0)

    async def run(self) -> tuple[Report, Exit]:
        """Run the worker until it has stopped, and return what it did and what that means.

        Signals come in three steps: drain, cancel and hand back, end at once (see :func:`counted`).

        Raises:
          ExceptionGroup: whatever ended the worker otherwise.
        """
        numbers: Sequence[int] = TERMINATION if self.worker.handle_signals is None else self.worker.handle_signals
        worker = self.worker.options(handle_signals=None, observers=(*self.worker.observers, self._observe))
        report, unsettled = Report(), 0
        with counted(numbers, self._heard), self._scope:
            async with open_connection(self.url, results=self.results) as connection, trio.open_nursery() as nursery:
                await self._warn_of_queues(connection)
                nursery.start_soon(partial(worker.run, connection, task_status=_Announced(self)))
                running = await self._start()
                nursery.start_soon(self._tell_of_stopping, running)
                if self.burst:
                    nursery.start_soon(stop_when_idle, running, connection, worker, self._count_ended)
                report = await running.wait_stopped()
                unsettled = running.statistics().unsettled
                nursery.cancel_scope.cancel(reason="the worker has stopped")
        code = Exit.HANDED_BACK if self.handed_back or unsettled else Exit.DRAINED
        self._tell_end(report, unsettled, code)
        return report, code

    def announce(self, running: RunningWorker) -> None:
        """The worker can receive; from now on signals stop it."""
        self._running = running
        self._announced.set()

    @property
    def started(self) -> bool:
        """Whether the worker has started; what goes wrong before that is the broker's, or the operator's."""
        return self._running is not None

    async def _start(self) -> RunningWorker:
        await self._announced.wait()
        assert self._running is not None
        return self._running

    def _heard(self, step: int, number: Signals) -> None:
        """Obey the first or the second signal; called in Trio's thread."""
        running = self._running
        if running is None:
            logger.info("received %s before the worker had started", number.name)
            self._scope.cancel(reason=f"received {number.name}")
            return
        jobs = running.statistics().running
        if step == 1:
            self._draining.set()
            longest = max(jobs, key=lambda job: job[2], default=None)
            most = "" if longest is None else f" (longest {longest[1]}, {span(longest[2])})"
            grace = setting(self.worker.graceful_shutdown_time)
            more = f" for at most {grace}; once more cancels {'it' if len(jobs) == 1 else 'them'}" if jobs else ""
            logger.info("received %s: draining, %s still running%s%s", number.name, len(jobs), most, more)
            running.stop()
        else:
            text = f"received {number.name} again: cancelling {plural(len(jobs), 'running job')}"
            logger.info("%s, to be handed back uncounted; once more ends the process at once", text)
            self._hurried.set()
            running.stop(grace=0)

    async def _tell_of_stopping(self, running: RunningWorker) -> None:
        """Say why the process is still there after a signal; ends with the worker."""
        await self._draining.wait()
        with trio.move_on_after(self.worker.graceful_shutdown_time) as grace:
            await self._hurried.wait()
        left = len(running.statistics().running)
        if grace.cancelled_caught and left:
            logger.warning("the grace is over: %s cancelled, to be handed back uncounted", plural(left, "running job"))
        await trio.sleep(_STUBBORN)
        jobs = ", ".join(f"{actor} {id}" for id, actor, _ in running.statistics().running[:3])
        if jobs:
            logger.warning("still waiting for jobs that do not stop, such as threads: %s", jobs)

    async def _warn_of_queues(self, connection: Connection) -> None:
        """Say what is probably a slip of the pen; a worker that waits for nothing looks just like one without work."""
        used = self.worker.router.queues()
        for name in self.worker.queue_names():
            if name not in used:
                hint = meant(name, used)
                logger.warning("no actor here belongs to queue %s%s", name, f"; {hint}" if hint else "")
        if not self.worker.auto_declare:
            declared = await connection.queues()
            for name in self.worker.queue_names():
                if name not in declared:
                    logger.warning("queue %s is not declared; nothing can come from it until it is", name)
        await trio.lowlevel.checkpoint()

    def _observe(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            self._ended += 1
            if event.outcome == "released" and event.reason == "shutdown":
                self.handed_back += 1

    def _count_ended(self) -> int:
        return self._ended

    def _tell_end(self, report: Report, unsettled: int, code: Exit) -> None:
        counts = {field.name: getattr(report, field.name) for field in attrs.fields(Report)}
        done = ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "nothing done"
        extra = {"event": "Ended", "handed_back": self.handed_back, "unsettled": unsettled, "exit_code": int(code)}
        line = f"stopped: {done}"
        if self.handed_back:
            line += f"; {plural(self.handed_back, 'job')} cancelled and handed back"
        if unsettled:
            line += f"; {plural(unsettled, 'verdict')} could not be sent, their jobs will come back"
        level = logging.WARNING if code is Exit.HANDED_BACK else logging.INFO
        logger.log(level, "%s", line, extra={"trepid": extra | counts})


@attrs.frozen(eq=False)
class _Announced(trio.TaskStatus[RunningWorker]):
    """Tells of a worker's start in the very step in which it can receive: no signal falls between."""

    served: Served

    def started(self, value: RunningWorker | None = None) -> None:
        assert value is not None
        self.served.announce(value)
