"""Who is leased next from a queue with gates, and how far they let him through: inside a write transaction.

Who asks holds the queue alone (:func:`hold`), so what is counted here stays so until he commits.  Nothing is kept of
who is inside but the leases themselves, and the starts of the last seconds where there is a rate.
"""

# ruff: noqa: S608 - the parts that are put together are constants; values are always parameters.

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from trepid.brokers.postgres import claiming
from trepid.brokers.postgres.transaction import Transaction
from trepid.rules.gates import QUEUE, family

AT_ONCE: Final = 256
"""How many gates with messages that are due are looked at together.

Up to so many, the order is strict among all of them; of more, the sessions look at one part after the other, from where
they were last time.
"""

MOST_PARTS: Final = 16
"""How many parts one call looks at before it gives up, so that it ends also where thousands of gates are closed."""

_REPEATS: Final = 3
"""How often others are chosen for those that somebody holds: who withdraws them just now, say."""

_TIME: Final = "SELECT @now"
# What a rate counted and does not count any more goes; no row at all if the queue is not open.
LIMITS: Final = """
    WITH gone AS (DELETE FROM @.starts WHERE queue = $1 AND until <= $2)
    SELECT l.family, l.concurrency, l.count, l.per FROM @.queues q LEFT JOIN @.limits l ON l.queue = q.key
    WHERE q.key = $1 AND q.name IS NOT NULL AND NOT q.paused"""
_LIFTED: Final = "UPDATE @.queues SET limited = false WHERE key = $1 AND limited"
_STARTS: Final = "sum(number), min(until) FROM @.starts WHERE queue = $1 AND until > $2 AND gate ="
INSIDE: Final = f"""
    SELECT (SELECT count(*) FROM @.messages WHERE queue = $1 AND state = 2 AND until > $2), {_STARTS} ''"""
# One look into the index for each gate behind which something is due; what is not due is passed by inside the index.
GATES: Final = f"""
    WITH RECURSIVE gate(name, number) AS (
        (SELECT gate, 1 FROM @.messages
         WHERE queue = $1 AND state < 2 AND gate IS NOT NULL AND gate > $3 AND due <= $2 ORDER BY gate LIMIT 1)
        UNION ALL
        SELECT (SELECT m.gate FROM @.messages m
                WHERE m.queue = $1 AND m.state < 2 AND m.gate IS NOT NULL AND m.gate > gate.name AND m.due <= $2
                ORDER BY m.gate LIMIT 1), number + 1
        FROM gate WHERE gate.name IS NOT NULL AND number < {AT_ONCE}
    )
    SELECT gate.name, l.concurrency, l.count,
           CASE WHEN l.concurrency IS NULL THEN 0 ELSE (
               SELECT count(*) FROM @.messages m
               WHERE m.gate = gate.name AND m.owner IS NOT NULL AND m.until > $2
                     AND m.queue + 0 = $1 AND m.state + 0 = 2
           ) END, s.number, s.until
    FROM gate LEFT JOIN LATERAL (
        SELECT concurrency, count FROM @.limits WHERE queue = $1 AND family = split_part(gate.name, ':', 1) OFFSET 0
    ) AS l ON true LEFT JOIN LATERAL (
        SELECT {_STARTS} gate.name AND l.count IS NOT NULL
    ) AS s(number, until) ON true
    WHERE gate.name IS NOT NULL"""
_READY: Final = """due <= $2 AND (expires IS NULL OR expires > $2) AND seq <> ALL($6::bigint[])"""
# Of each open gate as many as it lets through, and of those without a gate as many as are wanted: the first of all
# of them are among these.  What is not due behind a gate is passed by inside the index.
FIRST: Final = f"""
    WITH {claiming.LANES}
    SELECT m.* FROM unnest($4::text[], $5::bigint[]) AS g(gate, room) CROSS JOIN LATERAL (
        SELECT gate, seq, priority, due FROM @.messages
        WHERE queue = $1 AND state < 2 AND gate IS NOT NULL AND gate = g.gate AND {_READY}
        ORDER BY priority DESC, due, seq LIMIT g.room
    ) AS m
    UNION ALL
    SELECT * FROM (
        SELECT m.* FROM lane CROSS JOIN LATERAL (
            SELECT NULL::text, seq, priority, due FROM @.messages
            WHERE queue = $1 AND priority = lane.priority AND state < 2 AND gate IS NULL AND {_READY}
            ORDER BY due, seq LIMIT $3
        ) AS m LIMIT $3
    ) AS free"""
CLAIM: Final = f"""
    WITH chosen AS MATERIALIZED (
        SELECT m.seq FROM unnest($1::bigint[]) AS g(seq) CROSS JOIN LATERAL (
            SELECT m.seq FROM @.messages m WHERE m.seq = g.seq AND m.state + 0 < 2 FOR UPDATE SKIP LOCKED) AS m
    )
    UPDATE @.messages m SET state = 2, deliveries = m.deliveries + 1, owner = $2, until = $3
    FROM chosen WHERE m.seq = chosen.seq
    RETURNING {claiming.CLAIMED}, m.gate"""
START: Final = """
    INSERT INTO @.starts (queue, gate, at, until, number)
    SELECT $1, g.gate, $2, $2 + g.per, g.number
    FROM unnest($3::text[], $4::float8[], $5::bigint[]) AS g(gate, per, number)"""
NEXT_DUE: Final = """
    SELECT due FROM @.messages WHERE queue = $1 AND state < 2 AND gate IS NOT NULL AND due > $2 ORDER BY due LIMIT 1"""


class _Gate(NamedTuple):
    """A gate behind which something is due, and how many it has let through.

    Attributes:
      name: of the gate.
      concurrency, most: the limits of its family: how many may be inside, and how many start in a span.
      running: how many are inside, where that is limited.
      started: how many have started in the last such span, where that is limited.
      first: when the first of those does not count any more.
    """

    name: str
    concurrency: int | None
    most: int | None
    running: int
    started: int | None
    first: float | None


def hold(tx: Transaction, queues: Sequence[int]) -> None:
    """Hold queues against others who look at their gates, until the end of the transaction."""
    tx.run(claiming.HOLD, (queues,))
    # Who had to wait starts no sooner than now.
    (tx.now,) = tx.run(_TIME, (tx.now,)).fetchone()


class Passing:
    """The ready messages of one queue, as far as its gates let them through now.

    Args:
      tx: the transaction, in which the queue is held.
      queue: its key.
      places: where to go on looking for open gates, by queue; it is kept by the session.
    """

    def __init__(self, tx: Transaction, queue: int, places: dict[int, str]) -> None:
        self._tx = tx
        self._queue = queue
        self._places = places
        self._moments: list[float | None] = []
        found = tx.run(LIMITS, (queue, tx.now)).fetchall()
        rates = {name: (count, per) for name, _, count, per in found if count is not None}
        self._per = {name: per for name, (_, per) in rates.items()}
        # How many the queue itself lets through; None if as many as there are.
        self._left: int | None = None if found else 0
        own = [(concurrency, count) for name, concurrency, count, _ in found if name == QUEUE]
        if own:
            running, started, first = tx.run(INSIDE, (queue, tx.now)).fetchone()
            self._left = self._room(*own[0], running, started, first)
        if found == [(None, None, None, None)]:
            # Nothing is limited any more, and no start is remembered: others need not look here again.
            tx.changes += tx.run(_LIFTED, (queue,)).rowcount

    def _room(
        self, concurrency: int | None, count: int | None, running: int, started: int | None, first: float | None
    ) -> int | None:
        """Return how many a gate lets through, as ``gates.admitted`` does; the database has counted the starts."""
        room = None if concurrency is None else max(0, concurrency - running)
        if count is not None:
            left = max(0, count - int(started or 0))
            if not left:
                self._moments.append(first)
            room = left if room is None else min(room, left)
        return room

    def claim(self, most: int, owner: str, until: float) -> list[tuple[Any, ...]]:
        """Lease up to *most* messages, by priority, due time and order; return rows of ``CLAIMED`` with their gates."""
        if self._left is not None:
            most = min(most, self._left)
        claimed: list[tuple[Any, ...]] = []
        if most:
            for number, gates in enumerate(self._parts()):
                # If the first part was not enough, nobody without a gate is left.
                claimed += self._claim(gates, most - len(claimed), owner, until, free=number == 0)
                if len(claimed) >= most:
                    break
        if claimed and self._per:
            self._start(claimed)
        if self._left is not None:
            self._left -= len(claimed)
        return claimed

    def _parts(self) -> Iterator[list[_Gate]]:
        """Yield the gates behind which something is due, some at a time, each once."""
        begin = place = self._places.get(self._queue, "")
        again = not begin
        for _ in range(MOST_PARTS):
            found = self._tx.run(GATES, (self._queue, self._tx.now, place)).fetchall()
            gates = [_Gate(*each) for each in found]
            place = gates[-1].name if len(gates) == AT_ONCE else ""
            if again and begin:
                # Round again, and past where it began: who went in there is not among the starts yet.
                gates = [gate for gate in gates if gate.name <= begin]
            if place:
                self._places[self._queue] = place
            else:
                self._places.pop(self._queue, None)
            yield gates
            if again and (not place or (begin and place >= begin)):
                return
            again = again or not place

    def _claim(
        self, gates: Sequence[_Gate], most: int, owner: str, until: float, *, free: bool
    ) -> list[tuple[Any, ...]]:
        """Lease the first messages of those behind some gates, and if *free*, of those without a gate."""
        rooms: dict[str, int] = {}
        for gate in gates:
            room = self._room(gate.concurrency, gate.most, gate.running, gate.started, gate.first)
            rooms[gate.name] = most if room is None else min(room, most)
        claimed: list[tuple[Any, ...]] = []
        skipped: list[int] = []
        for _ in range(_REPEATS):
            open_ = {name: room for name, room in rooms.items() if room > 0}
            if not (open_ or free):
                break
            left = most - len(claimed)
            given = (self._queue, self._tx.now, left if free else 0, list(open_), list(open_.values()), skipped)
            found = self._tx.run(FIRST, given).fetchall()
            found.sort(key=lambda each: (-each[2], each[3], each[1]))
            chosen = [seq for _, seq, _, _ in found[:left]]
            if not chosen:
                break
            got = self._tx.run(CLAIM, (chosen, owner, until)).fetchall()
            claimed += got
            if len(got) == len(chosen):
                break
            for *_, name in got:
                if name is not None:
                    rooms[name] -= 1
            skipped += set(chosen) - {each[0] for each in got}
        return claimed

    def _start(self, claimed: Sequence[tuple[Any, ...]]) -> None:
        """Note when these have started, where a rate will want to know."""
        started = Counter(each[-1] for each in claimed if each[-1] is not None and family(each[-1]) in self._per)
        if QUEUE in self._per:
            started[QUEUE] = len(claimed)
        if started:
            spans = [self._per[family(name)] for name in started]
            given = (self._queue, self._tx.now, list(started), spans, list(started.values()))
            self._tx.run(START, given)

    def moments(self) -> list[float | None]:
        """Return when time alone will let somebody through who was not let through now."""
        return [*self._moments, *(due for (due,) in self._tx.run(NEXT_DUE, (self._queue, self._tx.now)).fetchall())]
