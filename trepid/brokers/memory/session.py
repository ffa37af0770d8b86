"""The Trio front of the pure core."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import final

import attrs
import trio

from trepid.brokers.memory import looking
from trepid.brokers.memory.ledger import Ledger
from trepid.brokers.memory.records import MemoryRecords
from trepid.brokers.memory.shelf import overstays
from trepid.ports.broker import Broker, Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import (
    Absent,
    Cursor,
    Delivery,
    Ending,
    Extension,
    MessageView,
    Page,
    Publication,
    QueueStats,
    Ref,
    Settlement,
)
from trepid.rules.life import LEASED, CancelReply, Reply, State
from trepid.rules.publishing import Published

_CAPABILITIES = Capabilities("memory", "none", "messages live in this process", records=True, virtual_time=True)


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
        self._endings: dict[tuple[str, str], trio.Event] = {}
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
        yield _MemorySession(self)

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
                event = self._endings.pop((row.shelf.name, row.id), None)
                if event is not None:
                    event.set()
            ledger.watched.clear()

    async def stir(self, until: float) -> None:
        """Wait until a message may have become leasable, or until a moment on Trio's clock."""
        wake = min(until, self._ledger.next_change() - self._epoch)
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

    async def end(self, queue: str, id: str, until: float) -> None:
        """Wait until a message may have ended, or until a moment on Trio's clock."""
        row = self._ledger.row(queue, id)
        if row is None:
            await trio.lowlevel.checkpoint()
            return
        row.watched = True
        event = self._endings.setdefault((queue, id), trio.Event())
        # Time alone may end it (a ttl, a crash too many), and nobody else need be awake to see that.  Only its own time
        # counts, and its every move is told: many may wait, and much may happen to others.
        moment = row.life.until if row.life.state is LEASED else overstays(row.life)
        with trio.CancelScope(deadline=until if moment is None else min(until, moment - self._epoch)):
            await event.wait()

    @property
    def ledger(self) -> Ledger:
        """The messages."""
        return self._ledger


@attrs.define(eq=False)
class _MemorySession(Session):
    """One opening of a memory broker.  Operations are atomic; ``Cancelled`` means not applied."""

    _broker: MemoryBroker

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    @property
    def records(self) -> MemoryRecords:
        return self._broker.records

    async def now(self) -> float:
        await trio.lowlevel.checkpoint()
        return self._broker.now()

    async def declare(self, queues: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        for queue in queues:
            self._broker.ledger.declare(queue)

    async def queues(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return sorted(self._broker.ledger.shelves)

    async def delete(self, queue: str) -> None:
        await trio.lowlevel.checkpoint()
        self._broker.ledger.delete(queue, self._broker.now())
        self._broker.tell()

    async def pause(self, queue: str) -> None:
        await trio.lowlevel.checkpoint()
        self._broker.ledger.pause(queue, paused=True)

    async def resume(self, queue: str) -> None:
        await trio.lowlevel.checkpoint()
        self._broker.ledger.pause(queue, paused=False)
        self._broker.tell()

    async def stats(self, queue: str) -> QueueStats:
        await trio.lowlevel.checkpoint()
        now = self._broker.now()
        self._broker.tell()
        return looking.stats(self._broker.ledger.shelf(queue), now)

    # Below, the checkpoint comes first: cancelled there, nothing has happened; after it, nothing can come between.

    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        await trio.lowlevel.checkpoint()
        published = self._broker.ledger.publish(batch, self._broker.now())
        self._broker.tell()
        return published

    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit}")
        await trio.lowlevel.checkpoint()
        give_up = trio.current_time() + wait
        while True:
            now = self._broker.now()
            deadline = trio.current_time() + lease_for
            taken = self._broker.ledger.lease(queues, limit, lease_for, owner=owner, now=now, deadline=deadline)
            self._broker.tell()
            if taken or trio.current_time() >= give_up:
                return taken
            await self._broker.stir(give_up)

    async def extend(self, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
        await trio.lowlevel.checkpoint()
        now = self._broker.now()
        extensions = self._broker.ledger.extend(refs, lease_for, now, trio.current_time() + lease_for)
        self._broker.tell()
        return extensions

    async def settle(self, batch: Sequence[Settlement], *, then: Sequence[Publication] = ()) -> list[Reply]:
        await trio.lowlevel.checkpoint()
        replies = self._broker.ledger.settle(batch, self._broker.now(), then)
        self._broker.tell()
        return replies

    async def cancel(self, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
        await trio.lowlevel.checkpoint()
        now = self._broker.now()
        replies = [self._broker.ledger.cancel(queue, id, reason, now) for id in ids]
        self._broker.tell()
        return replies

    async def requeue(self, queue: str, ids: Sequence[str] | None = None, *, limit: int = 1000) -> int:
        await trio.lowlevel.checkpoint()
        came = self._broker.ledger.requeue(queue, ids, limit, self._broker.now())
        self._broker.tell()
        return came

    async def purge(
        self, queue: str, states: Sequence[State], ids: Sequence[str] | None = None, *, limit: int = 1000
    ) -> int:
        await trio.lowlevel.checkpoint()
        gone = self._broker.ledger.purge(queue, states, ids, limit, self._broker.now())
        self._broker.tell()
        return gone

    async def get(self, queue: str, id: str) -> MessageView | None:
        await trio.lowlevel.checkpoint()
        self._broker.now()
        self._broker.tell()
        row = self._broker.ledger.row(queue, id)
        return None if row is None else looking.view(row)

    async def peek(self, queue: str, state: State, *, limit: int = 100, after: Cursor | None = None) -> Page:
        await trio.lowlevel.checkpoint()
        self._broker.now()
        self._broker.tell()
        return looking.page(self._broker.ledger.shelf(queue), state, limit, after)

    async def result(self, queue: str, id: str, *, wait: float = 0.0) -> Ending | Absent:
        await trio.lowlevel.checkpoint()
        give_up = trio.current_time() + wait
        while True:
            self._broker.now()
            self._broker.tell()
            found = looking.ending(self._broker.ledger.row(queue, id))
            if found is not Absent.PENDING or trio.current_time() >= give_up:
                return found
            await self._broker.end(queue, id, give_up)

    async def held(self, owner: str) -> list[Ref]:
        await trio.lowlevel.checkpoint()
        self._broker.now()
        self._broker.tell()
        return self._broker.ledger.held(owner)

    async def asked(self, owner: str, known: Collection[Ref], *, wait: float = 0.0) -> list[tuple[Ref, str]]:
        await trio.lowlevel.checkpoint()
        give_up = trio.current_time() + wait
        while True:
            self._broker.now()
            self._broker.tell()
            asked = [found for found in self._broker.ledger.asked(owner) if found[0] not in known]
            if asked or trio.current_time() >= give_up:
                return asked
            await self._broker.ask(give_up)

    async def expire_owner(self, owner: str) -> int:
        await trio.lowlevel.checkpoint()
        expired = self._broker.ledger.expire_owner(owner, self._broker.now())
        self._broker.tell()
        return expired

    async def reap(self, *, limit: int = 1000) -> int:  # noqa: ARG002 - it is quick, and never falls behind
        await trio.lowlevel.checkpoint()
        moved = self._broker.ledger.advance(self._broker.now())
        self._broker.tell()
        return moved
