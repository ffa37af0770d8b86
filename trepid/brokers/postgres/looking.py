"""Looking at messages in a read transaction, which keeps no writer waiting.

What time has decided need not be written yet: whoever looks lets it decide first, in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import merge
from itertools import islice
from typing import Any

import attrs

from trepid.brokers.postgres import claiming, queries, statements
from trepid.brokers.postgres.transaction import Run
from trepid.brokers.sql.rows import NUMBERS, STATES, Row, load, read_failure, view
from trepid.errors import UnknownQueueError
from trepid.ports.messages import Absent, Ending, MessageView, Page, QueueStats, Ref
from trepid.rules import lifecycle
from trepid.rules.life import DEAD, DONE, ENDED, LEASED, READY, SCHEDULED, State
from trepid.rules.verdicts import Failure


class Reading:
    """A read transaction.

    Attributes:
      run: executes a statement, and returns the cursor.
      now: the broker's time in it.
    """

    __slots__ = ("now", "run")

    def __init__(self, run: Run, now: float) -> None:
        self.run = run
        self.now = now

    def find_queue(self, name: str) -> tuple[int, bool] | None:
        """Return the key of a declared queue, and whether it is paused."""
        found: tuple[int, bool] | None = self.run(statements.QUEUE, (name,)).fetchone()
        return found

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
        rows = self.aged(self.run(queries.GET, (found[0], id)).fetchall())
        return rows[0] if rows else None

    def lapsed(self, queue: int) -> list[Row]:
        """Return the messages of a queue whose leases have run out, as time has made them."""
        return self.aged(self.run(claiming.LAPSED, (queue, self.now, None)).fetchall())

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
    lapsed = [row for row in reading.lapsed(key) if row.life.seq > after]
    if state is DEAD:
        lapsed += reading.aged(reading.run(claiming.OVERDUE, (key, now, None)).fetchall())
    moved = sorted((row for row in lapsed if row.life.state is state and row.life.seq > after), key=_seq)
    rows = list(islice(merge((row for row in stored if row.life.state is state), moved, key=_seq), limit + 1))
    cursor = rows[limit - 1].life.seq if len(rows) > limit > 0 else None
    return Page(reading.views(rows[:limit], queue), cursor)


def _seq(row: Row) -> int:
    return row.life.seq


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


@attrs.frozen
class Found:
    """How a message ended, if it has; and otherwise in how many seconds time alone may end it."""

    ending: Ending | Absent
    wait: float | None = None


def result(reading: Reading, queue: str, id: str) -> Found:
    """Return how a message ended."""
    row = reading.message(queue, id)
    if row is None:
        return Found(Absent.GONE)
    life = row.life
    if life.state not in ENDED:
        moment = lifecycle.next_change(life)
        return Found(Absent.PENDING, None if moment is None else moment - reading.now)
    body = reading.run(queries.BODIES, (row.queue, [life.seq], [id])).fetchone()
    kept = reading.run(queries.RESULT, (row.queue, id)).fetchone()  # nothing, if time alone has just ended it
    stored, unreadable = kept if kept is not None and life.state is DONE else (None, None)
    failures = _failures(body[2])
    return Found(Ending(life.state, stored, unreadable, failures[-1] if failures else None, life.reason))


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
    for row in lapsed:
        counts[row.life.state] += 1
    firsts = [row.life.due for row in lapsed if row.life.state is READY]
    firsts += [first for (first,) in run(queries.OLDEST, (key, now)).fetchall() if first is not None]
    oldest = min(firsts, default=None)
    return QueueStats(
        queue,
        **{str(state): count for state, count in counts.items()},
        paused=paused,
        oldest_ready=None if oldest is None else max(0.0, now - oldest),
    )
