"""Results of many jobs, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Generic, final

import attrs
import trio
from typing_extensions import TypeVar

from trepid.connection.ends import value_of
from trepid.ports.messages import Ending
from trepid.values.job import Job

T = TypeVar("T", default=Any)


@attrs.define(eq=False)
class _Slot(Generic[T]):
    """A job that was started: its id, and how it ended, once that is known."""

    read_result: Callable[[bytes], T]
    id: str = ""
    ending: Ending | None = None


@final
@attrs.define(eq=False)
class JobResults(AsyncIterator[T]):
    """An async iterator of results.  Made by ``jobs.map``; only one task may iterate.

    Each step is a checkpoint.  It raises ResultError for a job whose result cannot be read, and can then go on; a job
    that fails ends the whole nursery.  In a task outside of the nursery's scope it raises ``trio.ClosedResourceError``
    once that is cancelled.
    """

    _jobs: Iterator[Job[T]]
    _start: Callable[[Job[T], Callable[[Ending], None]], str]
    _wait: Callable[[trio.Event], Awaitable[None]]
    _limit: int
    _as_completed: bool
    # In the order in which they are handed out: all, or as completed only those that have ended.
    _slots: deque[_Slot[T]] = attrs.field(init=False, factory=deque)
    _outstanding: int = attrs.field(init=False, default=0)
    _bell: trio.Event = attrs.field(init=False, factory=trio.Event)

    def __aiter__(self) -> JobResults[T]:
        return self

    async def __anext__(self) -> T:
        await trio.lowlevel.checkpoint()
        self._fill()
        if self._outstanding == 0:
            raise StopAsyncIteration
        while not self._slots or (ending := self._slots[0].ending) is None:
            self._bell = trio.Event()
            await self._wait(self._bell)
        slot = self._slots.popleft()
        self._outstanding -= 1
        return value_of(slot.id, ending, slot.read_result)

    def _fill(self) -> None:
        """Start as many jobs as may be under way."""
        while self._outstanding < self._limit:
            job = next(self._jobs, None)
            if job is None:
                return
            slot = _Slot(job.read_result)
            slot.id = self._start(job, partial(self._ended, slot))
            self._outstanding += 1
            if not self._as_completed:
                self._slots.append(slot)

    def _ended(self, slot: _Slot[T], ending: Ending) -> None:
        slot.ending = ending
        if self._as_completed:
            self._slots.append(slot)
        self._bell.set()
