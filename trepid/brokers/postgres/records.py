"""Small values by key, in a table of their own; see the port of records.

A key is locked before anybody looks at its value, whether there is one or not; so a call, or several calls that share a
transaction, look once, decide in memory, and write once what came of it all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio
from typing_extensions import override

from trepid.brokers.postgres.transaction import Transaction
from trepid.ports.records import Claim, Drop, Read, Records, Step, Write

if TYPE_CHECKING:
    from trepid.brokers.postgres.looking import Reading

Replies: TypeAlias = list[bytes | None]

_SWEPT_AT_LEAST: Final = 16

_LOCK: Final = "SELECT pg_advisory_xact_lock(g.place) FROM unnest($1::bigint[]) AS g(place)"
_FIND: Final = """
    SELECT key, value FROM @.records WHERE key = ANY($1::bytea[]) AND (until IS NULL OR until > $2)"""
_SET: Final = """
    INSERT INTO @.records (key, value, until) SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::float8[])
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, until = excluded.until"""
_DROP: Final = "DELETE FROM @.records WHERE key = ANY($1::bytea[])"
_SWEEP: Final = """
    DELETE FROM @.records WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM @.records WHERE until IS NOT NULL AND until <= $1 ORDER BY until LIMIT $2
        FOR UPDATE SKIP LOCKED))"""


def place_of(key: str) -> bytes:
    """Return where a key's value is stored: no index takes 1000 characters, nor PostgreSQL each of them."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def carry_out(tx: Transaction, steps: Sequence[Step]) -> Replies:
    """Carry out steps in a write transaction, and clear away a little more than they can have left behind."""
    return carry_out_together(tx, [(steps,)])[0]


def carry_out_together(tx: Transaction, requests: Sequence[tuple[Sequence[Step]]]) -> list[Replies]:
    """Carry out the steps of several callers, one caller after the other."""
    steps = [step for (some,) in requests for step in some]
    places = {step.key: place_of(step.key) for step in steps}
    # In one order for everybody, so that nobody waits for one who waits for him.
    tx.run(_LOCK, (sorted({_lock_of(place) for place in places.values()}),))
    found = dict(tx.run(_FIND, (list(places.values()), tx.now)).fetchall())
    values: dict[str, bytes | None] = {key: found.get(place) for key, place in places.items()}
    changed: dict[str, float | None] = {}
    replies = [[_carry_out(tx, step, values, changed) for step in some] for (some,) in requests]
    kept = [(places[key], value, until) for key, until in changed.items() if (value := values[key]) is not None]
    dropped = [places[key] for key in changed if values[key] is None]
    if kept:
        tx.run(_SET, tuple(map(list, zip(*kept, strict=True))))
    if dropped:
        tx.run(_DROP, (dropped,))
    if changed:
        sweep(tx, _SWEPT_AT_LEAST + 2 * len(steps))
        tx.changes += len(changed)
    return replies


def _carry_out(
    tx: Transaction, step: Step, values: dict[str, bytes | None], changed: dict[str, float | None]
) -> bytes | None:
    before = values[step.key]
    match step:
        case Read():
            return before
        case Claim(_, _, _):
            applies = before is None
        case Write(_, _, _, instead_of):
            applies = instead_of is None or instead_of == before
        case Drop(_, only):
            applies = before is not None and (only is None or only == before)
    if not applies:
        return before
    if isinstance(step, Drop):
        values[step.key], changed[step.key] = None, None
    else:
        values[step.key] = step.value
        changed[step.key] = None if step.ttl is None else tx.now + step.ttl
    return before


def _lock_of(place: bytes) -> int:
    return int.from_bytes(place[:8], "big", signed=True)


def sweep(tx: Transaction, most: int) -> int:
    """Remove values whose time is over, and return how many."""
    return int(tx.run(_SWEEP, (tx.now, most)).rowcount)


def look_up(reading: Reading, steps: Sequence[Read]) -> Replies:
    """Return the values under some keys."""
    places = [place_of(step.key) for step in steps]
    found = dict(reading.run(_FIND, (places, reading.now)).fetchall())
    return [found.get(place) for place in places]


@final
class PostgreSQLRecords(Records):
    """The records of an open database.

    Args:
      write: runs :func:`carry_out` in the session's writing thread.
      read: runs :func:`look_up` in its reading thread, where nothing is to be changed.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Step]], Awaitable[Replies]],
        read: Callable[[Sequence[Read]], Awaitable[Replies]],
    ) -> None:
        self._write = write
        self._read = read

    @override
    async def carry_out(self, steps: Sequence[Step]) -> Replies:
        if not steps:
            await trio.lowlevel.checkpoint()
            return []
        reads = [step for step in steps if isinstance(step, Read)]
        if len(reads) == len(steps):
            return await self._read(reads)
        return await self._write(steps)
