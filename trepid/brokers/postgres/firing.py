"""The instants of schedules: marked and published in one step, inside a write transaction."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from trepid.brokers.postgres import statements
from trepid.brokers.postgres.arrays import without_zeros
from trepid.brokers.postgres.looking import Reading
from trepid.brokers.postgres.publishing import publish
from trepid.brokers.postgres.transaction import Transaction
from trepid.ports.messages import Firing
from trepid.rules.publishing import Published, Publishing, fired

# Who fires in a queue does so alone: a mark that is not there yet cannot be locked.
_HOLD: Final = """
    SELECT pg_advisory_xact_lock('@.marks'::regclass::oid::integer, g.key::integer)
    FROM unnest($1::bigint[]) AS g(key)"""
FIND: Final = """
    SELECT m.* FROM unnest($1::bigint[], $2::text[]) AS g(queue, mark) CROSS JOIN LATERAL (
        SELECT queue, mark, instant FROM @.marks WHERE queue = g.queue AND mark = g.mark OFFSET 0) AS m"""
_SET: Final = """
    INSERT INTO @.marks (queue, mark, instant) SELECT * FROM unnest($1::integer[], $2::text[], $3::float8[])
    ON CONFLICT (queue, mark) DO UPDATE SET instant = excluded.instant"""
_FORGET: Final = """
    DELETE FROM @.marks m USING unnest($1::bigint[], $2::text[]) AS g(queue, mark)
    WHERE m.queue = g.queue::integer AND m.mark = g.mark"""
_MARKS: Final = "SELECT mark, instant FROM @.marks WHERE queue = $1"


def fire(tx: Transaction, firings: Sequence[Firing]) -> list[Published]:
    """Publish the messages of instants that were not fired before."""
    # In one order for everybody, so that nobody waits for one who waits for him.
    tx.run(_HOLD, (sorted(tx.keys(firing.queue for firing in firings).values()),))
    keys = tx.keys(firing.queue for firing in firings)
    places = sorted({(keys[each.queue], without_zeros(each.mark)) for each in firings if each.queue in keys})
    given = ([queue for queue, _ in places], [mark for _, mark in places])
    found = {(queue, mark): instant for queue, mark, instant in tx.run(FIND, given).fetchall()}
    marks: dict[tuple[int, str], float] = dict(found)
    published = [_fire(tx, firing, keys, marks) for firing in firings]
    moved = [(queue, mark, instant) for (queue, mark), instant in marks.items() if found.get((queue, mark)) != instant]
    if moved:
        tx.run(_SET, tuple(map(list, zip(*moved, strict=True))))
    forgotten = sorted(found.keys() - marks.keys())
    if forgotten:
        tx.run(_FORGET, tuple(map(list, zip(*forgotten, strict=True))))
    tx.changes += len(moved) + len(forgotten)
    return published


def _fire(tx: Transaction, firing: Firing, keys: dict[str, int], marks: dict[tuple[int, str], float]) -> Published:
    id = "" if firing.publication is None else firing.publication.id
    if firing.queue not in keys:
        return Published(Publishing.NO_QUEUE, id)
    place = (keys[firing.queue], without_zeros(firing.mark))
    if firing.instant is None:
        marks.pop(place, None)
        return Published(Publishing.ACCEPTED, id)
    if marks.get(place, -inf) >= firing.instant:
        return Published(Publishing.DUPLICATE, id)
    published = Published(Publishing.ACCEPTED, id)
    if firing.publication is not None:
        [published] = publish(tx, [firing.publication])
    if fired(published.outcome, insist=firing.insist):
        marks[place] = firing.instant
    return published


def marks(reading: Reading, queue: str) -> dict[str, float]:
    """Return the marks of a queue, none if it is not declared."""
    found = reading.run(statements.QUEUE, (queue,)).fetchone()
    return {} if found is None else dict(reading.run(_MARKS, (found[0],)).fetchall())
