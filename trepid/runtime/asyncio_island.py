"""Coroutine functions of asyncio libraries, in one guarded loop of trio-asyncio (the extra ``asyncio``).

The loop lives in a task of its own.  Jobs start from outside of it, and a context variable is what makes a task find
the loop, so no ordinary job ever sees one.  A whole job crosses once: its coroutine becomes a task of the loop, and the
job's Trio task waits for that.
"""

from __future__ import annotations

import contextvars
import sys
import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import trio

from trepid.errors import UnsupportedError
from trepid.runtime.asyncio_loop import GuardedLoop

_FEATURE: Final = "actors with run_in='asyncio'"


@attrs.define(eq=False)
class AsyncioIsland:
    """One asyncio loop at a time, shared by the asyncio actors of a worker run.

    It is opened by the first call, and again by the first call after it has died: there is one way to get a loop, and
    a worker whose asyncio actors have nothing to do keeps none.
    """

    _nursery: trio.Nursery
    # The loop's tasks are started from a job, but must not inherit that job's context.
    _context: contextvars.Context = attrs.field(init=False, factory=contextvars.copy_context)
    _current: GuardedLoop | None = attrs.field(init=False, default=None)
    _closed: bool = attrs.field(init=False, default=False)
    interrupt: KeyboardInterrupt | None = attrs.field(init=False, default=None)
    """A Ctrl-C that hit asyncio code which belongs to no job."""

    async def call(self, fn: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> object:
        """Call the coroutine function *fn* in the loop, and return what it returns.

        It sees the caller's context variables.  What it raises comes out bare.

        Raises:
          IslandLostError: if the loop died of something else; the call may have had any part of its effect.
          RuntimeError: if the coroutine ended as cancelled though nobody here had cancelled it.

        Cancellation: reaches the coroutine as one ``asyncio.CancelledError``, and is waited for until the coroutine
        has ended, however long that takes.  If the coroutine swallows it, what it returns or raises counts.
        """
        if self._closed:
            raise trio.ClosedResourceError("this worker run has ended")
        guard = self._current
        if guard is None or guard.ending:
            guard = self._current = GuardedLoop(self._interrupted)
            start = partial(self._nursery.start_soon, guard.run, name="the worker's asyncio loop")
            self._context.run(start)
        await guard.ready.wait()
        return await guard.call(fn, args, kwargs)

    def close(self) -> None:
        """Let the loop end, and accept no more calls."""
        self._closed = True
        if self._current is not None:
            self._current.leave()

    def _interrupted(self, interrupt: KeyboardInterrupt) -> None:
        self.interrupt = interrupt
        self._nursery.cancel_scope.cancel(reason="Ctrl-C in asyncio code")


def _check_trio_asyncio() -> None:
    """Import trio-asyncio, or say why that cannot be."""
    hint = 'pip install "trepid[asyncio]"'
    if sys.version_info >= (3, 14):
        hint += " on Python 3.11 to 3.13; trio-asyncio builds on parts of asyncio that Python 3.14 removed"
        raise UnsupportedError(_FEATURE, "Python 3.14 or newer", hint)
    try:
        with warnings.catch_warnings():
            # Raised by the import itself on Python 3.12 and 3.13; fatal for those who run with warnings as errors.
            warnings.filterwarnings("ignore", ".*AbstractChildWatcher. is deprecated", DeprecationWarning)
            import trio_asyncio  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as exc:
        raise UnsupportedError(_FEATURE, "this installation", hint) from exc


@asynccontextmanager
async def open_island() -> AsyncGenerator[AsyncioIsland, None]:
    """Open a place for asyncio's coroutines.  What the block raises comes out as it is.

    Raises:
      UnsupportedError: if trio-asyncio is not installed, or does not run on this Python.
      KeyboardInterrupt: if Ctrl-C hit asyncio code that belongs to no job; the block was cancelled.

    Cancellation: left in any way, the block ends the loop and all that runs in it, within 6 seconds; only threads that
    asyncio code has started are waited for longer.
    """
    _check_trio_asyncio()
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        island = AsyncioIsland(nursery)
        try:
            yield island
        except BaseException as exc:  # noqa: BLE001 - raised below, where no nursery wraps it
            raised = exc
        island.close()
        # The guards bound themselves; a cancellation of this wait would come out in a group with what was raised.
        nursery.cancel_scope.shield = True
    if island.interrupt is not None:
        raise island.interrupt
    if raised is not None:
        raise raised
