"""Workers that can die as after SIGKILL, inside one program."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, final

import trio

from trepid.connection import Connection
from trepid.errors import BrokerLostError
from trepid.ports.broker import Broker, Session
from trepid.ports.events import Event, Observer
from trepid.ports.messages import Settlement
from trepid.rules.life import Reply
from trepid.runtime.report import Report
from trepid.runtime.running import RunningWorker
from trepid.runtime.worker import Worker
from trepid.testing.relay import Relay

T = TypeVar("T")


@final
class MortalSession(Relay):
    """A session that reaches nobody once its worker is dead.

    Settlements then seem to go well, so that a dying worker does not dwell on them; everything else fails.
    """

    def __init__(self, inner: Session) -> None:
        super().__init__(inner)
        self.dead = False

    async def carry(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:  # noqa: ARG002 - all alike
        """Carry out an operation, while there is life."""
        if self.dead:
            await trio.lowlevel.checkpoint()
            raise BrokerLostError("the worker is dead")
        return await call()

    async def settle(self, batch: Any, *, then: Any = ()) -> list[Reply]:
        """Settle, or seem to."""
        if self.dead:
            await trio.lowlevel.checkpoint()
            return [Reply.APPLIED for _ in list[Settlement](batch)]
        return await super().settle(batch, then=then)


@final
class Life:
    """One run of a worker, from its start to its stop, or to its death.

    Args:
      broker: where the messages are.
      session: an open session of it.
    """

    def __init__(self, broker: Broker, session: Session) -> None:
        self.session = MortalSession(session)
        self.connection = Connection(broker, self.session)
        self.running: RunningWorker | None = None
        self.report: Report | None = None
        self.over = False
        self._scope = trio.CancelScope()
        self._stop: tuple[float | None] | None = None

    @property
    def dead(self) -> bool:
        """Whether it was killed."""
        return self.session.dead

    def started(self, value: RunningWorker | None = None) -> None:
        """The worker can receive: a life is the ``task_status`` of its worker."""
        self.running = value
        if self._stop is not None:
            self.stop(*self._stop)

    def stop(self, grace: float | None = None) -> None:
        """Stop the worker softly, now or as soon as it has started."""
        self._stop = (grace,)
        if self.running is not None:
            self.running.stop(grace=grace)

    def cancel(self) -> None:
        """Cancel the worker from outside; its broker hears of what it was doing."""
        self._scope.cancel(reason="the worker is cancelled")

    def kill(self) -> None:
        """Kill the worker.  Nothing that it still does reaches the broker, or an observer; its leases stay."""
        self.session.dead = True
        self._scope.cancel(reason="the worker is dead")

    async def run(self, worker: Worker) -> Report | None:
        """Run *worker* until it stops, and return its report, or None if it was cancelled or killed.

        Its observers are deaf to a dead worker.
        """
        observers = [self._while_alive(observer) for observer in worker.observers]
        try:
            with self._scope:
                self.report = await worker.options(observers=observers).run(self.connection, task_status=self)
        finally:
            self.over = True
        return None if self.dead else self.report

    def _while_alive(self, observer: Observer) -> Observer:
        def observe(event: Event) -> None:
            if not self.dead:
                observer(event)

        return observe
