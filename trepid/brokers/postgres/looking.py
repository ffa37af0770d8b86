"""Looking at messages in a read transaction, which keeps no writer waiting.

What time has decided need not be written yet: whoever looks lets it decide first, in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from typing_extensions import override

from trepid.brokers.postgres import claiming, queries, statements
from trepid.brokers.postgres.transaction import Run
from trepid.brokers.sql.looking import Looking, figures, page
from trepid.brokers.sql.rows import NUMBERS, STATES, Row, load, read_failure, view
from trepid.ports.messages import MessageView, Page, QueueStats, Ref
from trepid.rules.life import DEAD, LEASED, READY, SCHEDULED, State
from trepid.rules.verdicts import Failure


class Reading(Looking):
    """A read transaction.

    Attributes:
      run: executes a statement, and returns the cursor.
    """

    __slots__ = ("run",)

    def __init__(self, run: Run, now: float) -> None:
        super().__init__(now)
        self.run = run

    @override
    def find_queue(self, name: str) -> tuple[int, bool] | None:
        found: tuple[int, bool] | None = self.run(statements.QUEUE, (name,)).fetchone()
        return found

    @override
    def by_id(self, queue: int, id: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.run(queries.GET, (queue, id)).fetchall()
        return found

    @override
    def lapsing(self, queue: int) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.run(claiming.LAPSED, (queue, self.now, None)).fetchall()
        return found

    def views(self, rows: Sequence[Row], queue: str) -> tuple[MessageView, ...]:
        """Return messages as anybody may see them."""
        if not rows:
            return ()
        given = (rows[0].queue, [row.life.seq for row in rows], [row.id for row in rows])
        bodies = {seq: rest for seq, *rest in self.run(queries.BODIES, given).fetchall()}
        views: list[MessageView] = []
        for row in rows:
            payload, errors, gate = bodies[row.life.seq]
            views.append(attrs.evolve(view(row, queue, payload, _failures(errors)), gate=gate))
        return tuple(views)


def _failures(stored: Sequence[bytes] | None) -> tuple[Failure, ...]:
    return tuple(read_failure(failure) for failure in stored or ())


def clock(reading: Reading) -> float:
    """Return the broker's time."""
    return reading.now


def queues(reading: Reading) -> list[str]:
    """Return the names of all declared queues, sorted."""
    return sorted(name for _, name, _ in reading.run(statements.QUEUES).fetchall())


def get(reading: Reading, queue: str, id: str) -> MessageView | None:
    """Return a message."""
    row = reading.message(queue, id)
    return None if row is None else reading.views([row], queue)[0]


def peek(reading: Reading, queue: str, state: State, limit: int, after: int) -> Page:
    """Return some messages in a state, in the order of publishing."""
    key, now = reading.queue(queue)[0], reading.now
    stored = reading.aged(_stored(reading, key, state, limit + 1, after))
    moved = reading.lapsed(key)
    if state is DEAD:
        moved += reading.aged(reading.run(claiming.OVERDUE, (key, now, None)).fetchall())
    rows, last = page(stored, moved, state, limit, after)
    return Page(reading.views(rows, queue), last or None)


def _stored(reading: Reading, key: int, state: State, most: int, after: int) -> list[tuple[Any, ...]]:
    """Read messages that are stored so that they are in *state* now."""
    given: tuple[Any, ...] = (key, reading.now, after, most)
    match state:
        case State.READY:
            statement = queries.PEEK_READY
        case State.SCHEDULED:
            statement = queries.PEEK_SCHEDULED
        case State.LEASED:
            statement = queries.PEEK_LEASED
        case _:
            statement, given = queries.PEEK_ENDED, (*given, NUMBERS[state])
    found: list[tuple[Any, ...]] = reading.run(statement, given).fetchall()
    return found


def held(reading: Reading, owner: str) -> list[Ref]:
    """Return the leases of an owner."""
    return [ref for ref, _ in _leases(reading, claiming.HELD, owner)]


def asked(reading: Reading, owner: str) -> list[tuple[Ref, str]]:
    """Return the leases of an owner that were asked to stop, with the reasons."""
    return [(ref, row.life.cancel or "") for ref, row in _leases(reading, claiming.ASKED, owner)]


def _leases(reading: Reading, statement: str, owner: str) -> list[tuple[Ref, Row]]:
    rows = [load(found) for found in reading.run(statement, (owner, reading.now)).fetchall()]
    if not rows:
        return []
    names = {key: name for key, name, _ in reading.run(statements.QUEUES).fetchall()}
    return [(Ref(names[row.queue], row.id, row.life.token), row) for row in rows if row.queue in names]


def stats(reading: Reading, queue: str) -> QueueStats:
    """Count the messages of a queue."""
    (key, paused), run, now = reading.queue(queue), reading.run, reading.now
    lapsed = reading.lapsed(key)
    counts = dict.fromkeys(State, 0)
    waiting, due, overdue, leased = run(queries.COUNTS, (key, now)).fetchone()
    counts[SCHEDULED], counts[READY], counts[DEAD], counts[LEASED] = waiting - due, due - overdue, overdue, leased
    for number, all_, forgotten in run(queries.COUNT_ENDED, (key, now)).fetchall():
        counts[STATES[number]] += all_ - forgotten
    firsts = [first for (first,) in run(queries.OLDEST, (key, now)).fetchall()]
    return figures(queue, counts, lapsed, firsts, paused=paused, now=now)
