"""The worker: which actors run, how many at once, and how they are stopped."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from signal import Signals
from typing import Any, TypeAlias, final

import attrs
import trio

from trepid.connection import Connection
from trepid.ports.events import Observer
from trepid.runtime.nurseries import work
from trepid.runtime.report import Report
from trepid.runtime.running import RunningWorker
from trepid.values.actor import Actor
from trepid.values.durations import Duration, seconds
from trepid.values.queue import Queue, as_queue
from trepid.values.router import Middleware, Router

Resources: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]


@final
@attrs.frozen(init=False, eq=False)
class Worker:
    """A set of actors and the terms on which they run: a value, so it can run many times, also at once.

    ``worker | router`` has the actors of both, and the right side wins; its other fields stay.

    Args:
      routers_or_actors: what it runs.  Later ones win over earlier ones of the same name.
      queues: where it looks for messages; by default the queues of its actors.
      tasks_limit: how many messages it runs at once.
      threads_limit: how many of them in threads.
      processes_limit: how many of them in processes; by default as many as there are CPUs.
      messages_limit: ends the run once so many runs have ended in a verdict.
      graceful_shutdown_time: seconds that running jobs get after a stop.
      lease: seconds after which another worker may take a message over if this one falls silent.  It is renewed, so
        it may be shorter than a job; it must be at least a second.
      handle_signals: signals that stop the worker: the first one softly, the second at once.  None touches no signal.
      auto_declare: declare its queues before it starts.
      resources: a callable returning an async context manager.  It is entered once per run, before the worker has
        started, and left after the last settlement; jobs find what it gives as ``ctx.resources``.
      middleware: ``async def middleware(ctx, call)`` round every attempt, inside its timeout; the leftmost outermost.
      observers: sync functions that are told of events.

    Raises:
      TypeError, ValueError: if a field breaks its rule.
    """

    router: Router
    queues: tuple[Queue, ...] | None
    tasks_limit: int
    threads_limit: int
    processes_limit: int
    messages_limit: int | None
    graceful_shutdown_time: float
    lease: float
    handle_signals: tuple[Signals, ...] | None
    auto_declare: bool
    resources: Resources | None
    middleware: tuple[Middleware, ...]
    observers: tuple[Observer, ...]

    def __init__(
        self,
        *routers_or_actors: Router | Actor[..., Any],
        queues: Sequence[Queue | str] | None = None,
        tasks_limit: int = 1000,
        threads_limit: int = 40,
        processes_limit: int | None = None,
        messages_limit: int | None = None,
        graceful_shutdown_time: Duration = 25.0,
        lease: Duration = 30.0,
        handle_signals: Sequence[int] | None = None,
        auto_declare: bool = True,
        resources: Resources | None = None,
        middleware: Sequence[Middleware] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        router = Router()
        for item in routers_or_actors:
            router |= item if isinstance(item, Router) else Router(item)
        if isinstance(queues, (str, Queue)):
            raise TypeError(f"queues must be a list of queues, not {queues!r}; write queues=[{str(queues)!r}]")
        if resources is not None and not callable(resources):
            raise TypeError(f"resources must be a callable returning an async context manager, not {resources!r}")
        for what in (*middleware, *observers):
            if not callable(what):
                raise TypeError(f"middleware and observers must be callable, not {what!r}")
        for observer in observers:
            if inspect.iscoroutinefunction(observer):
                raise TypeError(f"observers are called, not awaited, and {observer!r} is async; write def")
        held_for = seconds(lease, "lease", positive=True)
        if held_for < 1:
            raise ValueError(f"lease must be at least 1 second, not {lease!r}")
        fields: dict[str, Any] = {
            "router": router,
            "queues": None if queues is None else tuple(as_queue(queue) for queue in queues),
            "tasks_limit": _count(tasks_limit, "tasks_limit"),
            "threads_limit": _count(threads_limit, "threads_limit"),
            "processes_limit": _count(
                (os.cpu_count() or 1) if processes_limit is None else processes_limit, "processes_limit"
            ),
            "messages_limit": None if messages_limit is None else _count(messages_limit, "messages_limit"),
            "graceful_shutdown_time": seconds(graceful_shutdown_time, "graceful_shutdown_time"),
            "lease": held_for,
            "handle_signals": None if handle_signals is None else _signals(handle_signals),
            "auto_declare": auto_declare,
            "resources": resources,
            "middleware": tuple(middleware),
            "observers": tuple(observers),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __or__(self, other: Router | Actor[..., Any] | Worker) -> Worker:
        """Return a worker with the actors of both, the right side winning, and the fields of this one."""
        if isinstance(other, Worker):
            other = other.router
        if not isinstance(other, (Router, Actor)):
            return NotImplemented
        return self.options(router=self.router | other)

    def including(self, *routers_or_actors: Router | Actor[..., Any]) -> Worker:
        """Return a worker that has these actors too; they win over those of the same name."""
        worker = self
        for item in routers_or_actors:
            worker |= item
        return worker

    def options(self, **changes: Any) -> Worker:
        """Return a worker with some fields changed, by the rules of the constructor."""
        fields = {name.name: getattr(self, name.name) for name in attrs.fields(Worker)} | changes
        return Worker(fields.pop("router"), **fields)

    def queue_names(self) -> tuple[str, ...]:
        """Return where it looks for messages: the given queues, or those of its actors."""
        if self.queues is not None:
            return tuple(dict.fromkeys(queue.name for queue in self.queues))
        return self.router.queues()

    def declared(self) -> tuple[Queue, ...]:
        """Return the queues that it declares, with what they were given to it or to its actors with."""
        return self.queues if self.queues is not None else tuple(actor.queue for actor in self.router.values())

    async def run(
        self, connection: Connection, *, task_status: trio.TaskStatus[RunningWorker] = trio.TASK_STATUS_IGNORED
    ) -> Report:
        """Run until the worker is stopped or has reached ``messages_limit``.

        Several runs, of one worker or of many, may share a connection.

        Args:
          connection: where the messages are.
          task_status: for ``nursery.start``, which hands back a :class:`RunningWorker` once it can receive.

        Returns:
          What it did.

        Raises:
          Exception: what entering or leaving ``resources`` raised, or the broker while queues were declared; bare.
            A worker does not start while the broker is away: that is a BrokerLostError.
          ExceptionGroup: whatever ends the worker after it has started, such as a BaseException out of a job.

        Cancellation: running jobs are cancelled and given back uncounted.  That takes at most 5 seconds, plus what jobs
        shield, plus what threads need that may not be abandoned.
        """
        return await work(self, connection, task_status)


def _signals(value: Sequence[int]) -> tuple[Signals, ...]:
    try:
        return tuple(Signals(each) for each in value)
    except (TypeError, ValueError):
        raise ValueError(f"handle_signals must be a list such as [signal.SIGTERM], not {value!r}") from None


def _count(value: int, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value!r}")
    return value
