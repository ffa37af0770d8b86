"""Queues, dead letters and removal, inside a write transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from trepid.brokers.sql.news import ENDED_SOMETHING, WORK
from trepid.brokers.sql.rows import NUMBERS, Row, load
from trepid.brokers.sqlite import statements
from trepid.brokers.sqlite.transaction import Transaction
from trepid.errors import QueueBusyError
from trepid.rules import lifecycle
from trepid.rules.gates import QUEUE, Limit
from trepid.rules.life import DEAD, ENDED, LEASED, READY, SCHEDULED, State

_AT_ONCE = 1000
_SWEEPS = (statements.SWEEP_DEPARTED, statements.SWEEP_RECORDS, statements.SWEEP_STARTS, statements.SWEEP_HOLDS)


def declare(tx: Transaction, queues: Sequence[str]) -> None:
    """Make queues exist."""
    for name in queues:
        if tx.find_queue(name) is None:
            tx.run(statements.ADD_QUEUE, (name,))
            tx.forget_queues()


def delete(tx: Transaction, queue: str) -> None:
    """Remove a queue with everything in it, unless a message of it is leased."""
    found = tx.find_queue(queue)
    if found is None:
        return
    key = found[0]
    (leased,) = tx.run(statements.COUNT_LEASED, (key, tx.now)).fetchone()
    if leased:
        raise QueueBusyError(queue, leased)
    # A million messages are not removed in one transaction, which would keep everybody waiting; the name goes at once.
    tx.run(statements.UNNAME_QUEUE, (key,))
    # Starts and holds end by themselves; nobody asks for them under this key again.
    tx.run(statements.DROP_LIMITS, (key,))
    tx.run(statements.DROP_MARKS, (key,))
    _clear(tx, key, _AT_ONCE)
    tx.forget_queues()
    tx.news |= ENDED_SOMETHING


def _clear(tx: Transaction, key: int, most: int) -> int:
    rows = [load(found) for found in tx.run(statements.OF_QUEUE, (key, most))]
    tx.remove(rows)
    if len(rows) < most:
        tx.run(statements.DROP_QUEUE, (key,))
        tx.forget_queues()
    return len(rows)


def pause(tx: Transaction, queue: str, paused: bool) -> None:  # noqa: FBT001 - called through `OwnerThread.run`
    """Pause or resume a queue."""
    tx.run(statements.PAUSE_QUEUE, (paused, tx.queue(queue)))
    tx.forget_queues()
    if not paused:
        tx.news |= WORK


def limit(tx: Transaction, limits: Sequence[Limit]) -> None:
    """Set limits, each in place of an earlier one."""
    for each in limits:
        found = tx.find_queue(each.queue)
        if found is None:
            continue
        key = found[0]
        if each.void:
            tx.run(statements.DROP_LIMIT, (key, each.family))
        else:
            rest = (each.concurrency, each.count, each.per, each.max_size, each.weight)
            tx.run(statements.SET_LIMIT, (key, each.family, *rest))
        tx.run(statements.LIMIT_QUEUE, (key,))
        if each.family == QUEUE:
            tx.run(statements.UNBOUND_QUEUE if each.max_size is None else statements.BOUND_QUEUE, (key,))
        tx.forget_queues()
        tx.news |= WORK


def requeue(tx: Transaction, queue: str, ids: Sequence[str] | None, limit: int) -> int:
    """Bring dead messages back; those whose unique key is taken stay dead."""
    key = tx.queue(queue)
    tx.observe(key)
    came = 0
    for row in _dead(tx, key) if ids is None else _named(tx, key, ids):
        if came >= limit:
            break
        if row.life.state is not DEAD or (row.unique is not None and _is_held(tx, key, row.unique)):
            continue
        tx.move(row, lifecycle.requeue(row.life, tx.next_seq(), tx.now))
        came += 1
    return came


def _is_held(tx: Transaction, queue: int, unique: str) -> bool:
    row = tx.aged(tx.by_unique(queue, unique))
    return row is not None and row.life.state not in ENDED


def _dead(tx: Transaction, queue: int) -> Iterator[Row]:
    """Yield the dead messages of a queue in order, without holding a cursor open while they are changed."""
    after = 0
    while rows := [load(found) for found in tx.run(statements.DEAD, (queue, after, _AT_ONCE))]:
        yield from rows
        after = rows[-1].life.seq


def _named(tx: Transaction, queue: int, ids: Sequence[str]) -> Iterator[Row]:
    for id in dict.fromkeys(ids):
        row = tx.aged(tx.by_id(queue, id))
        if row is not None:
            yield row


def purge(tx: Transaction, queue: str, states: Sequence[State], ids: Sequence[str] | None, limit: int) -> int:
    """Forget messages in some states, leased ones never."""
    key = tx.queue(queue)
    tx.observe(key)
    wanted = set(states) - {LEASED}
    rows: list[Row] = []
    if ids is not None:
        rows = [row for row in _named(tx, key, ids) if row.life.state in wanted][:limit]
    else:
        waiting = wanted & {READY, SCHEDULED}
        if waiting:
            rows = _waiting(tx, key, waiting, limit)
        for state in wanted - waiting:
            rows += _ended(tx, key, state, limit - len(rows))
    tx.remove(rows)
    if rows:
        tx.news |= ENDED_SOMETHING
    return len(rows)


def _waiting(tx: Transaction, queue: int, states: Collection[State], limit: int) -> list[Row]:
    # A queue that was not looked at for a while says `scheduled` of what is ready by now.  Where both are meant, as to
    # flush a queue, nobody looks through the ones for the others.
    ready, both = READY in states, len(states) == 2
    found = tx.run(statements.WAITING, (queue, both, tx.now, ready, limit)).fetchall()
    if len(found) < limit and ready:
        found += tx.run(statements.READY_BEHIND, (queue, limit - len(found))).fetchall()
    if len(found) < limit:
        found += tx.run(statements.AWAITED, (queue, both, tx.now, ready, limit - len(found))).fetchall()
    return [load(each) for each in found]


def _ended(tx: Transaction, queue: int, state: State, limit: int) -> list[Row]:
    return [load(each) for each in tx.run(statements.ENDED, (queue, NUMBERS[state], tx.now, limit))]


def reap(tx: Transaction, limit: int) -> int:
    """Carry out what time has decided, everywhere."""
    moved = sum(tx.observe(tx.queue(name)) for name in tx.queue_names())
    for statement in _SWEEPS:
        tx.run(statement, (tx.now, limit))
    return moved + sweep(tx, limit)


def sweep(tx: Transaction, most: int) -> int:
    """Clear away some of what is to be forgotten, and return how much."""
    rows = [load(found) for found in tx.run(statements.FORGETTABLE, (tx.now, most))]
    if rows:
        tx.remove(rows)
    left = most - len(rows)
    for key in list(tx.deleted_queues()):
        if left > 0:
            left -= _clear(tx, key, left)
    return most - left
