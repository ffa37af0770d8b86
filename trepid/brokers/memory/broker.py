"""The memory broker: the pure core on Trio's clock, and who waits for what happens in it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import final

import trio

from trepid.brokers.memory.agenda import becomes_due, is_forgotten, overstays
from trepid.brokers.memory.ledger import Ledger
from trepid.brokers.memory.records import MemoryRecords
from trepid.brokers.memory.session import MemorySession
from trepid.ports.broker import Broker, Session
from trepid.rules.life import LEASED


@final
class MemoryBroker(Broker):
    """A broker inside this process, on Trio's clock: for tests, and for work that need not outlive the program.

    It keeps its messages between the connections of one ``trio.run``.  It never polls: waiting calls wake at the very
    moment a message is published or becomes due, so every rule about time can be tested with ``MockClock``.

    Args:
      wall_clock: says what time it is, in seconds since the epoch, when the broker is first opened; a test that is
        about dates gives its own.
    """

    def __init__(self, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._ledger = Ledger()
        self.records = MemoryRecords(self.now)
        self._bell = trio.Event()
        self._listeners = 0
        self._question = trio.Event()
        self._endings: dict[tuple[str, str], set[trio.Event]] = {}
        # Its time is Trio's, counted from one look at the wall clock; so dates mean something, and time never jumps.
        self._run: object = None
        self._epoch = 0.0

    def __str__(self) -> str:
        return "memory:"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Session]:
        """Open a session on these messages.

        Raises:
          RuntimeError: if the broker was used in another ``trio.run``: its clock, and so its due times, ended there.
        """
        await trio.lowlevel.checkpoint()
        run = trio.lowlevel.current_trio_token()
        if self._run is None:
            self._run, self._epoch = run, self._wall_clock() - trio.current_time()
        elif self._run is not run:
            raise RuntimeError("a MemoryBroker belongs to one trio.run; make a new one for each")
        yield MemorySession(self)

    # ----------------------------------------------------------------------------- for the sessions, in one thread

    def now(self) -> float:
        """Return the broker's time, after letting the past happen."""
        now = self._epoch + trio.current_time()
        self._ledger.advance(now)
        return now

    def tell(self) -> None:
        """Wake whoever waits for what has just changed."""
        ledger = self._ledger
        if ledger.stirred:
            ledger.stirred = False
            if self._listeners:
                self._bell.set()
                self._bell = trio.Event()
        if ledger.questioned:
            ledger.questioned = False
            self._question.set()
            self._question = trio.Event()
        if ledger.watched:
            for row in ledger.watched:
                for event in self._endings.pop((row.shelf.name, row.id), ()):
                    event.set()
            ledger.watched.clear()

    async def stir(self, until: float) -> None:
        """Wait until a message may have become leasable, or until a moment on Trio's clock."""
        wake = min(until, self._ledger.next_change(self._epoch + trio.current_time()) - self._epoch)
        self._listeners += 1
        try:
            with trio.CancelScope(deadline=wake):
                await self._bell.wait()
        finally:
            self._listeners -= 1

    async def ask(self, until: float) -> None:
        """Wait until a running message was asked to stop, or until a moment on Trio's clock."""
        with trio.CancelScope(deadline=until):
            await self._question.wait()

    async def end(self, queue: str, ids: Sequence[str], until: float) -> None:
        """Wait until one of some live messages may have ended, or until a moment on Trio's clock."""
        rows = [row for id in ids if (row := self._ledger.row(queue, id)) is not None]
        event = trio.Event()
        for row in rows:
            row.watched = True
            self._endings.setdefault((queue, row.id), set()).add(event)
            # Time alone may end it (a ttl, a crash too many), and nobody else need be awake to see that.  Only its own
            # time counts, and its every move is told: many may wait, and much may happen to others.
            moment = row.life.until if row.life.state is LEASED else overstays(row.life)
            until = until if moment is None else min(until, moment - self._epoch)
        try:
            with trio.CancelScope(deadline=until):
                await event.wait()
        finally:
            for row in rows:
                waiting = self._endings.get((queue, row.id), set())
                waiting.discard(event)
                if not waiting:
                    self._endings.pop((queue, row.id), None)

    async def move(self, queue: str, id: str, until: float) -> None:
        """Wait until a message may have moved, or until a moment on Trio's clock.

        One that is not there may come: nobody is told of that, but by the bell for whatever may be leased, or is due.
        """
        row = self._ledger.row(queue, id)
        if row is None:
            self._listeners += 1
            try:
                with trio.CancelScope(deadline=until):
                    await self._bell.wait()
            finally:
                self._listeners -= 1
            return
        moments = [moment for moment in (becomes_due(row.life), is_forgotten(row.life)) if moment is not None]
        await self.end(queue, [id], min([until, *(moment - self._epoch for moment in moments)]))

    @property
    def ledger(self) -> Ledger:
        """The messages."""
        return self._ledger
