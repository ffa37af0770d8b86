"""Small values by key, in a table of their own; see the port of records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, final

import trio
from typing_extensions import override

from trepid.brokers.sql.news import RECORDED
from trepid.brokers.sqlite import statements
from trepid.brokers.sqlite.transaction import Transaction
from trepid.ports.records import Claim, Drop, Read, Records, Step, Write

if TYPE_CHECKING:
    from trepid.brokers.sqlite.looking import Reading

Replies: TypeAlias = list[bytes | None]

_SWEPT_AT_LEAST = 16


def carry_out(tx: Transaction, steps: Sequence[Step]) -> Replies:
    """Carry out steps in a write transaction, and clear away a little more than they can have left behind."""
    tx.run(statements.SWEEP_RECORDS, (tx.now, _SWEPT_AT_LEAST + 2 * len(steps)))
    return [_carry_out(tx, step) for step in steps]


def look_up(reading: Reading, steps: Sequence[Read]) -> Replies:
    """Return the values under some keys."""
    return [_value(reading, step.key) for step in steps]


def _value(reading: Reading | Transaction, key: str) -> bytes | None:
    found: tuple[bytes] | None = reading.run(statements.RECORD, (key, reading.now)).fetchone()
    return None if found is None else found[0]


def _carry_out(tx: Transaction, step: Step) -> bytes | None:
    before = _value(tx, step.key)
    match step:
        case Read():
            pass
        case Claim(key, value, ttl):
            if before is None:
                _keep(tx, key, value, ttl)
        case Write(key, value, ttl, instead_of):
            if instead_of is None or instead_of == before:
                _keep(tx, key, value, ttl)
        case Drop(key, only):
            if before is not None and (only is None or only == before):
                tx.run(statements.DROP_RECORD, (key,))
                tx.news |= RECORDED
    return before


def _keep(tx: Transaction, key: str, value: bytes, ttl: float | None) -> None:
    tx.run(statements.SET_RECORD, (key, value, None if ttl is None else tx.now + ttl))
    tx.news |= RECORDED


@final
class SQLiteRecords(Records):
    """The records of an open file.

    Args:
      write: runs :func:`carry_out` in the session's writing thread.
      read: runs :func:`look_up` in its reading thread, where nothing is to be changed.
      wait: waits for a value, as :meth:`changed` does.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Step]], Awaitable[Replies]],
        read: Callable[[Sequence[Read]], Awaitable[Replies]],
        wait: Callable[[str, bytes | None, float], Awaitable[bytes | None]],
    ) -> None:
        self._write = write
        self._read = read
        self._wait = wait

    @override
    async def carry_out(self, steps: Sequence[Step]) -> Replies:
        if not steps:
            await trio.lowlevel.checkpoint()
            return []
        reads = [step for step in steps if isinstance(step, Read)]
        if len(reads) == len(steps):
            return await self._read(reads)
        return await self._write(steps)

    @override
    async def changed(self, key: str, known: bytes | None, *, wait: float) -> bytes | None:
        return await self._wait(key, known, wait)
