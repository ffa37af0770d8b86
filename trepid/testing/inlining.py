"""Sync actors, called in the Trio thread: virtual time knows nothing of threads and processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn, final, overload

import attrs
import trio

from trepid.connection import Connection
from trepid.errors import UnsupportedError
from trepid.runtime.worker import Worker
from trepid.values.actor import Actor
from trepid.values.context import Context
from trepid.values.job import Job
from trepid.values.router import Router


@overload
def inline(worker_or_router: Worker) -> Worker: ...
@overload
def inline(worker_or_router: Router) -> Router: ...
def inline(worker_or_router: Worker | Router) -> Worker | Router:
    """Return the same worker, or router, with its thread and process actors called in the Trio thread.

    That makes tests of them quick, and exact in virtual time, which would jump on while a thread works.  Such a call
    takes no virtual time, and nothing interrupts it: neither its timeout, nor a cancel, nor a shutdown; each of them
    takes effect once it has returned.  ``trio.from_thread.check_cancelled()`` does nothing in it, and the rest of
    ``trio.from_thread`` raises RuntimeError.  Limits on threads and processes have no effect.

    Raises:
      UnsupportedError: if an actor runs in asyncio, and trio-asyncio is not installed.
    """
    if isinstance(worker_or_router, Worker):
        return worker_or_router.options(router=inline(worker_or_router.router))
    return replaced(worker_or_router, _inlined)


def replaced(router: Router, change: Callable[[Actor[..., Any]], Actor[..., Any]]) -> Router:
    """Return a router with other actors in the same middleware, and the same schedules."""
    result = Router(schedules=router.schedules.values())
    for name, actor in router.items():
        one = Router(change(actor))
        for middleware in reversed(router.middleware(name)):
            one = one.wrapped(middleware)
        result |= one
    return result


def with_function(actor: Actor[..., Any], fn: Callable[..., Any], run_in: str) -> Actor[..., Any]:
    """Return an actor that calls *fn* instead, with the parameters of its own function."""
    other = copy.copy(actor)
    # Not by the constructor: it would read the parameters of the new function, which takes whatever comes.
    for name, value in (("fn", fn), ("run_in", run_in), ("abandon_on_cancel", False)):
        object.__setattr__(other, name, value)
    return other


def _inlined(actor: Actor[..., Any]) -> Actor[..., Any]:
    if actor.run_in == "asyncio" and find_spec("trio_asyncio") is None:
        raise UnsupportedError(
            f"actor {actor.name!r} with run_in='asyncio'", "this installation", 'pip install "trepid[asyncio]"'
        )
    if actor.run_in not in ("thread", "process"):
        return actor

    async def call(*args: Any, **kwargs: Any) -> object:
        await trio.lowlevel.checkpoint()
        if actor.parameters.takes_context:
            args = (_WithoutNursery(args[0]), *args[1:])
        with _in_a_thread():
            return actor.fn(*args, **kwargs)

    return with_function(actor, call, "trio")


@contextmanager
def _in_a_thread() -> Generator[None, None, None]:
    """Let ``trio.from_thread.check_cancelled()`` work as in a thread whose job nobody has cancelled."""
    # Trio keeps what a thread may ask of it in a thread-local object; where that has changed, the call says that
    # this is no thread of Trio's, which is true.
    data = getattr(import_module("trio._threads"), "PARENT_TASK_DATA", None)
    if data is None or hasattr(data, "cancel_register"):
        yield
        return
    data.cancel_register = [None]
    try:
        yield
    finally:
        del data.cancel_register


@final
@attrs.frozen(eq=False, slots=False)
class _WithoutNursery(Context[Any]):
    """The context of a sync actor: as in a thread, there is no nursery to be had."""

    _context: Context[Any]

    @property
    def job(self) -> Job[Any]:
        return self._context.job

    @property
    def attempt(self) -> int:
        return self._context.attempt

    @property
    def nursery(self) -> NoReturn:
        raise RuntimeError("a job in a thread has no Trio nursery; make it an async Trio actor")

    @property
    def connection(self) -> Connection:
        return self._context.connection

    @property
    def resources(self) -> Any:
        return self._context.resources

    def settle_in(self, connection: Any, result: object = None) -> None:
        self._context.settle_in(connection, result)

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        await self._context.progress(done, total, message)

    async def emit(self, value: object) -> None:
        await self._context.emit(value)

    async def checkpoint_state(self, value: object) -> None:
        await self._context.checkpoint_state(value)

    @property
    def state(self) -> Any:
        return self._context.state

    @property
    def stopping(self) -> bool:
        return self._context.stopping
