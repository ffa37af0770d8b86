"""The staff of a desk: one worker at a time, and the next one when that has died."""

from __future__ import annotations

from functools import partial
from typing import final

import attrs
import trio

from trepid.ports.broker import Broker, Session
from trepid.ports.events import Event, JobEnded
from trepid.runtime.report import Report
from trepid.runtime.worker import Worker
from trepid.testing.inlining import replaced
from trepid.testing.mishaps import Mishaps
from trepid.testing.mortality import Life
from trepid.testing.recorder import Recorder


@final
class Staff:
    """Runs a worker until it is stopped; whenever it is killed, another one starts at once.

    Attributes:
      report: what the workers did; the dead ones have not reported.
    """

    def __init__(self, broker: Broker, session: Session, worker: Worker, mishaps: Mishaps, recorder: Recorder) -> None:
        self.report = Report()
        self._broker = broker
        self._session = session
        self._worker = worker.options(observers=[recorder, *worker.observers, self._observe])
        self._mishaps = mishaps
        self._ended = trio.Event()
        self._stopped = False
        self._life: Life | None = None

    async def work(self) -> None:
        """Run until :meth:`stop`."""
        while True:
            life = self._life = Life(self._broker, self._session)
            if self._stopped:
                life.stop()
            rigged = replaced(self._worker.router, partial(self._mishaps.rigged, life=life))
            report = await life.run(self._worker.options(router=rigged))
            if report is not None:
                self.report = _sum(self.report, report)
            if not life.dead:
                return

    def stop(self) -> None:
        """Stop softly.  What runs may finish within the worker's ``graceful_shutdown_time``."""
        self._stopped = True
        if self._life is not None:
            self._life.stop()

    async def wait_ended(self) -> None:
        """Wait until an attempt has ended."""
        await self._ended.wait()

    def _observe(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            self._ended.set()
            self._ended = trio.Event()


def _sum(one: Report, other: Report) -> Report:
    return Report(*(a + b for a, b in zip(attrs.astuple(one), attrs.astuple(other), strict=True)))
