"""Calling an actor's function outside of Trio: in a thread, in a process, or in an asyncio loop."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import trio

from trepid.runtime.asyncio_island import AsyncioIsland
from trepid.runtime.places import Place
from trepid.runtime.processes import Processes
from trepid.values.actor import Actor

NO_ROOM = 1.0
"""For how many seconds a message waits for a thread or process before it is given back."""


@attrs.define(eq=False)
class Calls:
    """The places where a worker run calls functions that do not run in Trio."""

    _threads: trio.CapacityLimiter
    _processes: Processes | None
    _island: AsyncioIsland | None

    async def place(self, actor: Actor[..., Any]) -> Place | None:
        """Wait for a place to run *actor*, and return it, or None if none is free within a second."""
        limiter = self._threads
        if actor.run_in == "process":
            assert self._processes is not None
            limiter = self._processes.limiter
        place = Place(limiter)
        with trio.move_on_after(NO_ROOM) as scope:
            await place.take()
        return None if scope.cancelled_caught else place

    async def call(
        self, actor: Actor[..., Any], place: Place | None, args: list[Any], kwargs: dict[str, Any]
    ) -> object:
        """Call *actor*'s function, and return what it returns.

        Cancellation: a thread is waited for, unless the actor says that it may be abandoned; a process is killed; a
        coroutine in the asyncio loop is cancelled and waited for.
        """
        if actor.run_in == "asyncio":
            assert self._island is not None
            return await self._island.call(actor.fn, args, kwargs)
        assert place is not None
        fn = partial(actor.fn, *args, **kwargs)
        if actor.run_in == "process":
            assert self._processes is not None
            return await self._processes.call(fn, place)
        return await trio.to_thread.run_sync(
            fn,
            thread_name=f"job {actor.name}",
            abandon_on_cancel=actor.abandon_on_cancel,
            # Documented to take anything with the methods of a limiter.
            limiter=place,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        )
