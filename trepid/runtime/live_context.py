"""The context that a running actor holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, final

import attrs
import trio

from trepid.connection import Connection
from trepid.ports.messages import Delivery
from trepid.runtime.noting import Notes
from trepid.values.chains import job_of
from trepid.values.context import Context
from trepid.values.envelope import Envelope, arguments_of
from trepid.values.job import Job
from trepid.values.queue import Priority


@final
@attrs.frozen(eq=False, slots=False)
class LiveContext(Context[Any]):
    """A :class:`Context`, made by the worker for one attempt."""

    _delivery: Delivery
    _envelope: Envelope
    _connection: Connection
    _resources: Any
    _stopping: Callable[[], bool]
    _nursery: trio.Nursery | None
    _settle_in: Callable[[Any, object], None]
    _notes: Callable[[], Notes]

    @property
    def job(self) -> Job[Any]:
        """The job, with its plain arguments."""
        args, kwargs = arguments_of(self._delivery.payload)
        return Job(
            self._envelope.actor,
            args=tuple(args),
            kwargs=kwargs,
            queue=self._delivery.queue,
            priority=_priority(self._delivery.priority),
            id=self._delivery.id,
            retries=self._envelope.retries,
            timeout=self._envelope.timeout,
            deferred_until=datetime.fromtimestamp(self._delivery.due, UTC),
            result_ttl=self._delivery.result_ttl,
            headers=self._envelope.headers,
            max_crashes=self._delivery.max_crashes,
            gate=self._delivery.gate,
            follow_ups=map(job_of, self._envelope.then),
        )

    @property
    def attempt(self) -> int:
        """Failures so far, plus 1."""
        return self._delivery.failures + 1

    @property
    def nursery(self) -> trio.Nursery:
        """A nursery that ends before the message is settled."""
        if self._nursery is None:
            raise RuntimeError("a job in a thread or an asyncio loop has no Trio nursery; make it an async Trio actor")
        return self._nursery

    @property
    def connection(self) -> Connection:
        """The worker's connection."""
        return self._connection

    @property
    def resources(self) -> Any:
        """What the worker's ``resources`` gave."""
        return self._resources

    def settle_in(self, connection: Any, result: object = None) -> None:
        """Settle the job as done in the caller's own transaction."""
        self._settle_in(connection, result)

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the job is."""
        await self._notes().progress(done, total, message)

    async def emit(self, value: object) -> None:
        """Hand a value to whoever watches the job."""
        await self._notes().emit(value)

    async def checkpoint_state(self, value: object) -> None:
        """Keep a value for the next attempt."""
        await self._notes().save(value)

    @property
    def state(self) -> Any:
        """What an earlier attempt saved, or None."""
        return self._notes().state

    @property
    def stopping(self) -> bool:
        """Whether the worker is shutting down."""
        return self._stopping()


def _priority(number: int) -> Priority | None:
    return next((priority for priority in Priority if priority == number), None)
