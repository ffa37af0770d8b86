"""Looking at messages in a read transaction, which keeps no writer waiting.

What time has decided need not be written yet: whoever looks lets it decide first, in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

import attrs
from typing_extensions import override

from trepid.brokers.sql.looking import Looking, figures, page
from trepid.brokers.sql.rows import NUMBERS, Row, load, read_failure, view
from trepid.brokers.sqlite import statements
from trepid.ports.messages import MessageView, Page, QueueStats, Ref
from trepid.rules.life import DEAD, ENDED, LEASED, READY, SCHEDULED, State


class Reading(Looking):
    """A read transaction.

    Attributes:
      run: executes a statement.
    """

    __slots__ = ("run",)

    def __init__(self, cursor: sqlite3.Cursor, now: float) -> None:
        super().__init__(now)
        self.run = cursor.execute

    @override
    def find_queue(self, name: str) -> tuple[int, bool] | None:
        found: tuple[int, int] | None = self.run(statements.QUEUE, (name,)).fetchone()
        return None if found is None else (found[0], bool(found[1]))

    @override
    def by_id(self, queue: int, id: str) -> Iterable[tuple[Any, ...]]:
        return self.run(statements.BY_ID, (queue, id))

    @override
    def lapsing(self, queue: int) -> Iterable[tuple[Any, ...]]:
        return self.run(statements.LAPSED, (queue, self.now, -1))

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
    moved = reading.lapsed(key)
    if state is DEAD:
        moved += reading.aged(reading.run(statements.OVERDUE, (key, now, -1)))
    rows, last = page(stored, moved, state, limit, after)
    return Page(tuple(reading.view(row, queue) for row in rows), last or None)


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
    return figures(queue, counts, lapsed, _first_dues(reading, key, overdue), paused=paused, now=now)


def _first_dues(reading: Reading, key: int, overdue: int) -> list[float | None]:
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
    return firsts
