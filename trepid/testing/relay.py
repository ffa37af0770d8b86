"""A session that stands between a caller and a broker."""

# ruff: noqa: D102 - the port says what each operation promises

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
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
from trepid.ports.records import Records, Step
from trepid.rules.gates import Limit
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published

T = TypeVar("T")


class Relay(Session):
    """Hands every operation on to another session, through :meth:`carry`.

    Args:
      inner: the session that does the work.
    """

    def __init__(self, inner: Session) -> None:
        self.inner = inner

    async def carry(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Carry out one operation; derived classes do so in their own way."""
        raise NotImplementedError

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def connected(self) -> bool:
        return self.inner.connected

    @property
    def records(self) -> Records:
        return _RelayedRecords(self)

    async def now(self) -> float:
        return await self.carry("now", self.inner.now)

    async def declare(self, queues: Sequence[str]) -> None:
        await self.carry("declare", partial(self.inner.declare, queues))

    async def queues(self) -> list[str]:
        return await self.carry("queues", self.inner.queues)

    async def delete(self, queue: str) -> None:
        await self.carry("delete", partial(self.inner.delete, queue))

    async def pause(self, queue: str) -> None:
        await self.carry("pause", partial(self.inner.pause, queue))

    async def resume(self, queue: str) -> None:
        await self.carry("resume", partial(self.inner.resume, queue))

    async def stats(self, queue: str) -> QueueStats:
        return await self.carry("stats", partial(self.inner.stats, queue))

    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        return await self.carry("publish", partial(self.inner.publish, batch))

    def publish_in(self, connection: Any, batch: Sequence[Publication]) -> list[Published]:
        return self.inner.publish_in(connection, batch)

    def settle_in(self, connection: Any, settlement: Settlement) -> Reply:
        return self.inner.settle_in(connection, settlement)

    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        return await self.carry("lease", partial(self.inner.lease, queues, limit, lease_for, owner=owner, wait=wait))

    async def extend(self, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
        return await self.carry("extend", partial(self.inner.extend, refs, lease_for))

    async def settle(self, batch: Sequence[Settlement], *, then: Sequence[Publication] = ()) -> list[Reply]:
        return await self.carry("settle", partial(self.inner.settle, batch, then=then))

    async def cancel(self, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
        return await self.carry("cancel", partial(self.inner.cancel, queue, ids, reason))

    async def requeue(self, queue: str, ids: Sequence[str] | None = None, *, limit: int = 1000) -> int:
        return await self.carry("requeue", partial(self.inner.requeue, queue, ids, limit=limit))

    async def purge(
        self, queue: str, states: Sequence[State], ids: Sequence[str] | None = None, *, limit: int = 1000
    ) -> int:
        return await self.carry("purge", partial(self.inner.purge, queue, states, ids, limit=limit))

    async def get(self, queue: str, id: str) -> MessageView | None:
        return await self.carry("get", partial(self.inner.get, queue, id))

    async def peek(self, queue: str, state: State, *, limit: int = 100, after: Cursor | None = None) -> Page:
        return await self.carry("peek", partial(self.inner.peek, queue, state, limit=limit, after=after))

    async def result(self, queue: str, id: str, *, wait: float = 0.0) -> Ending | Absent:
        return await self.carry("result", partial(self.inner.result, queue, id, wait=wait))

    async def moved(self, queue: str, id: str, known: MessageView | None, *, wait: float = 0.0) -> MessageView | None:
        return await self.carry("moved", partial(self.inner.moved, queue, id, known, wait=wait))

    async def held(self, owner: str) -> list[Ref]:
        return await self.carry("held", partial(self.inner.held, owner))

    async def asked(self, owner: str, known: Collection[Ref], *, wait: float = 0.0) -> list[tuple[Ref, str]]:
        return await self.carry("asked", partial(self.inner.asked, owner, known, wait=wait))

    async def expire_owner(self, owner: str) -> int:
        return await self.carry("expire_owner", partial(self.inner.expire_owner, owner))

    async def reap(self, *, limit: int = 1000) -> int:
        return await self.carry("reap", partial(self.inner.reap, limit=limit))

    async def limit(self, limits: Sequence[Limit]) -> None:
        await self.carry("limit", partial(self.inner.limit, limits))

    async def fire(self, firings: Sequence[Firing]) -> list[Published]:
        return await self.carry("fire", partial(self.inner.fire, firings))

    async def marks(self, queue: str) -> dict[str, float]:
        return await self.carry("marks", partial(self.inner.marks, queue))

    async def endings(self, queue: str, ids: Sequence[str], *, wait: float = 0.0) -> dict[str, Ending | Absent]:
        return await self.carry("endings", partial(self.inner.endings, queue, ids, wait=wait))


class _RelayedRecords(Records):
    """Hands steps on in the same way as operations, by the name ``records``."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._inner = relay.inner.records

    async def carry_out(self, steps: Sequence[Step]) -> list[bytes | None]:
        return await self._relay.carry("records", partial(self._inner.carry_out, steps))

    async def changed(self, key: str, known: bytes | None, *, wait: float) -> bytes | None:
        return await self._relay.carry("records", partial(self._inner.changed, key, known, wait=wait))
