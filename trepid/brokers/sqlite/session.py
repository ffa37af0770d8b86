"""The session: what the port promises, as requests to two threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, final

import trio
from typing_extensions import override

from trepid.brokers.look import Look
from trepid.brokers.sql.endings import pace
from trepid.brokers.sql.news import ENDED_SOMETHING, RECORDED, WORK
from trepid.brokers.sql.session import SQLSession
from trepid.brokers.sql.tally import Statistics
from trepid.brokers.sql.thread import OwnerThread
from trepid.brokers.sql.waiting import LONGEST_SLEEP, Waiting
from trepid.brokers.sqlite import endings, firing, guest, keeping, leasing, looking, records, settling
from trepid.brokers.sqlite.clock import HighWater
from trepid.brokers.sqlite.doorbell import Bell, Ringer
from trepid.brokers.sqlite.engine import Reader, Writer
from trepid.brokers.sqlite.looking import Reading
from trepid.brokers.sqlite.passing import Wish
from trepid.brokers.sqlite.publishing import publish
from trepid.brokers.sqlite.records import SQLiteRecords
from trepid.brokers.sqlite.transaction import Transaction
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
from trepid.ports.records import Read
from trepid.rules.gates import Limit
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published


@final
class SQLiteSession(SQLSession[Transaction, Reading]):
    """An open SQLite broker.  Made by :meth:`SQLiteBroker.open`."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = HighWater(clock)
        self._bell = Bell(path)
        self._ringer = Ringer(path, self._bell)
        self._writer_engine = Writer(path, self._clock, self._ringer)
        self._reader_engine = Reader(path, self._clock)
        name = Path(path).name
        writer = OwnerThread[Transaction](self._writer_engine, f"trepid writes {name}", tell=self._told)
        reader = OwnerThread[Reading](self._reader_engine, f"trepid reads {name}", abandon=True)
        super().__init__("SQLite", writer, reader)
        self._turns = [0]
        self._places: dict[int, str] = {}
        self._records: SQLiteRecords

    async def start(self) -> None:
        """Open the file and hang up the bell."""
        await self._writer.start()
        await self._reader.start()
        self._capabilities = Capabilities(
            engine=f"SQLite {sqlite3.sqlite_version}",
            durability="fsync",
            durability_proof=self._writer_engine.proof,
            delay_resolution=0.01,
            same_transaction=True,
            records=True,
        )
        self._waiting = Waiting(self._bell, self._version, await self._version())
        self._records = SQLiteRecords(
            lambda steps: self._write(records.carry_out, steps),
            lambda steps: self._read(records.look_up, steps),
            self._changed,
        )
        self._bell.hang()

    async def close(self) -> None:
        """End the threads, and leave nothing behind."""
        self._bell.take_down()
        await self._reader.close()
        await self._writer.close()

    def statistics(self) -> Statistics:
        """Return what the session has done so far; no checkpoint."""
        busy = self._writer_engine.busy_retries + self._reader_engine.busy_retries
        return self._counted(busy=busy, rung=self._ringer.rung)

    @property
    @override
    def records(self) -> SQLiteRecords:
        return self._records

    def _told(self, news: int) -> None:
        self._waiting.tell(news)

    async def _version(self) -> int:
        return await self._read(looking.version)

    async def _changed(self, key: str, known: bytes | None, wait: float) -> bytes | None:
        """Return the value under a key of the records, waiting until it is another than *known*."""

        async def look() -> Look[bytes | None]:
            [value] = await self._read(records.look_up, [Read(key)])
            # It may also expire, of which nobody tells.
            return Look(value, value != known, LONGEST_SLEEP)

        return await self._waiting.repeat(look, RECORDED, wait)

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
        """Store messages in the caller's own transaction, on the caller's own connection to the same file.

        They are there once the caller commits, and gone if it rolls back.  Workers notice them within a tenth of a
        second.

        Raises:
          UnsupportedError: if *connection* is no :class:`sqlite3.Connection` to this file.
          RuntimeError: if no transaction is open, and the connection would not open one by itself.
        """
        return guest.publish_in(self._path, self._clock, connection, batch)

    @override
    def settle_in(self, connection: Any, settlement: Settlement) -> Reply:
        """End a lease in the caller's own transaction, on the caller's own connection to the same file.

        Raises:
          UnsupportedError, RuntimeError: as :meth:`publish_in` does.
        """
        return guest.settle_in(self._path, self._clock, connection, settlement)

    @override
    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit}")
        wish = Wish(queues, limit, lease_for, owner, self._turns, self._places)

        async def look() -> Look[list[Delivery]]:
            wish.renew()
            # Where there are very many gates, it takes several steps, and others have their turn in between.
            while True:
                # Counted from before it is asked for, so that it never ends later here than there.
                claim = await self._write(leasing.lease, wish, trio.current_time() + lease_for)
                if claim is not None:
                    return claim

        return await self._waiting.repeat(look, WORK, wait)

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

    @override
    async def reap(self, *, limit: int = 1000) -> int:
        return await self._write(keeping.reap, limit)

    # ------------------------------------------------------------------------------------------ limits and schedules

    @override
    async def limit(self, limits: Sequence[Limit]) -> None:
        await self._write(keeping.limit, limits)

    @override
    async def fire(self, firings: Sequence[Firing]) -> list[Published]:
        return await self._write(firing.fire, firings)

    @override
    async def marks(self, queue: str) -> dict[str, float]:
        return await self._read(looking.marks, queue)
