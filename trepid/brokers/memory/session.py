"""The Trio front of the pure core."""

# ruff: noqa: D102 - the port says what each operation promises

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from trepid.brokers.memory import looking
from trepid.brokers.memory.records import MemoryRecords
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.looks import has_moved
from trepid.ports.messages import (
    Absent,
    Cursor,
    Delivery,
    Ending,
    Extension,
    Firing,
    MessageView,
    Page,
    Publication,
    QueueStats,
    Ref,
    Settlement,
)
from trepid.rules.gates import Limit
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published

if TYPE_CHECKING:
    from trepid.brokers.memory.broker import MemoryBroker

_CAPABILITIES = Capabilities("memory", "none", "messages live in this process", records=True, virtual_time=True)


@attrs.define(eq=False)
class MemorySession(Session):
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

    async def limit(self, limits: Sequence[Limit]) -> None:
        await trio.lowlevel.checkpoint()
        self._broker.ledger.limit(limits)
        self._broker.tell()

    async def fire(self, firings: Sequence[Firing]) -> list[Published]:
        await trio.lowlevel.checkpoint()
        # Each is a step, and in each one time goes first.
        published = [self._broker.ledger.fire(firing, self._broker.now()) for firing in firings]
        self._broker.tell()
        return published

    async def marks(self, queue: str) -> dict[str, float]:
        await trio.lowlevel.checkpoint()
        shelf = self._broker.ledger.shelves.get(queue)
        return {} if shelf is None else dict(shelf.marks)

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
            await self._broker.end(queue, [id], give_up)

    async def endings(self, queue: str, ids: Sequence[str], *, wait: float = 0.0) -> dict[str, Ending | Absent]:
        await trio.lowlevel.checkpoint()
        give_up = trio.current_time() + wait
        while True:
            self._broker.now()
            self._broker.tell()
            looks = {id: looking.ending(self._broker.ledger.row(queue, id)) for id in ids}
            found = {id: looks[id] for id in ids if looks[id] is not Absent.PENDING}
            if found or trio.current_time() >= give_up:
                return found
            await self._broker.end(queue, ids, give_up)

    async def moved(self, queue: str, id: str, known: MessageView | None, *, wait: float = 0.0) -> MessageView | None:
        await trio.lowlevel.checkpoint()
        give_up = trio.current_time() + wait
        while True:
            self._broker.now()
            self._broker.tell()
            row = self._broker.ledger.row(queue, id)
            view = None if row is None else looking.view(row)
            if has_moved(known, view) or trio.current_time() >= give_up:
                return view
            await self._broker.move(queue, id, give_up)

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
