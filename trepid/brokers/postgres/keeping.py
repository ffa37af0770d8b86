"""Queues, dead letters and removal, inside a write transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from trepid.brokers.postgres import records, statements
from trepid.brokers.postgres.transaction import Transaction
from trepid.brokers.sql.news import ENDED_SOMETHING, WORK
from trepid.brokers.sql.rows import NUMBERS, Row, dump, load
from trepid.errors import QueueBusyError, UnknownQueueError
from trepid.rules import lifecycle
from trepid.rules.life import ENDED, LEASED, READY, SCHEDULED, State

_AT_ONCE: Final = 1000
_DAY: Final = 86_400.0


def declare(tx: Transaction, queues: Sequence[str]) -> None:
    """Make queues exist."""
    missing = set(queues) - tx.keys(queues).keys()
    if missing:
        tx.run(statements.ADD_QUEUES, (sorted(missing),))
        tx.changes += 1


def delete(tx: Transaction, queue: str) -> None:
    """Remove a queue with everything in it, unless a message of it is leased."""
    tx.run(statements.LOCK_QUEUE, (queue,))
    key = tx.keys([queue]).get(queue)
    if key is None:
        return
    while tx.observe([key]):
        pass  # what is refused writes nothing, so the next one would have the same before him
    (leased,) = tx.run(statements.LEASED, (key,)).fetchone()
    if leased:
        raise QueueBusyError(queue, leased)
    # A million messages are not removed in one transaction, which would keep everybody waiting; the name goes at once.
    # The row stays for a day: whoever was just storing a message under this key may commit after us.
    tx.run(statements.UNNAME_QUEUE, (tx.now, key))
    tx.run(statements.FORGET_QUEUE, (key,))
    tx.changes += 1
    _clear(tx, key, _AT_ONCE)
    tx.news |= ENDED_SOMETHING


def _clear(tx: Transaction, key: int, most: int) -> int:
    cleared = 0
    for statement in (statements.CLEAR, statements.CLEAR_ENDED):
        if cleared < most:
            (number,) = tx.run(statement, (tx.remembered, key, most - cleared)).fetchone()
            cleared += number
    tx.changes += cleared
    return cleared


def pause(tx: Transaction, queue: str, paused: bool) -> None:  # noqa: FBT001 - called through `OwnerThread.run`
    """Pause or resume a queue."""
    if not tx.run(statements.PAUSE_QUEUE, (paused, queue)).rowcount:
        raise UnknownQueueError(queue)
    tx.changes += 1
    if not paused:
        tx.news |= WORK


def requeue(tx: Transaction, queue: str, ids: Sequence[str] | None, limit: int) -> int:
    """Bring dead messages back; those whose unique key is taken stay dead."""
    key = tx.queue(queue)
    tx.observe([key])
    came, after = 0, 0
    while came < limit:
        if ids is None:
            found = tx.run(statements.DEAD, (key, after, min(_AT_ONCE, limit - came))).fetchall()
            rows = [load(each) for each in found]
        else:
            order = {id: number for number, id in enumerate(dict.fromkeys(ids))}
            found = tx.run(statements.DEAD_BY_IDS, (key, list(order))).fetchall()
            rows = sorted(map(load, found), key=lambda row: order[row.id])
        if not rows:
            break
        came += _revive(tx, key, rows, limit - came)
        if ids is not None:
            break
        after = rows[-1].life.seq
    return came


def _revive(tx: Transaction, key: int, rows: Sequence[Row], most: int) -> int:
    rows = list(rows)
    if len(rows) > most:
        # Named ones, of which some may stay dead: one by one, so that never too many come.
        came = 0
        for row in rows:
            if came < most:
                came += _revive(tx, key, [row], 1)
        return came
    places = [seq for (seq,) in tx.run(statements.PLACES, (len(rows),)).fetchall()]
    lives = [lifecycle.requeue(row.life, seq, tx.now) for row, seq in zip(rows, places, strict=True)]
    columns = [list(column) for column in zip(*map(dump, lives), strict=True)]
    given = ([row.life.seq for row in rows], *columns, [None] * len(rows), key)
    (came,) = tx.run(statements.REVIVE, given).fetchone()
    if came:
        tx.changes += came
        tx.news |= WORK
    return int(came)


def purge(tx: Transaction, queue: str, states: Sequence[State], ids: Sequence[str] | None, limit: int) -> int:
    """Forget messages in some states, leased ones never."""
    key = tx.queue(queue)
    tx.observe([key])
    wanted = set(states) - {LEASED}
    purged = 0
    if ids is not None:
        purged = _purge_named(tx, key, wanted, ids, limit)
    else:
        waiting = wanted & {READY, SCHEDULED}
        if waiting:
            purged = _purge_waiting(tx, key, waiting, limit)
        for state in wanted - waiting:
            purged += _purge_ended(tx, key, state, limit - purged)
    tx.changes += purged
    if purged:
        tx.news |= ENDED_SOMETHING
    return purged


def _purge_waiting(tx: Transaction, key: int, states: Collection[State], most: int) -> int:
    # A queue that was not looked at for a while says `scheduled` of what is ready by now.  Where both are meant, as to
    # flush a queue, nobody looks through the ones for the others.
    given = (tx.remembered, key, tx.now, READY in states, len(states) == 2, most)
    (purged,) = tx.run(statements.PURGE_WAITING, given).fetchone()
    return int(purged)


def _purge_ended(tx: Transaction, key: int, state: State, most: int) -> int:
    if most <= 0:
        return 0
    (purged,) = tx.run(statements.PURGE_ENDED, (tx.remembered, key, tx.now, NUMBERS[state], most)).fetchone()
    return int(purged)


def _purge_named(tx: Transaction, key: int, wanted: Iterable[State], ids: Sequence[str], most: int) -> int:
    stored = tx.stored(key, ids)
    living: list[int] = []
    ended: list[str] = []
    for id in dict.fromkeys(ids):
        row = tx.aged(stored.get(id))
        if row is None or row.life.state not in wanted or len(living) + len(ended) >= most:
            continue
        if stored[id].life.state in ENDED:
            ended.append(id)
        else:
            living.append(row.life.seq)
    purged = 0
    if living:
        (number,) = tx.run(statements.REMOVE, (tx.remembered, living)).fetchone()
        purged += number
    if ended:
        (number,) = tx.run(statements.REMOVE_ENDED, (tx.remembered, key, ended)).fetchone()
        purged += number
    return purged


def reap(tx: Transaction, limit: int) -> int:
    """Carry out what time has decided, everywhere."""
    keys = [key for key, _, _ in tx.run(statements.QUEUES).fetchall()]
    return tx.observe(keys) + sweep(tx, limit) + records.sweep(tx, limit)


def sweeping(now: float, most: int) -> Sequence[tuple[str, Sequence[Any]]]:
    """Return the statements that clear away what was to be forgotten by *now*; queues that were deleted take longer."""
    return (
        (statements.SWEEP_AT_ONCE, (now, now, most)),
        (statements.DROP_DEPARTED, (now, most)),
        (statements.DROP_HOLDS, (now, most)),
        (statements.DELETED_QUEUES, ()),
    )


def sweep(tx: Transaction, most: int) -> int:
    """Clear away some of what is to be forgotten, and return how much."""
    (gone,) = tx.run(statements.SWEEP, (tx.remembered, tx.now, most)).fetchone()
    left = most - int(gone)
    for key, deleted in tx.run(statements.DELETED_QUEUES).fetchall():
        cleared = _clear(tx, key, left) if left > 0 else 0
        left -= cleared
        if not cleared and left > 0 and deleted < tx.now - _DAY:
            tx.run(statements.FORGET_QUEUE, (key,))  # what somebody was just storing then
            tx.run(statements.DROP_QUEUE, (key,))
    tx.run(statements.DROP_DEPARTED, (tx.now, most))
    tx.run(statements.DROP_HOLDS, (tx.now, most))
    tx.changes += most - left
    return most - left
