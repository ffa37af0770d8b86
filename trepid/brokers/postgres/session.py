"""The session: what the port promises, as requests to two threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, final

import trio
from typing_extensions import override

from trepid.brokers.postgres import endings, firing, guest, keeping, leasing, limiting, looking, settling
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.opened import Opened
from trepid.brokers.postgres.publishing import publish
from trepid.brokers.sql.endings import pace
from trepid.brokers.sql.news import ENDED_SOMETHING, WORK
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


@final
class PostgreSQLSession(Opened):
    """An open PostgreSQL broker.  Made by :meth:`PostgreSQLBroker.open`."""

    def __init__(self, address: Address, clock: Callable[[], float] | None) -> None:
        super().__init__(address, clock)
        self._turns = [0]
        self._places: dict[int, str] = {}

    @override
    async def now(self) -> float:
        return await self._read(looking.clock)

    # ---------------------------------------------------------------------------------------------------- queues

    @override
    async def declare(self, queues: Sequence[str]) -> None:
        await self._write(keeping.declare, queues)

    @override
    async def queues(self) -> list[str]:
        return await self._read(looking.queues)

    @override
    async def delete(self, queue: str) -> None:
        await self._write(keeping.delete, queue)

    @override
    async def pause(self, queue: str) -> None:
        await self._write(keeping.pause, queue, True)

    @override
    async def resume(self, queue: str) -> None:
        await self._write(keeping.pause, queue, False)

    @override
    async def stats(self, queue: str) -> QueueStats:
        return await self._read(looking.stats, queue)

    # ------------------------------------------------------------------------------------------- a message's life

    @override
    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        # Who waits here for work asks again at once, behind this request: both then share one commit, and a job that is
        # enqueued beside an idle worker starts after one flush of the disk instead of two.
        self._waiting.tell(WORK)
        return await self._write(publish, batch)

    @override
    def publish_in(self, connection: Any, batch: Sequence[Publication]) -> list[Published]:
        """Store messages in the caller's own transaction; workers are told at its commit.

        Args:
          connection: a psycopg.Connection to this database, or SQLAlchemy's Connection or Session around one.
          batch: what to store.

        Raises:
          UnsupportedError: if *connection* is of another kind, or to another database.
          RuntimeError: if no transaction is open, and the connection would not open one by itself.
        """
        return guest.publish_in(self._guest(), connection, batch)

    @override
    def settle_in(self, connection: Any, settlement: Settlement) -> Reply:
        """End a lease in the caller's own transaction; see :meth:`publish_in`.

        Until the caller commits or rolls back, the message is held: nobody else can lease, cancel or extend it.
        """
        return guest.settle_in(self._guest(), connection, settlement)

    def _guest(self) -> guest.Guest:
        return guest.Guest(self._address, self._writer_engine.instance, self._clock)

    @override
    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit}")
        wish = leasing.Wish(queues, limit, lease_for, owner, self._turns, self._places)
        # Counted from before it is asked for, so that it never ends later here than there.
        return await self._waiting.repeat(
            lambda: self._write(leasing.lease, wish, trio.current_time() + lease_for), WORK, wait
        )

    @override
    async def extend(self, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
        return await self._write(leasing.extend, refs, lease_for, trio.current_time() + lease_for)

    @override
    async def settle(self, batch: Sequence[Settlement], *, then: Sequence[Publication] = ()) -> list[Reply]:
        return await self._write(settling.settle, batch, then)

    @override
    async def cancel(self, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
        return await self._write(settling.cancel, queue, ids, reason)

    @override
    async def requeue(self, queue: str, ids: Sequence[str] | None = None, *, limit: int = 1000) -> int:
        return await self._write(keeping.requeue, queue, ids, limit)

    @override
    async def purge(
        self, queue: str, states: Sequence[State], ids: Sequence[str] | None = None, *, limit: int = 1000
    ) -> int:
        return await self._write(keeping.purge, queue, states, ids, limit)

    # --------------------------------------------------------------------------------------------------- looking

    @override
    async def get(self, queue: str, id: str) -> MessageView | None:
        return await self._read(looking.get, queue, id)

    @override
    async def peek(self, queue: str, state: State, *, limit: int = 100, after: Cursor | None = None) -> Page:
        return await self._read(looking.peek, queue, state, limit, after or 0)

    @override
    async def result(self, queue: str, id: str, *, wait: float = 0.0) -> Ending | Absent:
        return await self._waiting.repeat(lambda: self._read(endings.result, queue, id), ENDED_SOMETHING, wait)

    @override
    async def endings(self, queue: str, ids: Sequence[str], *, wait: float = 0.0) -> dict[str, Ending | Absent]:
        return await self._waiting.repeat(
            lambda: self._read(endings.results, queue, ids), ENDED_SOMETHING, wait, pause=pace(ids)
        )

    # ---------------------------------------------------------------------------------------------------- owners

    @override
    async def held(self, owner: str) -> list[Ref]:
        return await self._read(looking.held, owner)

    @override
    async def asked(self, owner: str, known: Collection[Ref], *, wait: float = 0.0) -> list[tuple[Ref, str]]:
        return await self._asked(lambda: self._read(looking.asked, owner), known, wait)

    @override
    async def expire_owner(self, owner: str) -> int:
        return await self._write(leasing.expire_owner, owner)

    # ---------------------------------------------------------------------------------------- limits and schedules

    @override
    async def limit(self, limits: Sequence[Limit]) -> None:
        await self._write(limiting.limit, limits)

    @override
    async def fire(self, firings: Sequence[Firing]) -> list[Published]:
        return await self._write(firing.fire, firings)

    @override
    async def marks(self, queue: str) -> dict[str, float]:
        return await self._read(firing.marks, queue)

    @override
    async def reap(self, *, limit: int = 1000) -> int:
        return await self._write(keeping.reap, limit)
