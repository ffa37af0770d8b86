"""Leaving a job nursery early: its jobs are withdrawn, and that is confirmed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import attrs
import trio

from trepid.connection.nursery.brood import Brood
from trepid.connection.nursery.life import TROUBLE
from trepid.connection.nursery.vigil import Vigil
from trepid.ports.broker import Session
from trepid.ports.messages import Absent, Ending
from trepid.rules.life import CANCELLED, CancelReply

T = TypeVar("T")

REASON: Final = "its job nursery was cancelled"

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


@attrs.frozen
class Closing:
    """Withdraws the children of a nursery from a broker that may be in trouble.  Whoever calls sets the time limit."""

    _session: Session
    _brood: Brood

    async def withdraw(self) -> None:
        """Cancel all children that may be live, and wait until each has ended."""
        async with trio.open_nursery() as nursery:
            for vigil in self._brood.vigils.values():
                nursery.start_soon(self._withdraw, vigil)

    async def _withdraw(self, vigil: Vigil) -> None:
        for child in list(vigil.children.values()):
            if not any(each.ours for each in child.all):
                # Somebody else's, or perhaps so: it is left alone.  If it is ours, its tether ends it.
                vigil.end(child.id, Ending(CANCELLED, reason=REASON))
        for ids in vigil.pieces():
            replies = await self._surely(partial(self._session.cancel, vigil.queue, ids, REASON))
            for id, reply in zip(ids, replies, strict=True):
                if reply is CancelReply.WITHDRAWN:
                    vigil.end(id, Ending(CANCELLED, reason=REASON))
                elif reply is CancelReply.UNKNOWN:
                    vigil.end(id, Absent.GONE)
        await vigil.watch(self._look)

    async def _look(self, queue: str, ids: list[str], wait: float) -> dict[str, Ending | Absent]:
        return await self._surely(partial(self._session.endings, queue, ids, wait=wait))

    async def _surely(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Carry out an operation that may be repeated, whatever the broker's trouble is, and however long it takes."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await operation()
            except TROUBLE:
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
