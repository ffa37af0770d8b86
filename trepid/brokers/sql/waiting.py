"""Waiting for news in one session: from its own commits, from other sessions' bells, or from a look at the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar, final

import trio

from trepid.brokers.look import Look
from trepid.brokers.sql.news import ALL_NEWS, ASKED, ENDED_SOMETHING, RECORDED, WORK

R = TypeVar("R")

POLL: Final = 0.1
"""Seconds between looks at the store while somebody waits: the net under the bells."""

LONGEST_SLEEP: Final = 1.0
"""Seconds after which a moment is looked at again: the broker's clock may run ahead of Trio's."""


class Bell(Protocol):
    """What other sessions ring."""

    @property
    def descriptor(self) -> int | None:
        """What becomes readable when somebody rings, or None if news come by :meth:`Waiting.tell` alone."""
        ...

    def heard(self) -> int:
        """Return what was rung since the last time, a sum of kinds of news."""
        ...


@final
class Waiting:
    """The tasks of a session that wait for news.

    There is no background task: one of the waiting tasks listens for all of them, and hands over when it leaves.

    Args:
      bell: the session's bell.
      look: returns a number that changes when another connection commits.
      version: what it returned when the session was opened.
      poll: seconds between looks.
    """

    def __init__(
        self, bell: Bell, look: Callable[[], Awaitable[int]], version: int, *, poll: float | None = None
    ) -> None:
        self._bell = bell
        self._look = look
        self._version = version
        self._poll = POLL if poll is None else poll
        self._next_look = 0.0
        self._lot = trio.lowlevel.ParkingLot()
        self._listening: trio.CancelScope | None = None
        self._counts = {WORK: 0, ENDED_SOMETHING: 0, ASKED: 0, RECORDED: 0}

    def count(self, kind: int) -> int:
        """Return a number that grows with each news of one kind."""
        return self._counts[kind]

    def tell(self, news: int) -> None:
        """Wake who waits for these news; called in the event loop."""
        for kind in self._counts:
            self._counts[kind] += bool(news & kind)
        self._lot.unpark_all()
        if self._listening is not None:
            self._listening.cancel(reason="there is news")

    async def more(self, kind: int, seen: int, until: float) -> None:
        """Wait for news of a kind that were not there when its count was *seen*, or until a moment on Trio's clock."""
        with trio.CancelScope(deadline=until):
            while self.count(kind) == seen:
                if self._listening is None:
                    await self._listen()
                else:
                    await self._lot.park()

    async def repeat(self, look: Callable[[], Awaitable[Look[R]]], kind: int, wait: float, *, pause: float = 0.0) -> R:
        """Look until there is enough, with each news of a kind and whenever time alone may have changed something.

        Between the look that found enough and the return there is no checkpoint.

        Args:
          look: looks once.
          kind: of the news.
          wait: after so many seconds, what is found is returned anyway.
          pause: seconds that lie between two looks whatever happens: for those that take their time, in a busy broker.
        """
        give_up = trio.current_time() + wait
        while True:
            seen = self.count(kind)
            looked = await look()
            if looked.enough or trio.current_time() >= give_up:
                return looked.found
            if pause:
                await trio.sleep(min(pause, give_up - trio.current_time()))
            await self.more(kind, seen, min(give_up, _alarm(looked.wait)))

    async def _listen(self) -> None:
        """Wait for whatever comes first: a bell, news of this session's own, or the time to look at the store."""
        if trio.current_time() >= self._next_look + self._poll:
            self._next_look = trio.current_time() + self._poll  # nobody has waited for a while
        self._listening = scope = trio.CancelScope(deadline=self._next_look)
        news = 0
        try:
            with scope:
                if self._bell.descriptor is None:
                    await trio.sleep_forever()
                else:
                    await trio.lowlevel.wait_readable(self._bell.descriptor)
            news = self._bell.heard()
            # Also where bells ring all the time: who enqueues in his own transaction rings none.
            if trio.current_time() >= self._next_look:
                self._next_look = trio.current_time() + self._poll
                version = await self._look()
                if version != self._version:
                    self._version = version
                    news = ALL_NEWS
        finally:
            self._listening = None
            self._lot.unpark()  # somebody else listens now, if anybody waits
            if news:
                self.tell(news)


def _alarm(wait: float | None) -> float:
    """Return the moment on Trio's clock to look again, where time may change something after *wait* seconds."""
    return float("inf") if wait is None else trio.current_time() + min(max(wait, 0.001), LONGEST_SLEEP)
