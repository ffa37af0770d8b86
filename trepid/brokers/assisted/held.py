"""What a session has leased, and news of its own that shorten the waiting for those that must be looked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import attrs
import trio

from trepid.ports.messages import Delivery, Ref

_FIRST_LOOK = 0.01
_LONGEST_LOOK = 0.25


@attrs.define(eq=False)
class _Hold:
    ticket: Ref
    owner: str
    deadline: float


@final
class Held:
    """The leases of a session, from their deliveries to their settlements."""

    def __init__(self) -> None:
        self._holds: dict[Ref, _Hold] = {}
        self._news = trio.Event()

    def __len__(self) -> int:
        return len(self._holds)

    def add(self, delivery: Delivery, ticket: Ref, owner: str) -> None:
        """Remember a lease."""
        self._holds[delivery.ref] = _Hold(ticket, owner, delivery.deadline)

    def extended(self, ref: Ref, deadline: float) -> None:
        """A lease runs on."""
        hold = self._holds.get(ref)
        if hold is not None:
            hold.deadline = max(hold.deadline, deadline)  # no lease is ever shortened

    def drop(self, ref: Ref) -> None:
        """A lease has ended."""
        self._holds.pop(ref, None)

    def ticket(self, ref: Ref) -> Ref | None:
        """Return the lease as the main engine knows it."""
        hold = self._holds.get(ref)
        return None if hold is None else hold.ticket

    def of(self, owner: str) -> Iterator[Ref]:
        """Yield the leases of an owner; those that ran out long ago are forgotten."""
        now = trio.current_time()
        for ref, hold in list(self._holds.items()):
            if hold.deadline + _LONGEST_LOOK < now:
                del self._holds[ref]
            elif hold.owner == owner:
                yield ref

    # --------------------------------------------------------------------------------------------------------- news

    def tell(self) -> None:
        """Something has been leased, has ended, or was asked to stop, in this session."""
        self._news.set()
        self._news = trio.Event()

    async def news(self, looks: int | None, until: float) -> None:
        """Wait for news of this session, or for the time to look at what other sessions did.

        Args:
          looks: how often the caller has looked already, which makes the pauses grow from 10 ms to 250 ms; None if
            others cannot have done anything.
          until: a moment on Trio's clock to return at, in any case.
        """
        news = self._news
        if looks is not None:
            pause = min(_FIRST_LOOK * 2.0 ** min(looks, 8), _LONGEST_LOOK)
            until = min(until, trio.current_time() + pause)
        with trio.CancelScope(deadline=until):
            await news.wait()
