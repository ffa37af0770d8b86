"""Looking at messages in a read transaction, which keeps no writer waiting.

What time has decided need not be written yet: whoever looks lets it decide first, in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from heapq import merge
from itertools import islice
from typing import Any

import attrs

from trepid.brokers.sql.rows import NUMBERS, Row, load, read_failure, view
from trepid.brokers.sqlite import statements
from trepid.errors import UnknownQueueError
from trepid.ports.messages import MessageView, Page, QueueStats, Ref
from trepid.rules import lifecycle
from trepid.rules.life import DEAD, ENDED, LEASED, READY, SCHEDULED, State


class Reading:
    """A read transaction.

    Attributes:
      run: executes a statement.
      now: the broker's time in it.
    """

    __slots__ = ("now", "run")

    def __init__(self, cursor: sqlite3.Cursor, now: float) -> None:
        self.run = cursor.execute
        self.now = now

    def find_queue(self, name: str) -> tuple[int, bool] | None:
        """Return the key of a declared queue, and whether it is paused."""
        found: tuple[int, int] | None = self.run(statements.QUEUE, (name,)).fetchone()
        return None if found is None else (found[0], bool(found[1]))

    def queue(self, name: str) -> tuple[int, bool]:
        """Like :meth:`find_queue`, but raises UnknownQueueError."""
        found = self.find_queue(name)
        if found is None:
            raise UnknownQueueError(name)
        return found

    def aged(self, found: Iterable[tuple[Any, ...]]) -> list[Row]:
        """Return messages as time has made them by now, without those that are gone."""
        rows = [row.with_life(lifecycle.elapse(row.life, self.now)) for row in map(load, found)]
        return [row for row in rows if row.life.forget is None or row.life.forget > self.now]

    def message(self, queue: str, id: str) -> Row | None:
        """Return a message as it is by now, or None if there is none (any more)."""
        found = self.find_queue(queue)
        if found is None:
            return None
        rows = self.aged(self.run(statements.BY_ID, (found[0], id)))
        return rows[0] if rows else None

    def lapsed(self, queue: int) -> list[Row]:
        """Return the messages of a queue whose leases have run out, as time has made them."""
        return self.aged(self.run(statements.LAPSED, (queue, self.now, -1)))

    def view(self, row: Row, queue: str) -> MessageView:
        """Return a message as anybody may see it."""
        payload, gate = self.run(statements.CONTENT, (row.life.seq,)).fetchone()
        failures = self.run(statements.FAILURES, (row.life.seq,)).fetchall()
        seen = view(row, queue, payload, tuple(read_failure(failure) for (failure,) in failures))
        return seen if gate is None else attrs.evolve(seen, gate=gate)


def clock(reading: Reading) -> float:
    """Return the broker's time."""
    return reading.now


def version(reading: Reading) -> int:
    """Return a number that changes when another connection commits."""
    number: int = reading.run("PRAGMA data_version").fetchone()[0]
    return number


def queues(reading: Reading) -> list[str]:
    """Return the names of all declared queues, sorted."""
    return sorted(name for _, name in reading.run(statements.QUEUE_NAMES) if name is not None)


def get(reading: Reading, queue: str, id: str) -> MessageView | None:
    """Return a message."""
    row = reading.message(queue, id)
    return None if row is None else reading.view(row, queue)


def peek(reading: Reading, queue: str, state: State, limit: int, after: int) -> Page:
    """Return some messages in a state, in the order of publishing."""
    key, now = reading.queue(queue)[0], reading.now
    stored = reading.aged(_stored(reading, key, state, limit + 1, after))
    lapsed = [row for row in reading.lapsed(key) if row.life.seq > after]
    if state is DEAD:
        lapsed += reading.aged(reading.run(statements.OVERDUE, (key, now, -1)))
    moved = sorted((row for row in lapsed if row.life.state is state and row.life.seq > after), key=_seq)
    rows = list(islice(merge((row for row in stored if row.life.state is state), moved, key=_seq), limit + 1))
    cursor = rows[limit - 1].life.seq if len(rows) > limit > 0 else None
    return Page(tuple(reading.view(row, queue) for row in rows[:limit]), cursor)


def _seq(row: Row) -> int:
    return row.life.seq


def _stored(reading: Reading, key: int, state: State, most: int, after: int) -> sqlite3.Cursor:
    """Read messages that are stored so that they are in *state* now."""
    now = reading.now
    if state is READY:
        return reading.run(statements.PEEK_READY, (key, now, now, after, most))
    if state is SCHEDULED:
        return reading.run(statements.PEEK_SCHEDULED, (key, now, after, most))
    if state is LEASED:
        return reading.run(statements.PEEK_LEASED, (key, now, after, most))
    return reading.run(statements.PEEK_ENDED, (key, NUMBERS[state], now, after, most))


def held(reading: Reading, owner: str) -> list[Ref]:
    """Return the leases of an owner."""
    names: dict[int, str] = dict(reading.run(statements.QUEUE_NAMES).fetchall())
    rows = [load(found) for found in reading.run(statements.HELD, (owner, reading.now))]
    return [Ref(names[row.queue], row.id, row.life.token) for row in rows]


def asked(reading: Reading, owner: str) -> list[tuple[Ref, str]]:
    """Return the leases of an owner that were asked to stop, with the reasons."""
    names: dict[int, str] = dict(reading.run(statements.QUEUE_NAMES).fetchall())
    rows = [load(found) for found in reading.run(statements.ASKED, (owner, reading.now))]
    return [(Ref(names[row.queue], row.id, row.life.token), row.life.cancel or "") for row in rows]


def marks(reading: Reading, queue: str) -> dict[str, float]:
    """Return the last instants that schedules have fired in a queue, by mark."""
    found = reading.find_queue(queue)
    return {} if found is None else dict(reading.run(statements.MARKS, (found[0],)).fetchall())


def stats(reading: Reading, queue: str) -> QueueStats:
    """Count the messages of a queue."""
    (key, paused), run, now = reading.queue(queue), reading.run, reading.now
    lapsed = reading.lapsed(key)
    counts = dict.fromkeys(State, 0)
    waiting, due = run(statements.COUNT_WAITING, (now, key)).fetchone()
    (behind,) = run(statements.COUNT_READY_BEHIND, (key,)).fetchone()
    awaited, awaited_due = run(statements.COUNT_AWAITED, (now, key)).fetchone()
    waiting, due = waiting + behind + awaited, due + behind + awaited_due
    (overdue,) = run(statements.COUNT_OVERDUE, (key, now)).fetchone()
    counts[SCHEDULED], counts[READY], counts[DEAD] = waiting - due, due - overdue, overdue
    (counts[LEASED],) = run(statements.COUNT_LEASED, (key, now)).fetchone()
    forgotten = dict(run(statements.COUNT_FORGOTTEN, (now, key)).fetchall())
    for state in ENDED:
        number = NUMBERS[state]
        counts[state] += run(statements.COUNT_ENDED, (key, number)).fetchone()[0] - forgotten.get(number, 0)
    for row in lapsed:
        counts[row.life.state] += 1
    firsts = [row.life.due for row in lapsed if row.life.state is READY]
    firsts += _first_dues(reading, key, overdue)
    oldest = min(firsts, default=None)
    return QueueStats(
        queue,
        **{str(state): count for state, count in counts.items()},
        paused=paused,
        oldest_ready=None if oldest is None else max(0.0, now - oldest),
    )


def _first_dues(reading: Reading, key: int, overdue: int) -> list[float]:
    """Return some of the moments since when messages of a queue have been ready, the earliest among them."""
    run, now = reading.run, reading.now
    firsts: list[float | None] = []
    (lane,) = run(statements.TOP_LANE, (key,)).fetchone()
    while lane is not None:
        firsts += run(statements.OLDEST, (key, lane, now, now)).fetchone() or ()
        (lane,) = run(statements.NEXT_LANE, (key, lane)).fetchone()
    if overdue:
        firsts += run(statements.OLDEST_BEHIND_NOT_OVERDUE, (key, now)).fetchone()
    else:
        firsts += run(statements.OLDEST_BEHIND, (key,)).fetchone()
    firsts += run(statements.OLDEST_AWAITED, (key, now)).fetchone()
    return [first for first in firsts if first is not None]
