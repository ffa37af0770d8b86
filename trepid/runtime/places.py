"""Places in a bounded room: threads and processes."""

from __future__ import annotations

import attrs
import trio


@attrs.define(eq=False)
class Place:
    """One place in a limiter, taken before a function starts, and given back when it has really ended.

    It is passed on as the ``limiter`` of ``trio.to_thread.run_sync``, which gives it back itself, even when the caller
    has long gone on without an abandoned thread; a process call hands it on and gives it back likewise.
    """

    _limiter: trio.CapacityLimiter
    _handed_on: bool = attrs.field(init=False, default=False)

    async def take(self) -> None:
        """Wait for a free place and take it.  Cancelled means not taken."""
        await self._limiter.acquire_on_behalf_of(self)

    def give_back(self) -> None:
        """Give the place back, unless it was handed on to a running function."""
        if not self._handed_on:
            self._handed_on = True
            self._limiter.release_on_behalf_of(self)

    async def acquire_on_behalf_of(self, _borrower: object) -> None:
        """Hand the place on to a function that starts."""
        await trio.lowlevel.checkpoint()
        self._handed_on = True

    def release_on_behalf_of(self, _borrower: object) -> None:
        """The function has ended."""
        self._limiter.release_on_behalf_of(self)
