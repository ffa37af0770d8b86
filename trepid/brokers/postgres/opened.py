"""An open session without its operations: two threads with a connection each, and a bell."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Final

import trio
from typing_extensions import override

from trepid.brokers.postgres import leasing, records
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.connected import Clock
from trepid.brokers.postgres.doorbell import Doorbell, Silence
from trepid.brokers.postgres.engine import Reader, Writer
from trepid.brokers.postgres.looking import Reading
from trepid.brokers.postgres.publishing import publish, publish_together
from trepid.brokers.postgres.transaction import Transaction
from trepid.brokers.sql.session import SQLSession
from trepid.brokers.sql.tally import Statistics
from trepid.brokers.sql.thread import OwnerThread
from trepid.brokers.sql.waiting import Waiting
from trepid.ports.capabilities import Capabilities

POLL: Final = 1.0
"""Seconds between looks at the tables while somebody waits: the net under the bell."""


class Opened(SQLSession[Transaction, Reading], ABC):
    """What runs while a session is open, and how its operations are brought to it."""

    def __init__(self, address: Address, clock: Callable[[], float] | None) -> None:
        self._address = address
        self._clock = Clock(clock)
        self._looks = 0
        self._waiting = Waiting(Silence(), self._look, 0, poll=POLL)
        self._bell = Doorbell(address, self._waiting.tell)
        self._writer_engine = Writer(address, self._clock, self._bell.ring)
        self._reader_engine = Reader(address, self._clock)
        writer = OwnerThread[Transaction](
            self._writer_engine,
            "trepid writes",
            tell=self._waiting.tell,
            together={
                publish: publish_together,
                records.carry_out: records.carry_out_together,
                leasing.lease: leasing.lease_together,
            },
            at_once=self._writer_engine.at_once,
        )
        reader = OwnerThread[Reading](self._reader_engine, "trepid reads", abandon=True)
        super().__init__("PostgreSQL", writer, reader)
        self._records = records.PostgreSQLRecords(
            lambda steps: self._write(records.carry_out, steps), lambda steps: self._read(records.look_up, steps)
        )

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
        return self._counted(busy=self._writer.tally.repeated, rung=self._bell.rung)

    @property
    @override
    def connected(self) -> bool:
        # The bell looks for the server all the time; who writes looks when he is asked.
        return self._bell.up and self._writer_engine.failed_at < self._bell.up_since

    @property
    @override
    def records(self) -> records.PostgreSQLRecords:
        return self._records

    async def _look(self) -> int:
        """Let everybody who waits look for himself, now and then."""
        self._looks += 1
        await trio.lowlevel.checkpoint()
        return self._looks
