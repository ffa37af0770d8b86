"""Contexts without a worker, for actors that are tested as the plain functions they are."""

from __future__ import annotations

from typing import Any, Final, TypeVar, final, overload

import attrs
import trio

from trepid.connection import Connection
from trepid.values.context import Context
from trepid.values.job import Job
from trepid.values.notes import Piece, Saved, checked_progress, dump, written

R = TypeVar("R")

_A_JOB: Final[Job[Any]] = Job("job", id="job-1")


@final
@attrs.frozen(eq=False, slots=False)
class _MadeContext(Context[Any]):
    """A context that a test has made."""

    _job: Job[Any]
    _attempt: int
    _nursery: trio.Nursery | None
    _connection: Connection | None
    _resources: Any
    _stopping: bool
    _state: Any

    @property
    def job(self) -> Job[Any]:
        return self._job

    @property
    def attempt(self) -> int:
        return self._attempt

    @property
    def nursery(self) -> trio.Nursery:
        return _given(self._nursery, "nursery")

    @property
    def connection(self) -> Connection:
        return _given(self._connection, "connection")

    @property
    def resources(self) -> Any:
        return self._resources

    def settle_in(self, connection: Any, result: object = None) -> None:
        """Nothing: there is no message to be settled."""

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Check it, and tell nobody."""
        checked_progress(done, total, message)
        await trio.lowlevel.checkpoint()

    async def emit(self, value: object) -> None:
        """Check it, and hand it to nobody."""
        dump(Piece(self._attempt, written(value)))
        await trio.lowlevel.checkpoint()

    async def checkpoint_state(self, value: object) -> None:
        """Check it, and keep it nowhere."""
        dump(Saved(0.0, (0, 0), written(value)))
        await trio.lowlevel.checkpoint()

    @property
    def state(self) -> Any:
        return self._state

    @property
    def stopping(self) -> bool:
        return self._stopping


def _given(value: R | None, name: str) -> R:
    if value is None:
        raise RuntimeError(f"this context was made without a {name}; write make_context({name}=...)")
    return value


@overload
def make_context(
    job: Job[Any] = ...,
    *,
    attempt: int = ...,
    nursery: trio.Nursery | None = ...,
    connection: Connection | None = ...,
    stopping: bool = ...,
    state: Any = ...,
) -> Context: ...
@overload
def make_context(
    job: Job[Any] = ...,
    *,
    attempt: int = ...,
    resources: R,
    nursery: trio.Nursery | None = ...,
    connection: Connection | None = ...,
    stopping: bool = ...,
    state: Any = ...,
) -> Context[R]: ...
def make_context(
    job: Job[Any] = _A_JOB,
    *,
    attempt: int = 1,
    resources: Any = None,
    nursery: trio.Nursery | None = None,
    connection: Connection | None = None,
    stopping: bool = False,
    state: Any = None,
) -> Context[Any]:
    """Make a context, to call an actor's function without broker and worker.

    Args:
      job: what ``ctx.job`` is.
      attempt: which attempt it is, from 1.
      resources: what ``ctx.resources`` is.
      nursery: what ``ctx.nursery`` is; the test waits for its children by leaving its block.
      connection: what ``ctx.connection`` is, such as a :class:`Desk`.
      stopping: whether the worker is said to be shutting down.
      state: what an earlier attempt has saved.

    Returns:
      The context.  Asking it for a nursery or a connection that it was not given raises RuntimeError.
    """
    return _MadeContext(job, attempt, nursery, connection, resources, stopping, state)
