"""Functions in processes, through trio-parallel (the extra ``process``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from trepid.errors import UnsupportedError
from trepid.runtime.places import Place


@attrs.frozen(eq=False)
class Processes:
    """The worker processes of one run, started when they are first needed."""

    limiter: trio.CapacityLimiter
    _context: Any

    async def call(self, fn: Callable[[], Any], place: Place) -> object:
        """Call *fn* in a process.  Cancelled, the process is killed, and the next call gets a new one."""
        return await self._context.run_sync(fn, kill_on_cancel=True, limiter=place)


@asynccontextmanager
async def open_processes(limit: int) -> AsyncIterator[Processes]:
    """Open a private set of at most *limit* processes.

    Raises:
      UnsupportedError: if trio-parallel is not installed.
    """
    try:
        import trio_parallel
    except ImportError as exc:
        raise UnsupportedError(
            "actors with run_in='process'", "this installation", 'pip install "trepid[process]"'
        ) from exc
    async with trio_parallel.open_worker_context() as context:
        yield Processes(trio.CapacityLimiter(limit), context)
