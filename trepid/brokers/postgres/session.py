"""The session: what the port promises, as requests to two threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar, final

import trio
from typing_extensions import TypeVarTuple, override

from trepid.brokers.postgres import guest, keeping, leasing, looking, records, settling
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.connected import Clock
from trepid.brokers.postgres.doorbell import Doorbell, Silence
from trepid.brokers.postgres.engine import Reader, Writer
from trepid.brokers.postgres.looking import Reading
from trepid.brokers.postgres.publishing import publish, publish_together
from trepid.brokers.postgres.transaction import Transaction
from trepid.brokers.sql.news import ASKED, ENDED_SOMETHING, WORK
from trepid.brokers.sql.tally import Statistics
from trepid.brokers.sql.thread import OwnerThread
from trepid.brokers.sql.waiting import Waiting
from trepid.errors import UnsupportedError
from trepid.ports.broker import Session
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
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published

R = TypeVar("R")
Args = TypeVarTuple("Args")

POLL: Final = 1.0
"""Seconds between looks at the tables while somebody waits: the net under the bell."""

_LONGEST_SLEEP: Final = 1.0
"""Seconds after which a moment is looked at again: the broker's clock may run ahead of Trio's."""


@final
class PostgreSQLSession(Session):
    """An open PostgreSQL broker.  Made by :meth:`PostgreSQLBroker.open`."""

    def __init__(self, address: Address, clock: Callable[[], float] | None) -> None:
        self._address = address
        self._clock = Clock(clock)
        self._process = os.getpid()
        self._looks = 0
        self._waiting = Waiting(Silence(), self._look, 0, poll=POLL)
        self._bell = Doorbell(address, self._waiting.tell)
        self._writer_engine = Writer(address, self._clock, self._bell.ring)
        self._reader_engine = Reader(address, self._clock)
        self._writer = OwnerThread[Transaction](
            self._writer_engine,
            "trepid writes",
            tell=self._waiting.tell,
            together={publish: publish_together, records.carry_out: records.carry_out_together},
            at_once=self._writer_engine.at_once,
        )
        self._reader = OwnerThread[Reading](self._reader_engine, "trepid reads", abandon=True)
        self._turns = [0]
        self._records = records.PostgreSQLRecords(
            lambda steps: self._write(records.carry_out, steps), lambda steps: self._read(records.look_up, steps)
        )
        self._capabilities: Capabilities

    async def start(self) -> None:
        """Connect, and make the tables if there are none."""
        await self._writer.start()
        await self._reader.start()
        await self._bell.start()
        engine = self._writer_engine
        self._capabilities = Capabilities(
            engine=f"PostgreSQL {engine.version.partition(' ')[0]}",
            durability="fsync" if engine.durable else "process",
            durability_proof=engine.proof,
            delay_resolution=0.01,
            same_transaction=True,
            records=True,
        )

    async def close(self) -> None:
        """End the threads, and leave nothing behind."""
        await self._bell.close()
        await self._reader.close()
        await self._writer.close()

    def statistics(self) -> Statistics:
        """Return what the session has done so far; no checkpoint."""
        tally = self._writer.tally
        return Statistics(
            tally.transactions,
            tally.requests,
            tally.largest_group,
            tally.isolated,
            tally.repeated,
            self._bell.rung,
            self._reader.tally.requests,
        )

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    @override
    def connected(self) -> bool:
        # The bell looks for the server all the time; who writes looks when he is asked.
        return self._bell.up and self._writer_engine.failed_at < self._bell.up_since

    @property
    @override
    def records(self) -> records.PostgreSQLRecords:
        return self._records

    async def _write(self, function: Callable[[Transaction, *Args], R], *args: *Args) -> R:
        self._stay_home()
        return await self._writer.run(function, *args)

    async def _read(self, function: Callable[[Reading, *Args], R], *args: *Args) -> R:
        self._stay_home()
        return await self._reader.run(function, *args)

    def _stay_home(self) -> None:
        if os.getpid() != self._process:
            raise UnsupportedError("being used across fork()", "PostgreSQL", "open the broker in the new process")

    async def _look(self) -> int:
        """Let everybody who waits look for himself, now and then."""
        self._looks += 1
        await trio.lowlevel.checkpoint()
        return self._looks

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
        give_up = trio.current_time() + wait
        wish = leasing.Wish(queues, limit, lease_for, owner, self._turns)
        while True:
            seen = self._waiting.count(WORK)
            # Counted from before it is asked for, so that it never ends later here than there.
            deadline = trio.current_time() + lease_for
            claim = await self._write(leasing.lease, wish, deadline)
            # From here to the return there is no checkpoint: what was leased is handed over.
            if claim.deliveries or trio.current_time() >= give_up:
                return claim.deliveries
            await self._waiting.more(WORK, seen, min(give_up, _alarm(claim.wait)))

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
        give_up = trio.current_time() + wait
        while True:
            seen = self._waiting.count(ENDED_SOMETHING)
            found = await self._read(looking.result, queue, id)
            if found.ending is not Absent.PENDING or trio.current_time() >= give_up:
                return found.ending
            await self._waiting.more(ENDED_SOMETHING, seen, min(give_up, _alarm(found.wait)))

    # ---------------------------------------------------------------------------------------------------- owners

    @override
    async def held(self, owner: str) -> list[Ref]:
        return await self._read(looking.held, owner)

    @override
    async def asked(self, owner: str, known: Collection[Ref], *, wait: float = 0.0) -> list[tuple[Ref, str]]:
        give_up = trio.current_time() + wait
        while True:
            seen = self._waiting.count(ASKED)
            asked = [found for found in await self._read(looking.asked, owner) if found[0] not in known]
            if asked or trio.current_time() >= give_up:
                return asked
            await self._waiting.more(ASKED, seen, give_up)

    @override
    async def expire_owner(self, owner: str) -> int:
        return await self._write(leasing.expire_owner, owner)

    @override
    async def reap(self, *, limit: int = 1000) -> int:
        return await self._write(keeping.reap, limit)


def _alarm(wait: float | None) -> float:
    """Return the moment on Trio's clock to look again, where time may change something after *wait* seconds."""
    return float("inf") if wait is None else trio.current_time() + min(max(wait, 0.001), _LONGEST_SLEEP)
