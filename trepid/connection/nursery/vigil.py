"""Waiting for the ends of many messages of one queue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Final, TypeAlias

import attrs
import trio

from trepid.connection.nursery.child import Child
from trepid.ports.messages import Absent, Ending

AT_ONCE: Final = 1000
"""About so many messages does one call ask for."""

_LONG_POLL: Final = 3600.0
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 5.0
"""Seconds until those are looked at for which nobody waits, since there are too many."""

Look: TypeAlias = Callable[[str, list[str], float], Awaitable[dict[str, Ending | Absent]]]
"""From a queue, ids and seconds to wait to those that have ended; see ``Session.endings``."""


@attrs.define(eq=False)
class Vigil:
    """The children in one queue whose ends are waited for.

    The oldest thousand are waited for, since they are the next to end; if there are more, the others are looked at now
    and then.
    """

    queue: str
    _ended: Callable[[Child, Ending | Absent], None]
    children: OrderedDict[str, Child] = attrs.field(init=False, factory=OrderedDict)
    _more: trio.Event = attrs.field(init=False, factory=trio.Event)
    _waiting: trio.CancelScope | None = attrs.field(init=False, default=None)
    # A look that was broken off for newcomers is made up for by one that is not, however many may come.
    _disturbed: bool = attrs.field(init=False, default=False)
    _pause: float = attrs.field(init=False, default=_FIRST_PAUSE)

    def add(self, child: Child) -> None:
        """Wait for one more."""
        first = self.children.setdefault(child.id, child)
        if first is not child:
            first.twins.append(child)
            return
        self._more.set()
        if self._waiting is not None:
            # Only the long wait for all: one that leaves some out is short.
            self._disturbed = True
            self._waiting.cancel(reason="there is more to wait for")

    def end(self, id: str, ending: Ending | Absent) -> None:
        """One has ended."""
        child = self.children.pop(id, None)
        if child is not None:
            self._ended(child, ending)

    async def keep(self, look: Look) -> None:
        """Watch for ever."""
        while True:
            if not self.children:
                self._more = trio.Event()
                await self._more.wait()
            await self.watch(look)

    async def watch(self, look: Look) -> None:
        """Watch until there is nobody left to wait for."""
        await trio.lowlevel.checkpoint()
        swept = trio.current_time()
        while self.children:
            front = list(islice(self.children, AT_ONCE))
            crowded = len(self.children) > len(front)
            found = 0
            if self._disturbed or crowded:
                wait = 0.0 if self._disturbed else self._pause
                self._disturbed = False
                found = self._heard(await look(self.queue, front, wait))
            else:
                with trio.CancelScope() as self._waiting:
                    found = self._heard(await look(self.queue, front, _LONG_POLL))
                self._waiting = None
            if crowded and trio.current_time() - swept >= self._pause:
                found += await self._sweep(look)
                swept = trio.current_time()
            self._pause = _FIRST_PAUSE if found else min(2 * self._pause, _LONGEST_PAUSE)

    async def _sweep(self, look: Look) -> int:
        """Look at those for which nobody waits; return how many have ended."""
        await trio.lowlevel.checkpoint()
        found = 0
        ids = list(islice(self.children, AT_ONCE, None))
        for start in range(0, len(ids), AT_ONCE):
            found += self._heard(await look(self.queue, ids[start : start + AT_ONCE], 0.0))
        return found

    def _heard(self, ends: dict[str, Ending | Absent]) -> int:
        for id, ending in ends.items():
            self.end(id, ending)
        return len(ends)

    def pieces(self) -> Iterable[list[str]]:
        """Return the ids of all, a thousand at a time."""
        ids = list(self.children)
        return (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE))
