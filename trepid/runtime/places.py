"""Places in a bounded room: threads and processes."""

from __future__ import annotations

import attrs
import trio


@attrs.define(eq=False)
class Place:
    """One place in a limiter, taken before a function starts, and given back when it has really ended.

    It is passed on as the ``limiter`` of ``trio.to_thread.run_sync`` and of processes, which give it back themselves,
    even when the caller has long gone on without an abandoned thread.  Middleware that calls once more waits for
    another place.
    """

    _limiter: trio.CapacityLimiter
    _taken: bool = attrs.field(init=False, default=False)
    # From who runs a function now to the name under which the limiter knows that.
    _lent: dict[object, object] = attrs.field(init=False, factory=dict)

    async def take(self) -> None:
        """Wait for a free place and take it.  Cancelled means not taken."""
        await self._limiter.acquire_on_behalf_of(self)
        self._taken = True

    def give_back(self) -> None:
        """Give the place back, unless it was handed on to a running function."""
        if self._taken:
            self._taken = False
            self._limiter.release_on_behalf_of(self)

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Hand the place on to a function that starts; if that was done already, wait for another."""
        await trio.lowlevel.checkpoint()
        if self._taken:
            self._taken, self._lent[borrower] = False, self
        else:
            another = object()
            await self._limiter.acquire_on_behalf_of(another)
            self._lent[borrower] = another

    def release_on_behalf_of(self, borrower: object) -> None:
        """The function has ended."""
        self._limiter.release_on_behalf_of(self._lent.pop(borrower))
